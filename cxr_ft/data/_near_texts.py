"""Texts that stand on two sides, the same or nearly."""

import re
from collections import defaultdict
from itertools import pairwise
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import pandas as pd

#: Texts whose shared pairs of words make up at least this share of all their pairs (Jaccard) are nearly the same.
NEAR = 0.7
#: Hashes of a text's pieces: they find nearly all pairs at NEAR, and each is then looked at exactly.
HASHES, LOOSER = 128, 0.55

_SENTENCE = re.compile(r"(?<=[.!?])\s+")
#: A text's pairs of words: all of them, and those of its own sentences.
Pieces = tuple[set[bytes], set[bytes]]
Side = tuple["pd.Series[str]", "pd.Series[str] | None"]


def near(left: Side, right: Side) -> dict[str, set[str]]:
    """The texts of the right side that stand on the left as well: "text" the same ones, "near-identical text" the rest.

    Args:
        left, right: texts, and who each is about (None: not known). Where it is known, stock sentences ("Lungs are
            clear.") are passed over: those that more subjects have than the two a text could be shared by.
    """
    mine, theirs = (dict.fromkeys(text for text in texts.tolist() if text) for texts, _ in (left, right))
    stock = _stock(left, right)
    pieces = {text: (_pieces(text, set()), _pieces(text, stock)) for text in {**mine, **theirs}}
    partners = _partners(*({text: pieces[text] for text in side if pieces[text][1]} for side in (mine, theirs)))
    return {
        "text": {text for text in partners if text in mine},
        "near-identical text": {text for text in partners if text not in mine},
    }


def _stock(left: Side, right: Side) -> set[str]:
    """The sentences that three subjects or more have; none where subjects are not known."""
    owners: dict[str, set[str]] = defaultdict(set)
    for texts, subjects in (left, right):
        if subjects is None:
            return set()
        for text, subject in set(zip(texts.tolist(), subjects.tolist(), strict=True)):
            for sentence in _SENTENCE.split(text):
                owners[sentence].add(subject)
    return {sentence for sentence, those in owners.items() if len(those) > 2}


def _partners(left: dict[str, Pieces], right: dict[str, Pieces]) -> set[str]:
    """The texts of the right side that have a like on the left."""
    from datasketch import MinHash, MinHashLSH

    index = MinHashLSH(threshold=LOOSER, num_perm=HASHES)
    mine, theirs = (MinHash.generator((whole for whole, _ in side.values()), num_perm=HASHES) for side in (left, right))
    for text, hashed in zip(left, mine, strict=True):
        index.insert(text, hashed, check_duplication=False)
    return {
        text
        for text, hashed in zip(right, theirs, strict=True)
        if text in left or any(_alike(left[other], right[text]) for other in index.query(hashed))
    }


def _pieces(text: str, stock: set[str]) -> set[bytes]:
    """Pairs of neighbouring words of all but the stock sentences, without punctuation; a single word is a piece."""
    pieces = set()
    for sentence in _SENTENCE.split(text):
        words = re.findall(r"\w+", sentence) if sentence not in stock else []
        pieces |= {" ".join(pair).encode() for pair in pairwise(words)} or {word.encode() for word in words}
    return pieces


def _alike(a: Pieces, b: Pieces) -> bool:
    """Alike as a whole, and in what no others have."""
    return all(len(x & y) >= NEAR * len(x | y) for x, y in zip(a, b, strict=True))
