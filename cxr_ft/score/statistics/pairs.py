"""Two methods on the same subjects: the gap, its interval and its p-value, by the test that fits.

| seeds | AUROC, macro AUROC | accuracy | anything else |
|---|---|---|---|
| one each | DeLong (1988), clustered (Obuchowski 1997) | McNemar, mid-p or clustered | approximate randomisation |
| more | Student's t on both levels (`variance_components`), with DeLong's, the rows', or the bootstrap's covariance |||

A macro AUROC with a label whose positives, or negatives, are of one subject takes the bootstrap's covariance. With one
seed the verdict is about the two trained models, not about their methods: another training may turn it.

How often equal methods look different at 5 % is counted in tests/score/statistics/test_type_one.py: 4 to 6 times in a
hundred; up to 7 with two seeds of each; down to 3 with approximate randomisation over 25 subjects only, and with three
seeds that differ far more than test sets do.
"""

import math
from collections.abc import Sequence
from functools import cache
from itertools import combinations
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from cxr_ft.errors import UsageError
from cxr_ft.score.arrays import Floats, Names
from cxr_ft.score.statistics import intervals, variance_components
from cxr_ft.score.statistics.delong import paired_aurocs
from cxr_ft.score.statistics.intervals import Array, Interval, cluster_bootstrap
from cxr_ft.score.statistics.mcnemar import McNemar, mcnemar
from cxr_ft.score.statistics.randomisation import Randomised, Statistic, randomisation

UNDEFINED = "the metric is undefined in a run"
ONE_SUBJECT = "there are fewer than two subjects"
FEW_DRAWS = "the metric is undefined in more than a tenth of the resampled test sets"
NOTHING_VARIES = "the subjects leave no spread to measure the gap by"

#: Metrics whose covariance over subjects has a closed form.
_KNOWN = (intervals.auroc, intervals.macro_auroc, intervals.accuracy)


class Pair(NamedTuple):
    """The first method minus the second.

    Args:
        gap: of the means over seeds; None where the metric is undefined.
        interval: of the gap at `level`; it excludes 0 if and only if p <= 1 - level.
        p: two-sided p-value of no gap.
        test: the test's name.
        subjects: how many there are.
        spread: where the variance comes from, for `power.needed`; None where it is not known.
        fixed: which of the two trains nothing, so that its one run is all there is.
        level: of the interval.
        reason: why there is no interval.
    """

    gap: float | None
    interval: Interval | None
    p: float | None
    test: str
    subjects: int
    spread: variance_components.VarianceComponents | None
    fixed: tuple[bool, bool] = (False, False)
    level: float = 0.95
    reason: str | None = None

    @property
    def covers(self) -> str:
        """Return what the interval covers: "subjects and seeds", or "subjects" if a trained method has one seed."""
        if self.spread is None:
            return "subjects"
        # Where nothing is trained there is no chance of seeds to cover.
        known = [fixed or runs > 1 for fixed, runs in zip(self.fixed, self.spread.runs, strict=True)]
        return "subjects and seeds" if all(known) and not all(self.fixed) else "subjects"


def compare(
    truth: npt.ArrayLike,
    first: npt.ArrayLike,
    second: npt.ArrayLike,
    subjects: npt.ArrayLike,
    statistic: Statistic,
    *,
    fixed: tuple[bool, bool] = (False, False),
    level: float = 0.95,
    draws: int = 2000,
    seed: int = 0,
) -> Pair:
    """Compare two methods on the same rows.

    Args:
        truth: [N, ...] as `statistic` takes it.
        first: [S1, N, ...] the scores or answers of each seed; `second`: [S2, N, ...].
        subjects: [N] the subject of each row.
        statistic: `intervals.auroc`, `macro_auroc`, `accuracy` of the same, or any function (truth, answers, weights
            [..., N]) -> [...] of answers that mean the same in every run.
        fixed: which of the two trains nothing.
        level: of the interval.
        draws: of a bootstrap or a randomisation, and `seed` of its draws.

    Raises:
        ValueError: where the shapes do not fit.
    """
    both = compare_all(truth, [first, second], subjects, statistic, fixed=fixed, level=level, draws=draws, seed=seed)
    return both[0, 1]


