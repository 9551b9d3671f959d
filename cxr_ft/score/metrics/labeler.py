"""Read the 14 CheXpert labels off a report by rules: mention, then negation, doubt or neither.

The task is that of the CheXpert labeler (Irvin et al. 2019) in the manner of NegEx (Chapman et al. 2001); the rules and
words are our own, so its labels are not those of any published labeler. `tools/labeler_error.py` measures its errors.
Pass it findings and impression, not the indication: its questions are not meant as findings.
"""

import itertools
import re
import unicodedata
from collections.abc import Iterator, Sequence
from functools import lru_cache
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from cxr_ft.score.metrics import _vocabulary as words

#: The labels, in CheXpert's order.
LABELS = (
    "No Finding", "Enlarged Cardiomediastinum", "Cardiomegaly", "Lung Opacity", "Lung Lesion", "Edema", "Consolidation",
    "Pneumonia", "Atelectasis", "Pneumothorax", "Pleural Effusion", "Pleural Other", "Fracture", "Support Devices",
)  # fmt: skip
NO_FINDING, LESION, DEVICES = LABELS[0], LABELS[4], LABELS[-1]
POSITIVE, NEGATIVE, UNCERTAIN = 1, 0, -1
#: Of several mentions the strongest counts.
_STRENGTH = {NEGATIVE: 0, UNCERTAIN: 1, POSITIVE: 2}

_NOT = re.compile(r"\bnot(?: \w+ly)? $")
# A full stop ends a sentence only before a space, so that "1.5 cm" goes on; an empty line ends one without a full stop,
# as after a heading.
_ENDS = re.compile(r"\.(?=\s|$)|(?<=[?!])\s|[。！？؟۔।]|\n\s*\n")
_LATIN = re.compile(r"[a-zA-Z]")
_ABBREVIATED = re.compile(r"\b(vs|dr|e\.g|i\.e|approx)\.")


class Mention(NamedTuple):
    """A finding that a sentence speaks of: its label, 1, 0 or -1, and where its words begin and end."""

    label: str
    value: int
    start: int
    end: int


def label(text: str) -> dict[str, int]:
    """Return the labels a report mentions: 1 stated, 0 denied, -1 in doubt. Labels it does not mention are left out.

    "No Finding" is 1 where no other label but devices is 1 or -1, as in CheXpert; a blank text, and one without a
    Latin letter, has no label.
    """
    values: dict[str, int] = {}
    for sentence in sentences(text):
        for mention in mentions(sentence):
            # A finding denied in one sentence and stated in another is stated.
            before = values.get(mention.label, NEGATIVE)
            values[mention.label] = max(before, mention.value, key=_STRENGTH.__getitem__)
    # Of a report in another script nothing is read, and its silence says nothing.
    if _LATIN.search(text) and not any(value for name, value in values.items() if name != DEVICES):
        values[NO_FINDING] = POSITIVE
    # In the order of LABELS, so that equal reports give equal records whatever order they mention findings in.
    return {name: values[name] for name in LABELS if name in values}


def table(texts: Sequence[str]) -> NDArray[np.float64]:
    """Return the labels of N reports, [N, 14] in the order of LABELS: 1, 0, -1, NaN where not mentioned."""
    # Generated reports repeat each other: each distinct one is read once.
    rows: dict[str, list[float]] = {}
    for text in texts:
        if text not in rows:
            values = label(text)
            rows[text] = [values.get(name, np.nan) for name in LABELS]
    return np.array([rows[text] for text in texts], dtype=np.float64).reshape(len(texts), len(LABELS))


def sentences(text: str) -> list[str]:
    """Return the sentences of a text in lower case with single spaces, without their full stops."""
    # The full stop of an abbreviation would end the sentence, and with it the reach of a negation.
    plain = _ABBREVIATED.sub(r"\1", unicodedata.normalize("NFC", text.lower()))
    return [" ".join(part.split()) for part in _ENDS.split(plain) if part.strip()]


# Sentences repeat between reports far more often than whole reports do.
@lru_cache(maxsize=1 << 16)
def mentions(sentence: str) -> tuple[Mention, ...]:
    """Return the findings a sentence (lower case, single spaces) mentions, in its order."""
    # Sorted by place before `_either`, which looks at neighbours.
    unordered = [*_findings(sentence), *_structures(sentence)]
    ordered = _either(sorted(unordered, key=lambda mention: mention.start), sentence)
    if any(mention.label == LESION and mention.value == UNCERTAIN for mention in ordered):
        # "A nodular opacity may represent a nodule": what only looks like one is in doubt with it.
        ordered = [m._replace(value=UNCERTAIN) if (m.label, m.value) == (LESION, POSITIVE) else m for m in ordered]
    return tuple(ordered)


