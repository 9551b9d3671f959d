"""How near a balanced choice stays to the mix the archive has: which patterns are chosen, and what a row stands for.

A pattern is what a row holds of all labels. Everything here works on counts of rows by pattern and knows no names.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from cxr_ft.data.splits.balance import program

Ints = NDArray[np.int64]
Floats = NDArray[np.float64]
Mask = NDArray[np.bool_]
#: Sweeps over the labels, at most, and the relative error of a margin that ends them.
SWEEPS, CLOSE = 500, 1e-9
#: A weight stays within this factor of what its own pattern alone would say.
FACTOR = 100.0
#: How far from the least distance the program may stop, as a share of the rows: one row in ten thousand.
GAP = 1e-4
#: Newton's method, in rows as shares of all there are; it ends by itself, and where it does the program rounds off.
NEWTON = {"gtol": 1e-10, "maxiter": 300, "initial_trust_radius": 10.0, "max_trust_radius": 1e6}
#: Decimals of the wished-for rows, so that the last bits of a machine's square roots decide nothing.
DECIMALS = 4


@dataclass(frozen=True, kw_only=True)
class PatternSpread:
    """Rows of each pattern near the natural mix [P], and the certificate.

    Args:
        take: rows of each pattern.
        distance: sum over patterns of the rows more or fewer than wished for, as a share of all rows taken.
        gap: how far `distance` may be from the least; None where the program found nothing, so that `take` is as given.
    """

    take: Ints
    distance: float
    gap: float | None


def spread(patterns: Mask, available: Ints, take: Ints) -> PatternSpread:
    """The choice with the same rows of every label as `take` that is nearest to `wished`.

    Args:
        patterns: which pattern counts for which label [P, L].
        available: rows of each pattern [P].
        take: rows of each pattern [P], of which only the sums by label are kept.

    A mixed-integer program with the sum of absolute differences as its cost. That cost is convex, with corners at
    whole numbers once the two next to each wish are told apart, so the rows of a pattern are written as the sum of
    those up to the wish, the one across it, and those beyond.
    """
    from scipy.optimize import LinearConstraint

    held, got = patterns.T.astype(np.float64), (take @ patterns).astype(np.float64)
    wish = wished(patterns, available, take)
    below = np.floor(wish)
    across = np.minimum(1.0, available - below)
    cost = np.concatenate([np.full(len(wish), -1.0), 1 - 2 * (wish - below), np.ones(len(wish))])
    top = np.concatenate([below, across, available - below - across])
    whole = np.ones(len(cost))
    found = program(cost, LinearConstraint(np.hstack([held] * 3), got, got), whole, top, gap=GAP)
    near, gap = take, None
    if found.x is not None:
        near = np.rint(found.x).astype(np.int64).reshape(3, -1).sum(axis=0)
        gap = max(float(found.fun - found.mip_dual_bound), 0.0) / max(int(near.sum()), 1)
        if (near @ patterns != got).any() or (near > available).any():
            raise RuntimeError(f"HiGHS gave a selection beyond its bounds: {found.message}")
    return PatternSpread(take=near, distance=float(np.abs(near - wish).sum()) / max(int(near.sum()), 1), gap=gap)


def wished(patterns: Mask, available: Ints, take: Ints) -> Floats:
    """The rows of each pattern [P], not yet whole, with `take`'s rows by label whose weights would vary least.

    A row stands for available / rows of its pattern, so the sum over patterns of available^2 / rows is least (which is
    Neyman's allocation, 1934, under these constraints). By duality the share of a pattern is 1 / sqrt(1 + m), and 1 at
    most, with m the sum of one multiplier for each label it holds: at most 15 unknowns, found by Newton's method.
    """
    from scipy.optimize import minimize

    got = (take @ patterns).astype(np.float64)
    held = patterns.astype(np.float64)
    there = np.where(patterns.any(axis=1) & ~patterns[:, got == 0].any(axis=1), available, 0).astype(np.float64)
    scale = max(float(there.sum()), 1.0)

    def dual(multipliers: Floats) -> tuple[float, Floats]:
        raised = held @ multipliers
        root = np.sqrt(np.maximum(1 + raised, 1.0))
        value = multipliers @ got - (there * (2 * root + np.minimum(raised, 0.0))).sum()
        return float(value) / scale, (got - (there / root) @ held) / scale

    def curvature(multipliers: Floats) -> Floats:
        beyond = 1 + held @ multipliers
        bent = np.where(beyond > 1, there / 2 * np.maximum(beyond, 1.0) ** -1.5, 0.0)
        out: Floats = (held.T * bent) @ held / scale
        return out

    found = minimize(dual, np.zeros(len(got)), jac=True, hess=curvature, method="trust-exact", options=NEWTON)
    rows: Floats = np.round(there / np.sqrt(np.maximum(1 + held @ found.x, 1.0)), DECIMALS)
    return rows


def weights(patterns: Mask, natural: Ints, chosen: Ints) -> Floats:
    """What a chosen row of each pattern stands for [P]: weighted, the chosen rows have the labels' natural counts.

    Begins at natural / chosen rows of the pattern itself, then goes from label to label until the rows with and those
    without it sum to what there naturally are (raking, Deming and Stephan 1940), within FACTOR of the beginning.

    Args:
        patterns: which pattern counts for which label [P, L].
        natural: rows of each pattern there are [P].
        chosen: rows of each pattern that were taken [P]; where it is 0, so is the weight.

    A label that no chosen row has, or all of them, can be met by no weights and is passed over.
    """
    taken = chosen > 0
    if not taken.any():
        return np.zeros(len(patterns))
    held, rows = patterns[taken], chosen[taken].astype(np.float64)
    wanted, total = (natural @ patterns).astype(np.float64), float(natural.sum())
    own = np.maximum(natural[taken], 1) / rows
    some = held.any(axis=0) & ~held.all(axis=0) & (wanted > 0) & (wanted < total)
    factor = np.ones(len(rows))
    for _ in range(SWEEPS):
        before = factor.copy()
        factor *= total / float((factor * own * rows).sum())
        for label in np.flatnonzero(some):
            for has, part in ((held[:, label], wanted[label]), (~held[:, label], total - wanted[label])):
                factor[has] *= part / float((factor * own * rows)[has].sum())
            factor = np.clip(factor, 1 / FACTOR, FACTOR)
        if np.abs(factor / before - 1).max() < CLOSE:
            break
    out = np.zeros(len(patterns))
    out[taken] = factor * own
    return out
