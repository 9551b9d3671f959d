"""Judging text: sacrebleu and rouge-score as references, blank references, the constant baseline."""

import json

import numpy as np
import pytest
from rouge_score.rouge_scorer import RougeScorer
from sacrebleu.metrics import BLEU
from sklearn.metrics import f1_score

from cxr_ft.score.metrics import label_mentions
from cxr_ft.score.metrics.text_overlap import bleu, bleu_counts, constant_baseline, evaluate

TEXT = "there is no focal consolidation effusion or pneumothorax the heart size normal lungs are clear edema ."
WORDS = TEXT.split()


def reports(rng, n, longest=14):
    return [" ".join(rng.choice(WORDS, rng.integers(1, longest))) for _ in range(n)]


@pytest.mark.parametrize("longest", [3, 6, 14])
def test_it_agrees_with_the_two_libraries(longest):
    rng = np.random.default_rng(longest)
    references, generated = reports(rng, 30), reports(rng, 30, longest)
    generated[4] = ""
    result = evaluate(references, generated)
    for order in (1, 2, 3, 4):
        reference = BLEU(max_ngram_order=order).corpus_score(generated, [references]).score / 100
        assert result[f"bleu_{order}"] == pytest.approx(reference)
    scorer = RougeScorer(["rougeL"])
    each = [scorer.score(r, g)["rougeL"].fmeasure for r, g in zip(references, generated, strict=True)]
    assert result["rouge_l"] == pytest.approx(np.mean(each))
    assert result["distinct"] == len(set(generated)) / 30
    assert "tok:13a" in result["signature"]["bleu"]
    assert "rouge-score" in result["signature"]["rouge"]
    json.dumps(result, allow_nan=False)


def test_rouge_l_counts_a_word_in_another_form_as_another_word():
    """One word of two is the same in order: precision, recall and F are 1/2; with stemming they would be 1."""
    assert evaluate(["no effusions"], ["no effusion"])["rouge_l"] == pytest.approx(0.5)
    assert evaluate(["no effusion seen today"], ["no effusion"])["rouge_l"] == pytest.approx(2 / 3)


def test_bleu_of_resampled_rows_is_bleu_of_the_resampled_corpus():
    rng = np.random.default_rng(7)
    references, generated = reports(rng, 20), reports(rng, 20)
    draws = rng.integers(0, 20, (5, 20))
    weights = np.array([np.bincount(draw, minlength=20) for draw in draws])
    values = bleu(weights @ bleu_counts(references, generated))
    for draw, value in zip(draws, values, strict=True):
        corpus = BLEU().corpus_score([generated[i] for i in draw], [[references[i] for i in draw]])
        assert value == pytest.approx(corpus.score / 100)


def test_identical_and_disjoint_texts():
    texts = ["the heart size is normal .", "no effusion is seen today ."]
    same = evaluate(texts, texts)
    assert same["bleu_4"] == same["rouge_l"] == pytest.approx(1.0)
    assert same["exact"] == same["distinct"] == 1.0
    other = evaluate(texts, ["x y z", "x y z"])
    assert other["bleu_4"] == other["rouge_l"] == other["exact"] == 0.0
    assert other["distinct"] == 0.5


def test_blank_references_are_left_out_and_counted():
    some = evaluate(["no edema .", " "], ["no edema .", "anything"])
    assert (some["n"], some["blank_references"], some["exact"]) == (1, 1, 1.0)
    for nothing in (evaluate([""], ["a"]), evaluate([], [])):
        assert nothing["bleu_4"] is nothing["rouge_l"] is nothing["exact"] is None
        assert nothing["undefined"] == {"all": "no reference has any text"}


def test_the_baseline_is_the_best_train_text_whatever_the_row_order():
    train = (
        ["the heart size is normal and the lungs are clear ."] * 3 + ["edema ."] * 4 + ["there is a large effusion ."]
    )
    baseline = constant_baseline(train, ["the heart size is normal and the lungs are clear ."])
    assert (baseline["text"], baseline["label_text"]) == (train[0], None)
    assert (baseline["bleu_4"], baseline["rouge_l"]) == (pytest.approx(1.0), pytest.approx(1.0))
    assert constant_baseline(train[::-1], ["a b"])["text"] == train[0]
    assert not any(constant_baseline([" "], ["a"]).values())
    assert constant_baseline(train, [""])["bleu_4"] is None


def test_the_baseline_looks_at_train_alone():
    rng = np.random.default_rng(3)
    train = reports(rng, 80)
    assert constant_baseline(train, reports(rng, 5))["text"] == constant_baseline(train, ["edema ."])["text"]


def test_the_constant_of_labels_is_chosen_on_train_and_scored_on_the_references():
    train = ["There is edema."] * 3 + ["There is fracture."]
    baseline = constant_baseline(train, ["There is fracture."] * 5, LABELS)
    assert baseline["label_text"] == "There is edema."
    assert baseline["label_f1"] == 0


def test_case_and_spacing_do_not_count():
    """A model whose tokenizer drops case cannot write it back."""
    scores = evaluate(["The film shows an effusion."], ["the film shows an effusion ."])
    assert scores["exact"] == 1 and scores["bleu_4"] == 1
    assert "case:lc" in scores["signature"]["bleu"]


LABELS = ("Edema", "Lung Opacity", "Fracture")


def test_a_label_counts_as_stated_by_its_whole_name_without_negation_or_doubt():
    texts = [
        "There is edema. No lung opacity.",
        "Possible edema; there is  Lung\nOpacity",
        "Fractured rib. edematous",
        "",
    ]
    assert label_mentions.stated(texts, LABELS).tolist() == [
        [True, False, False],
        [False, True, False],
        [False, False, False],
        [False, False, False],
    ]


def test_label_f1_is_scikit_learns():
    rng = np.random.default_rng(3)
    truth, written = rng.random((40, 3)) < 0.4, rng.random((40, 3)) < 0.4
    truth[:, 2] = False

    def texts(stated):
        return ["heart. " + " ".join(f"There is {LABELS[i].lower()}." for i in np.flatnonzero(row)) for row in stated]

    result = evaluate(texts(truth), texts(written), LABELS)
    assert result["label_f1"] == pytest.approx(f1_score(truth[:, :2], written[:, :2], average="macro"))
    assert result["label_f1_micro"] == pytest.approx(f1_score(truth, written, average="micro"))
    assert set(result["label_f1_each"]) == {"Edema", "Lung Opacity"}


def test_the_baseline_of_label_f1_is_the_best_text_of_train_for_every_image():
    rng = np.random.default_rng(4)
    stated = rng.random((60, 3)) < [0.2, 0.5, 0.7]
    train = ["heart. " + " ".join(f"There is {LABELS[i].lower()}." for i in np.flatnonzero(row)) for row in stated]
    baseline = constant_baseline(train, train, LABELS)
    each = [evaluate(train, [text] * len(train), LABELS)["label_f1"] for text in train]
    assert baseline["label_f1"] == pytest.approx(max(each)) and baseline["label_f1"] > each[0]
    assert constant_baseline(["heart."], ["heart."], LABELS)["label_f1"] is None
