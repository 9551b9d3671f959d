"""Intervals and differences that respect subjects: a patient's images are resampled together.

Shapes: N rows (images, studies), R bootstrap replicates, S seeds. A statistic is computed for all replicates at once
from row multiplicities [R, N] (Efron and Tibshirani 1993); the same multiplicities serve every run, so that differences
are paired.
"""

import math

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[np.floating]
Interval = tuple[float, float]

#: Cells of one block of work: small enough to stay in the processor's cache.
_BLOCK = 1 << 18


def cluster_bootstrap(groups: npt.ArrayLike, n: int, seed: int) -> npt.NDArray[np.int32]:
    """Return how often each row is drawn if whole groups are drawn with replacement: [n, N], equal within a group.

    Args:
        groups: [N] the subject of each row.
        n: replicates.
        seed: equal seed and groups, equal draws.
    """
    # Sorted subjects, so that the draws of a subject do not depend on the order of the rows.
    names, group = np.unique(np.asarray(groups), return_inverse=True)
    if len(names) == 0:
        # Without a subject there is no probability 1 / K to draw one by.
        return np.zeros((n, 0), np.int32)
    # How often each subject is drawn: the counts of drawing with replacement are multinomial.
    draws = np.random.default_rng(seed).multinomial(len(names), np.full(len(names), 1 / len(names)), size=n)
    return draws.astype(np.int32)[:, group]


def auroc(truth: npt.ArrayLike, score: npt.ArrayLike, weights: npt.ArrayLike | None = None) -> Array:
    """Return the weighted area under the ROC curve, ties counted half.

    Args:
        truth: [N] 1 or 0.
        score: [N].
        weights: [..., N], not negative; None: all 1.

    Returns:
        [...], NaN where a class has no weight.
    """
    truth, score = np.asarray(truth) > 0.5, np.asarray(score, float)
    table = np.ones(len(truth)) if weights is None else np.asarray(weights)
    negatives, positives = np.flatnonzero(~truth), np.flatnonzero(truth)
    # The negatives are sorted once: a resample changes weights, never the order.
    negatives = negatives[np.argsort(score[negatives], kind="stable")]
    # A positive wins against the negatives below it, and half of those at its own score.
    below = np.searchsorted(score[negatives], score[positives], side="left")
    up_to = np.searchsorted(score[negatives], score[positives], side="right")
    flat = table.reshape(math.prod(table.shape[:-1]), len(truth))
    area = np.empty(len(flat))
    # A block of replicates at a time: the arrays below would be replicates x rows in full.
    step = max(1, _BLOCK // max(1, len(truth)))
    for block in range(0, len(flat), step):
        part = flat[block : block + step]
        # The first column stays 0, so that column k is the weight of the k lowest negatives.
        against = np.zeros((len(part), len(negatives) + 1))
        np.cumsum(part[:, negatives], axis=1, out=against[:, 1:])
        weight = part[:, positives]
        won = np.einsum("rp,rp->r", weight, against[:, below] + against[:, up_to]) / 2
        # 0 / 0 where a resample lost a class: NaN, as the docstring says, without a warning for each.
        with np.errstate(invalid="ignore"):
            area[block : block + step] = won / (weight.sum(axis=1) * against[:, -1])
    return area.reshape(table.shape[:-1])


def macro_auroc(truth: Array, score: Array, weights: npt.ArrayLike | None = None) -> Array:
    """Return the mean AUROC over labels, for truth and score [N, L] and weights [..., N]; a truth of NaN masks.

    A label of one class only counts in no replicate; one that lost a class in a replicate is left out of that one.
    """
    table = np.ones(len(truth)) if weights is None else np.asarray(weights)
    areas = []
    for column in range(truth.shape[1]):
        known = ~np.isnan(truth[:, column])
        areas.append(auroc(truth[known, column], score[known, column], table[..., known]))
    # An empty list of areas would lose the shape of the replicates.
    stacked = np.array(areas).reshape(truth.shape[1], *table.shape[:-1])
    count = (~np.isnan(stacked)).sum(axis=0)
    # Not nanmean: it warns of every replicate without a value, and errstate does not silence that.
    with np.errstate(invalid="ignore"):
        return np.asarray(np.nansum(stacked, axis=0) / count)


def mean(values: npt.ArrayLike, weights: npt.ArrayLike) -> Array:
    """Return the weighted mean of a per-row value [N] (1 or 0, say) under weights [..., N]; NaN without weight."""
    table = np.asarray(weights, float)
    with np.errstate(invalid="ignore"):
        return np.asarray(table @ np.asarray(values, float) / table.sum(axis=-1))


def interval(replicates: npt.ArrayLike, level: float = 0.95) -> Interval | None:
    """Return the percentile interval of a statistic's replicates [R]; None where fewer than nine in ten are defined."""
    values = np.asarray(replicates, float)
    defined = values[~np.isnan(values)]
    # Resamples without a value are not a random part of all: without many of them the percentiles are biased.
    if len(defined) == 0 or len(defined) < 0.9 * len(values):
        return None
    low, high = np.quantile(defined, [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)


def accuracy(truth: npt.ArrayLike, answer: npt.ArrayLike, weights: npt.ArrayLike | None = None) -> Array:
    """Return the share of rows [N] whose answer is the truth, under weights [..., N]; a truth of NaN is left out.

    The cells of a multi-label table are rows too, if each keeps its subject.
    """
    known, right = correct(truth, answer)
    table = np.ones(len(known)) if weights is None else np.asarray(weights, float)
    return mean(right[known], table[..., known])


def correct(truth: npt.ArrayLike, answer: npt.ArrayLike) -> tuple[npt.NDArray[np.bool_], Array]:
    """Return which rows [N] have a truth, and which answers [..., N] equal it, 1 or 0."""
    truth, answer = np.asarray(truth), np.asarray(answer)
    # NaN alone differs from itself, whatever the type of the labels.
    known = np.asarray(truth == truth, bool)  # noqa: PLR0124
    return known, (answer == truth).astype(float)


def shares(truth: npt.ArrayLike, answers: npt.ArrayLike, subjects: npt.ArrayLike) -> tuple[Array, Array | None]:
    """Return the accuracy [M] of M runs with answers [M, N], and its covariance [M, M] over subjects (a ratio of sums).

    The covariance is None where fewer than two subjects have a row with a truth; the accuracy NaN where none has.
    """
    known, right = correct(truth, answers)
    right, group = right[:, known], np.unique(np.asarray(subjects)[known], return_inverse=True)[1]
    many = int(group.max(initial=-1)) + 1
    points = right.mean(axis=1) if many else np.full(len(right), np.nan)
    if many < 2:
        return points, None
    # The number of rows varies with the subjects drawn, so each row's distance from the share is added up, not its hit
    # (linearised ratio estimate).
    errors = np.array([np.bincount(group, row, many) for row in right - points[:, None]])
    return points, many / (many - 1) * (errors @ errors.T) / len(group) ** 2


def resampled(replicates: npt.ArrayLike) -> Array | None:
    """Return the covariance [M, M] of M runs over replicates [M, R]; None where fewer than nine in ten are defined."""
    table = np.asarray(replicates, float)
    defined = table[:, ~np.isnan(table).any(axis=0)]
    # Two replicates are the least that has a covariance; the share of nine in ten is that of `interval`.
    if not table.size or defined.shape[1] < max(2, 0.9 * table.shape[1]):
        return None
    # numpy's covariance of a single run is a number, not a matrix.
    return np.cov(defined).reshape(len(table), len(table))
