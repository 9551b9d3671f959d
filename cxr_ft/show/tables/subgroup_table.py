"""Tabulate the metrics of subgroups (sex, age, view), and say which group a model is worse for."""

from collections.abc import Mapping
from itertools import combinations
from typing import Any, NamedTuple

from cxr_ft.score.metrics import registry
from cxr_ft.score.metrics.registry import Metric
from cxr_ft.show import number_format
from cxr_ft.show.tables.cells import Cell, Table, TableRow
from cxr_ft.show.verdicts import Comparison, VariantRow

#: One group in a record: "n", "subjects", and by measure None or "value", "low", "high".
Group = Mapping[str, Any]


class _Gap(NamedTuple):
    """Two groups with disjoint intervals; `distance` lies between the nearer ends."""

    distance: float
    worse: str
    better: str
    values: str


def gaps(comparison: Comparison) -> list[str]:
    """Return one sentence for each gap between groups, with the variants that have it.

    A gap is a pair of groups of one variable whose 95 % intervals do not overlap, which is stricter than a test of the
    pair at 5 %. Of each variable and measure only the pair with the largest distance is named.
    """
    variants_by_gap: dict[str, list[str]] = {}
    for row in comparison.rows:
        for variable, record in _subgroups(row).items():
            for measure in _measures():
                pairs = combinations(record["groups"].items(), 2)
                if gaps_of_measure := [gap for first, second in pairs if (gap := _gap(measure, first, second))]:
                    largest = max(gaps_of_measure)
                    start = f"{measure.heading} is worse for {variable} {largest.worse} than for {largest.better}"
                    variants_by_gap.setdefault(start, []).append(f"{row.name} ({largest.values})")
    return [f"{start}: {number_format.listed(variants)}." for start, variants in variants_by_gap.items()]


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
                ["Variant", variable.capitalize(), "Images", "Subjects", *(measure.heading for measure in _measures())],
                rows,
            )
        )
    return tables


def _cells(row: VariantRow, group: str, values: Group, undefined: Mapping[str, str]) -> list[Cell]:
    cells = [Cell(row.name), Cell(group), Cell(number_format.count(values["n"]), key=values["n"])]
    cells.append(Cell(number_format.count(values["subjects"]), key=values["subjects"]))
    for measure in [measure.name for measure in _measures()]:
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


def _measures() -> tuple[Metric, ...]:
    """Return the metrics that are computed by subgroup."""
    return tuple(registry.shown_in("subgroup", "scores"))


def _gap(measure: Metric, *groups: tuple[str, Group]) -> _Gap | None:
    """Return the gap between two groups; None where their intervals overlap or one has none."""
    known = [
        (name, group[measure.name]) for name, group in groups if (group.get(measure.name) or {}).get("low") is not None
    ]
    if len(known) < 2:
        return None
    # By value: which of two is worse depends on the metric, and is decided below.
    below, above = sorted(known, key=lambda group: float(group[1]["value"]))
    distance = above[1]["low"] - below[1]["high"]
    if distance <= 0:
        return None
    worse, better = (below, above) if measure.higher_is_better else (above, below)
    values = " against ".join(
        f"{number_format.decimal(value['value'])}, {number_format.span((value['low'], value['high']))}"
        for _, value in (worse, better)
    )
    return _Gap(distance, worse[0], better[0], values)


def _subgroups(row: VariantRow) -> Mapping[str, Any]:
    """Return the subgroups of the first seed on test, by variable."""
    # Of one seed, not a mean: intervals of several seeds on the same subjects cannot be averaged.
    return (row.runs[0].result.metrics.get("test") or {}).get("subgroups") or {}