def compare_all(
    truth: npt.ArrayLike,
    variants: Sequence[npt.ArrayLike],
    subjects: npt.ArrayLike,
    statistic: Statistic,
    *,
    fixed: Sequence[bool] = (),
    level: float = 0.95,
    draws: int = 2000,
    seed: int = 0,
) -> dict[tuple[int, int], Pair]:
    """Compare every pair (i, j), i < j, of the variants [S, N, ...], as `compare` tests it: i minus j.

    What belongs to one run is computed once. The p-values are each pair's own: `multiple_comparisons.holm` adjusts them
    for their number.
    """
    truth, runs, group = np.asarray(truth), [np.asarray(variant) for variant in variants], np.asarray(subjects)
    _check(truth, runs, group)
    untrained = [*fixed] or [False] * len(runs)
    # Where each variant's runs begin and end in the covariance of all runs.
    many, ends = len(np.unique(group)), np.cumsum([0, *(len(run) for run in runs)])
    # Once for all pairs, and not at all where every pair has a test of its own: the bootstrap takes seconds.
    varied = cache(lambda: _vary(truth, np.concatenate(runs), group, statistic, (draws, seed)))

    def pair(i: int, j: int) -> Pair:
        single = len(runs[i]) == len(runs[j]) == 1
        # McNemar's test is of single answers; a mean over seeds is none.
        if single and statistic is intervals.accuracy:
            return _from_mcnemar(mcnemar(truth, runs[i][0], runs[j][0], group, level), many, level)
        # AUROCs are not in here: scores of two runs may have scales of their own, so they cannot be exchanged.
        if single and statistic not in _KNOWN:
            one, two = runs[i][0], runs[j][0]
            randomised = randomisation(truth, one, two, group, statistic, level=level, draws=draws, seed=seed)
            return _from_randomisation(randomised, many, level)
        points, covariance, test, why = varied()
        first, second = slice(ends[i], ends[i + 1]), slice(ends[j], ends[j + 1])
        # The rows and columns of this pair, first's runs before second's, as `compare_values` takes them.
        part = None if covariance is None else covariance[np.ix_(*[np.r_[first, second]] * 2)]
        test = test if single else f"t over seeds and subjects ({test})"
        result = compare_values(points[first], points[second], part, many, test, level=level)
        # `compare_values` sees that the covariance is missing, but not why.
        return result._replace(reason=why or result.reason) if result.reason else result

    positions = combinations(range(len(runs)), 2)
    return {(i, j): pair(i, j)._replace(fixed=(untrained[i], untrained[j])) for i, j in positions}


def compare_values(
    first: Array,
    second: Array,
    covariance: Array | None,
    subjects: int,
    test: str,
    *,
    fixed: tuple[bool, bool] = (False, False),
    level: float = 0.95,
) -> Pair:
    """Compare two methods by the metric of each run, and how the runs vary together over subjects.

    Args:
        first: [S1] the metric of each seed; `second`: [S2].
        covariance: [S1 + S2, S1 + S2], from `delong`, or `intervals.resampled` replicates; None or NaN where undefined.
        subjects: how many there are.
        test: where the covariance comes from, in words.
        fixed: which of the two trains nothing.
        level: of the interval.
    """
    gap = float(np.mean(first) - np.mean(second))
    if math.isnan(gap):
        return Pair(None, None, None, test, subjects, None, fixed, level, UNDEFINED)
    if covariance is None or np.isnan(covariance).any():
        return Pair(gap, None, None, test, subjects, None, fixed, level, FEW_DRAWS)
    spread = variance_components.estimate_components(first, second, covariance)
    variance, freedom = spread.total(first, second)
    p = variance_components.p_value(gap, variance, freedom)
    # A gap without any spread: no interval could be right, so none is made up.
    if p is None:
        return Pair(gap, None, None, test, subjects, spread, fixed, level, NOTHING_VARIES)
    half = variance_components.half_width(variance, freedom, level)
    return Pair(gap, (gap - half, gap + half), p, test, subjects, spread, fixed, level)


class Margin(NamedTuple):
    """A verdict of non-inferiority: of the first method against the second.

    Args:
        outcome: "within margin", "worse by more than the margin" or "open".
        low: the gap is above this, with `level` confidence; None where it is not known.
        margin: how much worse is still acceptable, in the metric's unit.
        level: one-sided.
    """

    outcome: str
    low: float | None
    margin: float
    level: float


