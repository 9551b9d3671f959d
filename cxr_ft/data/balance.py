"""The two optimisations behind a split: which side each subject goes to, and how many images of each kind are taken."""

from collections.abc import Iterable, Sequence

import numpy as np
from numpy.typing import NDArray

from cxr_ft.data.records import order_key

Ints = NDArray[np.int64]


def share_out(total: int, ratios: Sequence[float]) -> list[int]:
    """`total` in whole parts by `ratios`, largest remainders first; the parts' sum is `total`."""
    exact = [total * r / sum(ratios) for r in ratios]
    parts = [int(e) for e in exact]
    by_remainder = sorted(range(len(parts)), key=lambda i: (parts[i] - exact[i], i))
    for i in by_remainder[: total - sum(parts)]:
        parts[i] += 1
    return parts


def assign(groups: Sequence[str], counts: NDArray[np.float64], ratios: Iterable[float], seed: int) -> Ints:
    """A side (0, 1, 2) for each group, so that every column of `counts` is shared out by `ratios`.

    Args:
        groups: names of the groups [G]; ties are broken by a hash of name and seed.
        counts: what each group holds of each label [G, L], and of rows.

    Returns:
        Sides [G]. Minimises the squared relative deviation of each label's share, by descent: exact for no input, but
        within a few parts in ten thousand where groups are many and small.
    """
    share = np.array(list(ratios), dtype=np.float64)
    share /= share.sum()
    total = counts.sum(axis=0)
    x = counts[:, total > 0] / total[total > 0]
    goal = share[:, None] * np.ones(x.shape[1])
    order = sorted(range(len(groups)), key=lambda g: (-x[g].max(initial=0.0), order_key(seed, groups[g])))
    held = np.zeros_like(goal)
    side = np.full(len(groups), -1, dtype=np.int64)
    for g in order:
        # The change of sum((held - goal)^2 / goal) if the group goes to each side.
        change = (x[g] * (2 * (held - goal) + x[g]) / goal).sum(axis=1)
        side[g] = int(np.argmin(change))
        held[side[g]] += x[g]
    for _ in range(8):
        moved = False
        for g in order:
            old = side[g]
            gain = (x[g] * (2 * (goal[old] - held[old]) + x[g]) / goal[old]).sum()
            change = (x[g] * (2 * (held - goal) + x[g]) / goal).sum(axis=1) + gain
            change[old] = 0.0
            new = int(np.argmin(change))
            if change[new] < -1e-12:
                held[old] -= x[g]
                held[new] += x[g]
                side[g], moved = new, True
        if not moved:
            break
    return side


def solve(patterns: NDArray[np.bool_], available: Ints, quotas: Ints) -> tuple[Ints, float]:
    """How many rows of each pattern to take: at least the quotas, least worst overshoot, then least total.

    Args:
        patterns: which pattern counts for which label [P, L].
        available: rows of each pattern [P].
        quotas: rows wanted of each label [L], at most what is available.

    Returns:
        Rows to take of each pattern [P], and the worst overshoot as a share of its quota. Solved by HiGHS to a gap of
        zero (scipy.optimize.milp).
    """
    from scipy.optimize import Bounds, LinearConstraint, milp

    held = patterns[:, quotas > 0].T.astype(np.float64)
    wanted = quotas[quotas > 0].astype(np.float64)
    if wanted.size == 0:
        return np.zeros(len(patterns), dtype=np.int64), 0.0
    count = len(patterns)
    # Variables: rows of each pattern, and the worst overshoot t: wanted <= held n <= wanted (1 + t).
    matrix = np.vstack([np.hstack([held, np.zeros((len(wanted), 1))]), np.hstack([held, -wanted[:, None]])])
    lower = np.concatenate([wanted, np.full(len(wanted), -np.inf)])
    upper = np.concatenate([np.full(len(wanted), np.inf), wanted])
    constraint = LinearConstraint(matrix, lower, upper)
    integral = np.append(np.ones(count), 0)
    top = float(max((held @ available / wanted).max() - 1, 0.0))
    cost = np.append(np.zeros(count), 1.0)
    first = milp(cost, constraints=constraint, integrality=integral, bounds=Bounds(0, np.append(available, top)))
    if first.x is None:
        raise RuntimeError(f"HiGHS found no selection: {first.message}")
    t = min(first.x[-1] + 1e-9, top)
    cost = np.append(held.sum(axis=0) + 1e-6, 0.0)
    second = milp(cost, constraints=constraint, integrality=integral, bounds=Bounds(0, np.append(available, t)))
    solution = second.x if second.x is not None else first.x
    return np.rint(solution[:-1]).astype(np.int64), float(first.x[-1])
