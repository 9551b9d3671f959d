"""Texts in any script: what is equal scores as equal, what differs less; ASCII texts as published tools score them."""

import unicodedata

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rouge_score.rouge_scorer import RougeScorer
from sacrebleu.metrics import BLEU

from cxr_ft.score.metrics import label_mentions, labeler, text_overlap, word_tokens

#: A report, and the same with another finding.
REPORTS = {
    "arabic": ("لا يوجد انصباب جنبي، القلب طبيعي الحجم.", "لا يوجد استرواح صدر، القلب طبيعي الحجم."),
    "russian": ("Плеврального выпота нет, сердце не увеличено.", "Пневмоторакса нет, сердце не увеличено."),
    "chinese": ("双肺纹理清晰，未见胸腔积液。心影不大。", "双肺纹理清晰，未见气胸。心影不大。"),
    "japanese": ("両肺野に異常陰影を認めない。心拡大なし。", "両肺野に浸潤影を認める。心拡大なし。"),
    "korean": ("양측 폐에 흉수가 없으며 심장 크기는 정상이다.", "양측 폐에 기흉이 없으며 심장 크기는 정상이다."),
    "hindi": ("फुफ्फुस में कोई बहाव नहीं है। हृदय सामान्य है।", "फुफ्फुस में कोई संक्रमण नहीं है। हृदय सामान्य है।"),
    "thai": ("ไม่พบน้ำในช่องเยื่อหุ้มปอด หัวใจขนาดปกติ", "ไม่พบลมในช่องเยื่อหุ้มปอด หัวใจขนาดปกติ"),
    "greek": ("Δεν υπάρχει πλευριτική συλλογή, καρδιά φυσιολογική.", "Δεν υπάρχει πνευμοθώρακας, καρδιά φυσιολογική."),
    "french": ("Pas d'épanchement pleural, cœur de taille normale.", "Pas d'opacité évidente, cœur de taille normale."),
    "vietnamese": ("Không thấy tràn dịch màng phổi, tim bình thường.", "Không thấy đông đặc phổi, tim bình thường."),
}  # fmt: skip
METRICS = ("bleu_1", "bleu_4", "rouge_l", "meteor")


@pytest.mark.parametrize("report", REPORTS)
def test_equal_texts_are_equal_and_others_are_between(report):
    right, other = REPORTS[report]
    same = text_overlap.evaluate([right], [unicodedata.normalize("NFD", right)])
    assert same["bleu_4"] == same["rouge_l"] == same["exact"] == pytest.approx(1.0)
    # METEOR's penalty for one chunk, 0.5 / words ** 3.
    assert same["meteor"] > 0.99
    near = text_overlap.evaluate([right], [other])
    assert all(0.2 < near[name] < 0.99 for name in METRICS), near
    assert near["exact"] == 0


def test_scripts_without_spaces_are_scored_by_character():
    assert word_tokens.words("心影不大。") == ("心", "影", "不", "大", "。")
    assert word_tokens.letters("CT: 心影 5cm。") == ["ct", "心", "影", "5cm"]
    assert word_tokens.letters("हृदय सामान्य।") == ["हृदय", "सामान्य"]


#: Not \x1c to \x1f, at which Python's lines end: sacrebleu takes a text for one line.
ASCII = st.text(st.characters(min_codepoint=32, max_codepoint=126), min_size=1, max_size=60).filter(str.strip)


@settings(max_examples=60, deadline=None)
@given(ASCII, ASCII)
def test_ascii_is_scored_as_rouge_score_and_sacrebleu_do(reference, written):
    rouge = RougeScorer(["rougeL"]).score(reference, written)["rougeL"].fmeasure
    assert text_overlap.rouge_l([reference], [written]) == pytest.approx(rouge, abs=1e-12)
    score = BLEU(max_ngram_order=4, lowercase=True, force=True).corpus_score([written], [[reference]])
    counts = text_overlap.bleu_counts([reference], [written])[0]
    assert counts.tolist() == [*score.counts, *score.totals, score.sys_len, score.ref_len]


@pytest.mark.parametrize(
    ("label", "text", "stated"),
    [
        ("肺炎", "右肺炎。心影不大。", True),
        ("Œdème", "œdème interstitiel.", True),
        ("Пневмония", "пневмония справа", True),
        ("Пневмония", "бронхопневмония справа", False),
        ("Mass (any)", "a mass (any) is seen", True),
        ("Edema", "no edema。 effusion", False),
    ],
)
def test_labels_of_any_script_are_found_as_whole_words(label, text, stated):
    assert label_mentions.stated([text], [label]).tolist() == [[stated]]


def test_the_labeler_says_nothing_of_what_it_cannot_read():
    """Silence on a report in another script is no sign of health."""
    assert labeler.label(REPORTS["chinese"][0]) == labeler.label(REPORTS["russian"][0]) == {}
    assert labeler.label("The lungs are clear.") == {"No Finding": 1}
    # A full stop of another script ends a sentence, and what is denied in it.
    assert labeler.label("No pneumothorax。Pleural effusion。") == {"Pneumothorax": 0, "Pleural Effusion": 1}
