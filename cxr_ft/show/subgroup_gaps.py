"""Say in which subgroup a variant's scores are worse, and what was tested for that, with one error for a whole page."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from cxr_ft.score.statistics import gaps
from cxr_ft.score.statistics.gaps import Gap
from cxr_ft.show import number_format
from cxr_ft.show.verdicts import Comparison, VariantRow

#: The sentence of a gap by metric: where the difference is below 0, and above.
_SENTENCES = {
    gaps.AUROC: ("AUROC is lower for {group} than for {against}", "AUROC is lower for {against} than for {group}"),
    gaps.RECALL: ("Recall is lower for {group} than for {against}", "Recall is lower for {against} than for {group}"),
    gaps.SLOPE: (
        "Calibration differs: scores are too extreme for {group} compared with {against} (lower slope)",
        "Calibration differs: scores are too extreme for {against} compared with {group} (lower slope)",
    ),
    gaps.INTERCEPT: (
        "Calibration differs: at the same score findings are rarer for {group} than for {against} (lower intercept)",
        "Calibration differs: at the same score findings are rarer for {against} than for {group} (lower intercept)",
    ),
}
NOT_RECORDED = (
    "Gaps between groups were not tested: no variable has two known groups, or the runs are of an earlier version, "
    "which recorded no tests."
)


class StatedGaps(NamedTuple):
    """The sentences of stated gaps, and one that says what was tested and what was not."""

    stated: list[str]
    tested: str


def of_page(comparisons: Sequence[Comparison]) -> list[StatedGaps]:
    """Return the gaps of each comparison; all tests of the page share one error of 5 %, see `gaps.adjust`.

    Of several seeds the mean is tested, see `gaps.over_seeds`.
    """
    places: list[tuple[int, str]] = []
    family: list[Gap] = []
    for number, comparison in enumerate(comparisons):
        for row in comparison.rows:
            found = _over_seeds(row)
            family += found
            places += [(number, row.name)] * len(found)
    adjusted = list(zip(places, gaps.adjust(family), strict=True))
    total = sum(gap.p is not None for gap in family)
    out = []
    for number in range(len(comparisons)):
        own = [(name, gap) for (place, name), gap in adjusted if place == number]
        out.append(StatedGaps(_sentences(own), _tested([gap for _, gap in own], total)))
    return out


def _over_seeds(row: VariantRow) -> list[Gap]:
    """Return the gaps of a variant that all of its runs recorded."""
    by_run = [_recorded(run.result.metrics.get("test") or {}) for run in row.runs]
    shared = [key for key in by_run[0] if all(key in recorded for recorded in by_run)]
    return [gaps.over_seeds([recorded[key] for recorded in by_run]) for key in shared]


def _recorded(metrics: Mapping[str, Any]) -> dict[tuple[str, str, str], Gap]:
    by_variable: Iterable[Mapping[str, Any]] = (metrics.get("subgroups") or {}).values()
    found = [gaps.from_record(record) for variable in by_variable for record in variable.get("gaps") or ()]
    return {(gap.group, gap.metric, gap.label): gap for gap in found}


def _sentences(own: Sequence[tuple[str, Gap]]) -> list[str]:
    """Return one sentence for each gap, with the variants that have it and their labels."""
    values: dict[str, dict[str, list[str]]] = {}
    for name, gap in own:
        if not gap.stated or gap.difference is None or gap.low is None or gap.high is None:
            continue
        sentence = _SENTENCES[gap.metric][gap.difference > 0]
        start = sentence.format(group=_words(gap.group), against=_words(gap.against))
        # The sentence has the direction: the numbers are those of the group that it names first.
        ends = sorted((abs(gap.low), abs(gap.high)))
        numbers = f"{number_format.decimal(abs(gap.difference))}, {number_format.span((ends[0], ends[1]))}"
        values.setdefault(start, {}).setdefault(name, []).append(f"{gap.label}: {numbers}")
    return [
        start + ": " + number_format.listed([f"{name} ({'; '.join(of)})" for name, of in by_name.items()]) + "."
        for start, by_name in values.items()
    ]


def _words(group: str) -> str:
    """Return "sex F" for "sex=F"."""
    return group.replace("=", " ", 1)


def _tested(own: Sequence[Gap], total: int) -> str:
    if not own:
        return NOT_RECORDED
    tested = [gap for gap in own if gap.p is not None]
    labels = {gap.label for gap in tested} - {gaps.ALL}
    untested = len(own) - len(tested)
    parts = [
        f"Tested here: {number_format.plural(len(tested), 'difference')} in AUROC, recall, calibration slope and "
        f"calibration intercept, of each group from all others of its variable, "
        f"for {number_format.plural(len(labels), 'label')} and all labels together. The chance that a gap is stated "
        f"where there is none is at most 5 %, over all {number_format.count(total)} tests of the page together (Holm)."
    ]
    if untested:
        parts.append(
            f"Not tested: {number_format.count(untested)}, of groups of fewer than {gaps.LEAST_SUBJECTS} subjects, or "
            f"of labels with fewer than {gaps.LEAST_OF_CLASS} positive or negative subjects in the group or outside it."
        )
    if not any(gap.stated for gap in own):
        parts.append("No gap is shown, which is not the same as no gap: small groups hide large ones.")
    return " ".join(parts)
