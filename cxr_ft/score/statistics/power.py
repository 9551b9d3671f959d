"""Compute how many subjects, or seeds, would settle a difference that was stated, and what these runs can detect.

Never for the difference that was observed: it is itself an estimate, and the numbers that follow from it are wrong by
orders of magnitude (Hoenig and Heisey 2001).
"""

import math
from collections.abc import Callable
from typing import NamedTuple, TypeAlias

import numpy as np

from cxr_ft.errors import UsageError
from cxr_ft.score.statistics import variance_components
from cxr_ft.score.statistics.intervals import Array
from cxr_ft.score.statistics.pairs import Pair
from cxr_ft.score.statistics.variance_components import VarianceComponents

#: More than any test set, and any ablation, will have.
MOST_SUBJECTS, MOST_SEEDS = 10_000_000, 1_000

#: Chance that is wanted of settling the difference, and that the range covers the number from the true variances.
POWER, COVERED = 0.8, 0.8

#: Fewer degrees of freedom than 4 leave the spread over seeds so open that a number of subjects would be a guess.
FEWEST_FREEDOM = 4.0

_GUESS = "too few seeds are known on this page to say how much they vary: train three of each variant"
_FEW_SEEDS = "one seed of a trained method: how much seeds differ is not known; train at least two of each"

#: Equally likely values of a chi-square, by their share of the way: of what was estimated, and of what will be.
_ESTIMATED, _FUTURE = ((np.arange(n) + 0.5) / n for n in (12, 24))

Range: TypeAlias = tuple[int, int | None]


class Needed(NamedTuple):
    """The subjects, or seeds, at which a true difference of the stated size would be significant.

    The same numbers show, where two methods are equal, that neither is worse by more than that difference, if `error`
    is twice the one-sided error of that test.

    Args:
        subjects: test subjects, with the seeds at hand; None where no number would do, or it is not known.
        subjects_range: between what the variances could well be; an end is None where no number would do.
        why_subjects: why there is none.
        seeds: of each method, with the subjects at hand; `seeds_range`, `why_seeds` likewise.
    """

    subjects: int | None
    subjects_range: Range | None
    why_subjects: str | None
    seeds: int | None
    seeds_range: Range | None
    why_seeds: str | None


class _Design(NamedTuple):
    """A planned comparison: subjects at hand per subject wanted, seeds of the two methods, its pair and its error."""

    shrink: float
    runs: tuple[int, int]
    pair: Pair
    error: float


def needed(pair: Pair, difference: float, *, error: float = 0.05, power: float = POWER) -> Needed:
    """Return the subjects or seeds at which a true `difference` is significant with `power`.

    The power is a mean over what the variances could be, given how few seeds they were estimated from. With one seed
    the answer is about the two trained models, as the pair is.

    Args:
        pair: from `pairs.compare`.
        difference: in the metric's unit, above 0; stated, not observed.
        error: two-sided, of the test; of many pairs, each one's part.
        power: the probability wanted of a significant result.

    Raises:
        UsageError: for a difference that is not above 0.
    """
    if not (difference > 0 and math.isfinite(difference)):
        raise UsageError(f"difference: {difference}; give the size of interest, above 0, e.g. 0.01")
    spread = pair.spread
    if pair.gap is None or spread is None:
        unknown = pair.reason or "how much the gap varies is not known"
        return Needed(None, None, unknown, None, None, unknown)

    def subjects(many: int, at: float | None) -> bool:
        design = _Design(pair.subjects / many, spread.runs, pair, error)
        return _power(spread, design, difference, at) >= power

    def seeds(many: int, at: float | None) -> bool:
        # Two seeds are the least that show their spread; a method that trains nothing keeps its own runs.
        first, second = (own if fixed else many for own, fixed in zip(spread.runs, pair.fixed, strict=True))
        return _power(spread, _Design(1.0, (first, second), pair, error), difference, at) >= power

    people, people_range = _with_range(subjects, 2, MOST_SUBJECTS)
    why: str | None = None
    if _page_freedom(spread, spread.runs) < FEWEST_FREEDOM:
        people, people_range, why = None, None, _GUESS
    elif people is None:
        why = "no number of test subjects would do: the spread over seeds alone hides such a difference"
    if (why_seeds := _no_seeds(pair, spread)) is not None:
        return Needed(people, people_range, why, None, None, why_seeds)
    trainings, trainings_range = _with_range(seeds, 2, MOST_SEEDS)
    why_seeds = None if trainings else "no number of seeds would do: too few test subjects for such a difference"
    return Needed(people, people_range, why, trainings, trainings_range, why_seeds)


