"""Read a folder of splits: the CSVs, and the manifest that certifies them.

`manifest.json` says what was requested, what was achieved for each label, which leaks were counted, and the SHA-256 of
every file. Compiling and writing splits is `cxr_ft.data.splits`; nothing here loads it, so that training does not.
"""

import csv
import os
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, NotRequired, TypedDict, cast

from cxr_ft import csv_cells, json_values
from cxr_ft.data.card import CardJson, DatasetCard
from cxr_ft.data.records import IDS, SPLITS, first_outside
from cxr_ft.errors import UsageError
from cxr_ft.files import sha256

if TYPE_CHECKING:
    import pandas as pd

MANIFEST = "manifest.json"
#: The CSV of each split.
FILES = {name: f"{name}_split.csv" for name in (*SPLITS, "test_natural")}
#: Columns that every CSV of a split has, besides the labels.
NEEDED = (*IDS, "path", "view", "split", "weight")
#: Keys without which a JSON file is no manifest.
KEYS = ("root", "card", "request", "files")
CHANGED = "is not the file its manifest certifies; run cxr-split again"


class RequestOptions(TypedDict):
    """The options of cxr-split, as `cxr_ft.data.splits.request.SplitRequest` has them."""

    per_label: int
    seed: int
    ratios: list[float]
    views: str
    uncertain: str
    blank: str
    unit: str
    official: bool
    text: str
    ids: str


class RowCounts(TypedDict):
    """Rows of the archive, those that qualify, and the rejected ones with their number by reason code."""

    records: int
    eligible: int
    rejected: int
    by_reason: dict[str, int]


class TextCounts(TypedDict):
    """Rows of texts, distinct texts, groups kept in one split, rows of the largest, and copies of train's by split."""

    rows: int
    distinct: int
    groups: int
    largest_group: int
    verbatim_in_train: dict[str, int]


class LabelCounts(TypedDict):
    """Positive rows of one label: requested, available, the target, achieved, and the part of each split."""

    requested: int
    available: int
    target: int
    achieved: int
    train_quota: int
    val_quota: int
    test_quota: int
    train: int
    val: int
    test: int
    test_natural: int


class Certificate(TypedDict):
    """The proof by the integer program for the selection of rows.

    `worst_overshoot`: rows of a label beyond its target, as a share of the target, at the labels `at_worst`.
    `least_possible`: no selection has a smaller worst overshoot. `gap`: how far the total over all labels may be from
    the least, as a share. `from_wished`: distance from the archive's own mix of label sets, as a share of the rows, and
    `from_wished_gap` how far that may be from the least (None: not known). `short`: labels with fewer rows than
    requested.
    """

    worst_overshoot: float
    least_possible: float
    gap: float
    from_wished: float
    from_wished_gap: float | None
    short: list[str]
    at_worst: list[str]


class WeightQuality(TypedDict):
    """The errors that the weights of one split leave, and what they cost.

    `rows_without`: share of its rows whose label set has no selected row. `prevalence_error`: largest error of a
    weighted prevalence, as a share. `effective_rows`: how many rows of equal weight a weighted mean is as sure as
    (Kish 1965: squared sum of the weights over the sum of their squares). `ratio`: largest weight to smallest.
    """

    rows_without: float
    prevalence_error: float
    effective_rows: NotRequired[float]
    ratio: NotRequired[float]


class ConfoundJson(TypedDict):
    """The record of one label in the confound audit, `cxr_ft.data.audit.confound_probe.Confound`.

    `auroc`, `low`, `high`: area under the ROC curve over held-out subjects, and its 95 % interval. `shuffled`: the
    same with shuffled labels (None: not computed). `by`: with one group of features alone, of which `signal` is the
    best. `confounded`: it is predicted far better than chance.
    """

    label: str
    auroc: float
    low: float
    high: float
    shuffled: float | None
    by: dict[str, float]
    signal: str
    rows: int
    positives: int
    confounded: bool


class ConfoundsJson(TypedDict):
    """The confound audit of splits: how many images and thumbnails it looked at, a record a label, and notes."""

    images: int
    thumbnails: int
    labels: list[ConfoundJson]
    notes: list[str]


