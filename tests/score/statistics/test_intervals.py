"""Resampling subjects: closed cases, scikit-learn as reference, coverage and false winners by simulation."""

import numpy as np
import pytest
import statsmodels.api as sm
from sklearn.metrics import roc_auc_score

from cxr_ft.score.statistics.intervals import (
    accuracy,
    auroc,
    cluster_bootstrap,
    interval,
    macro_auroc,
    mean,
    resampled,
    shares,
)

SUBJECTS = np.array(["a", "b", "a", "c", "b", "d"])


def test_a_subject_is_drawn_whole_and_as_often_as_there_are_subjects():
    weights = cluster_bootstrap(SUBJECTS, 500, seed=0)
    assert weights.shape == (500, 6)
    assert (weights[:, 0] == weights[:, 2]).all()
    assert (weights[:, 1] == weights[:, 4]).all()
    first_rows = weights[:, [0, 1, 3, 5]]
    assert (first_rows.sum(axis=1) == 4).all()
    assert first_rows.mean(axis=0) == pytest.approx(np.ones(4), abs=0.15)


def test_draws_follow_the_seed_and_nothing_else():
    assert (cluster_bootstrap(SUBJECTS, 9, 1) == cluster_bootstrap(SUBJECTS, 9, 1)).all()
    assert (cluster_bootstrap(SUBJECTS, 9, 1) != cluster_bootstrap(SUBJECTS, 9, 2)).any()
    renamed = np.array(["p" + name for name in SUBJECTS])
    assert (cluster_bootstrap(SUBJECTS, 9, 1) == cluster_bootstrap(renamed, 9, 1)).all()
    assert cluster_bootstrap([], 3, 0).shape == (3, 0)


@pytest.mark.parametrize("decimals", [1, 6])
def test_weighted_auroc_agrees_with_scikit_learn(decimals):
    rng = np.random.default_rng(decimals)
    truth, score = rng.integers(0, 2, 90), rng.random(90).round(decimals)
    weights = cluster_bootstrap(rng.integers(0, 30, 90), 20, seed=0)
    expected = [roc_auc_score(truth, score, sample_weight=w) for w in weights]
    assert auroc(truth, score, weights) == pytest.approx(np.array(expected))
    assert float(auroc(truth, score)) == pytest.approx(roc_auc_score(truth, score))


def test_auroc_of_closed_cases():
    assert auroc([0, 0, 1, 1], [0.1, 0.2, 0.3, 0.4]) == 1
    assert auroc([0, 0, 1, 1], [0.4, 0.3, 0.2, 0.1]) == 0
    assert auroc([0, 1, 0, 1], [0.5, 0.5, 0.5, 0.5]) == 0.5
    assert np.isnan(auroc([1, 1], [0.1, 0.2]))
    assert np.isnan(auroc([], []))


def test_blocks_do_not_change_the_result(monkeypatch):
    rng = np.random.default_rng(0)
    truth, score, weights = rng.integers(0, 2, 50), rng.random(50), rng.integers(0, 3, (40, 50))
    whole = auroc(truth, score, weights)
    monkeypatch.setattr("cxr_ft.score.statistics.intervals._BLOCK", 150)
    assert (auroc(truth, score, weights) == whole).all()


def test_the_macro_average_masks_cells_and_leaves_out_a_label_of_one_class():
    rng = np.random.default_rng(4)
    truth = np.stack([rng.integers(0, 2, 60), np.zeros(60), rng.integers(0, 2, 60)], axis=1).astype(float)
    truth[:10, 0] = np.nan
    score = rng.random((60, 3))
    expected = (roc_auc_score(truth[10:, 0], score[10:, 0]) + roc_auc_score(truth[:, 2], score[:, 2])) / 2
    assert float(macro_auroc(truth, score)) == pytest.approx(expected)
    assert macro_auroc(truth, score, np.ones((7, 60))) == pytest.approx(np.full(7, expected))
    assert np.isnan(macro_auroc(np.zeros((3, 1)), np.ones((3, 1))))


