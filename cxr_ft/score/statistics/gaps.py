"""State in which group a model's scores are worse, with one error over all groups, metrics and labels together.

A group is compared with all rows of other known groups of the same variable. The tests are in `gap_tests`, the false
alarms and the power that were measured in docs/statistics.md.

Shapes: N rows, L labels.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from cxr_ft.score.statistics import gap_tests
from cxr_ft.score.statistics.gap_tests import Evidence, Mask, Part, Rows
from cxr_ft.score.statistics.multiple_comparisons import holm

#: The error of all gaps together.
ERROR = 0.05
#: Subjects that a group, and the others, need; and subjects of each class that a label needs in both.
LEAST_SUBJECTS, LEAST_OF_CLASS = 10, 5
#: The name of all labels together, of a row without a known group, and of what a group is compared with.
ALL, UNKNOWN, OTHERS = "all labels", "unknown", "all others"

AUROC, RECALL = "auroc", "recall"
SLOPE, INTERCEPT = "calibration_slope", "calibration_intercept"
#: What is tested, in the order of the tests.
METRICS = (AUROC, RECALL, SLOPE, INTERCEPT)
#: The share of the error that the tests of all labels together get; the rest is for single labels.
_SHARE_OF_ALL = 0.5
_NOTHING_VARIES = "nothing varies between subjects"


@dataclass(frozen=True, kw_only=True)
class Gap:
    """A metric in a group of rows minus the same in the others.

    Args:
        group: variable and value, as "sex=F".
        against: the other group where the variable has two, else `OTHERS`.
        metric: one of `METRICS`. "calibration_slope": of the log odds of being positive on the log odds of the score;
            "calibration_intercept": log odds of being positive at the same score.
        label: its name, or `ALL`: the mean (AUROC), or the labels weighted by what each one knows.
        difference: None where it was not tested.
        low, high: its interval, at the level that Holm's procedure gives this test: it holds 0 unless `stated`.
        p: two-sided, of no difference, not adjusted.
        adjusted_p: by Holm over all tests of the family.
        stated: whether the gap may be stated: `adjusted_p` is at most `ERROR`.
        reason: why there was no test; "" where there was one.
        error, freedom: standard error of `difference` and its degrees of freedom.
    """

    group: str
    against: str
    metric: str
    label: str
    difference: float | None = None
    low: float | None = None
    high: float | None = None
    p: float | None = None
    adjusted_p: float | None = None
    stated: bool = False
    reason: str = ""
    error: float | None = None
    freedom: float | None = None


class _Table(NamedTuple):
    """Truth [N, L] 1, 0 or NaN, scores and predictions [N, L], and the number of each row's subject [N]."""

    truth: npt.NDArray[np.floating]
    scores: npt.NDArray[np.floating]
    predicted: Mask
    subjects: npt.NDArray[np.intp]


def gaps(  # noqa: PLR0917 (the arrays of one evaluation, in the order of every function of this folder)
    truth: npt.ArrayLike,
    scores: npt.ArrayLike,
    predicted: npt.ArrayLike,
    subjects: Sequence[object] | npt.ArrayLike,
    groups: Mapping[str, Sequence[str]],
    labels: Sequence[str],
) -> list[Gap]:
    """Test every group of every variable in every metric and label, and adjust for all of them together.

    Args:
        truth: [N, L] 1, 0 or NaN (masked).
        scores: [N, L] in [0, 1]; for scores that are no probabilities the gaps in calibration mean nothing.
        predicted: bool [N, L].
        subjects: [N] the subject of each row.
        groups: by variable the group of each row [N]; "" and "unknown" are in no group.
        labels: the L names.

    Returns:
        By variable, group, label and metric; of a variable with two groups the first against the second. What was not
        tested has its reason.
    """
    return adjust(unadjusted(truth, scores, predicted, subjects, groups, labels))


