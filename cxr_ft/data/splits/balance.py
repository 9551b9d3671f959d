"""The optimisations behind a split: how many rows of each kind are taken, and which side everything goes to.

Rows of one kind hold the same labels (a pattern), subjects of one kind hold the same counts of labels. Which rows and
subjects of a kind are meant is decided by a hash, so everything here works on counts and knows no names.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import combinations, permutations
from typing import Any

import numpy as np
from numpy.typing import NDArray

Ints = NDArray[np.int64]
Floats = NDArray[np.float64]
Mask = NDArray[np.bool_]
#: A kind, the side it leaves, the side it goes to.
Move = tuple[int, int, int]
#: Nodes HiGHS may visit for one program; a limit on time would give other splits on a slower machine.
NODES = 2_000
#: Levels of overshoot tried above the linear bound before the least one is searched for by a program of its own.
LEVELS = 8
#: Moves of the descent, at most; MIMIC's subjects need a few hundred.
MOVES = 20_000
#: A change below this is none.
ENOUGH = 1e-12
#: Kinds of each side whose exchanges are looked at.
NEAREST = 512
#: What floating point may be off by in a count of rows.
SLACK = 1e-6
#: scipy.optimize.milp's status of a program that nothing can meet.
INFEASIBLE = 2


@dataclass(frozen=True, kw_only=True)
class Selection:
    """How many rows of each pattern to take [P], and the certificate.

    Args:
        take: rows of each pattern.
        worst: the worst overshoot over a quota, as a share of that quota.
        bound: no selection has a smaller worst overshoot than this; equal to `worst` where that is proven.
        gap: how far the total over all labels may be from the least at this overshoot, as a share; 0 where proven.
    """

    take: Ints
    worst: float
    bound: float
    gap: float


def kinds(rows: NDArray[np.integer[Any] | np.bool_]) -> tuple[Ints, Ints]:
    """The first row of each distinct kind [K], and the kind of each row [N], of whole numbers `rows` [N, L]."""
    code = np.zeros(len(rows), dtype=np.int64)
    first, radix = np.zeros(min(len(rows), 1), dtype=np.int64), 1
    for column in rows.T.astype(np.int64):
        values = int(column.max(initial=0) - column.min(initial=0)) + 1
        if radix * values > 2**62:  # numbered anew, to leave room for one more column
            _, first, code = np.unique(code, return_index=True, return_inverse=True)
            radix = len(first)
        code = code * values + (column - column.min(initial=0))
        radix *= values
    _, first, code = np.unique(code, return_index=True, return_inverse=True)
    return first, code


def share_out(total: int, ratios: Sequence[float]) -> list[int]:
    """`total` in whole parts by `ratios`, largest remainders first; the parts' sum is `total`."""
    exact = [total * r / sum(ratios) for r in ratios]
    parts = [int(e) for e in exact]
    by_remainder = sorted(range(len(parts)), key=lambda i: (parts[i] - exact[i], i))
    for i in by_remainder[: total - sum(parts)]:
        parts[i] += 1
    return parts


def solve(patterns: Mask, available: Ints, quotas: Ints) -> Selection:
    """How many rows of each pattern to take: at least the quotas, least worst overshoot, then least total.

    Args:
        patterns: which pattern counts for which label [P, L].
        available: rows of each pattern [P].
        quotas: rows wanted of each label [L], at most what is available.

    Solved by HiGHS (scipy.optimize.milp). The program without whole numbers bounds the worst overshoot from below; an
    overshoot is a whole number of rows of some label, so the first level from that bound upwards that a mixed-integer
    program can meet is the least there is, and the same program finds the least total at that level.
    """
    held, wanted = patterns[:, quotas > 0].T.astype(np.float64), quotas[quotas > 0].astype(np.float64)
    if wanted.size == 0:
        return Selection(take=np.zeros(len(patterns), dtype=np.int64), worst=0.0, bound=0.0, gap=0.0)
    found = _least_overshoot(held, available, wanted, whole=False)
    bound = _level(np.ceil(wanted * (1 + found.fun) - SLACK), wanted)
    for _ in range(LEVELS):
        found = _least_total(held, available, wanted, bound)
        if found.status != INFEASIBLE:
            break
        bound = _level(np.floor(wanted * (1 + bound) + SLACK) + 1, wanted)
    if found.x is None:
        found = _least_overshoot(held, available, wanted, whole=True)
        bound = max(bound, float(found.mip_dual_bound))
        found = _least_total(held, available, wanted, _level(np.rint(held @ np.rint(found.x[:-1])), wanted, worst=True))
    take = np.rint(found.x).astype(np.int64)
    got = held @ take
    if (got < wanted).any() or (take > available).any():
        raise RuntimeError(f"HiGHS gave a selection beyond its bounds: {found.message}")
    return Selection(take=take, worst=_level(got, wanted, worst=True), bound=bound, gap=float(found.mip_gap))


