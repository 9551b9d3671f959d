"""METEOR and CIDEr-D: values of the reference implementations, cases by hand, what is undefined."""

import itertools
import math
from collections import Counter

import numpy as np
import pytest
from nltk.stem.porter import PorterStemmer
from nltk.translate.meteor_score import _enum_stem_match, _match_enums

from cxr_ft.score.metrics import text_overlap
from cxr_ft.score.metrics.cider import cider_d
from cxr_ft.score.metrics.meteor import meteor
from cxr_ft.score.metrics.word_tokens import words

WORDS = [
    "there",
    "is",
    "no",
    "focal",
    "consolidation",
    "effusion",
    "effusions",
    "or",
    "pneumothorax",
    "the",
    "heart",
    "enlarged",
    "enlargement",
    "clear",
]


def reports(rng, n, longest=14):
    return [" ".join(rng.choice(WORDS, rng.integers(0, longest))) for _ in range(n)]


def test_words_are_lower_case_and_signs_are_words():
    assert words("The heart is NORMAL, 1.5 cm.") == ("the", "heart", "is", "normal", ",", "1.5", "cm", ".")
    assert words(" \n") == ()


def test_meteor_by_hand():
    # All 4 words match in one chunk: F = 1, penalty 0.5 * (1 / 4) ** 3.
    assert meteor(["no pleural effusion seen"], ["no pleural effusion seen"]) == [pytest.approx(1 - 0.5 / 64)]
    # "effusions" matches by its stem: precision 1, recall 2 / 4, one chunk of two.
    fmean = (1 * 0.5) / (0.9 * 1 + 0.1 * 0.5)
    assert meteor(["no effusion is seen"], ["no effusions"]) == [pytest.approx(fmean * (1 - 0.5 / 8))]
    assert meteor(["a b"], ["c d"]) == meteor(["a b"], [""]) == meteor([""], ["a"]) == [0.0]


def test_meteor_is_the_formula_on_the_alignment_of_nltk():
    rng = np.random.default_rng(0)
    pairs = list(zip(reports(rng, 60), reports(rng, 60), strict=True))
    for (reference, hypothesis), value in zip(pairs, meteor(*map(list, zip(*pairs, strict=True))), strict=True):
        written, wanted = list(enumerate(hypothesis.split())), list(enumerate(reference.split()))
        exact, rest, left = _match_enums(written, wanted)
        stem, _, _ = _enum_stem_match(rest, left, PorterStemmer())
        matched = sorted(exact + stem)
        if not matched:
            assert value == 0
            continue
        chunks = 1 + sum((b[0] - a[0], b[1] - a[1]) != (1, 1) for a, b in itertools.pairwise(matched))
        p, r = len(matched) / len(written), len(matched) / len(wanted)
        assert value == pytest.approx(p * r / (0.9 * p + 0.1 * r) * (1 - 0.5 * (chunks / len(matched)) ** 3))


def test_cider_d_by_hand():
    """Two references without a word in common: every n-gram weighs log 2, so that cosines are of counts."""
    assert cider_d(["a b c d", "e f g h"], ["a b c d", "e f x y"]) == [
        pytest.approx(10.0),
        pytest.approx(10 * (2 / 4 + 1 / 3 + 0 + 0) / 4),
    ]
    # Half as long: 1-grams 2 / sqrt(2 * 4), 2-grams 1 / sqrt(1 * 3), and a penalty for two words less.
    short = cider_d(["a b c d", "e f g h"], ["a b", "e f g h"])
    assert short[0] == pytest.approx(10 * math.exp(-4 / 72) * (2 / math.sqrt(8) + 1 / math.sqrt(3)) / 4)


def test_repeating_a_word_earns_nothing():
    once, often = cider_d(["edema", "fracture"], ["edema", "x"]), cider_d(["edema", "fracture"], ["edema " * 4, "x"])
    assert often[0] < once[0]


def test_cider_d_has_no_value_where_references_do_not_differ():
    assert cider_d(["no edema"], ["no edema"]) is cider_d(["no edema"] * 3, ["a", "b", "c"]) is cider_d([], []) is None
    result = text_overlap.evaluate(["no edema ."], ["no edema ."])
    assert result["cider_d"] is None and "do not differ" in result["undefined"]["cider_d"]


#: Pairs of reference and generated text. In the second the text repeats words that its reference holds once (clipping),
#: in the third and the last the lengths differ by 14 and 13 words (penalty), n-grams of 1 to 4 words are shared by one,
#: two, three or no references (weights), and the first and the fourth share runs of four words and more.
JUDGED = (
    (
        "there is no focal consolidation pleural effusion or pneumothorax",
        "there is no pleural effusion or pneumothorax",
    ),
    (
        "the heart is enlarged and there is a small left pleural effusion",
        "pleural effusion pleural effusion pleural effusion small small left pleural effusion",
    ),
    ("no pneumothorax", "no pneumothorax no edema and the heart is normal in size with clear lungs and no effusion"),
    ("the lungs are clear and the heart is normal in size", "the lungs are clear and the heart is enlarged"),
    ("there is mild pulmonary edema with small bilateral effusions and a small left pneumothorax", "edema"),
)
#: What pycocoevalcap 1.2 (Cider().compute_score, one reference each) says of JUDGED.
CIDER_D = (4.91131764763791, 1.6582062728814648, 0.04989337076829098, 6.885514065176659, 0.08315742133669915)


def test_cider_d_has_the_values_of_pycocoevalcap():
    references, generated = zip(*JUDGED, strict=True)
    assert cider_d(references, generated) == pytest.approx(CIDER_D, rel=1e-9)
    assert text_overlap.evaluate(references, generated)["cider_d"] == pytest.approx(2.717617755560205, rel=1e-9)


def test_cider_d_follows_its_formula_on_random_texts():
    """A second way to the same number, by numpy: vectors over all n-grams of one length, and their clipped products."""
    rng = np.random.default_rng(1)
    references, generated = reports(rng, 30), reports(rng, 30)

    def counts(text, n):
        tokens = text.split()
        return Counter(tuple(tokens[i : i + n]) for i in range(len(tokens) - n + 1))

    expected = np.zeros(len(references))
    for n in (1, 2, 3, 4):
        reference_counts, generated_counts = ([counts(text, n) for text in texts] for texts in (references, generated))
        grams = sorted(set().union(*reference_counts, *generated_counts))
        frequency = np.array([sum(gram in count for count in reference_counts) for gram in grams])
        weights = np.log(len(references) / np.maximum(frequency, 1))
        counted = (reference_counts, generated_counts)
        table, written = (np.array([[c[g] for g in grams] for c in each]) * weights for each in counted)
        norms = np.linalg.norm(table, axis=1) * np.linalg.norm(written, axis=1)
        shared = (np.minimum(table, written) * table).sum(axis=1)
        expected += np.divide(shared, norms, out=np.zeros(len(norms)), where=norms > 0)
    lengths = np.array([[len(text.split()) for text in texts] for texts in (references, generated)])
    expected *= 10 / 4 * np.exp(-((lengths[0] - lengths[1]) ** 2) / 72)
    assert cider_d(references, generated) == pytest.approx(expected, abs=1e-9)
    assert expected.max() > 0.5


def test_signatures_name_what_the_values_depend_on():
    signature = text_overlap.evaluate(["a b"], ["a b"])["signature"]
    assert "stages:exact,porter" in signature["meteor"] and "tok:13a" in signature["meteor"]
    assert "sigma:6" in signature["cider_d"] and "case:lc" in signature["cider_d"]
