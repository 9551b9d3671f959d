"""Approximate randomisation: is the gap of two runs more than a matter of which of them gave which answer?

Under the null hypothesis it does not matter which of the two runs answered for a subject, so whole subjects' answers
are exchanged at random (Noreen 1989; for corpus-level text metrics Riezler and Maxwell 2005).
"""

import math
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from cxr_ft.score.arrays import Floats, Numbers

#: (truth [N, ...], answers [N, ...], weights [..., N]) -> [...]: one number under row weights.
Statistic = Callable[[Floats, Floats, Numbers], Floats]

#: Cells of one block of weights.
_BLOCK = 1 << 22
#: Two gaps that differ by less are the same gap, summed in another order.
_ROUNDING = 1e-12


class Randomised(NamedTuple):
    """A randomisation test.

    Args:
        gap: first minus second.
        p: two-sided, (r + 1) / (R + 1).
        half: the gap that would just not be significant at `level`: `gap` plus or minus this holds 0
            exactly where p is above it. Infinite where the draws are too few, or undefined too often.
        extreme: [R] the sizes of the gaps after exchanges, the largest first.
    """

    gap: float
    p: float
    half: float
    extreme: Floats

    def tail(self, at: float) -> float:
        """Return the one-sided p-value of a true gap of `at` or less, as if gaps around it varied like those around 0.

        Half of the two-sided one, since the gaps after exchanges lie symmetrically around 0.
        """
        beyond = (1 + int((self.extreme >= abs(self.gap - at)).sum())) / (len(self.extreme) + 1) / 2
        return beyond if self.gap >= at else 1 - beyond


def randomisation(
    truth: npt.ArrayLike,
    first: npt.ArrayLike,
    second: npt.ArrayLike,
    subjects: npt.ArrayLike,
    statistic: Statistic,
    *,
    level: float = 0.95,
    draws: int = 2000,
    seed: int = 0,
) -> Randomised:
    """Swap whole subjects' answers between two runs, each with probability 1/2.

    Args:
        truth: [N, ...], and first, second [N, ...] the answers of the two runs, as `statistic` takes them.
        subjects: [N] the subject of each row.
        statistic: a number under row weights. Answers of both runs are mixed in it, so they must mean the same (labels,
            texts, counts); scores on a scale of each run's own do not.
        level: of `half`.
        draws: R.
        seed: equal seed and subjects, equal draws.
    """
    truth, one, two = np.asarray(truth), np.asarray(first), np.asarray(second)
    group = np.unique(np.asarray(subjects), return_inverse=True)[1]
    # The rows of both runs under one another: a swap is then a choice of weights, and needs no copy of the answers.
    both, answers = np.concatenate([truth, truth]), np.concatenate([one, two])

    def gaps(swapped: Floats) -> Floats:
        unswapped = 1 - swapped
        in_place = np.asarray(statistic(both, answers, np.concatenate([unswapped, swapped], axis=-1)))
        mirrored = np.asarray(statistic(both, answers, np.concatenate([swapped, unswapped], axis=-1)))
        return np.asarray(in_place - mirrored)

    gap = float(gaps(np.zeros(len(group))))
    random, size = np.random.default_rng(seed), int(group.max(initial=-1)) + 1
    # Weights of all draws at once would be draws x 2 N numbers.
    step = max(1, _BLOCK // max(1, 2 * len(group)))
    null = np.concatenate(
        [
            gaps((random.random((min(step, draws - start), size)) < 0.5)[:, group].astype(float))
            for start in range(0, draws, step)
        ]
    )
    # A swap under which the statistic is undefined counts as extreme: the careful side.
    extreme = np.sort(np.nan_to_num(np.abs(null), nan=np.inf) + _ROUNDING)[::-1]
    # The observed order is one of the possible ones, so p is never 0.
    p = (1 + int((extreme >= abs(gap)).sum())) / (draws + 1)
    # So many draws may be as extreme as the gap for p to stay at 1 - level or below.
    allowed = math.floor((1 - level) * (draws + 1) + _ROUNDING) - 1
    return Randomised(gap, p, float(extreme[allowed]) if allowed >= 0 else math.inf, extreme)


def ranks(truth: Floats, scores: Floats) -> Floats:
    """Return the ranks of scores [N] or [N, L] among the rows with a truth of each label, from 1; ties share one.

    An AUROC of ranks is that of the scores, and the ranks of two runs can be exchanged (Bandos et al. 2005).
    """
    from scipy.stats import rankdata

    table, values = truth.reshape(len(truth), -1), np.asarray(scores, float).reshape(len(truth), -1)
    out = np.zeros(values.shape)
    for column in range(values.shape[1]):
        known = ~np.isnan(table[:, column])
        out[known, column] = rankdata(values[known, column])
    return out.reshape(np.shape(scores))
