"""Make texts wrong on purpose: a metric that does not punish them does not see what matters.

Negation flipped: each sentence that states a finding denies it, each that denies one states it. Sides swapped: left is
right. The words stay almost the same, so what counts words hardly notices.
"""

import re
from collections.abc import Callable, Sequence

from cxr_ft.score.metrics import _vocabulary as words
from cxr_ft.score.metrics import labeler

_SPLIT = re.compile(r"(?<=[.;?!])\s+")
_THERE_IS_NO = re.compile(r"\bthere (is|are|was|were) (?:no|not)\b ?(?:evidence of )?", re.IGNORECASE)
_COPULA = re.compile(r"\b(is|are|was|were) not\b", re.IGNORECASE)
_NOT_EXCLUDED = re.compile(r"\b(?:cannot|can not|could not) be (?:excluded|ruled out)\b", re.IGNORECASE)
_NO = re.compile(r"^(?P<number>\d+\s*\.\s*)?no (?:evidence of )?", re.IGNORECASE)
_OTHER = {"left": "right", "right": "left"}
_SIDE = re.compile(r"\b(?:left|right)\b", re.IGNORECASE)
#: Larger and normal, for heart and mediastinum.
_NORMAL, _ENLARGED = (re.compile(rf"\b(?:{pattern})\b", re.IGNORECASE) for pattern in (words.NORMAL, words.ENLARGED))


def flip_negation(text: str) -> str:
    """Return the text with every sentence that mentions a finding turned into its contrary; others stay as they are."""
    return " ".join(_flip(sentence) for sentence in _SPLIT.split(text))


def swap_sides(text: str) -> str:
    """Return the text with left and right exchanged."""

    def other(word: re.Match[str]) -> str:
        side = _OTHER[word.group().lower()]
        return side.upper() if word.group().isupper() else _as(word.group(), side)

    return _SIDE.sub(other, text)


PROBES: dict[str, Callable[[str], str]] = {"negation_flipped": flip_negation, "sides_swapped": swap_sides}


def changed(references: Sequence[str], probe: str) -> tuple[list[str], list[str]]:
    """Return the references that a probe of that name changes, and the texts it makes of them."""
    pairs = [(text, PROBES[probe](text)) for text in references]
    different = [(text, wrong) for text, wrong in pairs if text != wrong]
    return [text for text, _ in different], [wrong for _, wrong in different]


def _flip(sentence: str) -> str:
    mentions = [m for part in labeler.sentences(sentence) for m in labeler.mentions(part)]
    # A sentence without a finding has no contrary that a metric should punish.
    if not mentions:
        return sentence
    if any(m.value == labeler.NEGATIVE for m in mentions):
        return _stated(sentence)
    return _denied(sentence)


def _stated(sentence: str) -> str:
    """Return a sentence that denies as one that states."""
    for pattern, instead in ((_THERE_IS_NO, r"there \1 "), (_COPULA, r"\1"), (_NO, r"\g<number>")):
        plain = pattern.sub(instead, sentence, count=1)
        if plain != sentence:
            return _as(sentence, plain)
    if _NORMAL.search(sentence):
        return _NORMAL.sub("enlarged", sentence)
    # A denied list is joined by "or"; the stated one needs "and", else the labeler reads doubt.
    return re.sub(r"\bwithout\b", "with", re.sub(r"\bor\b", "and", sentence))


def _denied(sentence: str) -> str:
    """Return a sentence that states as one that denies."""
    denied = re.sub(r"\b(there (?:is|are)) (?:an? )?", r"\1 no ", sentence, count=1, flags=re.IGNORECASE)
    if denied != sentence:
        return denied
    excluded = _NOT_EXCLUDED.sub("is excluded", sentence)
    if excluded != sentence:
        return excluded
    # A numbered sentence keeps its number in front: "1. No ...".
    number, rest = re.match(r"(\d+\s*\.\s*)?(.*)", sentence, re.DOTALL).groups(default="")  # type: ignore[union-attr]
    plain = re.sub(r"^an? ", "", rest, flags=re.IGNORECASE)
    return f"{number}{_as(rest, 'no ')}{plain[:1].lower()}{plain[1:]}"


def _as(model: str, text: str) -> str:
    """Return `text` beginning with a capital where `model` does."""
    return text[:1].upper() + text[1:] if model[:1].isupper() else text
