"""Say how far a metric of one label may lie from its truth, over the sampling of subjects: its family of intervals.

Every family is a closed form of the data: nothing is resampled, so that no label can lose a class in a replicate. A
metric names its family in its own file. The families were chosen by measured coverage (docs/statistics.md;
tools/interval_coverage.py prints it).

Shapes: n rows of one label, S runs (the seeds of a variant), K subjects.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from cxr_ft.score.arrays import Floats, Mask
from cxr_ft.score.statistics import delong
from cxr_ft.score.statistics.intervals import Interval

Codes = npt.NDArray[np.intp]

#: The normal quantile of a two-sided interval of 95 %.
Z = 1.959963984540054
#: Subjects of the rarer class that the model of an AUROC's variance counts as, beside those that were seen.
_AREA_PRIOR = 20
#: Positive subjects that the least variance of an average precision counts as.
_PRECISION_PRIOR = 5


@dataclass(frozen=True, kw_only=True)
class LabelRows:
    """The known rows of one label, or of all labels one below the other.

    Args:
        truth: [n].
        scores: [S, n] in [0, 1]; `predicted`: bool [S, n].
        subjects: [n] the number of each row's subject, 0 to K - 1.
        size: K; subjects without a row here count too.
        one_class_each: each row of the table has exactly one of the labels.
    """

    truth: Mask
    scores: Floats
    predicted: Mask
    subjects: Codes
    size: int
    one_class_each: bool = False

    def by_subject(self, values: Floats) -> Floats:
        """Return the sums [S, K] of values [S, n] over each subject's rows."""
        return delong.by_subject(values, self.subjects, self.size)

    def count(self, rows: Mask) -> int:
        """Return how many subjects have one of these rows [n]."""
        return len(np.unique(self.subjects[rows]))


@dataclass(frozen=True, kw_only=True)
class Spread:
    """A metric of one label in S runs, and what it varies by over subjects.

    Args:
        points: [S].
        influence: [S, K] what each subject adds to the error; influence @ influence.T is the covariance of the runs.
        limits: the 95 % interval of the mean of the runs, for a factor of the variance: 1 where the subjects are the
            only chance, more where training is one too.
        centre: the mean of the runs without its bias.
        variance: of that mean, above 0 even where the data show none; `freedom`: the degrees of freedom it is known by.
    """

    points: Floats
    influence: Floats
    limits: Callable[[float], Interval]
    centre: float
    variance: float
    freedom: float


#: A family: what a metric declares. None where the metric has no value.
SpreadFunction = Callable[[LabelRows], Spread | None]


def area(rows: LabelRows) -> Spread | None:
    """Return the spread of the area under the ROC curve; None for one class only.

    The interval holds the areas that lie within a quantile of their own standard error (a score interval, as Newcombe
    2006, method 5), whose variance is that of two normal distributions. It is scaled to DeLong's variance of the data,
    clustered by subject (Obuchowski 1997), which a few subjects estimate too low when they estimate the area too high:
    it is never scaled below the mean of DeLong's and the model's, weighted by subjects of the rarer class and 20.
    """
    from scipy.special import stdtrit

    positive, scores = rows.truth, rows.scores
    many, others = int(positive.sum()), int((~positive).sum())
    if not many or not others:
        return None
    points, above, below = delong.placements(positive, scores)
    errors = np.zeros(scores.shape)
    kinds = rows.count(positive), rows.count(~positive)
    # The variance of k subjects has the factor k / (k - 1); of one subject nothing is known, which the model makes up.
    errors[:, positive] = (above - points[:, None]) / many * _root(kinds[0])
    errors[:, ~positive] = (below - points[:, None]) / others * _root(kinds[1])
    influence = rows.by_subject(errors)
    several = len(positive) > rows.count(np.ones(len(positive), bool))
    rarer = min(kinds)
    # Several rows of a subject make the variance itself an estimate, with the freedom of the rarer class's subjects.
    freedom = float(max(1, rarer - 1) if several else rarer + _AREA_PRIOR - 1)
    quantile = float(stdtrit(freedom, 0.975))
    # Of perfect scores no variance is seen: half a pair of subjects is counted as wrong.
    point = float(np.clip(points.mean(), 0.5 / math.prod(kinds), 1 - 0.5 / math.prod(kinds)))
    seen = _variance(influence) / _normal_variance(point, many, others)
    alike = _alike(influence, errors, max(1.0, many / kinds[0], others / kinds[1]))
    scale = max(seen, (rarer * seen + _AREA_PRIOR * alike) / (rarer + _AREA_PRIOR))

    def limits(factor: float) -> Interval:
        reach = quantile * math.sqrt(factor * scale)
        return _reached(float(points.mean()), lambda at: reach * math.sqrt(_normal_variance(at, many, others)))

    return Spread(
        points=points,
        influence=influence,
        limits=limits,
        centre=float(points.mean()),
        variance=scale * _normal_variance(point, many, others),
        freedom=freedom,
    )


