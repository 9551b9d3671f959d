"""Calibration: scikit-learn and torchmetrics as references, a world with known probabilities, what is undefined."""

import json

import numpy as np
import pytest
import torch
from scipy.special import expit, logit, softmax
from sklearn.metrics import brier_score_loss, log_loss
from torchmetrics.functional.classification import binary_calibration_error, multiclass_calibration_error

from cxr_ft.score.metrics import calibration

LABELS = ("a", "b")


def world(rng, n, prevalence, sharpness=1.0):
    """Scores of a model that knows the world of `prevalence`, over-confident by `sharpness`, and truth [n, 1]."""
    truth = rng.random((n, 1)) < prevalence
    evidence = rng.normal(np.where(truth, 1.0, -1.0), 1.0)  # log likelihood ratio 2 x
    return truth.astype(float), 2 * evidence * sharpness


def test_it_agrees_with_scikit_learn_and_torchmetrics():
    rng = np.random.default_rng(0)
    truth, score = rng.integers(0, 2, (300, 2)).astype(float), rng.random((300, 2))
    truth[rng.random((300, 2)) < 0.1] = np.nan
    result = calibration.errors(truth, score, LABELS, multi_label=True)
    for i, name in enumerate(LABELS):
        known = ~np.isnan(truth[:, i])
        y, s = truth[known, i], score[known, i]
        wanted = binary_calibration_error(torch.tensor(s), torch.tensor(y).int(), n_bins=15, norm="l1")
        assert result["labels"][name]["ece"] == pytest.approx(float(wanted), abs=1e-6)
        assert result["labels"][name]["brier"] == pytest.approx(brier_score_loss(y, s))
        assert result["labels"][name]["log_loss"] == pytest.approx(log_loss(y, s))
    assert result["ece"] == pytest.approx(np.mean([result["labels"][name]["ece"] for name in LABELS]))


def test_single_label_calibration_is_of_the_largest_score():
    rng = np.random.default_rng(1)
    score = softmax(2 * rng.normal(size=(200, 3)), axis=1)
    which = np.array([rng.choice(3, p=row) for row in score])
    truth = np.eye(3)[which]
    result = calibration.errors(truth, score, ("a", "b", "c"), multi_label=False)
    wanted = multiclass_calibration_error(torch.tensor(score), torch.tensor(which), 3, n_bins=15, norm="l1")
    assert result["ece"] == pytest.approx(float(wanted), abs=1e-6)
    assert result["log_loss"] == pytest.approx(log_loss(which, score))
    assert result["brier"] == pytest.approx(((truth - score) ** 2).sum(axis=1).mean())
    masked = np.vstack([truth, np.full((1, 3), np.nan)])
    assert calibration.errors(masked, np.vstack([score, [[1, 0, 0]]]), ("a", "b", "c"), False) == result


def test_the_bins_hold_every_score_and_the_ends():
    score = np.array([0.0, 1.0, 0.2, 0.9999999])
    assert calibration.bins(score).tolist() == [0, 14, 3, 14]
    table = calibration.reliability(np.array([0, 1, 1, 0.0]), score)
    assert sum(row["n"] for row in table) == 4 and table[-1]["to"] == 1.0


@pytest.mark.parametrize("multi_label", [True, False])
def test_the_planted_temperature_is_fitted(multi_label):
    rng = np.random.default_rng(2)
    logits = 2 * rng.normal(size=(20000, 3))
    if multi_label:
        truth, score = (rng.random(logits.shape) < expit(logits)).astype(float), expit(2.5 * logits)
    else:
        truth = np.eye(3)[[rng.choice(3, p=row) for row in softmax(logits, axis=1)]]
        score = softmax(2.5 * logits, axis=1)
    fitted, why = calibration.fit_temperature(truth, score, multi_label)
    assert fitted == pytest.approx(2.5, rel=0.03) and why == ""
    before = calibration.errors(truth, score, "abc", multi_label)
    after = calibration.errors(truth, calibration.scale(score, fitted, multi_label), "abc", multi_label)
    assert after["ece"] < before["ece"] / 3 and after["log_loss"] < before["log_loss"]
    assert np.array_equal(score.argmax(axis=1), calibration.scale(score, fitted, multi_label).argmax(axis=1))


