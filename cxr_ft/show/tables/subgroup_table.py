"""Tabulate the metrics of subgroups (sex, age, view)."""

from collections.abc import Mapping
from typing import Any

from cxr_ft.score.metrics import registry
from cxr_ft.score.metrics import subgroups as measured
from cxr_ft.show import number_format
from cxr_ft.show.tables.cells import Cell, Table, TableRow
from cxr_ft.show.verdicts import Comparison, VariantRow

#: One group in a record: "n", "subjects", and by measure None or "value", "low", "high".
Group = Mapping[str, Any]

_CALIBRATION = ("Calibration error, debiased", "Calibration slope", "Calibration intercept")


def subgroups(comparison: Comparison) -> list[Table]:
    """Return a table for each variable: the groups of each variant's first seed, each value with its interval."""
    records = [(row, _subgroups(row)) for row in comparison.rows]
    tables = []
    for variable in dict.fromkeys(name for _, by_variable in records for name in by_variable):
        rows = []
        for row, by_variable in records:
            record = by_variable.get(variable) or {}
            for group, values in (record.get("groups") or {}).items():
                rows.append(TableRow(_cells(row, group, values, record.get("undefined") or {})))
        tables.append(
            Table(
                ["Variant", variable.capitalize(), "Images", "Subjects", *_measures().values()],
                rows,
            )
        )
    return tables


def _cells(row: VariantRow, group: str, values: Group, undefined: Mapping[str, str]) -> list[Cell]:
    cells = [Cell(row.name), Cell(group), Cell(number_format.count(values["n"]), key=values["n"])]
    cells.append(Cell(number_format.count(values["subjects"]), key=values["subjects"]))
    for measure in _measures():
        value = values.get(measure)
        if value is None:
            # The reason may be of the group, of one measure in the group, or of the measure in all groups.
            reasons = (undefined.get(key) for key in (group, f"{group}: {measure}", measure))
            reason = next((reason for reason in reasons if reason), "no reason was recorded")
            cells.append(Cell(number_format.DASH, (reason,)))
            continue
        notes = () if value["low"] is None else (number_format.span((value["low"], value["high"])),)
        cells.append(Cell(number_format.decimal(value["value"]), notes, key=value["value"]))
    return cells


def _measures() -> dict[str, str]:
    """Return the headings of what is computed by subgroup, by name."""
    of_scores = {metric.name: metric.heading for metric in registry.shown_in("subgroup", "scores")}
    return of_scores | dict(zip(measured.CALIBRATION.values(), _CALIBRATION, strict=True))


def _subgroups(row: VariantRow) -> Mapping[str, Any]:
    """Return the subgroups of the first seed on test, by variable."""
    # Of one seed, not a mean: intervals of several seeds on the same subjects cannot be averaged.
    return (row.runs[0].result.metrics.get("test") or {}).get("subgroups") or {}
