"""Identify the weights of a base by their content: the SHA-256 of each file that they are loaded from.

A base is its weights, not its name: a folder can be moved, and the files in it, or a name on the hub, can get other
content. The files are those that transformers opens for the name, and no others: of a folder with `model.safetensors`
and `pytorch_model.bin`, the first.

Source: transformers/modeling_utils.py (`_get_resolved_checkpoint_files`) and its integrations/peft.py.
"""

import hashlib
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from cxr_ft import json_values
from cxr_ft.errors import UsageError
from cxr_ft.model import assembly, weight_hashes

#: Weight files in the order in which transformers looks for them; the first that exists is loaded. The families of this
#: package read no pickle, which would run the code in it; that of a plug-in with READS_PICKLES may.
SAFE_FILES = ("model.safetensors", "model.safetensors.index.json")
PICKLES = ("pytorch_model.bin", "pytorch_model.bin.index.json")
CONFIG, INDEX = "config.json", ".index.json"
#: An adapter beside the weights, which transformers loads too, and its weights in the same order.
ADAPTER, ADAPTER_FILES = "adapter_config.json", ("adapter_model.safetensors", "adapter_model.bin")
#: Key of a config.json that names the weight file.
EXPLICIT = "transformers_weights"
#: The folder of a revision in the cache of the hub; its name is a commit.
_SNAPSHOT = re.compile(r"snapshots/([0-9a-f]{40})(/|$)")
#: Digits of a hash that a message shows.
_SHOWN = 12


@dataclass(frozen=True, kw_only=True)
class BaseWeights:
    """The weights of a base.

    Args:
        files: SHA-256 of each file that decides the weights, by the file's name: weight files, or the config.json from
            which random weights are drawn. Names are for messages: content alone decides what is equal.
        revision: the commit on the hub; None for weights that do not come from its cache.
        drawn: how random weights are drawn; None for weights that are read from files.
    """

    files: Mapping[str, str]
    revision: str | None = None
    drawn: str | None = None

    @property
    def digest(self) -> str | None:
        """Return one hash of all: equal where the weights are equal; None where no file is known.

        Of a single file of weights it is the file's own SHA-256.
        """
        hashes = sorted(self.files.values())
        if self.drawn is None and len(hashes) < 2:
            return next(iter(hashes), None)
        return hashlib.sha256("\n".join([*hashes, self.drawn or ""]).encode()).hexdigest()

    def difference(self, recorded: "BaseWeights") -> str:
        """Return in a few words how these weights differ from `recorded` ones; "" where they are equal."""
        if self.digest == recorded.digest:
            return ""
        if self.digest is None:
            return f"no weight file is found; {', '.join(recorded.files) or recorded.drawn} recorded"
        text = self._different_files(recorded)
        if self.drawn != recorded.drawn:
            text = f"{_kind(self)} now, {_kind(recorded)} recorded"
        if self.revision != recorded.revision and recorded.revision is not None:
            text += f"; revision {(self.revision or 'none')[:_SHOWN]} now, {recorded.revision[:_SHOWN]} recorded"
        return text

    def _different_files(self, recorded: "BaseWeights") -> str:
        then = set(recorded.files.values())
        changed = [name for name, digest in self.files.items() if digest not in then]
        if len(self.files) == len(recorded.files) == 1:
            (name, now), (before,) = *self.files.items(), recorded.files.values()
            return f"SHA-256 of {name} is {now[:_SHOWN]} now, {before[:_SHOWN]} recorded"
        if len(self.files) != len(recorded.files):
            return f"{len(self.files)} weight files now, {len(recorded.files)} recorded"
        return f"{len(changed)} of {len(self.files)} weight files have another SHA-256, {', '.join(changed[:3])}"


def of(name: str, *, fetch: bool = True) -> BaseWeights:
    """Return the weights that loading the base `name` reads now.

    Args:
        name: a shipped model, a folder, or a hub name.
        fetch: get files from the hub that are not in its cache; loading the base would do so next.

    Raises:
        UsageError: for a base that does not exist, or a weight file that is missing or cannot be read.
    """
    module = assembly.family(name)
    drawn_weights = getattr(module, "drawn_weights", None)
    drawn = drawn_weights(name) if drawn_weights is not None else None
    if drawn is not None:
        return BaseWeights(files={}, drawn=drawn)
    source = _Source(name, assembly.location(name), fetch)
    seed = source.seed if drawn_weights is None else None
    if seed is not None and (config := source.find(CONFIG)) is not None:
        return BaseWeights(files={CONFIG: weight_hashes.sha256(config)}, drawn=f"seed {seed}")
    paths = source.weight_files(SAFE_FILES)
    if not paths and (paths := source.weight_files(PICKLES)) and not getattr(module, "READS_PICKLES", False):
        raise UsageError(
            f"{name} has {next(iter(paths))} and no model.safetensors: reading it would run any code that is in it; "
            "take a revision with safetensors, or load it where you trust it and save it with save_pretrained"
        )
    for path in paths.values():
        _check_whole(path)
    return BaseWeights(
        files={file: weight_hashes.sha256(path) for file, path in paths.items()},
        revision=next((commit for path in paths.values() if (commit := _revision(path))), None),
    )