def average_precision(rows: LabelRows) -> Spread | None:
    """Return the spread of the average precision; None for one class only.

    Student's interval on the logit scale, of the value without its bias (to the second order: a positive counts in its
    own precision), with the variance over subjects to the first order (infinitesimal jackknife; Efron 1982).
    """
    from scipy.special import stdtrit

    many = int(rows.truth.sum())
    if not many or many == len(rows.truth):
        return None
    points, errors, biases = (np.array(part) for part in zip(*map(_curve, *_ordered(rows)), strict=True))
    order = np.argsort(-rows.scores, axis=1, kind="stable")
    unsorted = np.empty_like(errors)
    np.put_along_axis(unsorted, order, errors, axis=1)
    subjects, positives = rows.count(np.ones(len(rows.truth), bool)), rows.count(rows.truth)
    influence = rows.by_subject(unsorted) * _root(subjects)
    alike = _alike(influence, unsorted, many / positives)
    value = float(points.mean())
    centre = float(np.clip(value - float(biases.mean()) * max(1.0, alike), 1e-3, 1 - 0.5 / many))
    # A curve that few subjects decide has few degrees of freedom, however many positives there are.
    squares = (influence.mean(axis=0)) ** 2
    deciding = float(squares.sum() ** 2 / np.square(squares).sum()) if squares.any() else 1.0
    freedom = max(1.0, min(positives - 1, 2 * deciding))
    quantile = float(stdtrit(freedom, 0.975))
    # Perfect scores would have no variance at all: a few positives are taken to vary as a share does.
    least = _PRECISION_PRIOR / (positives + _PRECISION_PRIOR) * alike * centre**2 * (1 - centre) / many
    variance = max(_variance(influence), least)

    def limits(factor: float) -> Interval:
        return on_logit(centre, quantile * math.sqrt(factor * variance))

    return Spread(points=points, influence=influence, limits=limits, centre=centre, variance=variance, freedom=freedom)


def share(hits: Mask, of: Mask, rows: LabelRows, transform: Callable[[Floats], Floats] | None = None) -> Spread | None:
    """Return the spread of the share of rows `of` that are `hits`, both [S, n]; None where some run has none.

    Jeffreys' interval (Brown, Cai and DasGupta 2001) on the effective number of rows, which is smaller where the rows
    of a subject are alike (design effect of the linearised ratio; Korn and Graubard 1998). `transform` is an increasing
    function of the share, with fixed ends, whose interval is wanted.
    """
    from scipy.special import betaincinv, stdtrit

    counts = of.sum(axis=1)
    if not counts.all():
        return None
    raw = (hits & of).sum(axis=1) / counts
    errors = of * (hits - raw[:, None]) / counts[:, None]
    subjects = np.array([rows.count(row) for row in of])
    influence = rows.by_subject(errors) * np.array([_root(k) for k in subjects])[:, None]
    value, number, many = float(raw.mean()), float(counts.mean()), float(subjects.mean())
    alike = _alike(influence, errors, number / many)
    # Where rows are subjects, nothing but the share decides its variance; else the variance is an estimate.
    several = number > many
    factor_of_t = (float(stdtrit(max(1.0, many - 1), 0.975)) / Z) ** 2 if several else 1.0
    effective = number / alike

    def limits(factor: float) -> Interval:
        n = effective / factor_of_t / factor
        hit, missed = n * value + 0.5, n * (1 - value) + 0.5
        # By Jeffreys' convention an end at which nothing was missed, or hit, is open.
        low = 0.0 if value <= 0 else float(betaincinv(hit, missed, 0.025))
        high = 1.0 if value >= 1 else float(betaincinv(hit, missed, 0.975))
        ends = np.array([low, high])
        low, high = ends if transform is None else transform(ends)
        return float(low), float(high)

    # Agresti and Coull's way: half a hit and half a miss more, so that a share of 0 or 1 has a variance too.
    near = (effective * value + 0.5) / (effective + 1)
    variance, points = near * (1 - near) / (effective + 1), raw
    if transform is not None:
        # The slope of the transform at each run's share carries the errors over.
        step = 1e-6
        slopes = (transform(np.append(raw, near) + step) - transform(np.append(raw, near) - step)) / (2 * step)
        points, influence = transform(raw), influence * slopes[:-1, None]
        variance *= float(slopes[-1]) ** 2
    return Spread(
        points=points,
        influence=influence,
        limits=limits,
        centre=float(points.mean()),
        variance=variance,
        freedom=max(1.0, many - 1),
    )


