"""How many subjects or seeds would settle a pair: closed cases, and that so many do, by simulation."""

import math

import numpy as np
import pytest
import simulated_predictions as simulated
from scipy.stats import norm

from cxr_ft.score.statistics import intervals
from cxr_ft.score.statistics.pairs import Pair, compare
from cxr_ft.score.statistics.power import needed
from cxr_ft.score.statistics.variance_components import VarianceComponents


def pair(gap, spread, fixed=(False, False), subjects=100):
    return Pair(gap, None, None, "made up", subjects, spread, fixed)


def test_one_seed_is_the_usual_formula():
    """n = (z(97.5 %) + z(80 %))^2 times the variance of one subject, over the squared gap."""
    answer = needed(pair(0.02, VarianceComponents(0.0004, (0, 0), (None, None), (1, 1))))
    expected = (norm.ppf(0.975) + norm.ppf(0.8)) ** 2 * 0.0004 * 100 / 0.02**2
    assert answer.subjects == math.ceil(expected)
    assert answer.seeds is None
    assert "one seed" in answer.why_seeds
    stricter = needed(pair(0.02, VarianceComponents(0.0004, (0, 0), (None, None), (1, 1))), power=0.9, error=0.01)
    assert stricter.subjects == math.ceil((norm.ppf(0.995) + norm.ppf(0.9)) ** 2 * 0.0004 * 100 / 0.02**2)


def test_what_no_number_would_settle_has_a_reason():
    seeds = needed(pair(0.01, VarianceComponents(1e-6, (0, 0), (0.001, 0.001), (3, 3))))
    assert seeds.subjects is None
    assert "seeds alone" in seeds.why_subjects
    assert seeds.seeds > 3
    people = needed(pair(0.01, VarianceComponents(0.001, (0, 0), (1e-6, 1e-6), (3, 3))))
    assert people.seeds is None
    assert "too few test subjects" in people.why_seeds
    assert people.subjects > 100
    assert needed(pair(0.0, VarianceComponents(1, (0, 0), (1, 1), (2, 2))))[:4] == (
        None,
        "no gap was observed",
        None,
        "no gap was observed",
    )
    assert needed(pair(None, None)._replace(reason="so"))[:4] == (None, "so", None, "so")


def test_a_method_that_trains_nothing_has_no_seeds_to_add():
    spread = VarianceComponents(1e-5, (0, 0), (0.001, None), (3, 1))
    answer = needed(pair(0.03, spread, fixed=(False, True)))
    assert answer.seeds > 3
    assert needed(pair(0.03, spread)).seeds is None
    assert "trains" in needed(pair(0.03, spread, fixed=(True, True))).why_seeds


def test_more_power_or_a_smaller_gap_needs_more():
    spread = VarianceComponents(0.0002, (0.0001, 0.0001), (0.0001, 0.0001), (3, 3))
    wide, narrow = needed(pair(0.05, spread)), needed(pair(0.04, spread))
    assert narrow.subjects > wide.subjects
    assert narrow.seeds >= wide.seeds
    assert needed(pair(0.05, spread), power=0.95).subjects > wide.subjects


def true_pair(seeds, better, between=0.0):
    """The true gap, and the spread of a comparison so large that its spread is almost the true one."""
    world = simulated.scores(np.random.default_rng(0), subjects=4000, seeds=seeds, better=better, between=between)
    return compare(*world, intervals.auroc)._replace(gap=simulated.true_gap(better, between))


def settled(rng, times, **world):
    answer = [compare(*simulated.scores(rng, **world), intervals.auroc).p <= 0.05 for _ in range(times)]
    return np.mean(answer)


def test_so_many_subjects_settle_it_four_times_in_five():
    many = needed(true_pair((1, 1), 0.2)).subjects
    assert 50 < many < 2000
    assert 0.74 <= settled(np.random.default_rng(1), 400, subjects=many, better=0.2) <= 0.86


@pytest.mark.slow
def test_so_many_seeds_or_subjects_settle_it_four_times_in_five():
    """The spread of forty seeds stands for the true one; then four seeds, or 200 subjects, are at hand."""
    pair = true_pair((40, 40), 0.4, 0.15)
    world = {"better": 0.4, "between": 0.15}
    many = needed(pair._replace(spread=pair.spread._replace(runs=(4, 4)))).subjects
    assert many is not None
    rng = np.random.default_rng(2)
    assert 0.75 <= settled(rng, 1500, subjects=many, seeds=(4, 4), **world) <= 0.85
    scale = pair.subjects / 200
    own = (pair.spread.own[0] * scale, pair.spread.own[1] * scale)
    fewer = pair.spread._replace(shared=pair.spread.shared * scale, own=own)
    seeds = needed(pair._replace(spread=fewer, subjects=200)).seeds
    assert seeds is not None
    # Seeds come in whole numbers: so many are enough, one fewer is not.
    assert settled(rng, 1500, subjects=200, seeds=(seeds, seeds), **world) >= 0.77
    assert settled(rng, 1500, subjects=200, seeds=(seeds - 1, seeds - 1), **world) <= 0.83