def random_seed(name: str) -> int | None:
    """Return the seed from which the weights of the base `name` are drawn; None where they are read from files.

    The config.json of a model that was made from a random one, and saved, still has the seed: its files then count.
    """
    return _Source(name, assembly.location(name), True).seed


@dataclass(frozen=True)
class _Source:
    """The files of a base, in a folder or on the hub with its cache."""

    name: str
    folder: Path | None
    fetch: bool

    @property
    def seed(self) -> int | None:
        """Return the seed of random weights; None where there is none, or files count instead."""
        seed = self._config.get(assembly.SEED_KEY)
        return None if seed is None or self.weight_files(SAFE_FILES) else int(seed)

    @cached_property
    def _config(self) -> Mapping[str, Any]:
        config = self.find(CONFIG)
        return {} if config is None else _mapping(config)

    def find(self, file: str) -> Path | None:
        """Return the path of a file of the base; None where it has none of this name."""
        return self._find_all([file]).get(file)

    def weight_files(self, names: Sequence[str]) -> dict[str, Path]:
        """Return the weight files that are loaded, by name: the first of `names`, or the one that config.json names."""
        explicit = self._config.get(EXPLICIT)
        names = (explicit,) if isinstance(explicit, str) else names
        out: dict[str, Path] = {}
        first = next(((name, path) for name in names if (path := self.find(name)) is not None), None)
        if first is not None:
            out = self._shards(first[1]) if first[0].endswith(INDEX) else dict([first])
        if out and self.find(ADAPTER) is not None:
            adapter = next(((name, path) for name in ADAPTER_FILES if (path := self.find(name)) is not None), None)
            out |= dict([adapter]) if adapter is not None else {}
        return out

    def _shards(self, index: Path) -> dict[str, Path]:
        """Return the files that an index names, sorted.

        Raises:
            UsageError: where it is no index, or one of its files is missing.
        """
        weight_map = _mapping(index).get("weight_map")
        if not isinstance(weight_map, dict):
            raise UsageError(f"{index} has no weight_map: it is no index of weight files; give a complete folder")
        names = sorted(map(str, set(weight_map.values())))
        found = self._find_all(names)
        if missing := [name for name in names if name not in found]:
            raise UsageError(f"{self.name} lacks {missing[0]}, which {index.name} names; give a complete folder")
        return found

    def _find_all(self, files: Sequence[str]) -> dict[str, Path]:
        if self.folder is not None:
            return {file: self.folder / file for file in files if (self.folder / file).is_file()}
        from transformers.utils.hub import cached_files

        try:
            # Nothing is found where an entry is missing, and where there is neither a network nor a copy in the cache.
            paths = cached_files(
                self.name,
                list(files),
                local_files_only=not self.fetch,
                _raise_exceptions_for_gated_repo=False,
                _raise_exceptions_for_missing_entries=False,
            )
        except (OSError, ValueError) as error:
            raise assembly.cannot_fetch(self.name, error) from error
        found = [Path(path) for path in paths or ()]
        return {file: path for file in files for path in found if path.as_posix().endswith(f"/{file}")}


def _check_whole(path: Path) -> None:
    """Refuse a safetensors file that was cut short, as by an interrupted download.

    Source: the format's page, https://huggingface.co/docs/safetensors: 8 bytes with the length of the header, the
    header in JSON, which says where each tensor begins and ends behind it.

    Raises:
        UsageError: where it is cut short, or its header cannot be read.
    """
    if path.suffix != ".safetensors":
        return
    size = path.stat().st_size
    try:
        with path.open("rb") as file:
            length = int.from_bytes(file.read(8), "little")
            # A header has a few hundred bytes a tensor; a broken length would take the memory of the machine.
            header = json_values.loads(file.read(min(length, 2**28)).decode("utf-8"))
        ends = [entry["data_offsets"][1] for key, entry in header.items() if key != "__metadata__"]
        whole = 8 + length + max(ends, default=0)
    except (OSError, ValueError, KeyError, TypeError, AttributeError, IndexError) as error:
        raise UsageError(f"{path} is no safetensors file, or was cut short ({size:,} bytes); fetch it again") from error
    if size < whole:
        raise UsageError(f"{path} was cut short: it has {size:,} of {whole:,} bytes; fetch it again")


def _mapping(path: Path) -> Mapping[str, Any]:
    """Return the content of a JSON file; {} where it is broken, which loading then reports."""
    try:
        raw = json_values.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return raw if isinstance(raw, dict) else {}


def _revision(path: Path) -> str | None:
    """Return the commit whose folder in the hub's cache holds `path`; None outside that cache."""
    # The file itself is a link to a blob whose path has no commit: only its folder may be resolved.
    for folder in (path.parent.absolute(), path.parent.resolve()):
        if match := _SNAPSHOT.search(folder.as_posix()):
            return match[1]
    return None


def _kind(weights: BaseWeights) -> str:
    if weights.drawn is not None:
        return f"random weights ({weights.drawn})"
    return ", ".join(list(weights.files)[:3]) or "no file"
