"""Fit log odds of being positive on log odds of a score: the calibration slope, intercept and curve.

Cox 1958; Van Calster et al. 2016. Shapes: n rows of one label, q columns of a design, K subjects.
"""

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[np.floating]
Codes = npt.NDArray[np.intp]

#: Scores are clipped to this distance from 0 and 1: single precision rounds 1 - 6e-8 to 1, and a log odds of 27 would
#: decide the slope alone.
EDGE = 1e-6
#: Subjects that the rarer class needs for a curve; below it the curve is a line.
CURVE = 60
#: Where the knots of the curve lie, as shares of the rows (Harrell 2001, table 2.3).
_KNOTS = (0.05, 0.35, 0.65, 0.95)
#: Precision of the normal prior on coefficients other than the intercept, which keeps them finite in separable data.
_PRIOR = 1e-2
_STEPS, _SMALL = 30, 1e-8
#: Subjects of each class that a slope and an intercept need.
LEAST = 5


class Fit(NamedTuple):
    """Coefficients [q], the probability of each row [n], and the inverse information [q, q]."""

    coefficients: Array
    probability: Array
    inverse: Array


def log_odds(score: npt.ArrayLike) -> Array:
    """Return the log odds of scores in [0, 1], clipped to `EDGE`."""
    p = np.clip(np.asarray(score, float), EDGE, 1 - EDGE)
    return np.asarray(np.log(p) - np.log1p(-p))


def curve(x: Array, rarer: int) -> Array:
    """Return the design [n, q] of a smooth curve over log odds: a restricted cubic spline of 4 knots (Harrell 2001).

    Args:
        x: [n] log odds.
        rarer: subjects of the rarer class; below `CURVE` the design is a line.
    """
    spread = float(x.std())
    z = (x - x.mean()) / spread if spread > 0 else np.zeros_like(x)
    columns = [np.ones_like(z), z]
    knots = np.quantile(z, _KNOTS)
    if rarer >= CURVE and (np.diff(knots) > 0.05).all():
        cubes = np.clip(z[:, None] - knots, 0, None) ** 3
        last, before = knots[-1], knots[-2]
        # The combination is a line outside the outer knots, where few rows could bend a cubic anywhere.
        for i in range(len(knots) - 2):
            one = cubes[:, -2] * (last - knots[i]) / (last - before)
            two = cubes[:, -1] * (before - knots[i]) / (last - before)
            columns.append((cubes[:, i] - one + two) / (last - knots[0]) ** 2)
    # Orthogonal columns, each of mean square 1: the terms of a spline are nearly collinear.
    first = np.stack(columns, axis=1)
    q, r = np.linalg.qr(first)
    return np.asarray(q * np.sign(np.diag(r)) * np.sqrt(len(z)))


def fit(design: Array, truth: Array, offset: Array | None = None) -> Fit:
    """Fit a logistic regression of truth [n] (1 or 0) on a design [n, q] whose first column is 1, by Newton's method.

    Args:
        offset: [n] added to the log odds with a coefficient of 1; None: 0.
    """
    from scipy.special import expit

    base = np.zeros(len(truth)) if offset is None else offset
    prior = np.diag(np.r_[0.0, np.full(design.shape[1] - 1, _PRIOR)])

    def loss(at: Array) -> float:
        # -log p of what is true, without overflow: log(1 + e^x) - y x.
        x = base + design @ at
        return float(np.logaddexp(0, x).sum() - truth @ x + at @ prior @ at / 2)

    coefficients, size = np.zeros(design.shape[1]), np.inf
    value = loss(coefficients)
    for _ in range(_STEPS):
        p = expit(base + design @ coefficients)
        # A tiny ridge: the information of an intercept whose rows are all certain is 0.
        information = (design * (p * (1 - p))[:, None]).T @ design + prior + _SMALL * np.eye(len(prior))
        step = np.linalg.solve(information, design.T @ (truth - p) - prior @ coefficients)
        # Newton's step may overshoot where probabilities are near 0 or 1: it is halved until the loss falls.
        while (size := loss(coefficients + step)) > value + _SMALL and np.abs(step).max() > _SMALL:
            step = step / 2
        coefficients, value = coefficients + step, size
        if np.abs(step).max() < _SMALL:
            break
    p = np.asarray(expit(base + design @ coefficients))
    information = (design * (p * (1 - p))[:, None]).T @ design + prior + _SMALL * np.eye(len(prior))
    return Fit(coefficients, p, np.linalg.inv(information))


