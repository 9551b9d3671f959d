"""Compute metrics of generated texts against one reference each, and those of the best constant text.

Scores are fractions in [0, 1], but for CIDEr-D, which reaches 10. BLEU is sacrebleu's, over the corpus (Papineni et al.
2002; Post 2018); ROUGE-L is rouge-score's F measure without stemming (Lin 2004). Words are those of `word_tokens`, in
any script. Case does not count: the tokenizers of GIT and BERT drop it. A pair whose reference is blank cannot be
scored: it is left out and counted.
"""

from collections import Counter
from collections.abc import Sequence
from functools import lru_cache, partial

import numpy as np

from cxr_ft.score.arrays import Floats, Metrics, Numbers, Values
from cxr_ft.score.metrics import cider, label_mentions, meteor, registry
from cxr_ft.score.metrics.registry import Metric, Place
from cxr_ft.score.metrics.word_tokens import TOKENIZER, letters, spaced

#: The longest n-gram of BLEU.
ORDER = 4
_CANDIDATES, _SAMPLE = 50, 200


def evaluate(references: Sequence[str], generated: Sequence[str], labels: Sequence[str] = ()) -> Metrics:
    """Compare texts with their references.

    Args:
        references: N texts.
        generated: N texts, in the same order.
        labels: names whose mentions in the texts are compared too; see `label_mentions`.

    Returns:
        JSON-ready: "bleu_1" to "bleu_4", "rouge_l", "meteor", "cider_d", "exact" (share of texts that are the same
        but for case and spacing), "distinct" (share of distinct generated texts), "label_f1" (mean over the labels that
        a reference states), "label_f1_micro" and "label_f1_each" of labels stated, "n" (pairs scored),
        "blank_references" (pairs left out), "signature", "undefined".

    Raises:
        ValueError: where the two differ in length.
    """
    # A blank reference is no reference (sacrebleu: a segment may be "" to have fewer references than others). Scored
    # all the same, its pair would add n-grams that cannot match, and words that hide the shortness of other texts.
    pairs = [(r, g) for r, g in zip(references, generated, strict=True) if r.strip()]
    result: Metrics = {known.name: None for known in registry.of_level("text", "corpus")}
    result |= _labels([], [], labels)
    result |= {"n": len(pairs), "blank_references": len(references) - len(pairs), "signature": _signature()}
    if not pairs:
        result["undefined"] = {"all": "no reference has any text"}
    else:
        right, written = [r for r, _ in pairs], [g for _, g in pairs]
        values, reasons = registry.text_values(right, written)
        result |= {"undefined": reasons, **values, **_labels(right, written, labels)}
    return result


def _bleu_family(references: Sequence[str], generated: Sequence[str]) -> Values:
    """Return BLEU-1 to BLEU-4 from one count of n-grams."""
    counts = bleu_counts(references, generated).sum(axis=0)
    return {f"bleu_{order}": float(bleu(counts, order)) for order in range(1, ORDER + 1)}


def rouge_l(references: Sequence[str], generated: Sequence[str]) -> float:
    """Return the mean ROUGE-L F measure of N > 0 pairs, in [0, 1]; each distinct pair is scored once."""
    return float(rouge_counts(references, generated)[:, 0].mean())


def rouge_counts(references: Sequence[str], generated: Sequence[str], labels: Sequence[str] = ()) -> Floats:
    """Return the ROUGE-L F measure of each pair, and 1, [N, 2]: the ratio of their sums is the mean."""
    from rouge_score.rouge_scorer import RougeScorer

    # rouge-score's own tokenizer drops every letter but a to z: equal Arabic texts would have 0.
    scorer = RougeScorer(["rougeL"], tokenizer=_Letters())
    # Models that learnt little repeat a few texts: scoring each pair once saves most of the time.
    pairs = list(zip(references, generated, strict=True))
    scored = {pair: float(scorer.score(*pair)["rougeL"].fmeasure) for pair in dict.fromkeys(pairs)}
    return np.array([(scored[pair], 1.0) for pair in pairs]).reshape(-1, 2)


class _Letters:
    """Split texts for rouge-score, which calls `tokenize` of an object."""

    tokenize = staticmethod(letters)


def _ratio(sums: Floats) -> Floats:
    """Return the mean [...] of sums and counts [..., 2]; NaN of nothing."""
    with np.errstate(invalid="ignore"):
        return np.asarray(sums[..., 0] / sums[..., 1])


def exact(references: Sequence[str], generated: Sequence[str]) -> float:
    """Return the share of N > 0 texts that equal their reference, but for case and spacing."""
    return sum(_plain(r) == _plain(g) for r, g in zip(references, generated, strict=True)) / len(references)