def non_inferior(pair: Pair, margin: float) -> Margin:
    """Decide whether the first method is worse than the second by less than `margin` (0.01: a point of AUROC).

    The one-sided level is half the error of the pair's interval (97.5 % for one of 95 %, as ICH E9 asks), so that the
    verdict can be read off the interval shown. The margin must be stated before the result is known.

    Raises:
        UsageError: where the margin is not above 0.
    """
    if not (margin > 0 and math.isfinite(margin)):
        raise UsageError(f"margin: {margin}; give how much worse is still acceptable, above 0, e.g. 0.01")
    # Each end of a two-sided interval leaves out half of its error.
    level = (1 + pair.level) / 2
    # A missing interval decides nothing, in either direction.
    if pair.interval is None:
        return Margin("open", None, margin, level)
    low, high = pair.interval
    # The whole interval has to be on one side of the margin; the gap itself decides nothing.
    outcome = "within margin" if low > -margin else "worse by more than the margin" if high < -margin else "open"
    return Margin(outcome, low, margin, level)


def _check(truth: Floats, variants: Sequence[Floats], subjects: Names) -> None:
    for i, runs in enumerate(variants):
        if runs.ndim < 2 or len(runs) == 0 or runs.shape[1] != len(subjects):
            raise ValueError(f"variant {i} has shape {runs.shape}; it must be [seeds, {len(subjects)} rows, ...]")
    if len(truth) != len(subjects):
        raise ValueError(f"truth has {len(truth)} rows, subjects {len(subjects)}")


def _from_mcnemar(result: McNemar, subjects: int, level: float) -> Pair:
    if math.isnan(result.gap):
        return Pair(None, None, None, result.test, subjects, None, level=level, reason="no row has a truth")
    spread = _one_seed(result.variance)
    if result.interval is None:
        reason = "the rows of a few subjects outweigh all others"
        return Pair(result.gap, None, None, result.test, subjects, spread, level=level, reason=reason)
    return Pair(result.gap, result.interval, result.p, result.test, subjects, spread, level=level)


def _from_randomisation(randomised: Randomised, subjects: int, level: float) -> Pair:
    from scipy.special import ndtri

    test = "approximate randomisation by subject"
    if math.isnan(randomised.gap):
        return Pair(None, None, None, test, subjects, None, level=level, reason=UNDEFINED)
    if math.isinf(randomised.half):
        return Pair(randomised.gap, None, None, test, subjects, None, level=level, reason=FEW_DRAWS)
    # The variance of the normal that is as wide: for the question how many subjects would do.
    spread = _one_seed((randomised.half / float(ndtri((1 + level) / 2))) ** 2)
    interval = (randomised.gap - randomised.half, randomised.gap + randomised.half)
    return Pair(randomised.gap, interval, randomised.p, test, subjects, spread, level=level)


def _one_seed(variance: float) -> variance_components.VarianceComponents:
    # All the variance is the subjects'. None: one seed does not show how much training varies.
    return variance_components.VarianceComponents(variance, (0.0, 0.0), (None, None), (1, 1))


def _vary(
    truth: Floats, runs: Floats, subjects: Names, statistic: Statistic, draws: tuple[int, int]
) -> tuple[Array, Array | None, str, str | None]:
    """Return the metric [M] of each run, their covariance [M, M] over subjects, where it is from, why there is none."""
    if statistic is intervals.accuracy:
        points, covariance = intervals.shares(truth, runs, subjects)
        return points, covariance, "accuracy by subject", None if covariance is not None else ONE_SUBJECT
    if statistic in _KNOWN:
        areas = paired_aurocs(truth, runs, subjects)
        one_row = len(np.unique(subjects)) == len(subjects)
        # With one subject in a class a single label gains nothing from the bootstrap: more than a third of the
        # resamples lose that subject. A mean over labels still has the others.
        if areas.covariance is not None or statistic is intervals.auroc:
            test = "DeLong" if one_row else "DeLong, rows clustered by subject"
            return areas.points, areas.covariance, test, areas.reason
    weights, ones = cluster_bootstrap(subjects, *draws), np.ones(len(subjects))
    # The point is the test set's own; the replicates serve the covariance alone.
    points = np.array([float(statistic(truth, run, ones)) for run in runs])
    replicates = np.array([statistic(truth, run, weights) for run in runs], float)
    # A run that is seldom defined spoils its own pairs alone.
    good = np.flatnonzero(np.isnan(replicates).mean(axis=1) <= 0.1)
    covariance = np.full((len(runs), len(runs)), np.nan)
    if (known := intervals.resampled(replicates[good])) is not None:
        covariance[np.ix_(good, good)] = known
    return points, covariance, "bootstrap over subjects", None