def _level(rows: Floats, wanted: Floats, *, worst: bool = False) -> float:
    """The least (or worst) overshoot of `rows` over what is `wanted`."""
    over = rows / wanted - 1
    return float(over.max() if worst else over.min())


def _least_overshoot(held: Floats, available: Ints, wanted: Floats, *, whole: bool) -> Any:
    """HiGHS's result for the least t with wanted <= held n <= wanted (1 + t); the variables are n [P] and t."""
    from scipy.optimize import LinearConstraint

    matrix = np.block([[held, np.zeros((len(wanted), 1))], [held, -wanted[:, None]]])
    lower = np.concatenate([wanted, np.full(len(wanted), -np.inf)])
    upper = np.concatenate([np.full(len(wanted), np.inf), wanted])
    cost = np.append(np.zeros(held.shape[1]), 1.0)
    top = np.append(available, max(_level(held @ available, wanted, worst=True), 0.0))
    return _milp(cost, LinearConstraint(matrix, lower, upper), np.append(np.full(held.shape[1], whole), False), top)


def _least_total(held: Floats, available: Ints, wanted: Floats, level: float) -> Any:
    """HiGHS's result for the n [P] with the least total over all labels and no overshoot beyond `level`."""
    from scipy.optimize import LinearConstraint

    most = np.floor(wanted * (1 + level) + SLACK)
    whole = np.ones(held.shape[1])
    return _milp(held.sum(axis=0), LinearConstraint(held, wanted, most), whole, available.astype(np.float64))


def _milp(cost: Floats, constraint: Any, whole: NDArray[Any], top: Floats) -> Any:
    found = program(cost, constraint, whole, top)
    if found.x is None and found.status != INFEASIBLE:
        raise RuntimeError(f"HiGHS found no selection: {found.message}")
    return found


def program(cost: Floats, constraint: Any, whole: NDArray[Any], top: Floats, *, gap: float = 0.0) -> Any:
    """HiGHS's result for the least `cost` with variables from 0 to `top`, those `whole` being whole numbers.

    It ends NODES nodes after its start, or where the cost is within the share `gap` of the least; `x` is None where
    it met the constraint nowhere.
    """
    from scipy.optimize import Bounds, milp

    options = {"mip_rel_gap": gap, "node_limit": NODES}
    return milp(cost, constraints=constraint, integrality=whole, bounds=Bounds(0, top), options=options)


def assign(draws: Floats, counts: Ints, ratios: Iterable[float]) -> Ints:
    """A side (0, 1, 2) for each group, so that every column of `counts` is shared out by `ratios`.

    Args:
        draws: a number in [0, 1) for each group [G], by chance but tied to its name.
        counts: what each group holds of each label, and of rows [G, L].

    Returns:
        Sides [G]. Each group goes where its draw falls, then groups move while that brings the shares nearer; so other
        groups that come or go move few of those that stay.
    """
    share = np.array(list(ratios), dtype=np.float64)
    share /= share.sum()
    first, kind = kinds(counts)
    side = np.searchsorted(np.cumsum(share)[:-1], draws, side="right")
    held: Ints = np.zeros((len(first), len(share)), dtype=np.int64)
    np.add.at(held, (kind, side), 1)
    held = balanced(counts[first], held, share)
    order = np.lexsort((draws, kind))
    place = np.arange(len(kind)) - np.searchsorted(kind[order], kind[order])  # within its kind, by draw
    side[order] = (place[:, None] >= np.cumsum(held, axis=1)[kind[order], :-1]).sum(axis=1)
    return side.astype(np.int64)


