"""Keep a balanced selection near the archive's own mix of label sets, and weight its rows back to the prevalences.

A pattern is a label set: what a row has of all labels. Everything here works on counts of rows by pattern and knows no
names. Shapes: P patterns, L labels.
"""

from dataclasses import dataclass
from typing import TypedDict

import numpy as np
from numpy.typing import NDArray

from cxr_ft.data.splits.balance import solve_milp

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
#: Decimals of the allocated rows, so that the last bits of a machine's square roots decide nothing.
DECIMALS = 4


@dataclass(frozen=True, kw_only=True)
class NaturalMix:
    """Rows to select of each pattern, near the natural mix, and the certificate of that choice.

    Args:
        take: rows of each pattern [P].
        distance: sum over patterns of the difference to `neyman_rows`, as a share of all rows selected.
        gap: how far `distance` may be from the least; None where the program found nothing and `take` is the input's.
    """

    take: Ints
    distance: float
    gap: float | None


def nearest_to_natural_mix(patterns: Mask, available: Ints, take: Ints) -> NaturalMix:
    """Return the selection nearest to `neyman_rows` among those with as many rows of every label as `take`.

    Args:
        patterns: which pattern counts for which label [P, L].
        available: rows of each pattern [P].
        take: rows of each pattern [P], of which only the sums by label are kept.

    A mixed-integer program with the sum of absolute differences as its cost. For one pattern that cost falls by 1 a
    row below the goal g, rises by 1 a row above it, and changes by 1 - 2 (g - floor(g)) over the one row that crosses
    it. So the rows of a pattern are the sum of three variables: those below, the one across, those above. The slopes
    grow, so the least cost fills them in this order by itself.
    """
    from scipy.optimize import LinearConstraint

    has, by_label = patterns.T.astype(np.float64), (take @ patterns).astype(np.float64)
    goal = neyman_rows(patterns, available, take)
    below = np.floor(goal)
    # Where the goal is all there is, no row is left to cross it.
    across = np.minimum(1.0, available - below)
    cost = np.concatenate([np.full(len(goal), -1.0), 1 - 2 * (goal - below), np.ones(len(goal))])
    # Three integer variables a pattern instead of one and an absolute value, which no linear program has.
    top = np.concatenate([below, across, available - below - across])
    # An equality for each label: the certificate of the worst overshoot and of the total must stay true.
    same = LinearConstraint(np.hstack([has] * 3), by_label, by_label)
    result = solve_milp(cost, same, np.ones(len(cost)), top, gap=GAP)
    # Where HiGHS reaches its limit of nodes without a point, the selection that is known to be valid is used as it is.
    near, gap = take, None
    if result.x is not None:
        near = np.rint(result.x).astype(np.int64).reshape(3, -1).sum(axis=0)
        gap = max(float(result.fun - result.mip_dual_bound), 0.0) / max(int(near.sum()), 1)
        # HiGHS returns whole numbers up to its tolerance; rounded they must meet the constraints exactly, or no
        # certificate holds.
        if (near @ patterns != by_label).any() or (near > available).any():
            raise RuntimeError(f"HiGHS gave a selection beyond its bounds: {result.message}")
    return NaturalMix(take=near, distance=float(np.abs(near - goal).sum()) / max(int(near.sum()), 1), gap=gap)


