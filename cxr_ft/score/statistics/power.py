"""Compute how many subjects, or seeds, would settle an undecided pair."""

import math
from collections.abc import Callable
from typing import NamedTuple

from cxr_ft.score.statistics.pairs import Pair
from cxr_ft.score.statistics.variance_components import VarianceComponents

#: More than any test set, and any ablation, will have.
MOST_SUBJECTS, MOST_SEEDS = 10_000_000, 1_000

_FEW_SEEDS = "one seed of a trained method: how much seeds differ is not known; train at least two of each"


class Needed(NamedTuple):
    """The subjects and seeds that would show the observed gap, were it the true one.

    Args:
        subjects: test subjects, with the seeds at hand; None where no number would do, or it is not known.
        why_subjects: why there is none.
        seeds: of each method, with the subjects at hand; `why_seeds` likewise.
        power: the probability of settling it.
    """

    subjects: int | None
    why_subjects: str | None
    seeds: int | None
    why_seeds: str | None
    power: float


def needed(pair: Pair, *, power: float = 0.8, error: float = 0.05) -> Needed:
    """Return the subjects or seeds at which a gap like the observed one would be significant.

    Subjects' parts of the variance shrink with their number, the seeds' part with theirs; the rest is the t-test's own
    arithmetic. With one seed the answer is about the two trained models, as the pair is.

    Args:
        pair: from `pairs.compare`.
        power: the probability wanted of a significant result.
        error: two-sided, of the test.
    """
    gap, spread = pair.gap, pair.spread
    if gap is None or spread is None:
        why = pair.reason or "how much the gap varies is not known"
        return Needed(None, why, None, why, power)
    # No sample is large enough to show a gap of 0.
    if gap == 0:
        why = "no gap was observed"
        return Needed(None, why, None, why, power)

    def settles(subjects: float, seeds: tuple[int, int]) -> bool:
        return abs(gap) >= _detectable(spread, pair.subjects / subjects, seeds, power, error)

    subjects = _least(lambda many: settles(many, spread.runs), MOST_SUBJECTS)
    why_subjects = None
    if subjects is None:
        why_subjects = (
            "no number of test subjects would do: the spread over seeds alone hides such a gap; train more seeds"
        )
    seeds, why_seeds = _seeds(pair, spread, settles)
    return Needed(subjects, why_subjects, seeds, why_seeds, power)


def _seeds(
    pair: Pair, spread: VarianceComponents, settles: Callable[[float, tuple[int, int]], bool]
) -> tuple[int | None, str | None]:
    if all(pair.fixed):
        return None, "neither method trains anything: seeds change nothing"
    if any(alone is None and not fixed for alone, fixed in zip(spread.seeds, pair.fixed, strict=True)):
        return None, _FEW_SEEDS

    def enough(many: int) -> bool:
        # Two seeds are the least that show their spread; a method that trains nothing keeps its one run.
        first, second = (1 if fixed else many + 1 for fixed in pair.fixed)
        return settles(pair.subjects, (first, second))

    least = _least(enough, MOST_SEEDS)
    if least is None:
        return None, "no number of seeds would do: too few test subjects for such a gap"
    # `enough` counts from two seeds of each.
    return least + 1, None


def _least(enough: Callable[[int], bool], most: int) -> int | None:
    """Return the smallest number from 1 to `most` that is enough, or None."""
    # Doubling first: the answer may be anything up to `most`, and most answers are small.
    high = 1
    while not enough(high):
        if high >= most:
            return None
        high = min(2 * high, most)
    # Half of it was not enough, so the answer is above; from here the range is halved.
    low = high // 2
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if enough(middle) else (middle, high)
    return high


def _detectable(spread: VarianceComponents, shrink: float, runs: tuple[int, int], power: float, error: float) -> float:
    """Return the gap that is significant with `power`; `shrink`: subjects at hand per subject wanted."""
    from scipy.special import stdtrit

    parts = [
        ((own * shrink + (alone or 0.0)) / many, many - 1)
        for own, alone, many in zip(spread.own, spread.seeds, runs, strict=True)
    ]
    variance = spread.shared * shrink + sum(part for part, _ in parts)
    # Satterthwaite's freedom, as in `VarianceComponents.total`; a single run has none and adds no noise.
    noise = sum(part**2 / freedom for part, freedom in parts if freedom)
    freedom = variance**2 / noise if noise > 0 else math.inf
    # In standard errors: the quantile that makes a gap significant, plus that by which a true gap has to exceed it to
    # be so with this power.
    return float(stdtrit(freedom, 1 - error / 2) + stdtrit(freedom, power)) * math.sqrt(variance)
