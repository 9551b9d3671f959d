"""Approximate randomisation: every swap by hand, scipy as reference, determinism."""

import itertools
import math

import numpy as np
import pytest
from scipy.stats import permutation_test

from cxr_ft.score.metrics import text_overlap
from cxr_ft.score.statistics.intervals import accuracy, mean
from cxr_ft.score.statistics.randomisation import randomisation


def average(_, values, weights):
    return mean(values, weights)


def test_it_comes_to_what_all_swaps_give():
    rng = np.random.default_rng(0)
    groups = np.repeat(np.arange(8), 2)
    first, second = rng.normal(0.4, 1, 16), rng.normal(0, 1, 16)
    by_subject = (first - second).reshape(8, 2).sum(axis=1)
    gaps = [abs(np.dot(signs, by_subject)) for signs in itertools.product([1, -1], repeat=8)]
    expected = np.mean([gap >= abs(by_subject.sum()) - 1e-9 for gap in gaps])
    result = randomisation(np.zeros(16), first, second, groups, average, draws=20_000)
    assert result.gap == pytest.approx((first - second).mean())
    assert result.p == pytest.approx(expected, abs=0.01)


def test_it_agrees_with_scipy():
    rng = np.random.default_rng(1)
    first, second = rng.normal(0.2, 1, 60), rng.normal(0, 1, 60)
    reference = permutation_test(
        (first, second), lambda a, b: (a - b).mean(), permutation_type="samples", n_resamples=9999, rng=2
    )
    result = randomisation(np.zeros(60), first, second, np.arange(60), average, draws=9999)
    assert result.p == pytest.approx(reference.pvalue, abs=0.015)


@pytest.mark.parametrize("shift", [0.0, 0.2, 0.3, 0.4, 1.0])
def test_the_half_width_is_where_p_turns(shift):
    rng = np.random.default_rng(4)
    first, second = rng.normal(shift, 1, 50), rng.normal(0, 1, 50)
    result = randomisation(np.zeros(50), first, second, np.arange(50), average)
    assert (abs(result.gap) <= result.half) == (result.p > 0.05)


def test_equal_seed_equal_draws_whatever_the_block(monkeypatch):
    rng = np.random.default_rng(5)
    truth, first, second = rng.integers(0, 2, (3, 90))
    groups = rng.integers(0, 30, 90)
    whole = randomisation(truth, first, second, groups, accuracy, draws=500)
    monkeypatch.setattr("cxr_ft.score.statistics.randomisation._BLOCK", 3000)
    assert randomisation(truth, first, second, groups, accuracy, draws=500)[:3] == whole[:3]
    assert randomisation(truth, first, second, groups, accuracy, draws=500, seed=1) != whole
    mirror = randomisation(truth, second, first, groups, accuracy, draws=500)
    assert (mirror.gap, mirror.p) == (-whole.gap, whole.p)


def test_equal_answers_never_differ_and_the_smallest_p_is_that_of_the_draws():
    values = np.random.default_rng(6).random(40)
    same = randomisation(np.zeros(40), values, values, np.arange(40), average, draws=200)
    assert (same.gap, same.p) == (0, 1)
    clear = randomisation(np.zeros(40), values + 9, values, np.arange(40), average, draws=199)
    assert clear.p == 1 / 200
    assert math.isinf(randomisation(np.zeros(40), values + 9, values, np.arange(40), average, draws=10).half)


def test_it_serves_a_corpus_metric():
    references = ["the heart is large .", "no effusion .", "the lungs are clear .", "a small effusion ."] * 6
    poor = [line if i % 3 else "no effusion ." for i, line in enumerate(references)]
    counts = [text_overlap.bleu_counts(references, texts) for texts in (references, poor)]
    result = randomisation(
        np.zeros(24), *counts, np.arange(24), lambda _, rows, weights: text_overlap.bleu(weights @ rows)
    )
    assert result.gap == pytest.approx(
        float(text_overlap.bleu(counts[0].sum(axis=0)) - text_overlap.bleu(counts[1].sum(axis=0)))
    )
    assert result.p < 0.05


def test_a_statistic_that_is_undefined_is_never_significant():
    result = randomisation(np.zeros(9), np.ones(9), np.zeros(9), np.arange(9), lambda t, a, w: w.sum(-1) * np.nan)
    assert math.isnan(result.gap)
    assert math.isinf(result.half)
