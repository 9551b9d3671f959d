"""Whether a model is worse for some people, and whether its scores can be read as probabilities."""

from collections.abc import Mapping
from itertools import combinations
from typing import Any

from cxr_ft.score.metrics import registry
from cxr_ft.show import phrasing
from cxr_ft.show.compare import Comparison, Variant
from cxr_ft.show.tables.main_tables import Cell, Row, Table


def gaps(comparison: Comparison) -> list[str]:
    """Groups that are worse off, and with which variants.

    Told are pairs of groups of a variable whose 95 % intervals lie wholly apart, which is a stricter test than the
    pair's own at 5 %; of each variable and measure the pair that is furthest apart.
    """
    said: dict[str, list[str]] = {}
    for variant in comparison.variants:
        for variable, judged in (_test(variant).get("subgroups") or {}).items():
            for measure in _measures():
                found = [gap for a, b in combinations(judged["groups"].items(), 2) if (gap := _gap(measure, a, b))]
                if found:
                    _, worse, better, values = max(found)
                    what = f"{measure.heading} is worse for {variable} {worse} than for {better}"
                    said.setdefault(what, []).append(f"{variant.name} ({values})")
    return [f"{what}: {phrasing.listed(who)}." for what, who in said.items()]


def subgroups(comparison: Comparison) -> list[Table]:
    """By variable (sex, age, view) the groups of each variant's first seed, each value with its interval."""
    told = [(variant, _test(variant).get("subgroups") or {}) for variant in comparison.variants]
    variables = list(dict.fromkeys(name for _, found in told for name in found))
    tables = []
    for variable in variables:
        rows = []
        for variant, found in told:
            judged = found.get(variable) or {}
            for group, values in (judged.get("groups") or {}).items():
                rows.append(Row(_group_cells(variant, group, values, judged.get("undefined") or {})))
        head = ["Variant", variable.capitalize(), "Images", "Subjects", *(measure.heading for measure in _measures())]
        tables.append(Table(head, rows))
    return tables


def calibration(comparison: Comparison) -> Table | None:
    """Calibration error and Brier score on test: as they are, scaled; and on natural prevalence, corrected."""
    columns = [("test", "raw"), ("test", "scaled"), ("test_natural", "raw"), ("test_natural", "corrected")]
    rows = []
    for variant in comparison.variants:
        if not any(_of(variant, side, kind) for side, kind in columns):
            continue
        values = [variant.average("metrics", side, "calibration", kind, "ece") for side, kind in columns]
        brier = variant.average("metrics", "test", "calibration", "raw", "brier")
        heat = variant.average("metrics", "test", "calibration", "temperature")
        cells = [Cell(phrasing.decimal(value), key=value) for value in (*values, brier)]
        rows.append(Row([Cell(variant.name), *cells, Cell(phrasing.decimal(heat, 2), key=heat)]))
    head = ["Variant", "Error, test", "Scaled", "Error, natural", "Corrected", "Brier score, test", "Temperature"]
    return Table(head, rows) if rows else None


def _group_cells(variant: Variant, group: str, values: Mapping[str, Any], why: Mapping[str, str]) -> list[Cell]:
    cells = [Cell(variant.name), Cell(group), Cell(phrasing.count(values["n"]), key=values["n"])]
    cells.append(Cell(phrasing.count(values["subjects"]), key=values["subjects"]))
    for name in (measure.name for measure in _measures()):
        found = values.get(name)
        if found is None:
            reason = why.get(group) or why.get(f"{group}: {name}") or why.get(name) or "not told"
            cells.append(Cell(phrasing.DASH, (reason,)))
            continue
        ends = None if found["low"] is None else (found["low"], found["high"])
        cells.append(Cell(phrasing.decimal(found["value"]), (phrasing.span(ends),) if ends else (), key=found["value"]))
    return cells


def _measures() -> tuple[registry.Metric, ...]:
    return registry.shown_in("subgroup", "scores")


def _gap(measure: registry.Metric, *groups: tuple[str, Mapping[str, Any]]) -> tuple[float, str, str, str] | None:
    """How far apart the intervals of two groups are, the worse and the better one, their values; None: they meet."""
    known = [
        (name, group[measure.name]) for name, group in groups if (group.get(measure.name) or {}).get("low") is not None
    ]
    if len(known) < 2:
        return None
    below, above = sorted(known, key=lambda one: float(one[1]["value"]))
    apart = above[1]["low"] - below[1]["high"]
    if apart <= 0:
        return None
    worse, better = (above, below) if not measure.higher_is_better else (below, above)
    values = " against ".join(
        f"{phrasing.decimal(one['value'])}, {phrasing.span((one['low'], one['high']))}" for _, one in (worse, better)
    )
    return apart, worse[0], better[0], values


def _test(variant: Variant) -> dict[str, Any]:
    return variant.runs[0].result.metrics.get("test") or {}


def _of(variant: Variant, side: str, kind: str) -> bool:
    found = (run.result.metrics.get(side) or {} for run in variant.runs)
    return any((metrics.get("calibration") or {}).get(kind) for metrics in found)
