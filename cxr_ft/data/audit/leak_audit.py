"""Leaks in any split, ours or somebody else's: what stands on two sides.

Each table (CSV, TSV, Parquet) is one side, or a column `split` says the side of each row. Whatever of subject, study,
image id, path and text the tables have is compared, texts also with nearly the same ones; where the images are at hand,
their pixels are too.
`confound` then asks whether a label can be told without looking at the film.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cxr_ft.data.audit import acquisition, confound_probe
from cxr_ft.data.audit.near_texts import normal, on_two_sides
from cxr_ft.data.sources import table_reader
from cxr_ft.errors import UsageError

if TYPE_CHECKING:
    import pandas as pd

#: What is compared, and the column names it is known by.
KEYS = {
    "subject": ("subject_id", "patient_id", "PatientID", "Patient ID"),
    "study": ("study_id",),
    "image": ("dicom_id", "image_id", "Image Index"),
    "path": ("path", "Path", "image_path", "filename"),
    "text": (
        *("text", "findings", "report", "impression", "report_text", "caption", "Resume"),
        *("sentence", "review", "tweet", "premise", "sentence1"),
    ),
}
#: Ids that may be numbers, and what a whole number may look like: 7, 007, 7.0.
NUMBERED = ("subject", "study", "image")
WHOLE = r"\s*(?:0*(\d+)(?:\.0*)?)?\s*"
#: Of these a row may hold several, joined by |.
SEVERAL = ("image", "path", "pixels")
#: The column of pixel hashes that `audit` adds where images are at hand.
PIXELS = "_pixels"


@dataclass(frozen=True)
class Leak:
    """`count` values of `what` stand both in `left` and in `right`; `rows` rows of `right` hold one of them."""

    what: str
    left: str
    right: str
    count: int
    rows: int
    total: int

    def __str__(self) -> str:
        share = 100 * self.rows / self.total
        rows = f"{self.rows} of {self.total} rows of {self.right}, {share:.1f} %"
        return f"{self.what}: {self.count} in both {self.left} and {self.right} ({rows})"


@dataclass(frozen=True, kw_only=True)
class Audit:
    """What an audit found.

    Args:
        sides: rows of each side.
        compared: what all sides could be compared by.
        leaks: what stands on two sides.
        confounds: for each label how well it can be told without the film; those with `found` are a finding.
        notes: what was not looked at, and why.
    """

    sides: dict[str, int]
    compared: list[str]
    leaks: list[Leak]
    confounds: list[confound_probe.Confound]
    notes: list[str]

    @property
    def clean(self) -> bool:
        """Whether nothing was found."""
        return not self.leaks and not any(label.found for label in self.confounds)


def audit(files: Sequence[Path], root: str | None = None) -> Audit:
    """Compare the sides in `files`, and look for labels that can be told without the film.

    Args:
        root: the folder that paths are relative to; None: what a manifest beside the first file says, or its folder.

    Raises:
        UsageError: where a file cannot be read, fewer than two sides are there, or nothing can be compared.
    """
    import pandas as pd

    sides = _sides(files)
    if len(sides) < 2:
        raise UsageError(f"{files[0]}: only one side; give a CSV a side, or one with a column split")
    if empty := [name for name, table in sides.items() if table.empty]:
        raise UsageError(f"{empty[0]} has no rows: nothing to compare")
    sides, unlike = _aligned(sides)
    if not any(_column(sides, names) for names in KEYS.values()):
        raise UsageError(f"{', '.join(map(str, files))}: nothing to compare; {'; '.join(unlike)}")
    names = {what: _column(sides, known) for what, known in KEYS.items()}
    measured, notes = _measured(sides, names["path"], root, files[0].parent)
    if not measured.empty:
        hashes = measured["pixels"].to_dict()
        for name, table in sides.items():
            joined = ["|".join(hashes.get(one, "") for one in row.split("|")) for row in table[str(names["path"])]]
            sides[name] = table.assign(**{PIXELS: pd.array(joined, dtype="string")})
    compared, leaks = compare(sides)
    whole = pd.concat([table for name, table in sides.items() if not name.endswith("_natural")], ignore_index=True)
    confounds, said = confound_probe.probe(
        whole, measured, path=names["path"], group=names["subject"] or names["image"]
    )
    return Audit(
        sides={name: len(table) for name, table in sides.items()},
        compared=compared,
        leaks=leaks,
        confounds=confounds,
        notes=[*unlike, *notes, *said],
    )


def compare(sides: dict[str, "pd.DataFrame"]) -> tuple[list[str], list[Leak]]:
    """What all `sides` have to be compared by, and what stands on two of them."""
    columns = {what: _column(sides, names) for what, names in {**KEYS, "pixels": (PIXELS,)}.items()}
    compared = {what: column for what, column in columns.items() if column}
    # The natural test set is a second view of the test side.
    pairs = [
        (left, right)
        for left, right in combinations(sides, 2)
        if left.removesuffix("_natural") != right.removesuffix("_natural")
    ]
    leaks = []
    for what, column in compared.items():
        values = {name: _values(table[column], several=what in SEVERAL) for name, table in sides.items()}
        if what == "text":
            owners = {name: table[columns["subject"]] if columns["subject"] else None for name, table in sides.items()}
            texts = on_two_sides({name: (values[name], owners[name]) for name in sides}, pairs)
        for left, right in pairs:
            found = texts[left, right] if what == "text" else {what: (set(values[left]) & set(values[right])) - {""}}
            for kind, both in found.items():
                rows = values[right].index[values[right].isin(both)].nunique()
                if both:
                    leaks.append(Leak(kind, left, right, count=len(both), rows=rows, total=len(sides[right])))
    return list(compared), leaks


def _values(column: "pd.Series[str]", *, several: bool) -> "pd.Series[Any]":
    """The values without case and odd spaces, indexed by row; a row of `several` joined by | has as many."""
    import pandas as pd

    found = [normal(value) for value in column.astype("string").fillna("").tolist()]
    clean = pd.Series(found, dtype=object)  # Python's own strings: sets of them are made many times faster
    return clean.str.split("|").explode() if several and any("|" in value for value in found) else clean


def _measured(
    sides: dict[str, "pd.DataFrame"], path: str | None, root: str | None, beside: Path
) -> tuple["pd.DataFrame", list[str]]:
    """What `acquisition.measure` says of each image, by path, where they are at hand; and what is to be said."""
    import pandas as pd

    nothing = pd.DataFrame(columns=["pixels"])
    rows = [row for table in sides.values() for row in table[path].unique()] if path else []
    paths = sorted({one for row in rows for one in row.split("|")} - {""})
    if not paths:
        return nothing, ["the tables name no files: pixels, sizes and headers were not looked at"]
    folder = _root(root, beside)
    if not any((folder / one).is_file() for one in paths[:1000]):
        if root is not None:
            raise UsageError(f"--root {root}: none of the images is there, for example {paths[0] if paths else 'none'}")
        return nothing, ["no image is at hand (give --root DIR): pixels, sizes and headers were not looked at"]
    measured = acquisition.measure(folder, paths)
    failed = int((measured["pixels"] == "").sum())
    return measured, [f"{failed} of {len(paths)} images could not be read"] if failed else []


def _root(root: str | None, beside: Path) -> Path:
    if root is not None:
        return Path(root).expanduser()
    manifest = beside / "manifest.json"
    if not manifest.is_file():
        return beside
    try:
        said = json.loads(manifest.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UsageError(f"{manifest} cannot be read: {error}; give --root DIR") from None
    return Path(str(said.get("root", beside) if isinstance(said, dict) else beside))


def _sides(files: Sequence[Path]) -> dict[str, "pd.DataFrame"]:
    sides: dict[str, pd.DataFrame] = {}
    for file in files:
        table = _table(file)
        if len(files) == 1 and "split" in table:
            return {str(name): part for name, part in table.groupby("split", sort=True)}
        said = set(table["split"]) if "split" in table else set()
        name = said.pop() if len(said) == 1 else file.name
        sides[name if name not in sides else str(file)] = table
    return sides


def _table(file: Path) -> "pd.DataFrame":
    """A side's table as text, "" where a cell is empty."""
    table = table_reader.read_table(str(file))
    if any(table.index.names):  # a Parquet file may hold a column as the rows' names
        table = table.reset_index().astype("string")
    table = table.fillna("")
    known = [name for names in KEYS.values() for name in names]
    if not {*known}.intersection(table.columns):
        there = ", ".join(map(str, table.columns[:20]))
        hint = " (its columns seem to be separated by ; and not by commas)" if ";" in there else ""
        raise UsageError(
            f"{file}: nothing to compare{hint}; a column among {', '.join(known)} is needed, it has {there}"
        )
    return table