def by_subject(values: Array, subjects: Codes, many: int) -> Array:
    """Return the sum of values [n] over the rows of each subject [K]."""
    return np.bincount(subjects, values, many).astype(float)


class Correction(NamedTuple):
    """Hold a slope or an intercept with its 95 % interval over the sampling of subjects."""

    value: float
    low: float
    high: float


class Recalibration(NamedTuple):
    """Hold slope and intercept of the correction that scores need, 1 and 0 of none; None where unknown, and why."""

    slope: Correction | None
    intercept: Correction | None
    reason: str = ""


def recalibration(truth: Array, score: Array, subjects: Codes) -> Recalibration:
    """Return the calibration slope, and the intercept at a slope of 1 (calibration in the large; Van Calster 2016).

    A slope below 1: scores are too extreme; an intercept above 0: they are too low. Sandwich errors, clustered by
    subject, at least those of independent rows, with the degrees of freedom of Carter et al. 2017.

    Args:
        truth: [n] 1 or 0; score: [n] in [0, 1].
        subjects: [n] numbers from 0.
    """
    counts = [len(np.unique(subjects[truth == side])) for side in (1, 0)]
    if min(counts) < LEAST:
        few = f"{counts[0]} positive and {counts[1]} negative subjects; {LEAST} are needed in each class"
        return Recalibration(None, None, few)
    x = log_odds(score)
    line = np.column_stack([np.ones_like(x), x])
    ones = line[:, :1]
    reason = ""
    slope = None if x.std() == 0 else _estimate(line, truth, None, subjects)
    if slope is None:
        reason = "all scores are equal: there is no slope"
    return Recalibration(slope, _estimate(ones, truth, x, subjects), reason)


def _estimate(design: Array, truth: Array, offset: Array | None, subjects: Codes) -> Correction:
    """Return the last coefficient of a logistic regression with its interval."""
    from scipy.special import stdtrit

    fitted = fit(design, truth, offset)
    many = int(subjects.max()) + 1
    weight = fitted.probability * (1 - fitted.probability)
    # What each row adds to the error of the coefficient, and is expected to add to its variance.
    influence = design @ fitted.inverse[-1]
    shares = by_subject(influence * (truth - fitted.probability), subjects, many)
    expected = by_subject(weight * influence**2, subjects, many)
    clusters = int(np.count_nonzero(np.bincount(subjects)))
    variance = max(float(shares @ shares) * clusters / (clusters - 1), float(expected.sum()))
    freedom = max(float(expected.sum() ** 2 / (expected @ expected)) - design.shape[1], 1.0)
    value, half = float(fitted.coefficients[-1]), -float(stdtrit(freedom, 0.025)) * float(np.sqrt(variance))
    return Correction(value, value - half, value + half)


def squared_error(truth: Array, score: Array, bins: Codes, subjects: Codes) -> float | None:
    """Return the mean squared calibration error over bins without the part that chance adds; it may be below 0.

    Kumar, Liang and Ma 2019, equation 7, with the variance of a bin's mean taken over its subjects: in expectation it
    is 0 for a perfect model, however few the rows are. None where there are no rows.

    Args:
        bins: [n] the bin of each score.
    """
    if not len(truth):
        return None
    error = np.asarray(truth - score, float)
    total = 0.0
    for where in (bins == b for b in np.unique(bins)):
        count, mean = int(where.sum()), float(error[where].mean())
        sums = np.bincount(np.unique(subjects[where], return_inverse=True)[1], error[where] - mean)
        # A bin of one subject cannot tell chance from error: it counts as none.
        chance = mean**2 if len(sums) < 2 else float(sums @ sums) / count**2 * len(sums) / (len(sums) - 1)
        total += count / len(truth) * (mean**2 - chance)
    return total