def unadjusted(  # noqa: PLR0917 (as `gaps`)
    truth: npt.ArrayLike,
    scores: npt.ArrayLike,
    predicted: npt.ArrayLike,
    subjects: Sequence[object] | npt.ArrayLike,
    groups: Mapping[str, Sequence[str]],
    labels: Sequence[str],
) -> list[Gap]:
    """Return what `gaps` returns before it is adjusted, to be adjusted together with other gaps of a page."""
    codes = np.unique(np.asarray(subjects).astype(str), return_inverse=True)[1]
    table = _Table(np.asarray(truth, float), np.asarray(scores, float), np.asarray(predicted, bool), codes)
    out: list[Gap] = []
    for variable, members in groups.items():
        out += _of_variable(table, variable, np.asarray(members).astype(str), labels)
    return out


def as_record(gap: Gap) -> dict[str, str | float | None]:
    """Return what result.json keeps of a gap: its names with difference, error, freedom and p, or with the reason."""
    named: dict[str, str | float | None] = {
        "group": gap.group,
        "against": gap.against,
        "metric": gap.metric,
        "label": gap.label,
    }
    if gap.p is None:
        return named | {"reason": gap.reason}
    return named | {"difference": gap.difference, "error": gap.error, "freedom": gap.freedom, "p": gap.p}


def from_record(record: Mapping[str, object]) -> Gap:
    """Return the gap of which `as_record` made the record."""
    numbers = {name: record.get(name) for name in ("difference", "error", "freedom", "p")}
    # bool is a subclass of int, but no number here; a record without all four has no test.
    known = {k: float(v) for k, v in numbers.items() if isinstance(v, int | float) and not isinstance(v, bool)}
    gap = Gap(
        group=str(record.get("group")),
        against=str(record.get("against")),
        metric=str(record.get("metric")),
        label=str(record.get("label")),
        reason=str(record.get("reason") or ""),
    )
    if len(known) < len(numbers):
        return gap
    return replace(gap, difference=known["difference"], error=known["error"], freedom=known["freedom"], p=known["p"])


def over_seeds(seeds: Sequence[Gap]) -> Gap:
    """Return the mean over seeds of one gap, as a statement about these trained runs and others like them.

    The error of a mean of seeds on the same subjects is at most the mean error of one (the seeds share what chance did
    to the subjects); what the seeds differ by, divided by their number, is added. Degrees of freedom: Satterthwaite
    1946. Gaps with a reason: the first of them.
    """
    for gap in seeds:
        if gap.difference is None or gap.error is None or gap.freedom is None:
            return gap
    differences = np.array([gap.difference for gap in seeds], float)
    within = float(np.mean([float(gap.error or 0) ** 2 for gap in seeds]))
    freedom = min(float(gap.freedom or 1) for gap in seeds)
    between = float(differences.var(ddof=1)) / len(seeds) if len(seeds) > 1 else 0.0
    spread = between**2 / (len(seeds) - 1) if len(seeds) > 1 else 0.0
    evidence = Evidence(
        float(differences.mean()),
        float(np.sqrt(within + between)),
        (within + between) ** 2 / (within**2 / freedom + spread),
    )
    return _filled(replace(seeds[0], p=None), evidence)


def _of_variable(table: _Table, variable: str, members: npt.NDArray[np.str_], labels: Sequence[str]) -> list[Gap]:
    """Return the gaps of one variable; `members`: the group of each row [N]. They are not yet adjusted."""
    known = ~np.isin(members, ["", UNKNOWN])
    names = sorted(set(members[known].tolist()))
    if len(names) < 2:
        return []
    out: list[Gap] = []
    # Of two groups the second gap is the first one mirrored: one question, asked once.
    for name in names[:1] if len(names) == 2 else names:
        against = f"{variable}={names[1]}" if len(names) == 2 else OTHERS
        blank = Gap(group=f"{variable}={name}", against=against, metric="", label=ALL)
        inside = members == name
        counts = {
            blank.group: len(np.unique(table.subjects[inside])),
            against: len(np.unique(table.subjects[known & ~inside])),
        }
        few = [f"{side}: {n} subjects, fewer than {LEAST_SUBJECTS}" for side, n in counts.items() if n < LEAST_SUBJECTS]
        if few:
            out += [replace(blank, metric=metric, reason="; ".join(few)) for metric in METRICS]
        else:
            out += _of_group(table, known, inside, labels, blank)
    return out


