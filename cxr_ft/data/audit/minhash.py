"""Texts as sets of pieces, and which of many texts are alike in them: MinHash finds the pairs, a count proves each.

A piece is a pair of neighbouring words of one sentence, without punctuation; a sentence of one word is a piece itself.
Two texts are alike where their shared pieces make up at least NEAR of all their pieces (Jaccard). So a word changed in
a text of thirteen words or more is seen through, and short texts must have the same words.

Candidates are the texts that agree in one of BANDS bands of ROWS hashes (Broder 1997; Leskovec, Rajaraman and Ullman,
Mining of Massive Datasets, section 3.4): a pair at Jaccard s is missed with the chance (1 - s^4)^32, which is 1.5 in
10,000 at 0.7, 5 in 100 million at 0.8, and nothing that counts above.
"""

import re
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass
from hashlib import blake2b

import numpy as np
from numpy.typing import NDArray

Ints = NDArray[np.int64]
Mask = NDArray[np.bool_]
Hashes = NDArray[np.uint64]
#: Texts whose shared pieces make up at least this share of all their pieces are alike.
NEAR = 0.7
BANDS, ROWS = 32, 4
#: Pairs that are counted at once, so that memory stays bounded.
CHUNK = 16_384
#: An odd number with its bits well mixed (2^64 over the golden ratio), so that a pair of words is not its reverse.
ODD = np.uint64(0x9E3779B97F4A7C15)

SENTENCE = re.compile(r"(?<=[.!?])\s+")
_WORD = re.compile(r"\w+")


@dataclass(frozen=True)
class Pieces:
    """The distinct pieces of texts, as hashes of 64 bits: those of text i are values[starts[i]:starts[i + 1]]."""

    values: Hashes
    starts: Ints

    @property
    def sizes(self) -> Ints:
        """How many pieces each text has [N]."""
        return np.diff(self.starts)


def pieces(texts: Sequence[str], stock: Collection[str] = ()) -> Pieces:
    """The pieces of texts [N], of all their sentences but those in `stock`."""
    numbers: dict[str, int] = {"": 0}  # 0 stands at the end of each sentence
    flat: list[int] = []
    ends = np.zeros(len(texts) + 1, dtype=np.int64)
    for i, text in enumerate(texts):
        for sentence in SENTENCE.split(text):
            if sentence not in stock:
                flat += [numbers.setdefault(word, len(numbers)) for word in _WORD.findall(sentence)]
                flat.append(0)
        ends[i + 1] = len(flat)
    # Of the words themselves, not of their numbers: the pieces must not depend on the order of the texts.
    hashed = np.frombuffer(b"".join(blake2b(word.encode(), digest_size=8).digest() for word in numbers), dtype="<u8")
    return _distinct(np.array(flat, dtype=np.int64), hashed.astype(np.uint64), ends)


def _distinct(words: Ints, hashed: Hashes, ends: Ints) -> Pieces:
    """Pairs of neighbouring words, and words that stand alone; of each text once."""
    before, after = (np.concatenate(parts) for parts in (([0], words[:-1]), (words[1:], [0])))
    paired = np.flatnonzero((words > 0) & (after > 0))
    alone = np.flatnonzero((words > 0) & (after == 0) & (before == 0))
    found = np.concatenate([hashed[words[paired]] * ODD + hashed[after[paired]], hashed[words[alone]]])
    owner = np.searchsorted(ends, np.concatenate([paired, alone]), side="right") - 1
    order = np.lexsort((found, owner))
    found, owner = found[order], owner[order]
    first = np.ones(len(found), dtype=bool)
    first[1:] = (found[1:] != found[:-1]) | (owner[1:] != owner[:-1])
    starts = np.searchsorted(owner[first], np.arange(len(ends)))
    return Pieces(found[first], starts.astype(np.int64))


class Alike:
    """Distinct texts [N], made ready to find which of them are alike.

    Args:
        texts: without case and odd spaces, each once.
        stock: sentences that say nothing of a text: two texts must be alike as a whole and without them.
    """

    def __init__(self, texts: Sequence[str], stock: Collection[str] = ()) -> None:
        self.whole = pieces(texts)
        self.own = pieces(texts, stock) if stock else self.whole
        self.told: Mask = self.own.sizes > 0

    def pairs(
        self, wanted: Callable[[Ints, Ints], Mask], settled: Callable[[Ints], Ints]
    ) -> Iterator[tuple[Ints, Ints]]:
        """Pairs of texts that are alike, [K] and [K]; a pair may come twice.

        Both are asked again and again, as the caller learns from the pairs.

        Args:
            wanted: which of some candidates are worth a look.
            settled: a number for each of some texts: those of one number need no more looks among themselves.
        """
        from scipy.sparse import csr_matrix

        matrices = []
        for part in (self.whole,) if self.own is self.whole else (self.whole, self.own):
            vocabulary, column = np.unique(part.values, return_inverse=True)
            ones = np.ones(len(column), dtype=np.int32)
            matrices.append(csr_matrix((ones, column, part.starts), shape=(len(self.told), len(vocabulary))))
        for left, right in _candidates(self.own, np.flatnonzero(self.told), settled):
            keep = np.flatnonzero(wanted(left, right))
            for at in range(0, len(keep), CHUNK):
                a, b = left[keep[at : at + CHUNK]], right[keep[at : at + CHUNK]]
                for matrix in matrices:
                    shared = np.asarray(matrix[a].multiply(matrix[b]).sum(axis=1)).ravel()
                    sizes = np.diff(matrix.indptr)
                    alike = shared >= NEAR * (sizes[a] + sizes[b] - shared)
                    a, b = a[alike], b[alike]
                yield a, b


def _candidates(parts: Pieces, some: Ints, settled: Callable[[Ints], Ints]) -> Iterator[tuple[Ints, Ints]]:
    """Pairs among `some` texts that agree in a band: first the neighbours in each bucket, then those further apart."""
    signatures = _signatures(parts, some)
    for band in range(0, BANDS * ROWS, ROWS):
        key = np.zeros(len(some), dtype=np.uint64)
        for row in range(band, band + ROWS):
            key = key * ODD + signatures[:, row]
        order = np.argsort(key, kind="stable")
        key, near = key[order], some[order]
        start, end = (np.searchsorted(key, key, side=side) for side in ("left", "right"))
        at, apart = np.flatnonzero(end - start > 1), 1
        while (at := at[at + apart < end[at]]).size:
            if apart & (apart - 1) == 0:  # now and then: buckets of very many texts are mostly settled at once
                number = settled(near)
                mixed = np.zeros(len(near), dtype=bool)
                mixed[start[number != number[start]]] = True
                at = at[mixed[start[at]]]
            yield near[at], near[at + apart]
            apart += 1


def _signatures(parts: Pieces, some: Ints) -> NDArray[np.uint32]:
    """The MinHash of some texts [K, BANDS * ROWS]."""
    from datasketch import MinHash

    sketch = MinHash(num_perm=BANDS * ROWS, hashfunc=int)
    out = np.empty((len(some), BANDS * ROWS), dtype=np.uint32)
    short = (parts.values >> np.uint64(32)).tolist()
    for row, text in enumerate(some.tolist()):
        sketch.clear()
        sketch.update_batch(short[parts.starts[text] : parts.starts[text + 1]])
        out[row] = sketch.hashvalues
    return out
