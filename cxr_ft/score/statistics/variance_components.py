"""Two levels of chance in the difference of two methods: which subjects were tested, and which seeds were trained.

Every run is evaluated on the same subjects, and a method's seeds are its own: the design of Obuchowski and Rockette
(1995) with seeds as readers, nested in methods (Hillis, Obuchowski and Berbaum 2011). What all seeds of a method share
of the subjects' chance comes from the covariance between them; the spread of the seeds holds the rest and the chance of
training.

Two or three seeds tell little about their own spread, so all methods of a page help to estimate it: each one's variance
is drawn towards their mean, as if `PRIOR` degrees of freedom had been observed there (Smyth 2004). With an infinite
`PRIOR` a balanced page has the mean square and the degrees of freedom of Hillis (2007).
"""

import math
from collections.abc import Sequence
from itertools import pairwise
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from cxr_ft.score.statistics.intervals import Array, Interval

#: Weight of the page's mean variance, in degrees of freedom. More gives power where methods vary alike, and more false
#: differences where one of them varies far more than the others: measured in tests/score/statistics.
PRIOR = 3.0

#: Variances are squares of metrics between 0 and 1; below this they are rounding.
_NOTHING = 1e-20

#: Satterthwaite's freedom of a variance of which a share r was estimated with D degrees of freedom is D / r^2. Below
#: four degrees a small share is more often a lucky estimate than a true one; this exponent in its place keeps the error
#: of the first kind between 2 and 6.5 % (D = 1), 4 and 6 % (D = 2), 4.5 and 6 % (from 3 on), whatever the true share.
_EXPONENTS = ((1.0, 2.0, 3.0, 4.0), (0.45, 1.1, 1.4, 2.0))


class VarianceComponents(NamedTuple):
    """The components of a difference's variance.

    Args:
        shared: from the subjects, the same whatever the number of seeds.
        own: of one run of either method, from the subjects too, but averaged out over seeds.
        seeds: of one run of either method, from training alone; an estimate, which can be below 0. None where it is not
            counted: a method that trains nothing, or a pair with a single seed of a trained one.
        runs: S1 and S2.
        freedom: degrees of freedom of the estimates in `seeds`.
        others: how many seeds each of the page's other methods adds to these estimates.
    """

    shared: float
    own: tuple[float, float]
    seeds: tuple[float | None, float | None]
    runs: tuple[int, int]
    freedom: float = math.inf
    others: tuple[int, ...] = ()

    @property
    def reversed(self) -> "VarianceComponents":
        """Return the components with the two methods exchanged."""
        return self._replace(own=self.own[::-1], seeds=self.seeds[::-1], runs=self.runs[::-1])

    @property
    def averaged(self) -> float:
        """Return the part of the variance that shrinks with the number of seeds."""
        parts = zip(self.own, self.seeds, self.runs, strict=True)
        # Each run of a method has at least no variance, whatever the estimate of its training says.
        return sum(max(0.0, own + (alone or 0.0)) / many for own, alone, many in parts)

    @property
    def total(self) -> tuple[float, float]:
        """Return the variance of the difference of the means, and its degrees of freedom.

        Subjects are many, so their part counts as known: without seeds the freedom is infinite.
        """
        variance = self.shared + self.averaged
        # Divided by rounding errors, the smallest gap would be significant.
        if variance < _NOTHING:
            return 0.0, math.inf
        if math.isinf(self.freedom):
            return variance, math.inf
        return variance, float(total_freedom(self.freedom, np.asarray(self.averaged / variance)))


class SeedSpread(NamedTuple):
    """Hold the variance between the seeds of each method, estimated over all methods of a page together.

    Args:
        covariance: [M, M] of all runs over the sampling of subjects.
        ends: where each method's runs begin in it, and the number of all runs.
        fixed: of each method, whether it trains nothing.
        own: of each method, the part of the subjects' variance that differs between its runs.
        seeds: of each method, the variance from training alone, drawn towards the mean of all; None where it has none.
        prior: see `PRIOR`.
    """

    covariance: Array
    ends: tuple[int, ...]
    fixed: tuple[bool, ...]
    own: tuple[float, ...]
    seeds: tuple[float | None, ...]
    prior: float

    def pair(self, i: int, j: int) -> VarianceComponents:
        """Return the components of the difference of the means of methods `i` and `j`."""
        runs = tuple(np.diff(self.ends).tolist())
        rows = [slice(self.ends[k], self.ends[k + 1]) for k in (i, j)]
        blocks = [self.covariance[part, part] for part in rows]
        cross = float(self.covariance[rows[0], rows[1]].mean())
        # Subjects that are hard for both methods move both alike, which cancels in the difference.
        of_means = sum(float(block.mean()) for block in blocks) - 2 * cross
        trained = [k for k in (i, j) if not self.fixed[k]]
        # With a single seed of a trained method nothing is known of its training: the difference is of these models.
        if not trained or any(self.seeds[k] is None for k in trained):
            return VarianceComponents(max(0.0, of_means), (0.0, 0.0), (None, None), (runs[i], runs[j]))
        own = tuple(self.own[k] if k in trained else 0.0 for k in (i, j))
        # Both are estimates, so the rest can fall below 0, which no variance does.
        shared = max(0.0, of_means - own[0] / runs[i] - own[1] / runs[j])
        seeds = tuple(self.seeds[k] if k in trained else None for k in (i, j))
        others = tuple(runs[k] for k, alone in enumerate(self.seeds) if alone is not None and k not in (i, j))
        known = {k: self.own[k] + alone for k, alone in enumerate(self.seeds) if alone is not None}
        freedom = _freedom(known, {k: runs[k] for k in known}, trained, self.prior)
        return VarianceComponents(shared, (own[0], own[1]), (seeds[0], seeds[1]), (runs[i], runs[j]), freedom, others)


