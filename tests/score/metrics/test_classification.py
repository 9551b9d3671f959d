"""Judging classification: closed cases, scikit-learn as reference, what is undefined, thresholds."""

import json

import numpy as np
import pytest
from sklearn.metrics import average_precision_score, f1_score, precision_score, recall_score, roc_auc_score

from cxr_ft.errors import UsageError
from cxr_ft.score.metrics.classification import best_thresholds, evaluate

LABELS = ["Edema", "Fracture"]


def test_a_case_by_hand():
    truth = np.array([[1, 0], [1, 1], [0, 0], [0, 1]])
    score = np.array([[0.9, 0.6], [0.4, 0.7], [0.5, 0.1], [0.2, 0.2]])
    result = evaluate(truth, score, LABELS, [0.45, 0.5], multi_label=True)
    edema = result["labels"]["Edema"]
    assert edema["auroc"] == pytest.approx(3 / 4)  # of four pairs, (0.4, 0.5) is the wrong way round
    assert edema["ap"] == pytest.approx((1 + 2 / 3) / 2)
    assert (edema["f1"], edema["precision"], edema["recall"], edema["accuracy"]) == (0.5, 0.5, 0.5, 0.5)
    assert (edema["positives"], edema["n"], result["n"]) == (2, 4, 4)
    assert result["macro"]["labels"] == 2
    assert result["undefined"] == {}


def test_it_agrees_with_scikit_learn_on_masked_labels():
    rng = np.random.default_rng(0)
    truth = rng.integers(0, 2, (200, 2)).astype(float)
    truth[rng.random((200, 2)) < 0.2] = np.nan
    score = np.round(rng.random((200, 2)), 1)
    result = evaluate(truth, score, LABELS, None, multi_label=True)
    areas = []
    for column, name in enumerate(LABELS):
        known = ~np.isnan(truth[:, column])
        y, s = truth[known, column], score[known, column]
        computed = result["labels"][name]
        areas.append(roc_auc_score(y, s))
        assert computed["auroc"] == pytest.approx(areas[-1])
        assert computed["f1"] == pytest.approx(f1_score(y, s >= 0.5))
        assert computed["precision"] == pytest.approx(precision_score(y, s >= 0.5))
        assert computed["recall"] == pytest.approx(recall_score(y, s >= 0.5))
        assert computed["n"] == known.sum()
    known = ~np.isnan(truth)
    assert result["macro"]["auroc"] == pytest.approx(np.mean(areas))
    assert result["micro"]["auroc"] == pytest.approx(roc_auc_score(truth[known], score[known]))


def test_what_a_masked_cell_scores_does_not_matter():
    rng = np.random.default_rng(1)
    truth = rng.integers(0, 2, (40, 2)).astype(float)
    truth[::3, 0] = np.nan
    score = rng.random((40, 2))
    other = np.where(np.isnan(truth), 1 - score, score)
    assert evaluate(truth, score, LABELS, None, True) == evaluate(truth, other, LABELS, None, True)


def test_one_class_is_none_with_its_reason_and_not_in_the_macro_average():
    truth = np.array([[0, 1], [0, 0], [0, 1]])
    score = np.array([[0.1, 0.9], [0.2, 0.3], [0.3, 0.8]])
    result = evaluate(truth, score, LABELS, None, multi_label=True)
    edema = result["labels"]["Edema"]
    assert edema["auroc"] is edema["ap"] is edema["f1"] is edema["recall"] is edema["precision"] is None
    assert "all 3 are negative" in result["undefined"]["Edema"]
    assert result["macro"]["auroc"] == 1.0
    assert result["macro"]["labels"] == 1
    json.dumps(result, allow_nan=False)


def test_a_precision_that_does_not_exist_is_left_out_of_the_mean_and_is_no_0():
    truth = np.array([[1, 1], [0, 0], [1, 0]])
    score = np.array([[0.9, 0.4], [0.2, 0.1], [0.3, 0.2]])
    result = evaluate(truth, score, LABELS, None, multi_label=True)
    assert result["labels"]["Fracture"]["precision"] is None
    assert result["macro"]["precision"] == 1.0
    assert result["macro"]["recall"] == pytest.approx(1 / 4)


def test_nothing_at_all_is_none_everywhere():
    for multi_label in (True, False):
        result = evaluate(np.empty((0, 2)), np.empty((0, 2)), LABELS, None, multi_label)
        assert result["macro"] == dict.fromkeys(("auroc", "ap", "f1", "precision", "recall", "accuracy")) | {
            "labels": 0
        }
        assert set(result["undefined"]) == {"Edema", "Fracture", "macro", "micro", "examples"}
        json.dumps(result, allow_nan=False)
    assert evaluate(np.empty((0, 2)), np.empty((0, 2)), LABELS, None, False)["accuracy"] is None