def _aligned(sides: dict[str, "pd.DataFrame"]) -> tuple[dict[str, "pd.DataFrame"], list[str]]:
    """The sides with one name for what they call by several, whole numbers written alike, and what is to be said."""
    sides, notes = dict(sides), []
    for what, known in KEYS.items():
        own = {name: next((column for column in known if column in table), None) for name, table in sides.items()}
        lacking = [name for name, column in own.items() if column is None]
        if lacking and len(lacking) < len(own):
            notes.append(f"{what} is not compared: {', '.join(lacking)} has no column of it ({', '.join(known)})")
        column = _column(sides, known)
        if column is None and not lacking:
            column = min(filter(None, own.values()), key=known.index)
            sides = {name: table.rename(columns={own[name]: column}) for name, table in sides.items()}
            notes.append(
                f"{what} is compared by each file's own column: {', '.join(f'{k}: {v}' for k, v in own.items())}"
            )
        if column and what in NUMBERED and all(table[column].str.fullmatch(WHOLE).all() for table in sides.values()):
            for name, table in sides.items():
                plain = table[column].str.extract(WHOLE)[0].fillna("")
                sides[name] = table.assign(**{column: plain})
    return sides, notes


def _column(sides: dict[str, "pd.DataFrame"], names: tuple[str, ...]) -> str | None:
    return next((name for name in names if all(name in table for table in sides.values())), None)