def test_mean_and_interval_of_closed_cases():
    assert mean([1, 0, 1], [[1, 1, 1], [0, 2, 0]]) == pytest.approx(np.array([2 / 3, 0]))
    assert interval(np.arange(1001) / 1000) == pytest.approx((0.025, 0.975))
    assert interval([0.5] * 9) == (0.5, 0.5)
    assert interval([np.nan] * 9) is None
    assert interval([0.5] * 5 + [np.nan] * 5) is None


def test_accuracy_leaves_out_rows_without_a_truth_and_takes_any_labels():
    assert accuracy([1, 0, np.nan, 1], [1, 1, 1, 1]) == pytest.approx(2 / 3)
    assert accuracy(np.array(["a", "b"]), np.array(["a", "c"]), [[3, 1], [0, 2]]) == pytest.approx(np.array([0.75, 0]))
    assert np.isnan(accuracy([np.nan], [1]))


def test_the_covariance_of_accuracies_is_that_of_a_clustered_regression():
    rng = np.random.default_rng(8)
    groups, truth = rng.integers(0, 25, 120), rng.integers(0, 2, 120)
    answers = rng.integers(0, 2, (2, 120))
    points, covariance = shares(truth, answers, groups)
    assert points == pytest.approx((answers == truth).mean(axis=1))
    weights = np.array([1, -1])
    gap = (answers[0] == truth).astype(float) - (answers[1] == truth)
    fit = sm.OLS(gap, np.ones(120)).fit(cov_type="cluster", cov_kwds={"groups": groups})
    # The library's small-sample factor is K / (K - 1) * (N - 1) / (N - 1) for one parameter.
    assert weights @ covariance @ weights == pytest.approx(float(fit.cov_params()[0, 0]))
    assert shares(truth[:2], answers[:, :2], ["a", "a"])[1] is None


def test_the_covariance_of_accuracies_has_the_value_of_statsmodels():
    """The variance of a gap by OLS on a constant with cov_type="cluster", statsmodels 0.15.0; five subjects."""
    truth = np.array([1, 0, 1, 1, 0, 0, 1, 0, 1, 1, 0, 1])
    answers = np.array([[1, 0, 0, 1, 1, 0, 1, 0, 0, 1, 0, 1], [1, 1, 0, 0, 0, 0, 1, 1, 1, 1, 1, 0]])
    points, covariance = shares(truth, answers, list("aaabbccccdee"))
    assert points[0] - points[1] == pytest.approx(0.25)
    assert [1, -1] @ covariance @ [1, -1] == pytest.approx(0.03146701388888892)


def test_replicates_give_the_covariance_of_runs():
    draws = np.random.default_rng(0).random((3, 40))
    assert resampled(draws) == pytest.approx(np.cov(draws))
    draws[0, :3] = np.nan
    assert resampled(draws) == pytest.approx(np.cov(draws[:, 3:]))
    draws[1, :8] = np.nan
    assert resampled(draws) is None


def some(computed):
    assert computed is not None
    return computed


def world(rng, subjects=50, images=4):
    """Right or wrong answers of images whose subjects differ in difficulty: accuracy 0.5 in truth."""
    chance = np.repeat(rng.choice([0.1, 0.9], subjects), images)
    return np.repeat(np.arange(subjects), images), (rng.random(len(chance)) < chance).astype(float)


def test_intervals_cover_when_subjects_are_resampled_and_not_when_images_are():
    rng = np.random.default_rng(0)
    clustered = plain = 0
    for trial in range(300):
        groups, right = world(rng)
        low, high = some(interval(mean(right, cluster_bootstrap(groups, 300, trial))))
        clustered += low <= 0.5 <= high
        low, high = some(interval(mean(right, cluster_bootstrap(np.arange(len(right)), 300, trial))))
        plain += low <= 0.5 <= high
    assert 0.90 <= clustered / 300 <= 0.98
    assert plain / 300 < 0.85