def clause(sentence: str, start: int, end: int) -> tuple[int, int]:
    """Return the ends of the clause around `start` to `end` within which denial and doubt reach."""
    # Denial and doubt end where a new clause begins: what one clause denies another can state.
    breaks = list(words.BREAK.finditer(sentence))
    first = max((b.end() for b in breaks if b.end() <= start), default=0)
    last = min((b.start() for b in breaks if b.start() >= end), default=len(sentence))
    return first, last


def _findings(sentence: str) -> Iterator[Mention]:
    for name, pattern in words.FINDINGS.items():
        for match in pattern.finditer(sentence):
            value = _value(sentence, match.start(), match.end())
            if value is not None:
                yield Mention(name, value, match.start(), match.end())


def _value(sentence: str, start: int, end: int) -> int | None:
    """Return what a sentence says of its words from `start` to `end`; None if nothing of this image."""
    first, last = clause(sentence, start, end)
    before, after = sentence[first:start], sentence[end:last]
    # A question or a plan states nothing, but "to exclude" inside "cannot exclude" is doubt.
    if words.ASIDE_BEFORE.search(before) and not words.NOT_EXCLUDED_BEFORE.search(before):
        return None
    # Doubt worded as a denial ("cannot be excluded") is looked for first: the denial's words are in it.
    if words.NOT_EXCLUDED_BEFORE.search(before) or _reaches(words.DOUBTED_AFTER, after):
        return UNCERTAIN
    # "No change in ..." denies the change and not the finding, so it is taken out first.
    if words.DENIED_BEFORE.search(words.NO_CHANGE.sub("", before)) or _reaches(words.DENIED_AFTER, after):
        return NEGATIVE
    return UNCERTAIN if words.DOUBTED_BEFORE.search(before) else POSITIVE


def _reaches(cue: re.Pattern[str], after: str) -> bool:
    """Return whether a cue behind a finding refers to it: no new statement begins in between."""
    match = cue.search(after)
    return match is not None and not words.VERB.search(after[: match.start()])


def _structures(sentence: str) -> Iterator[Mention]:
    """Yield heart and mediastinum with the word of size that goes with each."""
    sizes = list(words.SIZE.finditer(sentence))
    places = [(name, match) for name, pattern in words.STRUCTURES.items() for match in pattern.finditer(sentence)]
    # A word of size directly before a structure is its adjective ("normal heart size") and of no other.
    adjective = {size: place for size in sizes for _, place in places if _joined(sentence, size, place)}
    for name, place in places:
        own = next((size for size, owner in adjective.items() if owner is place), None)
        # Else the next free one behind it ("the heart is enlarged"), else the last adjective before it ("enlarged heart
        # and mediastinum").
        size = own or _behind(sentence, place, [size for size in sizes if size not in adjective])
        size = size or next((s for s in reversed(list(adjective)) if s.end() <= place.start()), None)
        if size is not None and (own or _together(sentence, place, size)):
            value = _size(sentence, size)
            if value is not None:
                yield Mention(name, value, place.start(), place.end())


def _joined(sentence: str, size: re.Match[str], place: re.Match[str]) -> bool:
    return size.end() <= place.start() and bool(words.JOINED.fullmatch(sentence[size.end() : place.start()]))


def _behind(sentence: str, place: re.Match[str], sizes: list[re.Match[str]]) -> re.Match[str] | None:
    """Return the first word of size after a structure, unless another statement begins in between."""
    size = next((size for size in sizes if size.start() >= place.end()), None)
    return size if size is not None and _together(sentence, place, size) else None


def _together(sentence: str, place: re.Match[str], size: re.Match[str]) -> bool:
    between = sentence[min(place.end(), size.end()) : max(place.start(), size.start())]
    # One verb links the two; a second one begins another statement.
    return not words.BREAK.search(between) and len(words.VERB.findall(between)) <= 1


def _size(sentence: str, size: re.Match[str]) -> int | None:
    if size["normal"]:
        return POSITIVE if _NOT.search(sentence[: size.start()]) else NEGATIVE
    value = _value(sentence, size.start(), size.end())
    # "Borderline" is a word of size and of doubt at once; as a match it is not among the words before itself.
    if value == POSITIVE and size.group().startswith("borderline"):
        return UNCERTAIN
    return value


def _either(ordered: list[Mention], sentence: str) -> list[Mention]:
    """Return the mentions with two findings in doubt that are stated with "or" between them."""
    out = list(ordered)
    for i, (one, other) in enumerate(itertools.pairwise(ordered)):
        between = sentence[one.end : other.start]
        if one.value == other.value == POSITIVE and one.label != other.label and words.OR.fullmatch(between):
            out[i], out[i + 1] = one._replace(value=UNCERTAIN), other._replace(value=UNCERTAIN)
    return out