def f1(rows: LabelRows) -> Spread | None:
    """Return the spread of F1; None where nothing is positive.

    F1 is 2 J / (1 + J) of the share J of true positives among rows that are positive or predicted so (Jaccard's index),
    so that its interval is that of a share.
    """
    if not rows.truth.any():
        return None
    return share(rows.truth & rows.predicted, rows.truth | rows.predicted, rows, lambda j: 2 * j / (1 + j))


def precision(rows: LabelRows) -> Spread | None:
    """Return the spread of the share of predicted positives that are positive; None where nothing is predicted."""
    return share(rows.truth & rows.predicted, rows.predicted, rows)


def recall(rows: LabelRows) -> Spread | None:
    """Return the spread of the share of positives that are predicted; None where nothing is positive."""
    return share(rows.truth & rows.predicted, np.broadcast_to(rows.truth, rows.predicted.shape), rows)


def accuracy(rows: LabelRows) -> Spread | None:
    """Return the spread of the share of predictions that are right; of rows with one class each, of rows that are."""
    if rows.one_class_each:
        return recall(rows)
    return share(rows.truth == rows.predicted, np.ones(rows.predicted.shape, bool), rows)


def squared_error(rows: LabelRows) -> Spread | None:
    """Return the spread of Brier's score, the mean squared error of scores; None without rows.

    Student's interval on the logarithmic scale, with the freedom of the rarer class's subjects: it makes up most of the
    error.
    """
    from scipy.special import stdtrit

    if not len(rows.truth):
        return None
    loss = (rows.scores - rows.truth) ** 2
    points = loss.mean(axis=1)
    subjects = rows.count(np.ones(len(rows.truth), bool))
    influence = rows.by_subject((loss - points[:, None]) / len(rows.truth)) * _root(subjects)
    rarer = min(rows.count(rows.truth), rows.count(~rows.truth))
    freedom, value = float(max(1, rarer - 1)), float(points.mean())
    quantile = float(stdtrit(freedom, 0.975))

    def limits(factor: float) -> Interval:
        if value <= 0:
            return value, value
        reach = quantile * math.sqrt(factor * _variance(influence)) / value
        return value * math.exp(-reach), min(1.0, value * math.exp(reach))

    return Spread(
        points=points,
        influence=influence,
        limits=limits,
        centre=value,
        variance=_variance(influence),
        freedom=freedom,
    )


def of_sums(statistic: Callable[[Floats], Floats], sums: Floats) -> Spread | None:
    """Return the spread of a function of sums over rows, as BLEU is; None where it has no value.

    Student's interval on the logit scale, with the variance of the infinitesimal jackknife over subjects (Efron 1982):
    each subject counts a little more, and none is left out, so that no label loses its last mention.

    Args:
        statistic: sums [..., C] -> values [...] in [0, 1].
        sums: [S, K, C] of each subject.
    """
    from scipy.special import stdtrit

    subjects = sums.shape[1]
    total = sums.sum(axis=1)
    points = np.asarray(statistic(total), float)
    if np.isnan(points).any() or not subjects:
        return None
    more = 1e-4
    moved = np.asarray(statistic(total[:, None] + more * sums), float) - points[:, None]
    influence = moved / more * _root(subjects)
    quantile, value = float(stdtrit(max(1, subjects - 1), 0.975)), float(points.mean())

    def limits(factor: float) -> Interval:
        return on_logit(value, quantile * math.sqrt(factor * _variance(influence)))

    return Spread(
        points=points,
        influence=influence,
        limits=limits,
        centre=value,
        variance=_variance(influence),
        freedom=float(max(1, subjects - 1)),
    )


