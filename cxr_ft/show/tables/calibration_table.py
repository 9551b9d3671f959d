"""Tabulate calibration: how far scores can be read as probabilities."""

from cxr_ft.show.tables.cells import Cell, Table, TableRow, number_cell
from cxr_ft.show.variants import average
from cxr_ft.show.verdicts import Comparison, VariantRow

#: Split and kind of scores of each column of calibration errors, with its heading.
_COLUMNS = (
    ("test", "raw", "Error, test"),
    ("test", "scaled", "Error, test, scaled"),
    ("test_natural", "raw", "Error, natural test"),
    ("test_natural", "corrected", "Error, natural test, corrected"),
)


def calibration(comparison: Comparison) -> Table | None:
    """Return calibration errors and the Brier score, means over seeds: raw, scaled, and on natural prevalence."""
    rows = []
    for row in comparison.rows:
        # A row of dashes would look like a model that was measured and failed.
        if not any(_recorded(row, split, kind) for split, kind, _ in _COLUMNS):
            continue
        errors = [average(row.runs, "metrics", split, "calibration", kind, "ece") for split, kind, _ in _COLUMNS]
        brier = average(row.runs, "metrics", "test", "calibration", "raw", "brier")
        temperature = average(row.runs, "metrics", "test", "calibration", "temperature")
        cells = [number_cell(value) for value in (*errors, brier)]
        rows.append(TableRow([Cell(row.name), *cells, number_cell(temperature, 2)]))
    head = ["Variant", *(title for *_, title in _COLUMNS), "Brier score, test", "Temperature"]
    return Table(head, rows) if rows else None


def _recorded(row: VariantRow, split: str, kind: str) -> bool:
    by_run = (run.result.metrics.get(split) or {} for run in row.runs)
    return any((metrics.get("calibration") or {}).get(kind) for metrics in by_run)
