"""Accuracy of two runs on the same rows: McNemar (1947), and its form for subjects with several rows.

One row a subject: the mid-p version, since the exact one rejects far less often than it says (Fagerland, Lydersen and
Laake 2013). Several: the score test over subjects of Obuchowski (1998) in the form of Yang, Sun and Hardin (2010), with
one row each McNemar's chi-square. Both come with the interval that inverts them.
"""

import math
from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from cxr_ft.score.arrays import Numbers
from cxr_ft.score.statistics.intervals import Interval, correct


class McNemar(NamedTuple):
    """Accuracy of the first minus that of the second.

    Args:
        gap: from -1 to 1; NaN without a row.
        interval: of the gap; it excludes 0 if and only if p <= 1 - level. None where a few subjects have most rows.
        p: two-sided.
        test: which version.
        variance: of the gap, over subjects.
        tail: the one-sided p-value of a true gap that is at most a given one.
    """

    gap: float
    interval: Interval | None
    p: float
    test: str
    variance: float
    tail: Callable[[float], float] | None = None


def mcnemar(
    truth: npt.ArrayLike, first: npt.ArrayLike, second: npt.ArrayLike, subjects: npt.ArrayLike, level: float = 0.95
) -> McNemar:
    """Test whether two runs are right equally often.

    Args:
        truth: [N], NaN for a row that is left out; `first`, `second`: [N] the answers.
        subjects: [N] the subject of each row.
        level: of the interval.
    """
    known, right = correct(truth, np.stack([np.asarray(first), np.asarray(second)]))
    better = (right[0] - right[1])[known]
    group = np.unique(np.asarray(subjects)[known], return_inverse=True)[1]
    if len(better) == 0:
        return McNemar(math.nan, None, 1.0, "McNemar", 0.0)
    rows, wins = np.bincount(group, np.ones(len(group))), np.bincount(group, better)
    gap = float(wins.sum() / rows.sum())
    variance = float(((wins - gap * rows) ** 2).sum() / rows.sum() ** 2)
    # Rows of one subject are not independent, which the binomial of the mid-p test assumes.
    if rows.max() > 1:
        interval, p = _clustered(wins, rows, level)
        tail = partial(_clustered_tail, wins, rows)
        return McNemar(gap, interval, p, "McNemar, rows clustered by subject", variance, tail)
    counts = int((better > 0).sum()), int((better < 0).sum()), len(better)
    interval, p = _mid_p(*counts, level)
    return McNemar(gap, interval, p, "McNemar, mid-p", variance, partial(_mid_p_tail, *counts))


def exact(wins: int, losses: int) -> float:
    """Return McNemar's exact two-sided p-value from the rows that only the first, and only the second, has right."""
    from scipy.special import bdtr

    # With equal counts both tails hold the middle one, and twice a tail exceeds 1.
    return min(1.0, 2 * float(bdtr(min(wins, losses), wins + losses, 0.5)))


def _mid_p(wins: int, losses: int, rows: int, level: float) -> tuple[Interval, float]:
    decided, rest = wins + losses, (1 - level) / 2
    if decided == 0:
        return (0.0, 0.0), 1.0
    # The share of wins among the rows on which the two differ, and from it the gap.
    # With no win (or no loss) the function keeps its sign between 0 and 1, and brentq refuses it: the interval reaches
    # the end.
    low = 0.0 if wins == 0 else _root(lambda share: 1 - _up_to(wins, decided, share) - rest)
    high = 1.0 if losses == 0 else _root(lambda share: _up_to(wins, decided, share) - rest)
    scale = decided / rows
    return ((2 * low - 1) * scale, (2 * high - 1) * scale), min(1.0, 2 * _up_to(min(wins, losses), decided, 0.5))


def _mid_p_tail(wins: int, losses: int, rows: int, at: float) -> float:
    """Return the one-sided p-value of a gap of `at` or less."""
    decided = wins + losses
    # Given the rows on which the two differ, no gap is larger than their share.
    if decided == 0 or abs(at) * rows >= decided:
        return float(at >= 0)
    return 1 - _up_to(wins, decided, (at * rows / decided + 1) / 2)


def _clustered_tail(wins: Numbers, rows: Numbers, at: float) -> float:
    """Return the one-sided p-value of a gap of `at` or less."""
    from scipy.special import ndtr

    distance, squares = float((wins - at * rows).sum()), float(((wins - at * rows) ** 2).sum())
    return float(ndtr(-distance / math.sqrt(squares))) if squares else 0.5


def _up_to(count: int, of: int, share: float) -> float:
    """Return P(fewer than `count`) + P(`count`) / 2 of a binomial."""
    from scipy.special import bdtr

    below = float(bdtr(count - 1, of, share)) if count else 0.0
    return (below + float(bdtr(count, of, share))) / 2


def _root(function: Callable[[float], float]) -> float:
    from scipy.optimize import brentq

    return float(brentq(function, 0.0, 1.0, xtol=1e-12))


def _clustered(wins: Numbers, rows: Numbers, level: float) -> tuple[Interval | None, float]:
    from scipy.special import ndtr, ndtri

    total, many = wins.sum(), rows.sum()
    squares, mixed, weight = (wins**2).sum(), (wins * rows).sum(), (rows**2).sum()
    # The variance is that under no gap: the squares of the wins themselves, not of their distance from the gap.
    p = 1.0 if squares == 0 else float(2 * ndtr(-abs(total) / math.sqrt(squares)))
    # The gaps g that the test does not refuse: (total - g many)^2 <= z^2 sum((wins - g rows)^2), a parabola in g.
    z2 = float(ndtri((1 + level) / 2)) ** 2
    top, half, rest = many**2 - z2 * weight, total * many - z2 * mixed, total**2 - z2 * squares
    # No highest power: a few subjects have most rows, and every gap is compatible with the test.
    if top <= 0:
        return None, p
    # The root is real in exact arithmetic; rounding can make it slightly negative.
    reach = math.sqrt(max(0.0, half**2 - top * rest))
    # The parabola knows nothing of the range of a gap.
    return (max(-1.0, float((half - reach) / top)), min(1.0, float((half + reach) / top))), p
