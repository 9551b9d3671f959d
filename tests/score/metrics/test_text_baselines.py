"""Baselines of text tasks: what counting words gives, without a choice of ours and without chance."""

import numpy as np
import pytest

from cxr_ft.score.metrics import classification, labeler, text_baselines

LABELS = ("a", "b", "c")


def simulated(rows, seed=0, classes=3):
    """Texts that hold a word of their class, among words that say nothing."""
    rng = np.random.default_rng(seed)
    which = rng.choice(classes, rows, p=[0.5, 0.3, 0.2][:classes] if classes == 3 else None)
    texts = [" ".join([f"sign{k}", *(f"w{i}" for i in rng.integers(0, 50, 6))]) for k in which]
    return texts, np.eye(classes)[which]


def test_majority_and_words():
    texts, truth = simulated(200)
    other, wanted = simulated(100, seed=1)
    baselines = text_baselines.fit(texts, truth, multi_label=False)
    result = text_baselines.evaluate(baselines, other, wanted, LABELS)
    assert set(result) == {"majority", "tfidf_logreg"}
    assert result["majority"]["accuracy"] == wanted[:, truth.sum(axis=0).argmax()].mean()
    assert result["majority"]["macro"]["auroc"] == 0.5
    assert result["tfidf_logreg"]["accuracy"] == 1.0 and result["tfidf_logreg"]["macro"]["auroc"] == 1.0
    scores = baselines.tfidf_logreg(other)
    assert scores.shape == (100, 3) and np.allclose(scores.sum(axis=1), 1)
    whole = classification.evaluate(wanted, scores, LABELS, None, False)
    assert result["tfidf_logreg"]["macro"] == whole["macro"]


def test_words_that_say_nothing_are_no_better_than_chance():
    rng = np.random.default_rng(0)
    texts = [" ".join(f"w{i}" for i in rng.integers(0, 30, 8)) for _ in range(600)]
    truth = np.eye(2)[rng.integers(0, 2, 600)]
    baselines = text_baselines.fit(texts[:300], truth[:300], multi_label=False)
    result = text_baselines.evaluate(baselines, texts[300:], truth[300:], ("x", "y"))
    assert 0.4 < result["tfidf_logreg"]["macro"]["auroc"] < 0.6


def test_the_same_twice_and_nothing_of_test_is_learnt():
    texts, truth = simulated(80)
    other, _ = simulated(30, seed=1)
    one, two = (text_baselines.fit(texts, truth, multi_label=False) for _ in range(2))
    np.testing.assert_array_equal(one.tfidf_logreg(other), two.tfidf_logreg(other))
    np.testing.assert_allclose(one.tfidf_logreg(other)[:5], one.tfidf_logreg(other[:5]))


def test_second_texts_have_columns_of_their_own():
    rng = np.random.default_rng(0)
    which = rng.integers(0, 2, 300)
    texts, pairs = ["yes no"] * 300, ["yes" if k else "no" for k in which]
    truth = np.eye(2)[which]
    baselines = text_baselines.fit(texts[:200], truth[:200], multi_label=False, pairs=pairs[:200])
    result = text_baselines.evaluate(baselines, texts[200:], truth[200:], ("n", "y"), pairs=pairs[200:])
    assert result["tfidf_logreg"]["accuracy"] == 1.0


def test_several_labels_masks_and_labels_of_one_class():
    texts, hot = simulated(200)
    truth = np.column_stack([hot[:, 0], hot[:, 1], np.zeros(200), np.full(200, np.nan)])
    truth[::7, 0] = np.nan
    baselines = text_baselines.fit(texts, truth, multi_label=True)
    scores = baselines.tfidf_logreg(texts)
    assert set(scores[:, 2]) == {0.0} and set(scores[:, 3]) == {0.5}
    result = text_baselines.evaluate(baselines, texts, truth, ("p", "q", "never", "unknown"))
    assert result["tfidf_logreg"]["macro"]["labels"] == 2 and result["tfidf_logreg"]["macro"]["auroc"] == 1.0
    assert {"never", "unknown"} <= set(result["tfidf_logreg"]["undefined"]) and "accuracy" not in result["majority"]
    levels = text_baselines.thresholds(baselines, texts, truth)
    chosen = text_baselines.evaluate(baselines, texts, truth, ("p", "q", "never", "unknown"), chosen=levels)
    assert chosen["majority"]["macro"]["f1"] >= result["majority"]["macro"]["f1"]


def test_the_thresholds_that_are_given_are_used_and_the_majority_keeps_its_answer():
    """A fifth has the label: the most frequent answer is no to all; at a threshold below a fifth it is yes to all."""
    texts, truth = ["w"] * 50, np.repeat([1.0, 0.0], [10, 40])[:, None]
    baselines = text_baselines.fit(texts, truth, multi_label=True)
    chosen = text_baselines.thresholds(baselines, texts, truth)
    assert chosen["majority"] == [0.5]
    result = text_baselines.evaluate(baselines, texts, truth, ("p",), chosen=chosen)
    assert result["majority"]["macro"]["f1"] == 0
    low = text_baselines.evaluate(baselines, texts, truth, ("p",), chosen={**chosen, "majority": [0.1]})
    assert low["majority"]["macro"]["f1"] == pytest.approx(2 * 10 / (10 + 50))


@pytest.mark.parametrize("texts", [["", " "], ["!!", "?"], ["日本", "中国"], ["a", "b"]])
def test_texts_of_any_kind_have_baselines(texts):
    baselines = text_baselines.fit(texts * 5, np.eye(2)[[0, 1] * 5], multi_label=False)
    result = text_baselines.evaluate(baselines, texts, np.eye(2), ("x", "y"))
    assert result["tfidf_logreg"]["accuracy"] == (0.5 if not texts[0] else 1.0)


def test_one_class_in_train_is_a_constant():
    baselines = text_baselines.fit(["one", "two"], np.array([[1.0, 0.0]] * 2), multi_label=False)
    np.testing.assert_array_equal(baselines.tfidf_logreg(["three"]), [[1.0, 0.0]])


def test_the_rules_are_a_baseline_for_the_labels_they_know():
    texts = ["There is a small left pleural effusion.", "No pneumothorax.", "Possible pneumonia.", ""]
    names = ("Pneumonia", "Pleural Effusion")
    ruled = text_baselines.by_rules(texts, names)
    np.testing.assert_array_equal(ruled, labeler.table(texts)[:, [labeler.LABELS.index(name) for name in names]])
    np.testing.assert_array_equal(text_baselines.ruled_scores(ruled), [[0, 1], [0, 0], [0.5, 0], [0, 0]])
    assert text_baselines.by_rules(texts, ("normal",)) is None
    truth = np.array([[0, 1], [0, 0], [1, 0], [0, 0]], float)
    baselines = text_baselines.fit(texts, truth, multi_label=True)
    result = text_baselines.evaluate(baselines, texts, truth, names, ruled=ruled)
    assert result["rule_labeler"]["macro"]["auroc"] == 1.0


def test_lengths_that_differ_are_refused():
    with pytest.raises(ValueError, match="do not fit"):
        text_baselines.fit(["a"], np.zeros((2, 2)), multi_label=False)
    with pytest.raises(ValueError, match="do not fit"):
        text_baselines.fit([], np.zeros((0, 2)), multi_label=False)