def test_there_is_no_temperature_where_none_is_best():
    truth = np.array([[0.0], [0.0], [1.0], [1.0]])
    fitted, why = calibration.fit_temperature(truth, np.array([[0.1], [0.4], [0.6], [0.9]]), True)
    assert fitted is None and "separate" in why
    fitted, why = calibration.fit_temperature(truth, np.array([[0.9], [0.6], [0.4], [0.1]]), True)
    assert fitted is None and "say nothing" in why
    fitted, why = calibration.fit_temperature(np.full((2, 1), np.nan), np.full((2, 1), 0.5), True)
    assert fitted is None and "nothing to fit" in why


def test_prior_correction_restores_natural_probabilities():
    """Trained on balanced data, over-confident, judged where one in twenty is positive: the bar is a third."""
    rng = np.random.default_rng(3)
    truth, log_odds = world(rng, 20000, 0.5, sharpness=1.8)
    temperature, _ = calibration.fit_temperature(truth, expit(log_odds), True)
    truth, log_odds = world(rng, 20000, 0.05, sharpness=1.8)
    shift = [calibration.prior_shift(0.5, 0.05)]
    result = calibration.evaluate(truth, expit(log_odds), ["a"], True, temperature=temperature, shift=shift)
    assert result["corrected"]["ece"] < result["raw"]["ece"] / 3
    assert result["corrected"]["ece"] < result["scaled"]["ece"] / 3
    assert result["corrected"]["ece"] < 0.01
    json.dumps(result, allow_nan=False)


def test_the_shift_is_bayes_rule():
    assert calibration.prior_shift(0.5, 0.5) == 0
    shift = calibration.prior_shift(0.5, 0.1)
    assert expit(logit(0.8) + shift) == pytest.approx(0.8 * 0.2 / (0.8 * 0.2 + 0.2 * 1.8))
    assert calibration.prior_shift(None, 0.1) is calibration.prior_shift(0.0, 0.1) is calibration.prior_shift(0.5, 1.0)
    one = calibration.shifted(
        np.array([[0.5, 0.3, 0.2]]), [calibration.class_shift(1 / 3, p) for p in (0.6, 0.3, 0.1)], False
    )
    assert one[0] == pytest.approx(np.array([0.3, 0.09, 0.02]) / 0.41)


def test_what_is_not_known_is_none_with_its_reason():
    truth, score = np.array([[1.0, 0.0], [0.0, np.nan]]), np.array([[0.9, 0.2], [0.3, 0.4]])
    result = calibration.evaluate(truth, score, LABELS, True, why={"temperature": "no val", "prior": "no manifest"})
    assert result["scaled"] is result["corrected"] is result["temperature"] is None
    assert result["undefined"] == {"scaled": "no val", "corrected": "no manifest"}
    result = calibration.evaluate(truth, score, LABELS, True, shift=[0.3, None])
    assert list(result["corrected"]["labels"]) == ["a"] and "b" in result["undefined"]["corrected, some labels"]
    for multi_label in (True, False):
        nothing = calibration.errors(np.full((2, 2), np.nan), score, LABELS, multi_label)
        assert nothing["debiased_error"] is nothing["slope"] is nothing["intercept"] is None
        assert nothing["reason"] == "0 positive and 0 negative subjects; 5 are needed in each class"
        assert nothing["ece"] is nothing["brier"] is nothing["labels"]["a"]["ece"] is None
        assert calibration.errors(np.empty((0, 2)), np.empty((0, 2)), LABELS, multi_label)["reliability"] == []


def test_a_score_of_0_or_1_stays_finite():
    result = calibration.evaluate(
        np.array([[1.0], [0.0]]), np.array([[0.0], [1.0]]), ["a"], True, temperature=2.0, shift=[1.0]
    )
    json.dumps(result, allow_nan=False)
