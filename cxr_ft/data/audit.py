"""Leaks in any split, ours or somebody else's: what stands on two sides.

Each CSV is one side, or a column `split` says the side of each row. Whatever of subject, study, image id, path and text
the tables have is compared; content is compared where it stands in the table, files are not opened.
"""

from dataclasses import dataclass
from itertools import combinations
from pathlib import Path
from typing import TYPE_CHECKING

from cxr_ft.errors import UsageError

if TYPE_CHECKING:
    import pandas as pd

#: What is compared, and the column names it is known by.
KEYS = {
    "subject": ("subject_id", "patient_id", "PatientID", "Patient ID"),
    "study": ("study_id",),
    "image": ("dicom_id", "image_id", "Image Index"),
    "path": ("path", "Path", "image_path"),
    "text": ("text", "findings", "report"),
}


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


def audit(files: list[Path]) -> tuple[dict[str, int], list[str], list[Leak]]:
    """Compare the sides in `files`.

    Returns:
        Rows of each side, what was compared, and the leaks.

    Raises:
        UsageError: where a file cannot be read, fewer than two sides are there, or nothing can be compared.
    """
    sides = _sides(files)
    if len(sides) < 2:
        raise UsageError(f"{files[0]}: only one side; give a CSV a side, or one with a column split")
    if empty := [name for name, table in sides.items() if table.empty]:
        raise UsageError(f"{empty[0]} has no rows: nothing to compare")
    compared, leaks = compare(sides)
    if not compared:
        known = ", ".join(name for names in KEYS.values() for name in names)
        raise UsageError(f"{files[0]}: nothing to compare; a column among {known} is needed in every CSV")
    return {name: len(table) for name, table in sides.items()}, compared, leaks


def compare(sides: dict[str, "pd.DataFrame"]) -> tuple[list[str], list[Leak]]:
    """What all `sides` have to be compared by, and what stands on two of them."""
    columns = {what: _column(sides, names) for what, names in KEYS.items()}
    compared = {what: column for what, column in columns.items() if column}
    leaks = [
        leak
        for what, column in compared.items()
        for left, right in combinations(sides, 2)
        # The natural test set is a second view of the test side.
        if left.removesuffix("_natural") != right.removesuffix("_natural")
        if (leak := _compare(what, column, (left, sides[left]), (right, sides[right])))
    ]
    return list(compared), leaks


def _sides(files: list[Path]) -> dict[str, "pd.DataFrame"]:
    import pandas as pd

    sides: dict[str, pd.DataFrame] = {}
    for file in files:
        try:
            table = pd.read_csv(file, dtype="string", keep_default_na=False)
        except (OSError, ValueError) as error:
            raise UsageError(f"{file} cannot be read as a CSV: {str(error).splitlines()[0]}") from None
        if len(files) == 1 and "split" in table:
            return {str(name): part for name, part in table.groupby("split", sort=True)}
        said = set(table["split"]) if "split" in table else set()
        name = said.pop() if len(said) == 1 else file.name
        sides[name if name not in sides else str(file)] = table
    return sides


def _column(sides: dict[str, "pd.DataFrame"], names: tuple[str, ...]) -> str | None:
    return next((name for name in names if all(name in table for table in sides.values())), None)


def _compare(
    what: str, column: str, left: tuple[str, "pd.DataFrame"], right: tuple[str, "pd.DataFrame"]
) -> Leak | None:
    clean = {name: table[column].str.split().str.join(" ").str.lower() for name, table in (left, right)}
    both = (set(clean[left[0]]) & set(clean[right[0]])) - {""}
    if not both:
        return None
    rows = int(clean[right[0]].isin(both).sum())
    return Leak(what=what, left=left[0], right=right[0], count=len(both), rows=rows, total=len(right[1]))
