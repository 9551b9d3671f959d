"""Tabulate every variant against every baseline that it is tested against."""

from cxr_ft.show import number_format, phrasing
from cxr_ft.show.tables.cells import Cell, Table, TableRow, number_cell
from cxr_ft.show.verdicts import BaselineTest, Comparison

HEAD = [
    "Baseline",
    "Variant",
    "Value of the variant",
    "Of the baseline",
    "Difference",
    "p",
    "Adjusted p",
    "Shown to beat it?",
    "Test",
]


def baseline_table(comparison: Comparison) -> Table | None:
    """Return a row for each variant and baseline, the highest baseline first; None where nothing was tested."""
    rows = [TableRow(_cells(test)) for test in comparison.against_baselines]
    return Table(HEAD, rows) if rows else None


def _cells(test: BaselineTest) -> list[Cell]:
    verdict = "yes" if test.shown else "no" if test.p is not None else f"not tested: {test.reason}"
    of = (phrasing.THIS_TRAINING,) if test.of_trainings and test.p is not None else ()
    return [
        Cell(test.baseline),
        Cell(test.variant),
        *(number_cell(value) for value in (test.value, test.baseline_value, test.value - test.baseline_value)),
        *(Cell(number_format.p_value(value), key=value) for value in (test.p, test.adjusted_p)),
        Cell(verdict, of),
        Cell(test.test),
    ]
