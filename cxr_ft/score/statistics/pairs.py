"""Two methods on the same subjects: the gap, its interval and its p-value, by the test that fits.

| seeds | AUROC, macro AUROC | accuracy | anything else |
|---|---|---|---|
| one each | ranks exchanged, or DeLong, clustered (Obuchowski 1997) | McNemar, mid-p or clustered | randomisation |
| more | Student's t on both levels (`variance_components`), with DeLong's, the rows', or the bootstrap's covariance |||

With one seed of each, AUROCs that rest on fewer than `class_counts.MANY` subjects of the rarer class are tested by
exchanging the two runs' ranks subject by subject (Bandos, Rockette and Gur 2005): there DeLong's test refuses too often
at middling AUROCs and hardly ever near 1. Below `class_counts.FEWEST` no test is given. A macro AUROC with a label
whose positives, or negatives, are of one subject takes the bootstrap's covariance.

With a single seed of a trained method the test is of the trained models, not of their methods: another training may
turn it. With more, all methods of a page help to estimate how much seeds vary, see `variance_components`.

How often equal methods look different at 5 % is counted in tests/score/statistics/test_type_one.py and
test_seed_spread.py.
"""

import math
from collections.abc import Callable, Sequence
from functools import cache, partial
from itertools import combinations
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from cxr_ft.errors import UsageError
from cxr_ft.score.arrays import Floats, Names
from cxr_ft.score.statistics import class_counts, intervals, variance_components
from cxr_ft.score.statistics.delong import paired_aurocs
from cxr_ft.score.statistics.intervals import Array, Interval, cluster_bootstrap
from cxr_ft.score.statistics.mcnemar import McNemar, mcnemar
from cxr_ft.score.statistics.randomisation import Randomised, Statistic, randomisation, ranks

UNDEFINED = "the metric is undefined in a run"
ONE_SUBJECT = "there are fewer than two subjects"
FEW_DRAWS = "the metric is undefined in more than a tenth of the resampled test sets"
NOTHING_VARIES = "the subjects leave no spread to measure the gap by"
FEW_SUBJECTS = "too few test subjects with, or without, the label: {many:.0f}, of labels together; 10 are needed"

#: Areas, and all metrics whose covariance over subjects has a closed form.
_AREAS = (intervals.auroc, intervals.macro_auroc)
_KNOWN = (*_AREAS, intervals.accuracy)

#: The one-sided p-value of a true gap that is at most this.
Tail = Callable[[float], float]


