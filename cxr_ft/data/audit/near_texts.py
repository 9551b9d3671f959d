"""Find texts that are the same or nearly so: groups that must stay in one split, and texts that two splits share.

MinHash finds candidate pairs, a count proves each. A text is a set of pieces: a piece is a pair of neighbouring words
of one sentence, without punctuation; a sentence of one word is a piece itself. Two texts are alike where their shared
pieces make up at least NEAR of all their pieces (Jaccard). So a word changed in a text of thirteen words or more does
not hide a copy, and short texts must have the same words.

Candidates are the texts that agree in one of BANDS bands of ROWS hashes (Broder 1997; Leskovec, Rajaraman and Ullman,
Mining of Massive Datasets, section 3.4): a pair at Jaccard s is missed with the chance (1 - s^4)^32, which is 1.5 in
10,000 at 0.7, 5 in 100 million at 0.8, and nothing that counts above.
"""

import re
from collections import defaultdict
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from hashlib import blake2b
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from cxr_ft.data.sameness import text_key

if TYPE_CHECKING:
    import pandas as pd

Ints = NDArray[np.int64]
Mask = NDArray[np.bool_]
Hashes = NDArray[np.uint64]
#: A split's texts, and the subject of each (None: not known).
TextsOfSplit = tuple["pd.Series[str]", "pd.Series[str] | None"]
#: Rows of a table, two by two.
RowPairs = Sequence[tuple[int, int]]
#: Texts whose shared pieces make up at least this share of all their pieces are alike.
NEAR = 0.7
BANDS, ROWS = 32, 4
#: A sentence of more subjects than this is stock ("Lungs are clear."): a copied text has two.
SHARED = 2
#: Pairs that are counted at once, so that memory stays bounded.
CHUNK = 16_384
#: An odd number with its bits well mixed (2^64 over the golden ratio), so that a pair of words is not its reverse.
ODD = np.uint64(0x9E3779B97F4A7C15)

SENTENCE = re.compile(r"(?<=[.!?])\s+")
_WORD = re.compile(r"\w+")


def groups(texts: Sequence[str], owners: Sequence[str] | None = None, together: RowPairs = ()) -> Ints:
    """Return the group of each text [N]: texts that are the same or alike share one, and so do those alike to these.

    Args:
        texts: as they are.
        owners: the subject of each text. Then a group is of subjects: all texts of one stay together, and two subjects
            are joined by texts that are alike in what is not stock. Without, every two texts that are alike are joined.
        together: pairs of rows that must stay together whatever their texts.

    Returns:
        Numbers in no order. Which texts share a group does not depend on the order of the texts.
    """
    import pandas as pd

    code, distinct = pd.factorize(np.array([text_key(text) for text in texts], dtype=object))
    known = distinct.tolist()
    # First over distinct texts: the same text in many rows is one member.
    stock = stock_sentences((known[c] for c in code), owners) if owners is not None else set[str]()
    # With owners two texts must be alike as a whole and without stock: a shared finding is a copy, a shared "Lungs are
    # clear." is not.
    alike = Alike(known, stock)
    sets = _Sets(len(known))
    sets.join(*code[np.array([*together], dtype=np.int64).reshape(-1, 2)].T)
    # Pairs in one set already are not compared: most copies of a text are joined by a few comparisons.
    for left, right in alike.pairs(lambda a, b: sets.of(a) != sets.of(b), sets.of):
        sets.join(left, right)
    if owners is None:
        return sets.of(code)
    people, names = pd.factorize(np.array(owners, dtype=object))
    # Then texts and subjects as members of one family of sets: a text joins its subject, unless it is all stock.
    # Texts and subjects share one numbering, the subjects behind the texts.
    whole = _Sets(len(known) + len(names))
    whole.join(np.arange(len(known)), sets.of(np.arange(len(known))))
    own = alike.has_own[code]
    whole.join(code[own], people[own] + len(known))
    return whole.of(people + len(known))