def estimate_spread(
    points: Sequence[Array], covariance: Array, fixed: Sequence[bool], prior: float = PRIOR
) -> SeedSpread:
    """Estimate how much seeds vary, from the metrics of all runs and their covariance over subjects.

    Args:
        points: [S] the metric of each seed, for each method; a method with NaN takes no part.
        covariance: [M, M] over the sampling of subjects, in the same order of runs.
        fixed: of each method, whether it trains nothing.
        prior: see `PRIOR`; infinite: one variance for all methods.
    """
    ends = tuple(np.cumsum([0, *map(len, points)]).tolist())
    blocks = [covariance[start:end, start:end] for start, end in pairwise(ends)]
    own = tuple(_own(block) for block in blocks)
    usable = {
        k: len(values) - 1
        for k, values in enumerate(points)
        if len(values) > 1 and not fixed[k] and not (np.isnan(values).any() or math.isnan(own[k]))
    }
    alone = {k: float(points[k].var(ddof=1)) - own[k] for k in usable}
    mean = sum(usable[k] * alone[k] for k in usable) / max(1, sum(usable.values()))
    seeds = tuple(
        _weight(usable[k], prior) * alone[k] + (1 - _weight(usable[k], prior)) * mean if k in usable else None
        for k in range(len(points))
    )
    return SeedSpread(covariance, ends, tuple(fixed), own, seeds, prior)


def pooled_freedom(runs: Sequence[int], pair: Sequence[int], prior: float = PRIOR) -> float:
    """Return the degrees of freedom of a pair's estimates where all methods vary alike.

    Args:
        runs: the seeds of each trained method of the page, two or more.
        pair: the positions in `runs` of one or both methods of the pair.
    """
    return _freedom(dict.fromkeys(range(len(runs)), 1.0), dict(enumerate(runs)), pair, prior)


def total_freedom(freedom: float, share: Array) -> Array:
    """Return the degrees of freedom of a variance of which the shares [...] were estimated with `freedom`."""
    exponent = np.interp(freedom, *_EXPONENTS)
    return np.asarray(freedom / np.clip(share, 1e-9, 1.0) ** exponent)


def interval(gap: float, variance: float, freedom: float, level: float) -> Interval:
    """Return Student's interval of a gap."""
    from scipy.special import stdtrit

    half = float(stdtrit(freedom, (1 + level) / 2)) * math.sqrt(variance)
    return gap - half, gap + half


def p_value(gap: float, variance: float, freedom: float) -> float | None:
    """Return Student's two-sided p-value of a gap; None where nothing varies and yet there is a gap."""
    from scipy.special import stdtr

    if variance < _NOTHING:
        return 1.0 if abs(gap) < math.sqrt(_NOTHING) else None
    return float(2 * stdtr(freedom, -abs(gap) / math.sqrt(variance)))


def tail(gap: float, variance: float, freedom: float, at: float) -> float:
    """Return the one-sided p-value of a true gap of `at` or less."""
    from scipy.special import stdtr

    if variance < _NOTHING:
        return float(gap <= at)
    return float(stdtr(freedom, (at - gap) / math.sqrt(variance)))


def _own(block: npt.NDArray[np.floating]) -> float:
    """Return what one run varies by over subjects beyond what all seeds of its method share; 0 of a single run."""
    runs = len(block)
    if runs == 1:
        return 0.0 * float(block[0, 0])
    between = float((block.sum() - np.trace(block)) / (runs * (runs - 1)))
    # An estimate of a variance can come out below 0, which none is.
    return max(0.0, float(np.trace(block)) / runs - between)


def _weight(freedom: int, prior: float) -> float:
    """Return the weight of a method's own variance against the mean of all."""
    return 0.0 if math.isinf(prior) else freedom / (freedom + prior)


def _freedom(variances: dict[int, float], runs: dict[int, int], pair: Sequence[int], prior: float) -> float:
    """Return Satterthwaite's (1946) freedom of the sum of a pair's drawn-in variances over their numbers of seeds."""
    freedoms = {k: many - 1 for k, many in runs.items()}
    whole = sum(freedoms.values())
    # The sum is linear in the variances that were observed, which are independent.
    factors = dict.fromkeys(variances, 0.0)
    for k in pair:
        weight = _weight(freedoms[k], prior)
        factors[k] += weight / runs[k]
        for other in variances:
            factors[other] += (1 - weight) * freedoms[other] / whole / runs[k]
    # Drawn in once more: squared, a variance of one or two degrees of freedom would make methods that vary alike look
    # as if one of them alone were known.
    mean = sum(freedoms[k] * variances[k] for k in variances) / whole
    weights = {k: _weight(freedoms[k], prior) for k in variances}
    known = {k: max(0.0, weights[k] * value + (1 - weights[k]) * mean) for k, value in variances.items()}
    noise = sum((factors[k] * known[k]) ** 2 / freedoms[k] for k in known)
    return sum(factors[k] * known[k] for k in known) ** 2 / noise if noise > 0 else float(whole)
