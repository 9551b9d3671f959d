"""Two levels of chance in the difference of two methods: which subjects were tested, and which seeds were trained.

Every run is evaluated on the same subjects, and a method's seeds are its own: the design of Obuchowski and Rockette
(1995) with seeds as readers, nested in methods (Hillis, Obuchowski and Berbaum 2011). The spread of a method's seeds
holds the chance of training and that part of the subjects' chance which differs from seed to seed; what all seeds share
comes from the covariance between them, so that nothing is counted twice.

Shapes: S1 and S2 seeds of the two methods, M = S1 + S2 runs.
"""

import math
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[np.floating]

#: Variances are squares of metrics between 0 and 1; below this they are rounding.
_NOTHING = 1e-20


class VarianceComponents(NamedTuple):
    """The components of a difference's variance.

    Args:
        shared: from the subjects, the same whatever the number of seeds.
        own: of one run of either method, from the subjects too, but averaged out over seeds.
        seeds: of one run of either method, from training alone; None with a single seed, which cannot tell.
        runs: S1 and S2.
    """

    shared: float
    own: tuple[float, float]
    seeds: tuple[float | None, float | None]
    runs: tuple[int, int]

    def total(self, first: Array, second: Array) -> tuple[float, float]:
        """Return the variance of mean(first) - mean(second) and its degrees of freedom (Satterthwaite 1946).

        Subjects are many, so their part counts as known: without seeds the freedom is infinite.

        Args:
            first: [S1] the metric of each seed; `second`: [S2].
        """
        # A single run has no spread over seeds: the variance is then that of the subjects alone.
        parts = [(p.var(ddof=1) / len(p), len(p) - 1) for p in (first, second) if len(p) > 1]
        variance = self.shared + sum(part for part, _ in parts)
        noise = sum(part**2 / freedom for part, freedom in parts)
        # Divided by rounding errors, the smallest gap would be significant.
        if variance < _NOTHING:
            return 0.0, math.inf
        return float(variance), float(variance**2 / noise) if noise > 0 else math.inf


def estimate_components(first: Array, second: Array, covariance: Array) -> VarianceComponents:
    """Estimate the parts of the variance, from the metrics of the seeds and their covariance over subjects.

    Args:
        first: [S1] the metric of each seed; `second`: [S2].
        covariance: [M, M] over the sampling of subjects, first's runs before second's.
    """
    cut = len(first)
    blocks = (covariance[:cut, :cut], covariance[cut:, cut:])
    common = [_between(block) for block in blocks]
    # An estimate of a variance can come out below 0, which none is.
    # What one run varies by over subjects beyond what all seeds of its method share.
    own = [max(0.0, float(np.trace(b)) / len(b) - c) for b, c in zip(blocks, common, strict=True)]
    alone = [
        max(0.0, float(points.var(ddof=1)) - part) if len(points) > 1 else None
        for points, part in zip((first, second), own, strict=True)
    ]
    # Both are estimates, so the sum can fall below 0, which no variance does.
    # Subjects that are hard for both methods move both alike, which cancels in the difference: hence minus the
    # covariance.
    shared = max(0.0, sum(common) - 2 * float(covariance[:cut, cut:].mean()))
    return VarianceComponents(shared, (own[0], own[1]), (alone[0], alone[1]), (len(first), len(second)))


def half_width(variance: float, freedom: float, level: float) -> float:
    """Return half the width of Student's interval."""
    from scipy.special import stdtrit

    return float(stdtrit(freedom, (1 + level) / 2)) * math.sqrt(variance)


def p_value(gap: float, variance: float, freedom: float) -> float | None:
    """Return Student's two-sided p-value of a gap; None where nothing varies and yet there is a gap."""
    from scipy.special import stdtr

    if variance < _NOTHING:
        return 1.0 if abs(gap) < math.sqrt(_NOTHING) else None
    return float(2 * stdtr(freedom, -abs(gap) / math.sqrt(variance)))


def _between(block: Array) -> float:
    """Return the mean covariance between different seeds of a method; the variance of its only one."""
    runs = len(block)
    return float(block[0, 0]) if runs == 1 else float((block.sum() - np.trace(block)) / (runs * (runs - 1)))