def group_names(texts: Sequence[str], owners: Sequence[str] | None = None, together: RowPairs = ()) -> list[str]:
    """Return the name of each text's group [N], which follows from the group's members alone.

    So texts of other groups that are added or removed change no name. A group of subjects has the name of its first
    one in alphabetical order; a group of texts a hash of one of them. Arguments as for `groups`.
    """
    import pandas as pd

    # Hashed, since a name goes into CSVs and a text may not; of the normal form, so that spellings of one text agree.
    names = owners if owners is not None else [_hashed(text_key(text)) for text in texts]
    named = pd.DataFrame({"group": groups(texts, owners, together), "name": pd.array(names, dtype="string")})
    return [str(name) for name in named.groupby("group")["name"].transform("min")]


def _hashed(text: str) -> str:
    return blake2b(text.encode(), digest_size=8).hexdigest()


def shared_texts(
    splits: Mapping[str, TextsOfSplit], pairs: Iterable[tuple[str, str]]
) -> dict[tuple[str, str], dict[str, set[str]]]:
    """Return for pairs of splits the texts of the second that the first has too, the same or alike.

    Args:
        splits: texts in the form of `sameness.text_key`. Where the subjects of all splits are known, stock sentences
            are passed over: a text that says nothing else is no leak.

    Returns:
        By pair: "text" the same ones, "near-identical text" the others.
    """
    known: dict[str, int] = {}
    for texts, _ in splits.values():
        for text in texts.tolist():
            if text:
                # Numbered over all splits together: each distinct text is hashed and compared once, however many splits
                # have it.
                known.setdefault(text, len(known))
    alike = Alike(list(known), _stock_of(splits))
    here = {name: _marked(texts, known) & alike.has_own for name, (texts, _) in splits.items()}
    leaked = {(left, right): here[left] & here[right] for left, right in pairs}
    same = {pair: mask.copy() for pair, mask in leaked.items()}

    def directions(a: Ints, b: Ints) -> Iterator[tuple[Mask, Mask, Ints]]:
        """Yield which candidates would be a new leak of a pair of splits, that pair's leaks, and the second's texts."""
        for (left, right), done in leaked.items():
            # A candidate pair has no order, while a leak is a text of the second split.
            for one, other in ((a, b), (b, a)):
                yield here[left][one] & here[right][other] & ~done[other], done, other

    def wanted(a: Ints, b: Ints) -> Mask:
        new: Mask = np.any([new for new, _, _ in directions(a, b)], axis=0)
        return new

    def settled(which: Ints) -> Ints:
        """Return 0 for texts of which nothing more can be learned: of no second split, or a leak already."""
        unknown = np.any([here[right][which] & ~done[which] for (_, right), done in leaked.items()], axis=0)
        return np.where(unknown, which + 1, 0)

    for a, b in alike.pairs(wanted, settled):
        for new, done, other in directions(a, b):
            done[other[new]] = True
    names = np.array(list(known), dtype=object)
    return {
        pair: {"text": set(names[same[pair]]), "near-identical text": set(names[leaked[pair] & ~same[pair]])}
        for pair in leaked
    }


def _stock_of(splits: Mapping[str, TextsOfSplit]) -> set[str]:
    """Return the stock sentences of all splits together; none where a split does not know its subjects."""
    texts, owners = [], []
    for column, subjects in splits.values():
        if subjects is None:
            return set()
        texts += column.tolist()
        owners += [str(subject) for subject in subjects]
    return stock_sentences(texts, owners)


def stock_sentences(texts: Iterable[str], owners: Sequence[str]) -> set[str]:
    """Return the sentences that texts of more than SHARED owners have."""
    # Owners and not rows are counted: a patient with many films repeats sentences without making them stock.
    having: dict[str, set[str]] = defaultdict(set)
    for text, owner in set(zip(texts, owners, strict=True)):
        for sentence in SENTENCE.split(text):
            having[sentence].add(owner)
    return {sentence for sentence, subjects in having.items() if len(subjects) > SHARED}


def _marked(texts: "pd.Series[str]", known: Mapping[str, int]) -> Mask:
    """Return which of the known texts are among `texts`."""
    mask: Mask = np.zeros(len(known), dtype=bool)
    mask[[known[text] for text in set(texts.tolist()) if text]] = True
    return mask