def _of_group(table: _Table, known: Mask, inside: Mask, labels: Sequence[str], blank: Gap) -> Iterator[Gap]:
    parts: dict[str, list[Part]] = {metric: [] for metric in METRICS}
    single: list[Gap] = []
    for column, label in enumerate(labels):
        where = known & ~np.isnan(table.truth[:, column])
        rows = Rows(
            table.truth[where, column] > 0.5,
            table.scores[where, column],
            table.predicted[where, column],
            inside[where],
            table.subjects[where],
            int(table.subjects.max()) + 1,
        )
        for metric, part in _parts(rows).items():
            plain = replace(blank, metric=metric, label=label)
            if isinstance(part, Part):
                parts[metric].append(part)
                single.append(_filled(plain, gap_tests.together([part])))
            else:
                single.append(replace(plain, reason=part))
    for metric in METRICS:
        # Of one label the test of all would be the same test again.
        if len(parts[metric]) > 1:
            yield _filled(replace(blank, metric=metric), gap_tests.together(parts[metric]))
    yield from single


def _parts(rows: Rows) -> dict[str, Part | str]:
    """Return what each metric says of one label, or why it cannot be tested."""
    few = {True: "", False: ""}
    for positive in few:
        counts = [
            len(np.unique(rows.subjects[(rows.truth == positive) & side])) for side in (rows.inside, ~rows.inside)
        ]
        if min(counts) < LEAST_OF_CLASS:
            few[positive] = (
                f"{'positive' if positive else 'negative'} subjects: {counts[0]} in the group, {counts[1]} outside; "
                f"{LEAST_OF_CLASS} are needed in both"
            )
    parts: dict[str, Part | str] = {AUROC: "", RECALL: few[True] or gap_tests.recall(rows)}
    if reason := few[True] or few[False]:
        return parts | dict.fromkeys((AUROC, SLOPE, INTERCEPT), reason)
    intercept, slope = gap_tests.calibration(rows)
    return parts | {AUROC: gap_tests.auroc(rows), SLOPE: slope, INTERCEPT: intercept}


def _filled(gap: Gap, evidence: Evidence | None) -> Gap:
    if evidence is None:
        return replace(gap, reason=_NOTHING_VARIES)
    return replace(gap, difference=evidence.difference, p=evidence.p, error=evidence.error, freedom=evidence.freedom)


def adjust(family: Sequence[Gap]) -> list[Gap]:
    """Return the gaps with `adjusted_p`, `stated` and intervals, by a weighted Holm procedure over all of them.

    Half of the error is for tests of all labels together, which have the power, half for single labels (Holm 1979,
    section 3). Whatever the dependence of the tests, the chance that any gap is stated where none is, is at most
    `ERROR`.
    """
    from scipy.special import stdtrit

    tested = [gap.label == ALL for gap in family if gap.p is not None]
    counts = {True: sum(tested), False: len(tested) - sum(tested)}
    # Where there are no tests of one kind, the others have the whole error.
    share = {True: _SHARE_OF_ALL if counts[False] else 1.0, False: 1 - _SHARE_OF_ALL if counts[True] else 1.0}
    weights = np.array([0 if gap.p is None else share[gap.label == ALL] / counts[gap.label == ALL] for gap in family])
    adjusted = holm([gap.p for gap in family], weights.tolist())
    with np.errstate(invalid="ignore"):
        ratios = np.array([np.nan if gap.p is None else gap.p for gap in family]) / weights
    failed = float(sum(w for w, p in zip(weights, adjusted, strict=True) if p is not None and p > ERROR))
    out = []
    for gap, weight, ratio, p in zip(family, weights, ratios, adjusted, strict=True):
        if p is None or gap.difference is None or gap.error is None or gap.freedom is None:
            out.append(gap)
            continue
        stated = p <= ERROR
        # The weight that was left at this test's turn; for what is not stated, when the first one failed.
        left = float(weights[ratios >= ratio].sum()) if stated else failed
        half = -float(stdtrit(gap.freedom, ERROR * weight / left / 2)) * gap.error
        low, high = gap.difference - half, gap.difference + half
        out.append(replace(gap, adjusted_p=p, stated=stated, low=low, high=high))
    return out
