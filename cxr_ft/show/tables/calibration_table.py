"""Tabulate calibration: how far scores can be read as probabilities."""

from collections.abc import Mapping

from cxr_ft.show import number_format
from cxr_ft.show.tables.cells import Cell, Table, TableRow, number_cell
from cxr_ft.show.variants import average
from cxr_ft.show.verdicts import Comparison, VariantRow

#: Split and kind of scores of each column of calibration errors, with its heading.
_COLUMNS = (
    ("test", "raw", "Debiased error, test"),
    ("test", "scaled", "Debiased error, test, scaled"),
    ("test_natural", "raw", "Debiased error, natural test"),
    ("test_natural", "corrected", "Debiased error, natural test, corrected"),
)
#: What has an interval, of raw scores on test, with its heading.
_ESTIMATES = (("slope", "Slope, test"), ("intercept", "Intercept, test"))


def calibration(comparison: Comparison) -> Table | None:
    """Return debiased errors, slope, intercept and the Brier score, means over seeds."""
    rows = []
    for row in comparison.rows:
        # A row of dashes would look like a model that was measured and failed.
        if not any(_recorded(row, split, kind) for split, kind, _ in _COLUMNS):
            continue
        errors = [
            average(row.runs, "metrics", split, "calibration", kind, "debiased_error") for split, kind, _ in _COLUMNS
        ]
        brier = average(row.runs, "metrics", "test", "calibration", "raw", "brier")
        temperature = average(row.runs, "metrics", "test", "calibration", "temperature")
        estimates = [_estimate(row, key) for key, _ in _ESTIMATES]
        cells = [*map(number_cell, errors), *estimates, number_cell(brier), number_cell(temperature, 2)]
        rows.append(TableRow([Cell(row.name), *cells]))
    titles = [*(title for *_, title in _COLUMNS), *(title for _, title in _ESTIMATES)]
    return Table(["Variant", *titles, "Brier score, test", "Temperature"], rows) if rows else None


def _estimate(row: VariantRow, key: str) -> Cell:
    """Return the mean over seeds; the mean of the intervals' ends, which is wide enough as seeds share the subjects."""
    value, low, high = (
        average(row.runs, "metrics", "test", "calibration", "raw", key, end) for end in ("value", "low", "high")
    )
    if value is not None and low is not None and high is not None:
        return Cell(number_format.decimal(value), (number_format.span((low, high)),), key=value)
    for run in row.runs:
        raw = ((run.result.metrics.get("test") or {}).get("calibration") or {}).get("raw")
        if isinstance(raw, Mapping) and raw.get("reason"):
            return Cell(number_format.DASH, (str(raw["reason"]),))
    return Cell(number_format.DASH)


def _recorded(row: VariantRow, split: str, kind: str) -> bool:
    by_run = (run.result.metrics.get(split) or {} for run in row.runs)
    return any((metrics.get("calibration") or {}).get(kind) for metrics in by_run)
