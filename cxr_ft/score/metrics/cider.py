"""CIDEr-D (Vedantam, Zitnick and Parikh 2015) with one reference each.

n-grams of 1 to 4 words weighted by how rare they are among the references; clipped counts; a Gaussian penalty of
the difference in length (sigma 6); scaled by 10, as the common implementation does. It needs references that differ: an
n-gram that all of them hold weighs nothing.
"""

import math
from collections import Counter
from collections.abc import Sequence

import numpy as np

from cxr_ft.score.metrics.registry import Metric
from cxr_ft.score.metrics.word_tokens import CASE, TOKENIZER, words

ORDER, SIGMA, SCALE = 4, 6.0, 10.0

_Gram = tuple[str, ...]
_Vectors = list[dict[_Gram, float]]


def cider_d(references: Sequence[str], generated: Sequence[str]) -> list[float] | None:
    """Return CIDEr-D of each pair [N], from 0 to 10; the corpus has their mean.

    None where no n-gram of the references weighs anything: one pair only, or all references alike.

    Raises:
        ValueError: where the two differ in length.
    """
    expected, written = ([_counts(words(text)) for text in texts] for texts in (references, generated))
    # In how many references an n-gram is; how often one reference repeats it does not matter.
    frequency = Counter(gram for counts in expected for gram in counts)
    rarity = {gram: math.log(len(expected) / times) for gram, times in frequency.items()}
    if not any(rarity.values()):
        return None
    # As rare as an n-gram that one reference alone has: the reference implementation counts at least 1.
    unseen = math.log(len(expected))
    # Models that learnt little repeat a few texts: each distinct pair is scored once.
    scored: dict[tuple[str, str], float] = {}
    pairs = list(zip(references, generated, strict=True))
    for pair, reference, text in zip(pairs, expected, written, strict=True):
        if pair not in scored:
            scored[pair] = _similarity(_weighted(reference, rarity, unseen), _weighted(text, rarity, unseen))
    return [scored[pair] for pair in pairs]


def signature() -> str:
    """Return the settings and versions that the value depends on."""
    return (
        f"CIDEr-D|n:1-{ORDER}|sigma:{SIGMA:g}|scale:{SCALE:g}|frequencies:references judged|refs:1|case:{CASE}|"
        f"tok:{TOKENIZER}|mean over pairs"
    )


def _counts(tokens: Sequence[str]) -> Counter[_Gram]:
    return Counter(tuple(tokens[i : i + n]) for n in range(1, ORDER + 1) for i in range(len(tokens) - n + 1))


def _weighted(counts: Counter[_Gram], rarity: dict[_Gram, float], unseen: float) -> tuple[_Vectors, int]:
    """Return the weights of the n-grams of each order, and the number of words."""
    vectors: _Vectors = [{} for _ in range(ORDER)]
    for gram, times in counts.items():
        vectors[len(gram) - 1][gram] = times * rarity.get(gram, unseen)
    # Each word is one n-gram of length 1, so these counts add up to the length.
    return vectors, sum(times for gram, times in counts.items() if len(gram) == 1)


def _similarity(reference: tuple[_Vectors, int], text: tuple[_Vectors, int]) -> float:
    (expected, expected_length), (written, written_length) = reference, text
    penalty = math.exp(-((written_length - expected_length) ** 2) / (2 * SIGMA**2))
    total = 0.0
    for a, b in zip(expected, written, strict=True):
        # The norms are of whole vectors: clipping shortens the product alone, so that repetition lowers the cosine.
        norms = math.sqrt(sum(v * v for v in a.values()) * sum(v * v for v in b.values()))
        # Clipped: what a text repeats more often than the reference earns nothing.
        shared = sum(min(value, a[gram]) * a[gram] for gram, value in b.items() if gram in a)
        total += shared / norms if norms else 0.0
    return SCALE * penalty * total / ORDER


def corpus_cider_d(references: Sequence[str], generated: Sequence[str]) -> float | None:
    """Return the mean CIDEr-D of N pairs, from 0 to 10; None where the references do not differ."""
    values = cider_d(references, generated)
    return None if values is None else float(np.mean(values))


METRIC = Metric(
    name="cider_d",
    title="CIDEr-D",
    output="text",
    description="Consensus of n-grams, weighted by how rare they are (Vedantam, Zitnick and Parikh 2015).",
    function=corpus_cider_d,
    level="corpus",
    undefined="the references do not differ, so that no n-gram of theirs has a weight",
    shown=frozenset(("baseline",)),
    position=70,
    high=SCALE,
)
