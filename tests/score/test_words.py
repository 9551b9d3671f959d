"""METEOR and CIDEr-D: the reference implementations, cases by hand, what is undefined."""

import itertools
import math

import numpy as np
import pytest
from nltk.stem.porter import PorterStemmer
from nltk.translate.meteor_score import _enum_stem_match, _match_enums

from cxr_ft.score.metrics import text
from cxr_ft.score.metrics.cider import cider_d
from cxr_ft.score.metrics.meteor import meteor
from cxr_ft.score.metrics.words import words

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


def test_words_are_lower_case_with_signs_apart():
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
        said, wanted = list(enumerate(hypothesis.split())), list(enumerate(reference.split()))
        exact, rest, left = _match_enums(said, wanted)
        stem, _, _ = _enum_stem_match(rest, left, PorterStemmer())
        matched = sorted(exact + stem)
        if not matched:
            assert value == 0
            continue
        chunks = 1 + sum((b[0] - a[0], b[1] - a[1]) != (1, 1) for a, b in itertools.pairwise(matched))
        p, r = len(matched) / len(said), len(matched) / len(wanted)
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
    judged = text.evaluate(["no edema ."], ["no edema ."])
    assert judged["cider_d"] is None and "do not differ" in judged["undefined"]["cider_d"]


def test_cider_d_is_pycocoevalcaps():
    scorer = pytest.importorskip("pycocoevalcap.cider.cider", reason="pycocoevalcap is not installed").Cider()
    rng = np.random.default_rng(1)
    references, generated = reports(rng, 80), reports(rng, 80)
    mean, each = scorer.compute_score(
        {i: [r] for i, r in enumerate(references)}, {i: [g] for i, g in enumerate(generated)}
    )
    assert cider_d(references, generated) == pytest.approx(each.tolist(), abs=1e-12)
    judged = text.evaluate([r or "x" for r in references], generated)
    assert judged["cider_d"] == pytest.approx(np.mean(cider_d([r or "x" for r in references], generated)))
    assert 0 < mean < 10


def test_signatures_name_what_the_values_depend_on():
    signature = text.evaluate(["a b"], ["a b"])["signature"]
    assert "stages:exact,porter" in signature["meteor"] and "tok:13a" in signature["meteor"]
    assert "sigma:6" in signature["cider_d"] and "case:lc" in signature["cider_d"]
