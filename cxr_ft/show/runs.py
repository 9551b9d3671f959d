"""Runs as found: which may be compared, what numbers they record, what to call them.

A variant is what its runs have in common: everything but the seed of training and the place of the data. How the data
is read (augmentation, views, size) is part of it.
"""

import dataclasses
import hashlib
import json
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cxr_ft.run.record import results
from cxr_ft.run.record.results import Result
from cxr_ft.score.fairness import differences

#: The kinds of memory that make up the peak; a record may hold an allocator's counters besides.
MEMORY = ("weights", "gradients", "optimizer", "activations", "workspace")

#: Where the data lies, among its options.
PLACES = ("splits", "root")

#: A setting longer than this is shown by its beginning.
_LONG = 40


@dataclass(frozen=True)
class Run:
    """A run's folder and what it says."""

    folder: Path
    result: Result


def short(value: object) -> str:
    """A setting as text; a long one (a hash, say) by its beginning."""
    written = str(value)
    return written if len(written) <= _LONG else f"{written[:8]}…"


def number(result: Result, *path: str) -> float | None:
    """The number at `path` in a record, or None where there is none."""
    value: Any = getattr(result, path[0])
    for key in path[1:]:
        value = value.get(key) if isinstance(value, Mapping) else None
    return float(value) if isinstance(value, int | float) and not isinstance(value, bool) else None


def peak_bytes(result: Result) -> float | None:
    """The memory of all kinds together, or None where none was measured."""
    kinds = (number(result, "cost", "memory", kind) for kind in MEMORY)
    known = [value for value in kinds if value is not None]
    return sum(known) if known else None


def load(folders: Sequence[Path]) -> tuple[list[Run], list[tuple[Run, str]]]:
    """The runs that may be compared, and the others with the reason in one line."""
    good: list[Run] = []
    other: list[tuple[Run, str]] = []
    seen: dict[str, Path] = {}
    for folder in folders:
        run = Run(folder, results.read(folder))
        same = seen.get(run.result.config_hash)
        if run.result.status != "success":
            silent = "not finished" if run.result.status in ("running", "trained") else "no reason was recorded"
            other.append((run, run.result.error or silent))
        elif same is not None:
            other.append((run, f"the same run as {same}, shown once"))
        else:
            seen[run.result.config_hash] = folder
            good.append(run)
    return good, other


def record(result: Result) -> dict[str, Any]:
    """A result as the nested dicts that `score.fairness` reads."""
    return {field.name: getattr(result, field.name) for field in dataclasses.fields(result)}


def names(found: Sequence[Result]) -> list[str]:
    """The variant's name of each result; where one task and test split has several of it, told apart."""
    keys = [_without_seed(result) for result in found]
    sharing: dict[tuple[str, str, str], dict[str, Result]] = defaultdict(dict)
    for key, result in zip(keys, found, strict=True):
        sharing[result.variant, result.task, test_split(result)].setdefault(key, result)
    named = {key: name for (variant, *_), group in sharing.items() for key, name in _told_apart(variant, group).items()}
    return [named[key] for key in keys]


def test_split(result: Result) -> str:
    """The SHA-256 of the test split; of all the files' hashes where none is named so."""
    hashes = result.data.get("sha256", {})
    for name, value in hashes.items():
        if Path(name).name.startswith("test_split"):
            return str(value)
    return digest(sorted(hashes.items()))


def _without_seed(result: Result) -> str:
    config = _config(result)
    return digest({**config, "train": {key: value for key, value in config["train"].items() if key != "seed"}})


def _config(result: Result) -> dict[str, Any]:
    """The configuration, with what the data is in place of where it lies."""
    options = {key: value for key, value in result.config["data"].items() if key not in PLACES}
    return {**result.config, "data": {**options, **result.data.get("sha256", {})}}


def _told_apart(name: str, group: Mapping[str, Result]) -> dict[str, str]:
    """A name for each key: `name`, with the first few settings that differ where there are several."""
    if len(group) == 1:
        return dict.fromkeys(group, name)
    configs = [_config(result) for result in group.values()]
    found = differences(configs, intended=("train.seed",))
    told = [", ".join(f"{path} {short(values[i])}" for path, values in found[:3]) for i in range(len(configs))]
    again = Counter(told)
    return {
        key: f"{name} ({what}{f', {key[:6]}' if again[what] > 1 else ''})"
        for key, what in zip(group, told, strict=True)
    }


def digest(value: object) -> str:
    """SHA-256 of a value that JSON can hold; equal values, equal digests."""
    return hashlib.sha256(json.dumps(value, sort_keys=True, default=str).encode()).hexdigest()