def distinct(references: Sequence[str], generated: Sequence[str]) -> float:
    """Return the share of distinct texts among N > 0 generated ones: 1 / N where all are the same."""
    return len(set(generated)) / len(generated)


def _labels(references: Sequence[str], generated: Sequence[str], labels: Sequence[str]) -> Metrics:
    truth, written = label_mentions.stated(references, labels), label_mentions.stated(generated, labels)
    each, micro = label_mentions.f1(truth, written)
    # A label that no reference states would pull the mean to 0 whatever the model writes.
    stated = np.asarray(truth.any(axis=0), dtype=bool)
    return {
        "label_f1": float(each[stated].mean()) if stated.any() else None,
        "label_f1_micro": micro if stated.any() else None,
        "label_f1_each": {label: float(each[i]) for i, label in enumerate(labels) if stated[i]},
    }


def _label_counts(references: Sequence[str], generated: Sequence[str], labels: Sequence[str]) -> Floats:
    """Return the counts of `label_mentions.mean_f1` of each pair."""
    return label_mentions.counts(label_mentions.stated(references, labels), label_mentions.stated(generated, labels))


def _plain(text: str) -> str:
    """Return a text without case, and without spaces, which tokenizers set as they like around signs."""
    return "".join(spaced(text).split())


#: The scores of `constant_baseline`, without the texts that were chosen.
BASELINE_SCORES = ("bleu_4", "rouge_l", "label_f1", "label_f1_micro")


def constant_baseline(
    train_references: Sequence[str], references: Sequence[str], labels: Sequence[str] = ()
) -> Metrics:
    """Return the best report that never looks at the image: what a model must beat.

    The text is chosen on train alone: of its 50 most frequent texts (among equally frequent ones those of the most
    usual length), the one of the highest BLEU-4 against at most 200 train references. It does not depend on row order.
    For the labels stated the baseline is another text: the one of train with the best macro F1 there.

    Returns:
        "text", and its "bleu_4" and "rouge_l" on `references`; "label_text" and its "label_f1" and "label_f1_micro";
        None where there is nothing to choose from or to compare with.
    """
    train = tuple(sorted(text for text in train_references if text.strip()))
    result: Metrics = dict.fromkeys(["text", "bleu_4", "rouge_l", "label_text", "label_f1", "label_f1_micro"])
    if not train:
        return result
    best = constant_text(train)
    not_blank = [text for text in references if text.strip()]
    result["text"] = best
    if not_blank:
        result["bleu_4"] = float(bleu(bleu_counts(not_blank, [best] * len(not_blank)).sum(axis=0)))
        result["rouge_l"] = rouge_l(not_blank, [best] * len(not_blank))
    stated = label_mentions.stated(train, labels)
    if stated.any():
        most = train[label_mentions.best_constant(stated)]
        f1 = _labels(not_blank, [most] * len(not_blank), labels)
        result |= {"label_text": most, "label_f1": f1["label_f1"], "label_f1_micro": f1["label_f1_micro"]}
    return result


# A text of train is chosen by 50 times 200 scores, and every split is compared with the same one.
@lru_cache(maxsize=2)
def constant_text(train: tuple[str, ...]) -> str:
    """Return the text of `constant_baseline`, of the sorted texts of train, at least one."""
    usual = float(np.median([len(text) for text in train]))
    frequency = Counter(train)
    # The last key is the text itself, so that ties do not depend on the order of the rows.
    candidates = sorted(frequency, key=lambda text: (-frequency[text], abs(len(text) - usual), text))[:_CANDIDATES]
    sample = evenly_spread(train, _SAMPLE)

    def quality(text: str) -> float:
        return float(bleu(bleu_counts(sample, [text] * len(sample)).sum(axis=0)))

    return max(candidates, key=quality)


def evenly_spread(texts: Sequence[str], most: int) -> list[str]:
    """Return at most `most` texts, evenly spread over N of them, first and last included."""
    # Of sorted texts the first ones would all begin alike.
    return [texts[i] for i in np.linspace(0, len(texts) - 1, min(most, len(texts))).round().astype(int)]


def bleu_counts(references: Sequence[str], generated: Sequence[str], labels: Sequence[str] = ()) -> Floats:
    """Return the counts BLEU needs of each pair, [N, 10].

    N-grams matched (4), generated (4), tokens generated, tokens of the reference.
    BLEU of any set of pairs follows from the sum of its rows, so that a bootstrap needs no second look at the text; the
    labels do not matter to it.
    """
    from sacrebleu.metrics import BLEU

    scorer = BLEU(max_ngram_order=ORDER, force=True, lowercase=True)
    # Generated texts repeat: each distinct pair is counted once.
    counted: dict[tuple[str, str], list[float]] = {}
    rows = np.zeros((len(references), 2 * ORDER + 2))
    for row, pair in enumerate(zip(references, generated, strict=True)):
        if pair not in counted:
            # A corpus of one pair: sacrebleu's `sentence_score` warns of the smoothing, of which nothing is used here.
            score = scorer.corpus_score([spaced(pair[1])], [[spaced(pair[0])]])
            counted[pair] = [*score.counts, *score.totals, score.sys_len, score.ref_len]
        rows[row] = counted[pair]
    return rows