class Manifest(TypedDict):
    """The content of `manifest.json`."""

    version: int
    layout: str
    #: The folder or URL that paths are relative to, or the specification of a synthetic archive.
    root: str
    #: The same folder relative to the folder of the splits: it is found after both were moved together.
    root_from_splits: NotRequired[str]
    card: CardJson
    request: RequestOptions
    counts: RowCounts
    rows: dict[str, int]
    subjects: dict[str, int]
    labels: dict[str, LabelCounts]
    short_labels: list[str]
    worst_overshoot: float
    selection: Certificate
    weights: dict[str, WeightQuality]
    texts: NotRequired[TextCounts]
    leaks: dict[str, int]
    confounds: NotRequired[ConfoundsJson]
    notes: list[str]
    files: dict[str, str]


@dataclass(frozen=True, kw_only=True)
class Splits:
    """A folder of splits as read: its manifest, the card of the data, and one table a split."""

    folder: Path
    manifest: Manifest
    card: DatasetCard
    tables: dict[str, "pd.DataFrame"]

    @property
    def root(self) -> str:
        """Return what paths in the CSVs are relative to: a folder, a URL, or a synthetic archive's specification."""
        return image_root(self.folder, self.manifest)

    @property
    def hashes(self) -> dict[str, str]:
        """Return the SHA-256 of each CSV, of the files as they are now."""
        return {FILES[name]: sha256(self.folder / FILES[name]) for name in self.tables}


def read(folder: Path) -> Splits:
    """Read the splits in a folder.

    Raises:
        UsageError: where the manifest or a CSV is missing, or a CSV lacks its columns or was changed since.
    """
    manifest = _manifest(folder)
    card = DatasetCard.from_json(manifest["card"])
    labels = card.labels if card.multi_label else ("label",)
    tables = {name: _read_table(folder / file, (*NEEDED, *labels), labels, card) for name, file in FILES.items()}
    for name, file in FILES.items():
        # A run's fingerprint is made of these hashes, so rows that differ from them must never be trained on.
        if manifest["files"].get(file) != sha256(folder / file):
            raise UsageError(f"{folder / file} {CHANGED}")
        if tables[name].empty:
            raise UsageError(f"{folder / file} has no rows")
    return Splits(folder=folder, manifest=manifest, card=card, tables=tables)


def recorded_root(folder: Path) -> str | None:
    """Return `image_root` of the manifest in a folder; None where it names none.

    Raises:
        UsageError: where there is no manifest, or it cannot be read.
    """
    content = _content(folder)
    return image_root(folder, content) if isinstance(content, dict) and "root" in content else None


def certified(folder: Path) -> Manifest | None:
    """Return the manifest in a folder; None where there is none, or one that lacks what it should have."""
    try:
        made = _manifest(folder)
    except UsageError:
        return None
    return made if isinstance(made.get("labels"), dict) and "uncertain" in made["request"] else None


def _content(folder: Path) -> object:
    path = folder / MANIFEST
    try:
        return json_values.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise UsageError(f"{folder} holds no manifest.json: give a folder that cxr-split wrote") from None
    except (ValueError, OSError) as error:
        raise UsageError(f"{path} cannot be read: {error}") from None


def _manifest(folder: Path) -> Manifest:
    path, content = folder / MANIFEST, _content(folder)
    if not isinstance(content, dict) or (missing := [key for key in KEYS if key not in content]):
        lack = f": it has no {', '.join(missing)}" if isinstance(content, dict) else ""
        raise UsageError(f"{path} is no manifest of cxr-split{lack}; make the splits again")
    return cast(Manifest, content)


