"""Load runs: which may be compared, which numbers they record, how they are named.

A variant is what its runs have in common: everything but the seed of training and the folder of the data. How the data
is read (augmentation, views, size) is part of it.
"""

import dataclasses
import hashlib
import json
import shlex
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from cxr_ft.config import mapping
from cxr_ft.run.record import imported_runs, results, saved_labels
from cxr_ft.run.record.results import Result
from cxr_ft.run.record.saved_labels import SavedLabels
from cxr_ft.score import conditions, fairness

if TYPE_CHECKING:
    import pandas as pd

#: The kinds of memory that make up the peak; a record may hold an allocator's counters besides.
MEMORY = ("weights", "gradients", "optimizer", "activations", "workspace")

#: Options that say where the data lies, not what it is.
_LOCATIONS = ("splits", "root")

#: A setting longer than this is shown by its beginning.
_LONG = 40


@dataclass(frozen=True)
class RecordedRun:
    """A run's folder and its record; or a file of predictions and what was computed of them.

    Args:
        folder: of the run, or the file.
        result: its record.
        own_predictions, own_labels: of a file; None: they lie in the folder.
    """

    folder: Path
    result: Result
    own_predictions: "pd.DataFrame | None" = dataclasses.field(default=None, repr=False, compare=False)
    own_labels: SavedLabels | None = dataclasses.field(default=None, repr=False, compare=False)

    def predictions(self) -> "pd.DataFrame | None":
        """Return its predictions, as `results.write_predictions` names the columns; None where it kept none."""
        if self.own_predictions is not None or self.result.imported:
            return self.own_predictions
        return results.read_predictions(self.folder) if (self.folder / "predictions.parquet").exists() else None

    def labels(self) -> SavedLabels | None:
        """Return its labels and thresholds; None where it saved no model."""
        if self.own_labels is not None or self.result.imported:
            return self.own_labels
        return saved_labels.read(self.folder)


def place(path: str | Path) -> str:
    """Return a path for a command on a page: the user's own folder is ~, since its name is often the user's."""
    text, home = str(path), str(Path.home())
    return f"~/{shlex.quote(text[len(home) + 1 :])}" if text.startswith(f"{home}/") else shlex.quote(text)


def short(value: object) -> str:
    """Return a setting as text; a long one (a hash, say) by its beginning."""
    text = str(value)
    return text if len(text) <= _LONG else f"{text[:8]}…"


def number(result: Result, *path: str) -> float | None:
    """Return the number at `path` in a record; None where there is none."""
    value: object = getattr(result, path[0])
    for key in path[1:]:
        value = value.get(key) if isinstance(value, Mapping) else None
    return float(value) if isinstance(value, int | float) and not isinstance(value, bool) else None


def peak_bytes(result: Result) -> float | None:
    """Return the peak memory, the sum of all kinds; None where none was measured."""
    # Only the kinds: a record may also hold an allocator's total, which would count them twice.
    kinds = (number(result, "cost", "memory", kind) for kind in MEMORY)
    known = [value for value in kinds if value is not None]
    return sum(known) if known else None


def load(folders: Sequence[Path]) -> tuple[list[RecordedRun], list[tuple[RecordedRun, str]]]:
    """Return the runs that may be compared, and the others with the reason in one line.

    Tries of learning rates are in neither: they are parts of other runs' records.
    """
    good: list[RecordedRun] = []
    other: list[tuple[RecordedRun, str]] = []
    seen: dict[str, Path] = {}
    for folder in folders:
        run = RecordedRun(folder, results.read(folder))
        if run.result.search.try_for:
            continue
        # A copied folder would count as a second seed, and make the intervals too narrow.
        same = seen.get(run.result.config_hash)
        if run.result.status != "success":
            default = "not finished" if run.result.status in ("running", "trained") else "no reason was recorded"
            other.append((run, run.result.error or default))
        elif same is not None:
            other.append((run, f"the same run as {place(same)}, shown once"))
        else:
            seen[run.result.config_hash] = folder
            good.append(run)
    return good, other


def with_files(runs: Sequence[RecordedRun], files: Mapping[str, Path]) -> list[RecordedRun]:
    """Return runs, then the predictions in files by their name, one a seed; see `imported_runs.read`."""
    imported = imported_runs.read(files, [(run.folder, run.result) for run in runs])
    return [*runs, *(RecordedRun(one.path, one.result, one.predictions, one.labels) for one in imported)]


def record(result: Result) -> dict[str, object]:
    """Return a result as the nested dicts that `score.fairness` reads."""
    return {field.name: getattr(result, field.name) for field in dataclasses.fields(result)}


def names(all_results: Sequence[Result]) -> list[str]:
    """Return the name of the variant of each result.

    Variants of one task and test split whose method and options are equal get the settings that differ added.
    """
    bases = conditions.bases([record(result) for result in all_results])
    # The key is of the whole configuration: two runs with one short name may still be different variants.
    keys = [_without_seed(result, base) for result, base in zip(all_results, bases, strict=True)]
    sharing: dict[tuple[str, str, str], dict[str, Result]] = defaultdict(dict)
    for key, result in zip(keys, all_results, strict=True):
        sharing[result.variant, result.task, test_split(result)].setdefault(key, result)
    named = {
        key: name for (variant, *_), group in sharing.items() for key, name in _distinct_names(variant, group).items()
    }
    return [named[key] for key in keys]


def test_split(result: Result) -> str:
    """Return the SHA-256 of the test split; of all the files' hashes where none is named so."""
    hashes = result.data.get("sha256", {})
    for name, value in hashes.items():
        # Not test_natural: which rows are compared is decided by the balanced split.
        if Path(name).name.startswith("test_split"):
            return str(value)
    return digest(sorted(hashes.items()))


def _without_seed(result: Result, base: str) -> str:
    config = _config(result, base)
    return digest({**config, "train": {key: value for key, value in mapping(config, "train").items() if key != "seed"}})


def _config(result: Result, base: str) -> dict[str, object]:
    """Return the configuration with hashes of the data in place of its location, and `base` in place of its name."""
    options = {key: value for key, value in mapping(result.config, "data").items() if key not in _LOCATIONS}
    # The same files in another folder are the same data, and other files in the same folder are not.
    return {**result.config, "model": base, "data": {**options, **result.data.get("sha256", {})}}


def _distinct_names(name: str, group: Mapping[str, Result]) -> dict[str, str]:
    """Return a name for each key: `name`, with the first few settings that differ where there are several."""
    if len(group) == 1:
        return dict.fromkeys(group, name)
    labels = conditions.base_labels([record(result) for result in group.values()])
    configs = [_config(result, label) for result, label in zip(group.values(), labels, strict=True)]
    differing = fairness.differences(configs, intended=("train.seed",))
    settings = [", ".join(f"{path} {short(values[i])}" for path, values in differing[:3]) for i in range(len(configs))]
    times = Counter(settings)
    # Where even these are equal, the beginning of the key is what differs for sure.
    return {
        key: f"{name} ({text}{f', {key[:6]}' if times[text] > 1 else ''})"
        for key, text in zip(group, settings, strict=True)
    }


def digest(value: object) -> str:
    """Return the SHA-256 of a value that JSON can hold; equal values, equal digests."""
    # Sorted keys, so that two records that were written in another order are equal.
    return hashlib.sha256(json.dumps(value, sort_keys=True, default=str).encode()).hexdigest()