def _root(subjects: int) -> float:
    # Of a single subject the factor of the variance does not exist; its errors are 0 anyway.
    return math.sqrt(subjects / (subjects - 1)) if subjects > 1 else 1.0


def _variance(influence: Floats) -> float:
    """Return the variance of the mean of S runs over subjects."""
    mean = influence.mean(axis=0)
    return float(mean @ mean)


def _alike(influence: Floats, errors: Floats, rows_each: float) -> float:
    """Return how many times larger the variance is because rows of a subject are alike: the design effect, 1 or more.

    Args:
        influence: [S, K] by subject; `errors`: [S, n] by row.
        rows_each: rows of a subject, the largest possible effect; it is taken where no error shows it.
    """
    apart = float(np.square(errors).sum(axis=1).mean())
    together = float(np.square(influence).sum(axis=1).mean())
    # Runs that err on different subjects vary less in the mean.
    shared = _variance(influence) / together if together > 0 else 1.0
    return max(1.0, together / apart if apart > 0 else rows_each) * shared


def _normal_variance(area: float, positives: int, negatives: int) -> float:
    """Return the variance of the AUROC of two normal distributions of one width (form: Hanley and McNeil 1982)."""
    from scipy.special import ndtri, owens_t

    # The chance that one row is on the right side of two of the other class.
    twice = area - 2 * float(owens_t(float(ndtri(area)), 1 / math.sqrt(3)))
    pairs = area * (1 - area) + (positives + negatives - 2) * max(0.0, twice - area**2)
    return max(pairs / (positives * negatives), 1e-12)


def _reached(value: float, reach: Callable[[float], float]) -> Interval:
    """Return the lowest and the highest truth that `value` lies within reach of."""
    from scipy.optimize import brentq

    edge = 1e-9

    def off(at: float) -> float:
        return abs(value - at) - reach(at)

    low = 0.0 if value <= edge or off(edge) <= 0 else float(brentq(off, edge, value, xtol=1e-7))
    high = 1.0 if value >= 1 - edge or off(1 - edge) <= 0 else float(brentq(off, value, 1 - edge, xtol=1e-7))
    return low, high


def on_logit(value: float, reach: float) -> Interval:
    """Return value +- reach, laid off on the logit scale, which keeps the ends between 0 and 1."""
    from scipy.special import expit, logit

    if not 0 < value < 1:
        return value, value
    half = reach / (value * (1 - value))
    return float(expit(logit(value) - half)), float(expit(logit(value) + half))


def _ordered(rows: LabelRows) -> tuple[Floats, Floats]:
    """Return scores [S, n] from the highest down, and the truth of each."""
    order = np.argsort(-rows.scores, axis=1, kind="stable")
    return np.take_along_axis(rows.scores, order, axis=1), rows.truth[order].astype(float)


def _curve(score: Floats, truth: Floats) -> tuple[float, Floats, float]:
    """Return average precision, what each row [n] adds to its error, and its bias; from the highest score down."""
    n = len(score)
    # Equal scores are one step of the curve: all of them count up to its last row.
    last = np.searchsorted(-score, -score, side="right") - 1
    first = np.searchsorted(-score, -score, side="left")
    taken = (np.arange(1, n + 1))[last]
    precision = np.cumsum(truth)[last] / taken
    positives = truth.sum()
    value = float((precision * truth).sum() / positives)
    # A row changes the precision of every positive at or below it; summed from the lowest row up.
    weight = np.append(np.cumsum((truth / taken)[::-1])[::-1], 0.0)[first]
    share_of = np.append(np.cumsum((truth * precision / taken)[::-1])[::-1], 0.0)[first]
    errors = (truth * (precision - value) + truth * weight - share_of) / positives
    bias = ((1 - precision) / taken * truth).sum() / positives
    bias -= (precision * (1 - precision) * truth).sum() / positives**2
    return value, errors, float(bias)