def test_by_examples_it_agrees_with_scikit_learn_on_the_rows_that_have_a_value():
    rng = np.random.default_rng(5)
    truth = rng.integers(0, 2, (80, 6)).astype(float)
    score = np.round(rng.random((80, 6)), 1)
    truth[:3], score[:2] = 0, 0
    both = (truth.any(axis=1)) & ~(truth.all(axis=1))
    positive = score >= 0.5
    computed = evaluate(truth, score, list("abcdef"), None, True)["examples"]
    assert computed["auroc"] == pytest.approx(roc_auc_score(truth[both], score[both], average="samples"))
    assert computed["ap"] == pytest.approx(average_precision_score(truth[both], score[both], average="samples"))
    for name, judge, rows in (
        ("f1", f1_score, truth.any(axis=1) | positive.any(axis=1)),
        ("precision", precision_score, positive.any(axis=1)),
        ("recall", recall_score, truth.any(axis=1)),
    ):
        assert computed[name] == pytest.approx(judge(truth[rows], positive[rows], average="samples", zero_division=0))
    assert computed["accuracy"] == pytest.approx((truth == positive).mean())
    assert computed["exact"] == pytest.approx((truth == positive).all(axis=1).mean())


def test_by_examples_a_masked_cell_is_as_if_the_label_were_missing():
    rng = np.random.default_rng(6)
    truth, score = rng.integers(0, 2, (30, 5)).astype(float), np.round(rng.random((30, 5)), 1)
    truth[:, 3] = np.nan
    names = list("abcde")
    whole = evaluate(truth, score, names, None, True)
    without = evaluate(truth[:, [0, 1, 2, 4]], score[:, [0, 1, 2, 4]], ["a", "b", "c", "e"], None, True)
    assert whole["examples"] == pytest.approx(without["examples"])


def test_by_examples_what_no_row_gives_is_none_with_its_reason():
    result = evaluate(np.zeros((3, 2)), np.full((3, 2), 0.1), LABELS, None, True)
    assert result["examples"]["f1"] is result["examples"]["auroc"] is None
    assert result["examples"]["exact"] == 1.0
    assert result["undefined"]["examples"] == "no row gives a value for auroc, ap, f1, precision, recall"


def test_single_label_takes_the_largest_probability():
    labels = ["a", "b", "c"]
    truth = np.eye(3)[[0, 1, 2, 2]]
    score = np.array([[0.4, 0.3, 0.3], [0.4, 0.35, 0.25], [0.1, 0.2, 0.7], [0.1, 0.2, 0.7]])
    result = evaluate(truth, score, labels, None, multi_label=False)
    assert result["accuracy"] == 0.75
    assert result["labels"]["a"]["recall"] == 1.0
    assert result["labels"]["b"]["recall"] == 0.0
    assert result["micro"]["f1"] == 0.75
    truth[0] = np.nan
    assert evaluate(truth, score, labels, None, multi_label=False)["accuracy"] == pytest.approx(2 / 3)


def test_a_score_that_is_no_number_is_refused_by_name():
    with pytest.raises(UsageError, match="row 1, 'Fracture'"):
        evaluate(np.zeros((2, 2)), np.array([[0, 0], [0, np.nan]]), LABELS, None, True)


def test_no_threshold_beats_the_chosen_one():
    rng = np.random.default_rng(2)
    truth = (rng.random((120, 3)) < [0.1, 0.5, 0.9]).astype(float)
    truth[rng.random(truth.shape) < 0.1] = np.nan
    score = np.clip(0.3 * np.nan_to_num(truth) + 0.7 * rng.random(truth.shape), 0, 1).round(2)
    for column, threshold in enumerate(best_thresholds(truth, score)):
        known = ~np.isnan(truth[:, column])
        y, s = truth[known, column], score[known, column]
        best = max(f1_score(y, s >= t) for t in np.linspace(0, 1, 101))
        assert f1_score(y, s >= threshold) == pytest.approx(best)


def test_among_equal_thresholds_the_one_nearest_to_a_half_is_chosen():
    truth = np.array([[0.0], [0.0], [1.0], [1.0]])
    assert best_thresholds(truth, np.array([[0.1], [0.2], [0.7], [0.9]])) == [0.5]
    assert best_thresholds(truth, np.array([[0.1], [0.4], [0.9], [0.9]])) == [0.5]
    assert best_thresholds(truth, np.array([[0.1], [0.2], [0.3], [0.4]])) == [0.25]
    assert best_thresholds(np.ones((3, 1)), np.array([[0.1], [0.2], [0.3]])) == [0.5]
    assert best_thresholds(np.full((3, 1), np.nan), np.zeros((3, 1))) == [0.5]