def bleu(counts: Numbers, order: int = ORDER) -> Floats:
    """Return BLEU of summed counts [..., 10] -> [...] in [0, 1], as sacrebleu's with its exponential smoothing."""
    matched, total = counts[..., :order], counts[..., ORDER : ORDER + order]
    length, expected = counts[..., 2 * ORDER], counts[..., 2 * ORDER + 1]
    # Each order without a match halves the precision once more (smoothing "exp" of sacrebleu).
    halvings = np.cumsum(matched == 0, axis=-1)
    # Texts of fewer words than `order` have no n-gram to divide by; the last line gives them 0.
    with np.errstate(divide="ignore", invalid="ignore"):
        precision = np.where(matched == 0, 0.5**halvings, matched) / total
        brevity = np.where(length < expected, np.exp(1 - expected / length), 1.0)
        value = brevity * np.exp(np.log(precision).mean(axis=-1))
    return np.where((counts[..., 0] > 0) & (total > 0).all(axis=-1), value, 0.0)


def _weighted_bleu(truth: Floats, counts: Floats, weights: Numbers, order: int) -> Floats:
    """Return corpus BLEU [...] of the counts [N, 10] of each pair under weights [..., N]; they hold the truth, too."""
    return bleu(weights @ counts, order)


def _signature() -> dict[str, str]:
    from importlib.metadata import version

    from sacrebleu.metrics import BLEU

    scorer = BLEU(max_ngram_order=ORDER, lowercase=True)
    # The signature counts the references, which sacrebleu knows only after it has scored something.
    scorer.corpus_score(["a"], [["a"]])
    return {
        "bleu": f"{scorer.get_signature()}|before:{TOKENIZER.partition(',')[2]}",
        "rouge": f"rouge-score {version('rouge-score')} rougeL, no stemming, words of letters and digits of any script",
        "meteor": meteor.signature(),
        "cider_d": cider.signature(),
    }


#: Where BLEU of one and of four n-grams is shown; those of two and three are recorded alone.
_BLEU_SHOWN: dict[int, frozenset[Place]] = {
    1: frozenset(("csv", "card", "command", "baseline")),
    ORDER: frozenset(("table", "csv", "card", "command", "baseline")),
}

METRICS = (
    *(
        Metric(
            name=f"bleu_{order}",
            title=f"BLEU-{order}",
            output="text",
            description=f"BLEU over the corpus, n-grams up to {order} (Papineni et al. 2002).",
            function=_bleu_family,
            level="corpus",
            primary=order == ORDER,
            statistic=partial(_weighted_bleu, order=order),
            row_counts=bleu_counts,
            of_sums=partial(bleu, order=order),
            shown=_BLEU_SHOWN.get(order, frozenset()),
            position=10 * order,
            requires=("sacrebleu",),
        )
        for order in range(1, ORDER + 1)
    ),
    Metric(
        name="rouge_l",
        title="ROUGE-L",
        output="text",
        description="F measure of the longest common subsequence (Lin 2004).",
        function=rouge_l,
        level="corpus",
        row_counts=rouge_counts,
        of_sums=_ratio,
        shown=frozenset(("table", "csv", "card", "command", "baseline")),
        position=50,
        requires=("rouge-score",),
    ),
    Metric(
        name="exact",
        title="exact match",
        output="text",
        description="Share of texts that equal their reference, but for case and spacing.",
        function=exact,
        level="corpus",
        shown=frozenset(),
        position=80,
    ),
    Metric(
        name="label_f1",
        title="label F1",
        output="text",
        description="Macro F1 of the labels whose names the texts state.",
        level="recorded",
        paths=(("label_f1",),),
        row_counts=_label_counts,
        of_sums=label_mentions.mean_f1,
        shown=frozenset(("table", "csv", "card", "command")),
        position=85,
        table_position=48,
    ),
    Metric(
        name="distinct",
        title="distinct",
        output="text",
        description="Share of distinct texts among the generated ones.",
        no_interval="it falls with the number of texts, so that it is of these texts alone",
        function=distinct,
        level="corpus",
        shown=frozenset(("table", "csv", "command")),
        position=90,
    ),
)