def neyman_rows(patterns: Mask, available: Ints, take: Ints) -> Floats:
    """Return the rows of each pattern [P], not yet whole, whose weights would vary least, with `take`'s rows by label.

    A row stands for available / rows of its pattern, so the sum over patterns of available^2 / rows is least (Neyman's
    allocation, 1934, under these constraints). By duality the selected share of a pattern is 1 / sqrt(1 + m), and 1 at
    most, with m the sum of one multiplier for each label it has: at most 15 unknowns, found by Newton's method.
    """
    from scipy.optimize import minimize

    by_label = (take @ patterns).astype(np.float64)
    has = patterns.astype(np.float64)
    # No row of a pattern without labels, or with a label of which no row is selected, can be taken.
    usable = patterns.any(axis=1) & ~patterns[:, by_label == 0].any(axis=1)
    rows = np.where(usable, available, 0).astype(np.float64)
    scale = max(float(rows.sum()), 1.0)  # in shares of all rows, so that `gtol` means the same for every archive

    def dual(multipliers: Floats) -> tuple[float, Floats]:
        """Return the negative dual function and its gradient; below m = 0 a pattern is selected whole."""
        # m of the docstring. At m = 0 the share 1 / sqrt(1 + m) reaches 1, where the pattern has no further rows to
        # take.
        price = has @ multipliers
        root = np.sqrt(np.maximum(1 + price, 1.0))
        value = multipliers @ by_label - (rows * (2 * root + np.minimum(price, 0.0))).sum()
        return float(value) / scale, (by_label - (rows / root) @ has) / scale

    def hessian(multipliers: Floats) -> Floats:
        inner = 1 + has @ multipliers
        # At a pattern taken whole the dual is linear, so its second derivative is 0 there.
        second = np.where(inner > 1, rows / 2 * np.maximum(inner, 1.0) ** -1.5, 0.0)
        out: Floats = (has.T * second) @ has / scale
        return out

    # At the start, and wherever patterns are taken whole, the Hessian is singular: a trust region still makes a step.
    best = minimize(dual, np.zeros(len(by_label)), jac=True, hess=hessian, method="trust-exact", options=NEWTON)
    allocation: Floats = np.round(rows / np.sqrt(np.maximum(1 + has @ best.x, 1.0)), DECIMALS)
    return allocation


def prevalence_weights(patterns: Mask, natural: Ints, selected: Ints) -> Floats:
    """Return the weight of a selected row of each pattern [P]: weighted, the rows have the labels' natural counts.

    Begins at natural / selected rows of the pattern itself, then goes from label to label until the rows with and those
    without it sum to their natural counts (raking, Deming and Stephan 1940), within FACTOR of the beginning.

    Args:
        patterns: which pattern counts for which label [P, L].
        natural: eligible rows of each pattern [P].
        selected: selected rows of each pattern [P]; where it is 0, so is the weight.

    A label that no selected row has, or that all have, can be met by no weights and is passed over.
    """
    taken = selected > 0
    if not taken.any():
        return np.zeros(len(patterns))
    has, rows = patterns[taken], selected[taken].astype(np.float64)
    goal, total = (natural @ patterns).astype(np.float64), float(natural.sum())
    # Raking only multiplies, so a weight that began at 0 would stay there.
    own = np.maximum(natural[taken], 1) / rows
    reachable = has.any(axis=0) & ~has.all(axis=0) & (goal > 0) & (goal < total)
    factor = np.ones(len(rows))
    for _ in range(SWEEPS):
        before = factor.copy()
        # The total first: labels that all or no rows have are passed over below, and would leave the sum of weights
        # free.
        factor *= total / float((factor * own * rows).sum())
        for label in np.flatnonzero(reachable):
            for group, part in ((has[:, label], goal[label]), (~has[:, label], total - goal[label])):
                factor[group] *= part / float((factor * own * rows)[group].sum())
            # Else two labels that pull against each other drive a weight to 0 or beyond all measure.
            factor = np.clip(factor, 1 / FACTOR, FACTOR)
        # Raking need not converge where FACTOR clips; then SWEEPS ends it, and `prevalence_error` reports what is left
        # over.
        if np.abs(factor / before - 1).max() < CLOSE:
            break
    out = np.zeros(len(patterns))
    out[taken] = factor * own
    return out


class Effective(TypedDict):
    """The effective sample size of weighted rows, and their largest weight over the smallest."""

    effective_rows: float
    ratio: float


def effective(weight: Floats, rows: Ints) -> Effective:
    """Return the effective sample size of rows by pattern (Kish, Survey Sampling, 1965: (sum w)^2 / sum w^2).

    Args:
        weight: of a row of each pattern [P].
        rows: of each pattern [P].
    """
    some = (rows > 0) & (weight > 0)
    if not some.any():
        return {"effective_rows": 0.0, "ratio": 1.0}
    total, squares = float(weight[some] @ rows[some]), float(weight[some] ** 2 @ rows[some])
    # Six digits, as the weights have: the last bits of a machine's sums must not reach the manifest.
    ratio = float(weight[some].max() / weight[some].min())
    return {"effective_rows": float(f"{total**2 / squares:.6g}"), "ratio": float(f"{ratio:.6g}")}
