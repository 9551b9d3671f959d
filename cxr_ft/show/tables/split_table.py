"""Tabulate the splits: rows, subjects, hashes, leaks, and what explains a result without learning.

Leaks and confounds are the run's own record. Of a run that has none the manifest of its splits is read, where it still
describes the files that the run read.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path

from cxr_ft import json_values
from cxr_ft.errors import UsageError
from cxr_ft.run.record.run_splits import splits_folder
from cxr_ft.show import number_format
from cxr_ft.show.recorded_runs import RecordedRun
from cxr_ft.show.tables.cells import Cell, Table, TableRow
from cxr_ft.show.verdicts import Comparison

ABSENT = (
    "Leaks are not known here: the manifest of these splits was not found, or it describes other files. To check the "
    "files, run cxr-split --audit."
)
NOT_AUDITED = "Whether a label can be predicted without the content of the image is not known: no audit was recorded."
UNKNOWN = (
    "Subjects unknown: two images of one patient may be in two splits. Images are counted, and intervals take each for "
    "a patient of its own: where patients have several, they are too narrow."
)
FILES = (
    "the predictions of {names} come from {files}. What was trained, on which rows, how and at what cost is not known "
    "here, nor whether these test rows were part of it: leaks cannot be looked for."
)
THRESHOLD = (
    "Without val no threshold can be chosen: accuracy, F1, precision, recall and gaps in recall of {names} are at "
    "0.5{but}."
)
_OTHERS = ", those of runs at the thresholds that val chose"
_NO_BASELINES = "Baselines need rows of train (the most frequent class, TF-IDF), so that there are none."
_LEAKS_OF_FILES = "Leaks are not known: files of predictions do not say on which rows a model was trained."
_SOURCE = "the manifest that was written with these files"


def splits(comparison: Comparison) -> tuple[Table, str]:
    """Return a row for each split as the runs recorded it, and sentences on leaks and confounds."""
    run = comparison.runs[0]
    data = run.result.data
    rows = []
    if run.result.imported:
        for split, many in data.rows.items():
            cells = [Cell(number_format.count(count), key=count) for count in (many, data.subjects.get(split))]
            digest = data.sha256.get(split, "")
            rows.append(TableRow([Cell(split.replace("_", " ")), *cells, Cell(f"{digest} (of the rows)")]))
        return Table(["Split", "Rows", "Subjects", "SHA-256"], rows), _LEAKS_OF_FILES
    for file, digest in data.get("sha256", {}).items():
        split = Path(file).name.removesuffix("_split.csv")
        counts = [(data.get(key) or {}).get(split) for key in ("rows", "subjects")]
        # Where subjects are unknown each image stands for one.
        counts = [counts[0], None] if subjects_unknown(run) else counts
        cells = [Cell(number_format.count(many), key=many) for many in counts]
        rows.append(TableRow([Cell(split.replace("_", " ")), *cells, Cell(str(digest))]))
    manifest = _manifest_of(run)
    sentences = [_leaks(run, manifest), _confounds(run, manifest)]
    return Table(["Split", "Rows", "Subjects", "SHA-256"], rows), " ".join(filter(None, sentences))


def warnings(comparison: Comparison) -> list[str]:
    """Return what the page has to say first of the data: leaks, confounds, and subjects that nobody knows."""
    run = comparison.runs[0]
    if run.result.imported:
        return [*_of_files(comparison), *([UNKNOWN] if subjects_unknown(run) else [])]
    manifest = _manifest_of(run)
    leaks = _recorded_leaks(run, manifest) or {}
    lines = [f"LEAK: {_leaks(run, manifest)}"] if any(leaks.values()) else []
    lines += [_confound(row) for row in _recorded_confounds(run, manifest) or () if row.get("confounded")]
    lines += _of_files(comparison)
    return [*lines, UNKNOWN] if subjects_unknown(run) else lines


def _of_files(comparison: Comparison) -> list[str]:
    """Return what is not known of predictions from files, and what was assumed or left out of them."""
    imported = [row for row in comparison.rows if row.runs[0].result.imported]
    if not imported:
        return []
    names = number_format.listed([row.name for row in imported])
    lines = [FILES.format(names=names, files="a file" if len(imported) == 1 else "files")]
    if comparison.output == "scores":
        but = _OTHERS if len(imported) < len(comparison.rows) else ""
        labels = imported[0].runs[0].labels()
        # Of data with one label a row the class of the largest score is the answer, whatever its score is.
        at = [THRESHOLD.format(names=names, but=but)] if labels is None or labels.multi_label else []
        lines += [*at, *([] if comparison.baselines else [_NO_BASELINES])]
    # Each variant's notes are those of its first seed: all seeds have the same rows.
    notes = dict.fromkeys(note for row in imported for note in row.runs[0].result.data.notes)
    return [f"From a file: {' '.join([*lines, *notes])}"]


def subjects_unknown(run: RecordedRun) -> bool:
    """Return whether the data does not say which images are of one subject."""
    card = run.result.data.card
    return card is not None and card.group == "unknown"


def _confound(row: Mapping[str, object]) -> str:
    area, low, high = (number_format.decimal(float(str(row.get(key, "nan")))) for key in ("auroc", "low", "high"))
    alone = row.get("by")
    by: Mapping[str, float] = alone if isinstance(alone, Mapping) else {}
    names = {str(row.get("signal")): f"{row.get('signal')} alone", "thumbnail": "a thumbnail of 32 x 32 pixels alone"}
    signals = "".join(f"; {words} {number_format.decimal(by[name])}" for name, words in names.items() if name in by)
    return (
        f"CONFOUND: {row.get('label')} can be predicted without the content of the image, by how it was acquired and "
        f"stored: AUROC {area} (95 % interval {low} to {high}{signals}). A model can reach that without reading the "
        "image."
    )


def _confounds(run: RecordedRun, manifest: Mapping[str, object] | None) -> str:
    rows = _recorded_confounds(run, manifest)
    if rows is None:
        # Rows of texts have no image: there is nothing that could be acquired.
        card = run.result.data.card
        return "" if card is not None and card.unit == "text" else NOT_AUDITED
    found = [str(row.get("label")) for row in rows if row.get("confounded")]
    if found:
        return f"Predicted without the content of the image: {number_format.listed(found)}."
    return f"No label of the {len(rows)} that were audited can be predicted without the content of the image."


def _leaks(run: RecordedRun, manifest: Mapping[str, object] | None) -> str:
    leaks = _recorded_leaks(run, manifest)
    if leaks is None:
        return ABSENT
    if leaking := [f"{many:,} of {kind}" for kind, many in leaks.items() if many]:
        return f"Leaks, the same in two splits, by {_SOURCE}: {number_format.listed(leaking)}."
    # An image that stands for its own subject is in one split whatever the splits are.
    kinds = [kind for kind in leaks if kind not in ("subject", "study") or not subjects_unknown(run)]
    return f"No {' or '.join(kinds)} is in two splits, by {_SOURCE}."


def _recorded_leaks(run: RecordedRun, manifest: Mapping[str, object] | None) -> Mapping[str, int] | None:
    leaks: object = run.result.data.leaks
    if leaks is None and manifest is not None:
        leaks = manifest.get("leaks")
    return leaks if isinstance(leaks, Mapping) else None


def _recorded_confounds(run: RecordedRun, manifest: Mapping[str, object] | None) -> list[Mapping[str, object]] | None:
    rows: object = run.result.data.confounds
    if rows is None and manifest is not None:
        audited = manifest.get("confounds")
        rows = audited.get("labels") if isinstance(audited, Mapping) else None
    if not isinstance(rows, Sequence):
        return None
    return [row for row in rows if isinstance(row, Mapping)]


def _manifest_of(run: RecordedRun) -> dict[str, object] | None:
    """Return the manifest of a run's splits; None where it is not needed, or not found."""
    data = run.result.data
    if data.leaks is not None and data.confounds is not None:
        return None
    # The recorded folder first; if both were moved together, their new place.
    return _manifest(Path(data.splits or ""), data.sha256) or _manifest(_moved_to(run), data.sha256)


def _moved_to(run: RecordedRun) -> Path | None:
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
        manifest = json_values.loads((folder / "manifest.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    if not isinstance(manifest, dict):
        return None
    files = manifest.get("files")
    # Splits may have been compiled again in the same folder: leaks of other files say nothing of these runs.
    same = isinstance(files, dict) and all(files.get(Path(file).name) == value for file, value in hashes.items())
    return manifest if same else None
