"""Adjust p-values for many pairs, and form significance groups of variants without a significant difference."""

import string
from collections.abc import Iterable, Sequence

from cxr_ft.errors import UsageError


def holm(values: Sequence[float | None], weights: Sequence[float] | None = None) -> list[float | None]:
    """Return the step-down adjusted p-values of Holm (1979), in the order of `values`.

    Of m sorted values p(1) <= ... <= p(m), the k-th becomes the maximum over j <= k of min(1, (m - j + 1) p(j)).
    Rejecting those at most alpha keeps the family-wise error rate at most alpha, whatever the dependence of the tests.

    Args:
        values: p-values; None for a pair without one, which stays None and costs the others nothing.
        weights: the share of the error that each test gets, above 0 where there is a p-value (Holm 1979, section 3);
            sorted are then p / weight, and m - j + 1 is the weight of what is left, as a multiple of the test's own.
            None: equal.

    Raises:
        UsageError: for a value that is not between 0 and 1.
    """
    # Written so that NaN is refused: it lies in no range.
    if wrong := [p for p in values if p is not None and not 0 <= p <= 1]:
        raise UsageError(f"p-value {wrong[0]}: not between 0 and 1")
    shares = [1.0] * len(values) if weights is None else list(weights)
    # Ties come by position, which changes nothing: equal ratios get equal adjusted p-values.
    known = sorted((p / shares[i], i) for i, p in enumerate(values) if p is not None)
    left = sum(shares[i] for _, i in known)
    out: list[float | None] = [None] * len(values)
    reached = 0.0
    for ratio, i in known:
        # The maximum keeps the order: a larger p never has the smaller adjusted one.
        reached = max(reached, min(1.0, left * ratio))
        out[i] = reached
        left -= shares[i]
    return out


def significance_groups(many: int, different: Iterable[tuple[int, int]]) -> list[str]:
    """Return the significance groups as a compact letter display (Piepho 2004).

    Two variants share a letter if and only if they do not differ significantly.

    A letter is a set of variants of which no two differ. Sets are grown one by one until they hold
    every such pair (Gramm et al. 2007): Piepho's insert-and-absorb can need 2^n of them.

    Args:
        many: how many variants, in the order of the page: the first one has "a".
        different: the pairs that differ significantly, by position; a pair that could not be tested is not among them.

    Returns:
        The letters of each, e.g. ["a", "ab", "b"].

    Raises:
        ValueError: for a pair of one variant with itself.
    """
    # A variant is alike to itself, so that each one gets a letter, even where it differs from all others.
    alike = [set(range(many)) for _ in range(many)]
    for i, j in different:
        if i == j:
            raise ValueError(f"variant {i} cannot differ from itself")
        alike[i].discard(j)
        alike[j].discard(i)
    sets = _without_idle(_cover(alike))
    return ["".join(_letter(k) for k, members in enumerate(sets) if i in members) for i in range(many)]


def _cover(alike: Sequence[set[int]]) -> list[set[int]]:
    """Return sets of variants that are all alike, which together hold every pair that is, and every variant."""
    # Each pair once, under its first member.
    missing = [{j for j in others if j >= i} for i, others in enumerate(alike)]
    sets = []
    for i in range(len(alike)):
        while missing[i]:
            # A variant's pair with itself is missing until it is in some set.
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
    """Return the sets, sorted by their first members, without those whose every pair is in another one."""
    remaining = sorted(sets, key=sorted)
    # Small sets first, which larger ones can replace; a set that was left out replaces none.
    for members in sorted(sets, key=len):
        others = [other for other in remaining if other is not members]
        if all(any(i in o and j in o for o in others) for i in members for j in members):
            remaining = others
    return remaining


def _letter(index: int) -> str:
    """Return the letter of a group: a to z, A to Z, then the same primed."""
    names = string.ascii_letters
    return names[index % len(names)] + "′" * (index // len(names))
