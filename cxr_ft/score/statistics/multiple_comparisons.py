"""Many pairs at once: p-values that hold together, and letters for what cannot be told apart."""

import string
from collections.abc import Iterable, Sequence

from cxr_ft.errors import UsageError


def holm(values: Sequence[float | None]) -> list[float | None]:
    """Holm's (1979) step-down adjusted p-values, in the order given.

    Reject where one is at most 0.05, and with 95 % probability no true null hypothesis is among the rejected.

    Args:
        values: p-values; None for a pair without one, which stays None and costs the others nothing.

    Raises:
        UsageError: for a value that is not between 0 and 1.
    """
    if wrong := [p for p in values if p is not None and not 0 <= p <= 1]:
        raise UsageError(f"p-value {wrong[0]}: not between 0 and 1")
    known = sorted((p, i) for i, p in enumerate(values) if p is not None)
    out: list[float | None] = [None] * len(values)
    reached = 0.0
    for rank, (p, i) in enumerate(known):
        reached = max(reached, min(1.0, (len(known) - rank) * p))
        out[i] = reached
    return out


def significance_groups(many: int, apart: Iterable[tuple[int, int]]) -> list[str]:
    """The compact letter display (Piepho 2004): two variants share a letter exactly when they are not told apart.

    A letter is a set of variants none of which is told apart from another. Sets are grown one by one until they hold
    every such pair (Gramm et al. 2007): Piepho's insert-and-absorb can need 2^n of them.

    Args:
        many: how many variants, in the order of the page: the first one has "a".
        apart: the pairs that are told apart, by position; a pair that could not be tested is not among them.

    Returns:
        The letters of each, e.g. ["a", "ab", "b"].

    Raises:
        ValueError: for a pair of one variant with itself.
    """
    alike = [set(range(many)) for _ in range(many)]
    for i, j in apart:
        if i == j:
            raise ValueError(f"variant {i} told apart from itself")
        alike[i].discard(j)
        alike[j].discard(i)
    sets = _without_idle(_cover(alike))
    return ["".join(_letter(k) for k, members in enumerate(sets) if i in members) for i in range(many)]


def _cover(alike: Sequence[set[int]]) -> list[set[int]]:
    """Sets of variants that are all alike, which together hold every pair that is, and every variant."""
    missing = [{j for j in others if j >= i} for i, others in enumerate(alike)]
    sets = []
    for i in range(len(alike)):
        while missing[i]:
            # A variant's pair with itself is missing until it stands in some set.
            members = {i, min(missing[i] - {i}, default=i)}
            common = set.intersection(*(alike[k] for k in members))
            while candidates := sorted(common - members):
                # What covers more missing pairs first; among equals the neighbour in the page's order.
                chosen = max(candidates, key=lambda k: (sum(_lacks(missing, k, m) for m in members), -k))
                members.add(chosen)
                common &= alike[chosen]
            sets.append(members)
            for k in members:
                missing[k] -= members
    return sets


def _lacks(missing: Sequence[set[int]], i: int, j: int) -> bool:
    return max(i, j) in missing[min(i, j)]


def _without_idle(sets: list[set[int]]) -> list[set[int]]:
    """The sets, sorted by their first members, without those whose every pair stands in another one."""
    kept = sorted(sets, key=sorted)
    for members in sorted(sets, key=len):
        others = [other for other in kept if other is not members]
        if all(any(i in o and j in o for o in others) for i in members for j in members):
            kept = others
    return kept


def _letter(index: int) -> str:
    """a to z, A to Z, then the same primed."""
    names = string.ascii_letters
    return names[index % len(names)] + "′" * (index // len(names))