class Pair(NamedTuple):
    """The first method minus the second.

    Args:
        gap: of the means over seeds; None where the metric is undefined.
        interval: of the gap at `level`; it excludes 0 if and only if p <= 1 - level.
        p: two-sided p-value of no gap.
        test: the test's name.
        subjects: how many there are.
        spread: where the variance comes from, for `power`; None where it is not known.
        fixed: which of the two trains nothing, so that its one run is all there is.
        level: of the interval.
        reason: why there is no interval.
        tail: the one-sided p-value of a true gap that is at most a given one; None where there is no test.
        rarer: of an AUROC, the subjects that it rests on, see `class_counts.effective_subjects`; else None.
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
    tail: Tail | None = None
    rarer: float | None = None

    @property
    def covers(self) -> str:
        """Return what the interval covers: "subjects and seeds", or "subjects" if a trained method has one seed."""
        counted = self.spread is not None and any(alone is not None for alone in self.spread.seeds)
        return "subjects and seeds" if counted else "subjects"

    @property
    def of_trainings(self) -> bool:
        """Return whether the result is of the trained models alone, not of their methods."""
        # Where nothing is trained there is no chance of seeds to cover.
        return self.covers == "subjects" and not all(self.fixed)

    @property
    def reversed(self) -> "Pair":
        """Return the second minus the first."""
        tail = self.tail
        return self._replace(
            gap=None if self.gap is None else -self.gap,
            interval=None if self.interval is None else (-self.interval[1], -self.interval[0]),
            spread=None if self.spread is None else self.spread.reversed,
            fixed=self.fixed[::-1],
            tail=None if tail is None else lambda at: 1 - tail(-at),
        )


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
        statistic: `intervals.auroc`, `macro_auroc`, `accuracy` themselves, which have tests of their own, or any
            function (truth, answers, weights [..., N]) -> [...] of answers that mean the same in every run.
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
    only: Sequence[tuple[int, int]] | None = None,
    level: float = 0.95,
    draws: int = 2000,
    seed: int = 0,
) -> dict[tuple[int, int], Pair]:
    """Compare every pair (i, j), i < j, of the variants [S, N, ...], as `compare` tests it: i minus j.

    What belongs to one run is computed once, and how much seeds vary is estimated over all variants together. The
    p-values are each pair's own: `multiple_comparisons.holm` adjusts them for their number. With `only`, these pairs
    alone are tested; the other variants still help to estimate the seeds' spread.
    """
    truth, runs, group = np.asarray(truth), [np.asarray(variant) for variant in variants], np.asarray(subjects)
    _check(truth, runs, group)
    untrained = [*fixed] or [False] * len(runs)
    many, ends = len(np.unique(group)), np.cumsum([0, *(len(run) for run in runs)])
    positions = list(combinations(range(len(runs)), 2)) if only is None else list(only)
    rarer = class_counts.effective_subjects(truth, group) if statistic in _AREAS else math.inf

    # Once for all pairs, and not at all where every pair has a test of its own: the bootstrap takes seconds.
    @cache
    def by_variance() -> dict[tuple[int, int], Pair]:
        points, covariance, test, why = _vary(truth, np.concatenate(runs), group, statistic, (draws, seed))
        by_variant = np.split(points, ends[1:-1])
        found = compare_values(by_variant, covariance, many, test, fixed=untrained, level=level)
        # `compare_values` sees that the covariance is missing, but not why.
        return {at: pair._replace(reason=why or pair.reason) if pair.reason else pair for at, pair in found.items()}

    def pair(i: int, j: int) -> Pair:
        single = len(runs[i]) == len(runs[j]) == 1
        # McNemar's test is of single answers; a mean over seeds is none.
        if single and statistic is intervals.accuracy:
            return _from_mcnemar(mcnemar(truth, runs[i][0], runs[j][0], group, level), many, level)
        if rarer < class_counts.FEWEST and by_variance()[i, j].gap is not None:
            reason = by_variance()[i, j].reason or FEW_SUBJECTS.format(many=rarer)
            return by_variance()[i, j]._replace(interval=None, p=None, spread=None, tail=None, reason=reason)
        if single and (statistic not in _KNOWN or class_counts.FEWEST <= rarer < class_counts.MANY):
            # Many pairs need small p-values, which few draws cannot give.
            enough = max(draws, 40 * len(positions))
            return exchange(truth, runs[i][0], runs[j][0], group, statistic, level=level, draws=enough, seed=seed)
        return by_variance()[i, j]

    count = None if math.isinf(rarer) else rarer
    return {(i, j): pair(i, j)._replace(fixed=(untrained[i], untrained[j]), rarer=count) for i, j in positions}


def exchange(
    truth: Floats,
    first: Floats,
    second: Floats,
    subjects: Names,
    statistic: Statistic,
    *,
    level: float = 0.95,
    draws: int = 2000,
    seed: int = 0,
) -> Pair:
    """Compare two single predictors [N, ...] by exchanging their answers, of an AUROC their ranks, by subject.

    Unlike a test by the variance it says something of a predictor without any error, too. Arguments as for `compare`.
    """
    name = "approximate randomisation by subject"
    # Scores of two runs may have scales of their own, so that only their ranks can be exchanged.
    if statistic in _AREAS:
        first, second, name = ranks(truth, first), ranks(truth, second), "ranks exchanged by subject"
    randomised = randomisation(truth, first, second, subjects, statistic, level=level, draws=draws, seed=seed)
    return _from_randomisation(randomised, name, len(np.unique(subjects)), level)


def compare_values(
    points: Sequence[Array],
    covariance: Array | None,
    subjects: int,
    test: str,
    *,
    fixed: Sequence[bool] = (),
    level: float = 0.95,
    prior: float = variance_components.PRIOR,
) -> dict[tuple[int, int], Pair]:
    """Compare every pair of methods by the metric of each run, and how the runs vary together over subjects.

    Args:
        points: [S] the metric of each seed, for each method.
        covariance: [M, M] of all runs, from `delong`, or `intervals.resampled` replicates; None or NaN where undefined.
        subjects: how many there are.
        test: where the covariance comes from, in words.
        fixed: of each method, whether it trains nothing.
        level: of the interval.
        prior: see `variance_components.PRIOR`.
    """
    untrained = [*fixed] or [False] * len(points)
    many = sum(map(len, points))
    known = np.full((many, many), np.nan) if covariance is None else covariance
    spread = variance_components.estimate_spread(points, known, untrained, prior)

    def pair(i: int, j: int) -> Pair:
        gap, both = float(np.mean(points[i]) - np.mean(points[j])), (untrained[i], untrained[j])
        if math.isnan(gap):
            return Pair(None, None, None, test, subjects, None, both, level, UNDEFINED)
        rows = np.r_[spread.ends[i] : spread.ends[i + 1], spread.ends[j] : spread.ends[j + 1]]
        if np.isnan(known[np.ix_(rows, rows)]).any():
            return Pair(gap, None, None, test, subjects, None, both, level, FEW_DRAWS)
        parts = spread.pair(i, j)
        variance, freedom = parts.total
        counted = any(alone is not None for alone in parts.seeds)
        result = Pair(
            gap, None, None, f"t over seeds and subjects ({test})" if counted else test, subjects, parts, both
        )
        p = variance_components.p_value(gap, variance, freedom)
        # A gap without any spread: no interval could be right, so none is made up.
        if p is None:
            return result._replace(level=level, reason=NOTHING_VARIES)
        ends = variance_components.interval(gap, variance, freedom, level)
        tail = partial(variance_components.tail, gap, variance, freedom)
        return result._replace(interval=ends, p=p, level=level, tail=tail)

    return {(i, j): pair(i, j) for i, j in combinations(range(len(points)), 2)}


class Margin(NamedTuple):
    """One-sided p-values of a margin: how much worse than the second method the first may be.

    Args:
        not_worse: of "worse by the margin or more"; a small one shows that it is not.
        worse: of "worse by the margin or less"; a small one shows that it is worse by more.
    """

    not_worse: float
    worse: float


def non_inferior(pair: Pair, margin: float) -> Margin | None:
    """Return the p-values of `margin` (0.01: a point of AUROC); None where the pair has no test.

    The margin must be stated before the result is known. Of several methods the p-values are to be adjusted.

    Raises:
        UsageError: where the margin is not above 0.
    """
    if not (margin > 0 and math.isfinite(margin)):
        raise UsageError(f"margin: {margin}; give how much worse is still acceptable, above 0, e.g. 0.01")
    if pair.tail is None:
        return None
    below = pair.tail(-margin)
    return Margin(below, 1 - below)


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
    tail = result.tail
    return Pair(result.gap, result.interval, result.p, result.test, subjects, spread, level=level, tail=tail)


def _from_randomisation(randomised: Randomised, test: str, subjects: int, level: float) -> Pair:
    from scipy.special import ndtri

    if math.isnan(randomised.gap):
        return Pair(None, None, None, test, subjects, None, level=level, reason=UNDEFINED)
    if math.isinf(randomised.half):
        return Pair(randomised.gap, None, None, test, subjects, None, level=level, reason=FEW_DRAWS)
    # The variance of the normal that is as wide: for the question how many subjects would do.
    spread = _one_seed((randomised.half / float(ndtri((1 + level) / 2))) ** 2)
    interval = (randomised.gap - randomised.half, randomised.gap + randomised.half)
    return Pair(randomised.gap, interval, randomised.p, test, subjects, spread, level=level, tail=randomised.tail)


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
