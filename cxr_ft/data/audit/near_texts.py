"""Texts that are the same or nearly: groups that must stay on one side of a split, and what stands on two sides."""

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from hashlib import blake2b
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from cxr_ft.data.audit.minhash import SENTENCE, Alike

if TYPE_CHECKING:
    import pandas as pd

Ints = NDArray[np.int64]
Mask = NDArray[np.bool_]
#: A side's texts, and who each is about (None: not known).
Side = tuple["pd.Series[str]", "pd.Series[str] | None"]
#: Rows of a table, two by two.
Rows = Sequence[tuple[int, int]]
#: A sentence that more subjects have than the two a text could be shared by is stock ("Lungs are clear.").
SHARED = 2


def normal(text: str) -> str:
    """A text without case and odd spaces: what is compared."""
    return " ".join(text.split()).lower()


def groups(texts: Sequence[str], owners: Sequence[str] | None = None, together: Rows = ()) -> Ints:
    """The group of each text [N]: the same and nearly the same texts share one, and so do those alike to one of them.

    Args:
        texts: as they are.
        owners: who each text is about. Then a group is of owners: all texts of one stay together, and two owners are
            joined by texts that are alike in what is not stock. Without, every two texts that are alike are joined.
        together: two rows each that must stay together whatever they say.

    Returns:
        Numbers in no order. Which texts share a group does not depend on the order of the texts.
    """
    import pandas as pd

    code, distinct = pd.factorize(np.array([normal(text) for text in texts], dtype=object))
    known = distinct.tolist()
    stock = stock_sentences((known[c] for c in code), owners) if owners is not None else set[str]()
    alike = Alike(known, stock)
    sets = _Sets(len(known))
    sets.join(*code[np.array([*together], dtype=np.int64).reshape(-1, 2)].T)
    for left, right in alike.pairs(lambda a, b: sets.of(a) != sets.of(b), sets.of):
        sets.join(left, right)
    if owners is None:
        return sets.of(code)
    people, names = pd.factorize(np.array(owners, dtype=object))
    whole = _Sets(len(known) + len(names))
    whole.join(np.arange(len(known)), sets.of(np.arange(len(known))))
    told = alike.told[code]
    whole.join(code[told], people[told] + len(known))
    return whole.of(people + len(known))


def group_names(texts: Sequence[str], owners: Sequence[str] | None = None, together: Rows = ()) -> list[str]:
    """`groups` by names that follow from their members alone, so that other texts that come or go change none.

    A group of owners has the name of its first one, in order of letters; one of texts a hash of one of them.
    """
    import pandas as pd

    names = owners if owners is not None else [_hashed(normal(text)) for text in texts]
    named = pd.DataFrame({"group": groups(texts, owners, together), "name": pd.array(names, dtype="string")})
    return [str(name) for name in named.groupby("group")["name"].transform("min")]


def _hashed(text: str) -> str:
    return blake2b(text.encode(), digest_size=8).hexdigest()


def on_two_sides(
    sides: Mapping[str, Side], pairs: Iterable[tuple[str, str]]
) -> dict[tuple[str, str], dict[str, set[str]]]:
    """For pairs of sides the texts of the second that stand in the first too: the same ones, and those alike to one.

    Args:
        sides: texts without case and odd spaces. Where all sides know who they are about, stock sentences are passed
            over: a text that says nothing else is no leak.

    Returns:
        By pair: "text" the same ones, "near-identical text" the rest.
    """
    known: dict[str, int] = {}
    for texts, _ in sides.values():
        for text in texts.tolist():
            if text:
                known.setdefault(text, len(known))
    stock: set[str] = set()
    if all(owners is not None for _, owners in sides.values()):
        every = [(text, str(who)) for texts, owners in sides.values() for text, who in zip(texts, owners, strict=True)]  # type: ignore[arg-type]  # none is None here
        stock = stock_sentences((text for text, _ in every), [who for _, who in every])
    alike = Alike(list(known), stock)
    here = {name: _marked(texts, known) & alike.told for name, (texts, _) in sides.items()}
    found = {(left, right): here[left] & here[right] for left, right in pairs}
    same = {pair: mask.copy() for pair, mask in found.items()}

    def directions(a: Ints, b: Ints) -> Iterator[tuple[Mask, Mask, Ints]]:
        """Which pairs say something new of which side's texts."""
        for (left, right), done in found.items():
            for one, other in ((a, b), (b, a)):
                yield here[left][one] & here[right][other] & ~done[other], done, other

    def wanted(a: Ints, b: Ints) -> Mask:
        new: Mask = np.any([new for new, _, _ in directions(a, b)], axis=0)
        return new

    def settled(which: Ints) -> Ints:
        """0 where nothing is to be learnt of a text any more: of no second side, or found."""
        unknown = np.any([here[right][which] & ~done[which] for (_, right), done in found.items()], axis=0)
        return np.where(unknown, which + 1, 0)

    for a, b in alike.pairs(wanted, settled):
        for new, done, other in directions(a, b):
            done[other[new]] = True
    names = np.array(list(known), dtype=object)
    return {
        pair: {"text": set(names[same[pair]]), "near-identical text": set(names[found[pair] & ~same[pair]])}
        for pair in found
    }


def stock_sentences(texts: Iterable[str], owners: Sequence[str]) -> set[str]:
    """The sentences that more than SHARED owners have."""
    having: dict[str, set[str]] = defaultdict(set)
    for text, owner in set(zip(texts, owners, strict=True)):
        for sentence in SENTENCE.split(text):
            having[sentence].add(owner)
    return {sentence for sentence, those in having.items() if len(those) > SHARED}


def _marked(texts: "pd.Series[str]", known: Mapping[str, int]) -> Mask:
    mask: Mask = np.zeros(len(known), dtype=bool)
    mask[[known[text] for text in set(texts.tolist()) if text]] = True
    return mask


class _Sets:
    """Sets of the numbers below `count`, joined two by two."""

    def __init__(self, count: int) -> None:
        self.parent: Ints = np.arange(count)

    def of(self, which: Ints) -> Ints:
        """The least member of each one's set."""
        root = self.parent[which]
        while not np.array_equal(up := self.parent[root], root):
            root = up
        self.parent[which] = root
        return root

    def join(self, left: Ints, right: Ints) -> None:
        """Make one set of those of each two."""
        for a, b in zip(left.tolist(), right.tolist(), strict=True):
            low, high = sorted((self._root(a), self._root(b)))
            self.parent[high] = low

    def _root(self, one: int) -> int:
        while (up := int(self.parent[one])) != one:
            self.parent[one] = one = int(self.parent[up])
        return one