class _Sets:
    """Disjoint sets of the numbers below `count`, joined two by two (union-find)."""

    def __init__(self, count: int) -> None:
        self.parent: Ints = np.arange(count)

    def of(self, which: Ints) -> Ints:
        """Return the least member of the set of each number."""
        root = self.parent[which]
        while not np.array_equal(up := self.parent[root], root):
            root = up
        # Path compression for the numbers that were looked up; without it the chains grow with every join.
        self.parent[which] = root
        return root

    def join(self, left: Ints, right: Ints) -> None:
        """Join the sets of each two numbers."""
        for a, b in zip(left.tolist(), right.tolist(), strict=True):
            # The smaller number becomes the root, so a set's representative does not depend on the order of the joins.
            low, high = sorted((self._root(a), self._root(b)))
            self.parent[high] = low

    def _root(self, one: int) -> int:
        while (up := int(self.parent[one])) != one:
            self.parent[one] = one = int(self.parent[up])
        return one


@dataclass(frozen=True)
class Pieces:
    """The distinct pieces of texts, as hashes of 64 bits: those of text i are values[starts[i]:starts[i + 1]]."""

    values: Hashes
    starts: Ints

    @property
    def sizes(self) -> Ints:
        """Return the number of pieces of each text [N]."""
        return np.diff(self.starts)


def pieces(texts: Sequence[str], stock: Collection[str] = ()) -> Pieces:
    """Return the pieces of texts [N], of all their sentences but those in `stock`."""
    numbers: dict[str, int] = {"": 0}  # 0 stands at the end of each sentence
    flat: list[int] = []
    ends = np.zeros(len(texts) + 1, dtype=np.int64)
    for i, text in enumerate(texts):
        for sentence in SENTENCE.split(text):
            if sentence not in stock:
                # Words as small integers in one flat list: an archive's texts as Python sets of pairs would take many
                # times the memory.
                flat += [numbers.setdefault(word, len(numbers)) for word in _WORD.findall(sentence)]
                flat.append(0)
        ends[i + 1] = len(flat)
    # Of the words themselves, not of their numbers: the pieces must not depend on the order of the texts.
    hashed = np.frombuffer(b"".join(blake2b(word.encode(), digest_size=8).digest() for word in numbers), dtype="<u8")
    return _distinct(np.array(flat, dtype=np.int64), hashed.astype(np.uint64), ends)


def _distinct(words: Ints, hashed: Hashes, ends: Ints) -> Pieces:
    """Return pairs of neighbouring words, and sentences of one word; each once a text."""
    before, after = (np.concatenate(parts) for parts in (([0], words[:-1]), (words[1:], [0])))
    paired = np.flatnonzero((words > 0) & (after > 0))
    alone = np.flatnonzero((words > 0) & (after == 0) & (before == 0))
    # Unsigned 64-bit products wrap around, which is what a hash wants; the sum is not symmetric in the two words.
    values = np.concatenate([hashed[words[paired]] * ODD + hashed[after[paired]], hashed[words[alone]]])
    # The flat position says which text a piece is from, so none is stored with it.
    owner = np.searchsorted(ends, np.concatenate([paired, alone]), side="right") - 1
    order = np.lexsort((values, owner))
    values, owner = values[order], owner[order]
    first = np.ones(len(values), dtype=bool)
    first[1:] = (values[1:] != values[:-1]) | (owner[1:] != owner[:-1])
    starts = np.searchsorted(owner[first], np.arange(len(ends)))
    return Pieces(values[first], starts.astype(np.int64))


