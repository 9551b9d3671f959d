"""Describe a table of the page: rows of cells, as text."""

from dataclasses import dataclass

from cxr_ft.score.statistics.estimates import Estimate
from cxr_ft.show import number_format


@dataclass(frozen=True)
class Cell:
    """A cell.

    Args:
        text: its text.
        notes: smaller lines below.
        bar: start, end and value of an interval, as shares of the width of its bar.
        key: the number by which its column is sorted; None: the text.
    """

    text: str
    notes: tuple[str, ...] = ()
    bar: tuple[float, float, float] | None = None
    key: float | None = None


@dataclass(frozen=True)
class TableRow:
    """A row of cells; `kind` is "best", "baseline" or ""."""

    cells: list[Cell]
    kind: str = ""


@dataclass(frozen=True)
class Table:
    """A head and rows of as many cells."""

    head: list[str]
    rows: list[TableRow]


def number_cell(value: float | None, digits: int = 3) -> Cell:
    """Return a cell of a number; a dash where it is None."""
    return Cell(number_format.decimal(value, digits), key=value)


def estimate_cell(estimate: Estimate) -> Cell:
    """Return a cell of a value, with its interval below or the reason why there is none."""
    return Cell(number_format.decimal(estimate.value), estimate_notes(estimate), key=estimate.value)


def estimate_notes(estimate: Estimate) -> tuple[str, ...]:
    """Return the interval of a value or why it has none, and of how many labels it is the mean."""
    if estimate.value is None:
        return ()
    over = () if estimate.labels is None else (f"mean of {number_format.plural(estimate.labels, 'label')}",)
    note = number_format.span(estimate.interval) if estimate.interval else estimate.note
    return ((note,) if note else ()) + over