def _read_table(path: Path, needed: tuple[str, ...], labels: tuple[str, ...], card: DatasetCard) -> "pd.DataFrame":
    import pandas as pd

    try:
        with path.open(newline="", encoding="utf-8") as file:
            # The header first, with a real CSV reader: types are set by column, and a missing column is reported before
            # a type is.
            names = {cell: csv_cells.unescape(cell) for cell in next(csv.reader(file), [])}
        if missing := [column for column in needed if column not in names.values()]:
            raise UsageError(f"{path} has no column {', '.join(missing)}; it has {', '.join([*names.values()][:20])}")
        # A class may be called "None" or "NA", and an id may begin with 0: only these columns are numbers.
        numbers = {"weight", *(labels if card.multi_label else ())}
        numeric = {cell for cell, name in names.items() if name in numbers}
        dtypes = {cell: "float64" if cell in numeric else "string" for cell in names}
        table = csv_cells.unescape_table(
            pd.read_csv(path, dtype=dtypes, keep_default_na=False, na_values={cell: [""] for cell in numeric})
        )
    except FileNotFoundError:
        raise UsageError(f"{path} does not exist; run cxr-split again") from None
    except (ValueError, OSError) as error:
        raise UsageError(f"{path} cannot be read: {str(error).splitlines()[0]}") from None
    if first_outside(table["path"].tolist()) is not None:
        rows = [row for row, cell in enumerate(table["path"].tolist(), 2) if first_outside([cell]) is not None]
        raise UsageError(
            f"{path}: line {rows[0]}: the path leads out of the archive ({len(rows)} rows); run cxr-split again"
        )
    return table


def image_root(folder: Path, manifest: Mapping[str, object]) -> str:
    """Return the place that a manifest's paths are relative to, as it is found from the folder of the splits.

    The recorded place where it exists; else the place with the same position relative to `folder`, where there is a
    folder; else the recorded place, so that messages name it.
    """
    recorded, position = str(manifest["root"]), str(manifest.get("root_from_splits") or "")
    if position and not _is(Path.exists, Path(recorded)):
        moved = Path(os.path.normpath(folder.resolve() / position))
        if _is(Path.is_dir, moved):
            return str(moved)
    return recorded


def _is(kind: Callable[[Path], bool], path: Path) -> bool:
    """Return `kind(path)`; False in a folder that may not be looked into, where it would raise."""
    try:
        return kind(path)
    except OSError:
        return False


def locate(recorded: str | Path, run: Path, hashes: Mapping[str, str]) -> Path:
    """Return the folder of the splits that a run was trained on, also after run and splits were moved together.

    These places are looked at, in this order:

    1. the recorded path; a relative one from the working folder;
    2. the recorded path, then its last parts alone ("data/splits", "splits"), from the run's folder and each folder
       above it. Two folders that are moved together keep the folder that holds both, so the path of the splits from
       there is one of these.

    A folder counts only where its CSVs have the recorded content: another folder of the same name is passed over.

    Args:
        recorded: the path of the splits as a run's result.json has it (`data.splits`).
        run: the run's folder.
        hashes: SHA-256 of each CSV by file name (`data.sha256` of result.json), at least one.

    Raises:
        UsageError: where no such folder is found.
    """
    changed: list[tuple[Path, str]] = []
    for folder in dict.fromkeys(_places(Path(recorded), run)):
        if not _is(Path.is_file, folder / MANIFEST):
            continue
        # By content and not by name: data_splits/ of another experiment has the same file names.
        other = _first_difference(folder, hashes)
        if other is None:
            return folder
        changed.append((folder, other))
    if changed:
        folder, file = changed[0]
        raise UsageError(
            f"{run}: the splits in {folder} changed since it was trained ({file} differs); put its own files back, or "
            "evaluate it on these with cxr-evaluate"
        )
    raise UsageError(
        f"{run}: its splits {recorded} are neither at that path, nor at the same position in a folder above the run; "
        "put them back, or next to the run's folder, or evaluate it on other splits with cxr-evaluate"
    )


def _places(recorded: Path, run: Path) -> Iterator[Path]:
    yield recorded
    parts = [part for part in recorded.parts if part != recorded.anchor]
    # A run reached by a symbolic link has two lines of folders above it; the splits may lie in either.
    starts = (Path(os.path.normpath(run.absolute())), run.resolve())
    above = dict.fromkeys(folder for start in starts for folder in (start, *start.parents))
    for first in range(len(parts)):
        for folder in above:
            yield Path(os.path.normpath(folder.joinpath(*parts[first:])))


def _first_difference(folder: Path, hashes: Mapping[str, str]) -> str | None:
    """Return the first file of `folder` that is missing or has another hash; None: all are as recorded."""
    for name, digest in hashes.items():
        if not _is(Path.is_file, folder / name) or sha256(folder / name) != digest:
            # Missing files and other content are the same to the caller: these are not the recorded splits.
            return name
    return None if hashes else MANIFEST
