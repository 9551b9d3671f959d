"""METEOR with its exact and its stem stage, without WordNet, downloads or Java.

Alignment, penalty and constants are nltk's (Lavie and Agarwal 2007: alpha 0.9, beta 3, gamma 0.5; Banerjee and Lavie
2005), with Porter's stemmer as nltk extends it. The Java program (METEOR 1.5, Denkowski and Lavie 2014) weighs function
words, knows synonyms and paraphrases and has other constants: its values are not comparable with these.
"""

from collections.abc import Sequence
from functools import cache
from typing import Protocol

import numpy as np

from cxr_ft.score.metrics.registry import Metric
from cxr_ft.score.metrics.word_tokens import CASE, TOKENIZER, words


def meteor(references: Sequence[str], generated: Sequence[str]) -> list[float]:
    """Return METEOR of each pair [N], in [0, 1]; 0 where no word matches. The corpus has their mean.

    Raises:
        ValueError: where the two differ in length.
    """
    # nltk is imported where it is used, so that no `--help` waits for it.
    from nltk.translate.meteor_score import single_meteor_score  # type: ignore[import-untyped]

    # Reports repeat each other, and the alignment of a pair is slow: each pair is scored once.
    stemmer, scored = _Stemmer(), dict[tuple[str, str], float]()
    for pair in zip(references, generated, strict=True):
        if pair not in scored:
            reference, hypothesis = words(pair[0]), words(pair[1])
            # The words are in lower case already; nltk's own preprocessing would lower each of them again.
            scored[pair] = float(
                single_meteor_score(reference, hypothesis, stemmer=stemmer, wordnet=_NoSynonyms(), preprocess=str)
            )
    return [scored[pair] for pair in zip(references, generated, strict=True)]


def signature() -> str:
    """Return the settings and versions that the value depends on."""
    from importlib.metadata import version

    return (
        f"nltk {version('nltk')} METEOR|alpha:0.9|beta:3|gamma:0.5|stages:exact,porter|synonyms:no|paraphrases:no|"
        f"case:{CASE}|tok:{TOKENIZER}|mean over pairs"
    )


class _WordStemmer(Protocol):
    """A stemmer of nltk, which has no types."""

    def stem(self, word: str) -> str:
        """Return the stem of a word."""


@cache
def _stem(word: str) -> str:
    return _porter().stem(word)


@cache
def _porter() -> _WordStemmer:
    from nltk.stem.porter import PorterStemmer  # type: ignore[import-untyped]

    stemmer: _WordStemmer = PorterStemmer()
    return stemmer


class _Stemmer:
    """Porter's, with a memory: reports repeat their words."""

    stem = staticmethod(_stem)


class _NoSynonyms:
    """Take the place of WordNet, which nltk would download: no word has a synonym."""

    def synsets(self, word: str) -> tuple[()]:
        """Return no synonyms."""
        return ()


def corpus_meteor(references: Sequence[str], generated: Sequence[str]) -> float:
    """Return the mean METEOR of N > 0 pairs, in [0, 1]."""
    values = meteor(references, generated)
    return float(np.mean(values))


METRIC = Metric(
    name="meteor",
    title="METEOR (nltk variant)",
    output="text",
    description="METEOR with exact and stem matches alone (Lavie and Agarwal 2007): not the values of METEOR 1.5.",
    function=corpus_meteor,
    level="corpus",
    shown=frozenset(("baseline",)),
    position=60,
    requires=("nltk",),
)
