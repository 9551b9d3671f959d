"""Calibration slope, intercept and debiased error: references, coverage, and no bias for a perfect model."""

import numpy as np
import pytest
import statsmodels.api as sm
from scipy.special import expit, logit

from cxr_ft.score.metrics import calibration
from cxr_ft.score.statistics import recalibration


def drawn(rng, subjects, slope=1.0, rows=1):
    """Truth with frequency expit(slope x) for scores expit(x); rows of a subject vary together."""
    owners = np.repeat(np.arange(subjects), rows)
    x = logit(0.3) + 0.9 * rng.normal(size=subjects)[owners] + 0.9 * rng.normal(size=len(owners))
    return (rng.random(len(x)) < expit(slope * x)).astype(float), expit(x), owners


def test_slope_and_intercept_are_those_of_statsmodels():
    truth, score, owners = drawn(np.random.default_rng(0), 400, slope=0.6)
    x = logit(score)
    line = sm.GLM(truth, sm.add_constant(x), family=sm.families.Binomial()).fit(cov_type="HC0")
    large = sm.GLM(truth, np.ones_like(x), offset=x, family=sm.families.Binomial()).fit()
    found = recalibration.recalibration(truth, score, owners)
    # A weak prior keeps the slope finite in separable data: it moves this one in the fifth digit.
    assert found.slope.value == pytest.approx(line.params[1], abs=1e-3)
    assert found.intercept.value == pytest.approx(large.params[0], abs=1e-3)
    low, high = found.slope.low, found.slope.high
    assert high - low == pytest.approx(2 * 1.97 * line.bse[1], rel=0.1)
    assert low < 0.6 < high < 1 and low == pytest.approx(2 * found.slope.value - high)


def test_four_rows_of_a_subject_that_are_alike_are_no_more_evidence_than_one():
    truth, score, owners = drawn(np.random.default_rng(1), 200)
    one = recalibration.recalibration(truth, score, owners)
    four = recalibration.recalibration(*(np.repeat(values, 4) for values in (truth, score, owners)))
    # The error of few rows is the greater of two, so that the ends are alike and not equal.
    assert four.slope == pytest.approx(one.slope, rel=0.06)
    assert four.intercept == pytest.approx(one.intercept, abs=0.01)


def test_separable_and_constant_scores_have_finite_values_or_a_reason():
    truth = np.repeat([0.0, 1.0], 20)
    found = recalibration.recalibration(truth, 0.3 + 0.4 * truth, np.arange(40))
    assert np.isfinite(found.slope).all() and found.slope.value > 1
    found = recalibration.recalibration(truth, np.full(40, 0.5), np.arange(40))
    assert found.slope is None and "no slope" in found.reason and found.intercept.value == pytest.approx(0, abs=1e-6)
    found = recalibration.recalibration(truth, truth, np.repeat([0, 1], 20))
    assert found.slope is None and found.reason == "1 positive and 1 negative subjects; 5 are needed in each class"


def test_the_squared_error_of_a_perfect_model_is_zero_on_average_and_that_of_another_is_the_true_one():
    small, raw = [], []
    for world in range(300):
        truth, score, owners = drawn(np.random.default_rng([2, world]), 40, rows=2)
        small.append(recalibration.squared_error(truth, score, calibration.bins(score), owners))
        raw.append(calibration.ece(truth, score))
    assert abs(np.mean(small)) < 3 * np.std(small) / 300**0.5 and np.median(raw) > 0.08
    truth, score, owners = drawn(np.random.default_rng(3), 40_000)
    wrong = expit(2 * logit(score))
    place = calibration.bins(wrong)
    excess = np.bincount(place, score - wrong) / np.bincount(place)
    expected = np.average(excess**2, weights=np.bincount(place))
    assert recalibration.squared_error(truth, wrong, place, owners) == pytest.approx(expected, rel=0.05)


@pytest.mark.slow
@pytest.mark.parametrize(("subjects", "rows"), [(40, 1), (100, 1), (400, 1), (100, 4)])
@pytest.mark.parametrize("slope", [1.0, 0.5])
def test_intervals_of_the_slope_cover(subjects, rows, slope):
    missed, worlds = 0, 1000
    for world in range(worlds):
        truth, score, owners = drawn(np.random.default_rng([4, subjects, rows, world]), subjects, slope, rows)
        found = recalibration.recalibration(truth, score, owners).slope
        # Five subjects of each class are drawn nearly always here.
        missed += found is not None and not found.low <= slope <= found.high
    # .05 and 2.6 standard errors of 1,000 worlds.
    assert missed / worlds <= 0.068
