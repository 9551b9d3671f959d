"""Tabulate the splits: rows, subjects and hashes, and what their manifest says of leaks."""

import json
from collections.abc import Mapping
from pathlib import Path

from cxr_ft.errors import UsageError
from cxr_ft.run.record.run_splits import splits_folder
from cxr_ft.show import number_format
from cxr_ft.show.runs import Run
from cxr_ft.show.tables.cells import Cell, Table, TableRow
from cxr_ft.show.verdicts import Comparison

ABSENT = (
    "Leaks are not known here: the manifest of these splits was not found, or it describes other files. To check the "
    "files, run cxr-split --audit."
)
_SOURCE = "the manifest that was written with these files"


def splits(comparison: Comparison) -> tuple[Table, str]:
    """Return a row for each split as the runs recorded it, and one sentence on leaks from the splits' manifest."""
    data = comparison.runs[0].result.data
    rows = []
    for file, digest in data.get("sha256", {}).items():
        split = Path(file).name.removesuffix("_split.csv")
        counts = [(data.get(key) or {}).get(split) for key in ("rows", "subjects")]
        cells = [Cell(number_format.count(many), key=many) for many in counts]
        rows.append(TableRow([Cell(split.replace("_", " ")), *cells, Cell(str(digest))]))
    return Table(["Split", "Rows", "Subjects", "SHA-256"], rows), _leaks(comparison.runs[0])


def _leaks(run: Run) -> str:
    data = run.result.data
    # The recorded folder first; if both were moved together, their new place.
    manifest = _manifest(Path(data.splits or ""), data.sha256) or _manifest(_moved_to(run), data.sha256)
    leaks = None if manifest is None else manifest.get("leaks")
    if not isinstance(leaks, Mapping):
        return ABSENT
    if leaking := [f"{many:,} of {kind}" for kind, many in leaks.items() if many]:
        return f"Leaks, the same in two splits, by {_SOURCE}: {number_format.listed(leaking)}."
    return f"No {' or '.join(leaks)} is in two splits, by {_SOURCE}."


def _moved_to(run: Run) -> Path | None:
    """Return where the splits are now, if run and splits were moved together; None where they are not found."""
    try:
        return splits_folder(run.folder, run.result)
    except UsageError:
        return None


def _manifest(folder: Path | None, hashes: Mapping[str, str]) -> dict[str, object] | None:
    """Return the manifest in the splits' folder, where it still describes the files that the runs read."""
    if folder is None:
        return None
    try:
        manifest = json.loads((folder / "manifest.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    if not isinstance(manifest, dict):
        return None
    files = manifest.get("files")
    # Splits may have been compiled again in the same folder: leaks of other files say nothing of these runs.
    same = isinstance(files, dict) and all(files.get(Path(file).name) == value for file, value in hashes.items())
    return manifest if same else None