def balanced(columns: Ints, rows: Ints, share: Floats) -> Ints:
    """Move items between sides while that brings each column's shares nearer to `share`.

    Args:
        columns: what one item of each kind holds of each column [K, L].
        rows: items of each kind on each side [K, S].
        share: the sides' shares [S].

    Returns:
        Items of each kind on each side [K, S]: no move of one item, and no exchange of two among those that alone would
        harm least, lowers the squared relative deviations, summed over columns and sides. Sums run in a fixed order,
        without BLAS, so that every machine takes the same moves.
    """
    total = (rows.sum(axis=1) @ columns).astype(np.float64)
    state = _State(columns[:, total > 0], total[total > 0], rows, share)
    for _ in range(MOVES):
        moves = state.best_move() or state.best_exchange()
        if not moves:
            break
        for kind, a, b in moves:
            state.move(kind, a, b)
    return state.rows


class _State:
    """Where the items stand, and what adding one of a kind to a side would change."""

    def __init__(self, columns: Ints, total: Floats, rows: Ints, share: Floats) -> None:
        self.x, self.rows, self.share = columns / total, rows.copy(), share  # [K, L], [K, S], [S]
        self.held = (rows.T @ columns) / total  # [S, L], shares
        self.own = _dot(self.x * self.x, np.ones(len(total)))
        self.pull = np.stack([self._pull(s) for s in range(len(share))])  # [S, K], the linear part of the change

    def move(self, kind: int, a: int, b: int) -> None:
        """One item of a kind from side a to side b."""
        for s, sign in ((a, -1), (b, 1)):
            self.rows[kind, s] += sign
            self.held[s] += sign * self.x[kind]
            self.pull[s] = self._pull(s)

    def best_move(self) -> list[Move]:
        """The move that lowers the sum most, if one does."""
        found = []
        for a, b in permutations(range(len(self.share)), 2):
            change = self._change(a, b)
            kind = int(np.argmin(change))
            found.append((change[kind], [(kind, a, b)]))
        change, moves = min(found)
        return moves if change < -ENOUGH else []

    def best_exchange(self) -> list[Move]:
        """The best exchange of two items, among those whose own moves raise it least for their size."""
        found = []
        for a, b in combinations(range(len(self.share)), 2):
            there, back = self._change(a, b), self._change(b, a)
            i, j = (np.argsort(change / (self.own + ENOUGH), kind="stable")[:NEAREST] for change in (there, back))
            both = np.zeros((len(i), len(j)))
            for column in self.x.T:
                both += np.outer(column[i], column[j])
            change = there[i][:, None] + back[j] - 2 * self._weight(a, b) * both
            k = np.unravel_index(int(np.argmin(change)), change.shape)
            found.append((change[k], [(int(i[k[0]]), a, b), (int(j[k[1]]), b, a)]))
        change, moves = min(found)
        return moves if change < -ENOUGH else []

    def _change(self, a: int, b: int) -> Floats:
        """What moving one item of each kind from side a to side b adds to the sum [K]."""
        change: Floats = self.pull[b] - self.pull[a] + self.own * self._weight(a, b)
        change[self.rows[:, a] == 0] = np.inf
        return change

    def _weight(self, a: int, b: int) -> float:
        return float(1 / self.share[a] ** 2 + 1 / self.share[b] ** 2)

    def _pull(self, s: int) -> Floats:
        return _dot(self.x, 2 * (self.held[s] - self.share[s]) / self.share[s] ** 2)


def _dot(x: Floats, weight: Floats) -> Floats:
    out = np.zeros(len(x))
    for column, w in zip(x.T, weight, strict=True):
        out += column * w
    return out