class Alike:
    """Distinct texts [N], made ready to find which of them are alike.

    Args:
        texts: without case and odd spaces, each once.
        stock: sentences that say nothing of a text: two texts must be alike as a whole and without them.

    `has_own` says which texts have a piece outside stock sentences [N]; the others are alike to none.
    """

    def __init__(self, texts: Sequence[str], stock: Collection[str] = ()) -> None:
        self.whole = pieces(texts)
        self.own = pieces(texts, stock) if stock else self.whole
        self.has_own: Mask = self.own.sizes > 0

    def pairs(
        self, wanted: Callable[[Ints, Ints], Mask], settled: Callable[[Ints], Ints]
    ) -> Iterator[tuple[Ints, Ints]]:
        """Yield pairs of texts that are alike, [K] and [K]; a pair may come twice.

        Both functions are called again and again, and may answer otherwise as the caller learns from the pairs.

        Args:
            wanted: says which of some candidates are worth a comparison.
            settled: gives a number to each of some texts: those of one number need no comparison among themselves.
        """
        from scipy.sparse import csr_matrix

        matrices = []
        for part in (self.whole,) if self.own is self.whole else (self.whole, self.own):
            vocabulary, column = np.unique(part.values, return_inverse=True)
            # Rows of ones: the product of two rows, summed, counts their shared pieces exactly, where MinHash only
            # estimates.
            ones = np.ones(len(column), dtype=np.int32)
            matrices.append(csr_matrix((ones, column, part.starts), shape=(len(self.has_own), len(vocabulary))))
        for left, right in _candidates(self.own, np.flatnonzero(self.has_own), settled):
            keep = np.flatnonzero(wanted(left, right))
            for at in range(0, len(keep), CHUNK):
                a, b = left[keep[at : at + CHUNK]], right[keep[at : at + CHUNK]]
                # The second matrix looks only at pairs that the first one left, so it is nearly free.
                for matrix in matrices:
                    shared = np.asarray(matrix[a].multiply(matrix[b]).sum(axis=1)).ravel()
                    sizes = np.diff(matrix.indptr)
                    alike = shared >= NEAR * (sizes[a] + sizes[b] - shared)
                    a, b = a[alike], b[alike]
                yield a, b


def _candidates(parts: Pieces, some: Ints, settled: Callable[[Ints], Ints]) -> Iterator[tuple[Ints, Ints]]:
    """Yield pairs of `some` texts that agree in a band: first neighbours in each bucket, then more distant ones."""
    # From the pieces outside stock: short reports agree in stock sentences, and buckets would hold thousands of them.
    signatures = _signatures(parts, some)
    for band in range(0, BANDS * ROWS, ROWS):
        key = np.zeros(len(some), dtype=np.uint64)
        for row in range(band, band + ROWS):
            # Four hashes become one 64-bit key. Two keys that agree by chance only make a candidate, which the count
            # then refuses.
            key = key * ODD + signatures[:, row]
        # Stable, so that the candidates come in the same order on every machine.
        order = np.argsort(key, kind="stable")
        key, near = key[order], some[order]
        start, end = (np.searchsorted(key, key, side=side) for side in ("left", "right"))
        at, distance = np.flatnonzero(end - start > 1), 1
        while (at := at[at + distance < end[at]]).size:
            # At distances 1, 2, 4, ...: neighbours settle most of a bucket of very many texts, so that not all of its
            # pairs are compared.
            if distance & (distance - 1) == 0:
                number = settled(near)
                mixed = np.zeros(len(near), dtype=bool)
                # A bucket whose texts are all in one set, or of no interest, needs no more comparisons.
                mixed[start[number != number[start]]] = True
                at = at[mixed[start[at]]]
            yield near[at], near[at + distance]
            distance += 1


def _signatures(parts: Pieces, some: Ints) -> NDArray[np.uint32]:
    """Return the MinHash of some texts [K, BANDS * ROWS]."""
    from datasketch import MinHash

    sketch = MinHash(num_perm=BANDS * ROWS, hashfunc=int)
    out = np.empty((len(some), BANDS * ROWS), dtype=np.uint32)
    # datasketch permutes hashes of 32 bits; the high half of a product mod 2^64 is the better mixed one.
    short = (parts.values >> np.uint64(32)).tolist()
    for row, text in enumerate(some.tolist()):
        # One object for all texts: the random permutations are the costly part of a MinHash.
        sketch.clear()
        sketch.update_batch(short[parts.starts[text] : parts.starts[text + 1]])
        out[row] = sketch.hashvalues
    return out