def detectable(pair: Pair, *, error: float = 0.05, power: float = POWER) -> float | None:
    """Return the smallest true difference that these runs find significant with `power`; None where it is not known."""
    spread = pair.spread
    if pair.gap is None or spread is None or pair.p is None:
        return None
    design = _Design(1.0, spread.runs, pair, error)
    low, high = 0.0, math.sqrt(max(spread.total[0], 1e-12))
    while _power(spread, design, high, None) < power:
        low, high = high, 2 * high
    # To a thousandth of itself, which no table shows.
    while high - low > 1e-3 * high:
        middle = (low + high) / 2
        low, high = (low, middle) if _power(spread, design, middle, None) >= power else (middle, high)
    return high


def _no_seeds(pair: Pair, spread: VarianceComponents) -> str | None:
    if all(pair.fixed):
        return "neither method trains anything: seeds change nothing"
    known = (fixed or alone is not None for fixed, alone in zip(pair.fixed, spread.seeds, strict=True))
    return None if all(known) else _FEW_SEEDS


def _with_range(
    enough: Callable[[int, float | None], bool], least: int, most: int
) -> tuple[int | None, tuple[int, int | None] | None]:
    """Return the smallest number that is enough, and those where the variances are small, and large, for their kind."""
    number = _least(lambda many: enough(many, None), least, most)
    low = _least(lambda many: enough(many, (1 + COVERED) / 2), least, most)
    high = _least(lambda many: enough(many, (1 - COVERED) / 2), least, most)
    return number, None if low is None else (low, high)


def _least(enough: Callable[[int], bool], first: int, most: int) -> int | None:
    """Return the smallest number from `first` to `most` that is enough, or None."""
    # Doubling first: the answer may be anything up to `most`, and most answers are small.
    low, high = first - 1, first
    while not enough(high):
        if high >= most:
            return None
        low, high = high, min(2 * high, most)
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if enough(middle) else (middle, high)
    return high


def _power(spread: VarianceComponents, design: _Design, difference: float, at: float | None) -> float:
    """Return the probability that a true difference is significant.

    Args:
        spread: as it was estimated.
        design: what is planned.
        difference: the true one.
        at: where in their distribution the estimates lie, 0 to 1; None: the mean over it.
    """
    shares = _ESTIMATED if at is None else np.array([at])
    people = (design.pair.rarer or design.pair.subjects) - 1
    # An estimate with D degrees of freedom is the true value times a chi-square over D.
    subjects = design.shrink * (1.0 if at is None else float(1 / _ratio(people, shares)[0]))
    shared = np.full(len(shares), spread.shared * subjects)
    averaged = np.zeros(len(shares))
    trained = [k for k in (0, 1) if spread.seeds[k] is not None]
    for k in trained:
        whole = max(0.0, spread.own[k] + (spread.seeds[k] or 0.0)) / _ratio(spread.freedom, shares)
        alone = np.maximum(0.0, whole - spread.own[k])
        averaged += (spread.own[k] * subjects + alone) / design.runs[k]
    if not trained:
        return float(_significant(shared, difference, np.sqrt(shared)[:, None], np.inf, design.error).mean())
    freedom = _page_freedom(spread, design.runs)
    # The test will estimate the averaged part anew, which makes its standard error chance, too.
    estimated = averaged[:, None] * _ratio(freedom, _FUTURE)
    variance = shared[:, None] + estimated
    freedoms = variance_components.total_freedom(freedom, estimated / np.maximum(variance, 1e-300))
    found = _significant(shared + averaged, difference, np.sqrt(variance), freedoms, design.error)
    return float(found.mean())


def _page_freedom(spread: VarianceComponents, runs: tuple[int, int]) -> float:
    """Return the degrees of freedom of the seeds' part with so many seeds of the two methods."""
    trained = [many for many, alone in zip(runs, spread.seeds, strict=True) if alone is not None]
    if not trained:
        return math.inf
    return variance_components.pooled_freedom([*trained, *spread.others], range(len(trained)))


def _significant(variance: Array, difference: float, errors: Array, freedom: Array | float, error: float) -> Array:
    """Return the chance of significance [F, X] for true variances [F] and estimated standard errors [F, X]."""
    from scipy.special import ndtr, stdtrit

    limit = stdtrit(freedom, 1 - error / 2) * errors
    true = np.sqrt(np.maximum(variance, 1e-300))[:, None]
    return np.asarray(ndtr((difference - limit) / true) + ndtr((-difference - limit) / true))


def _ratio(freedom: float, shares: Array) -> Array:
    """Return the quantiles of a chi-square over its degrees of freedom."""
    from scipy.special import chdtri

    if math.isinf(freedom):
        return np.ones(len(shares))
    return np.asarray(chdtri(freedom, 1 - shares) / freedom)
