"""Solve the two optimisations behind splits: how many rows of each label set to select, and each subject's split.

Rows of one pattern have the same label set, subjects of one kind have the same counts of labels. A hash decides which
rows and subjects of a kind are meant, so everything here works on counts and knows no names.

Shapes: P patterns, L labels, G subjects (or other groups), K kinds of them, S splits.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import combinations, permutations
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from cxr_ft.data.labels import distinct_rows

if TYPE_CHECKING:
    from scipy.optimize import LinearConstraint, OptimizeResult

Ints = NDArray[np.int64]
Floats = NDArray[np.float64]
Mask = NDArray[np.bool_]
#: A kind, the split that one of its items leaves, the split it goes to.
Move = tuple[int, int, int]
#: Nodes HiGHS may visit for one program; a limit on time would give other splits on a slower machine.
NODES = 2_000
#: Levels of overshoot tried above the linear bound before the least one is searched for by a program of its own.
LEVELS = 8
#: Moves of the descent, at most; MIMIC's subjects need a few hundred.
MOVES = 20_000
#: A change below this is none.
ENOUGH = 1e-12
#: Kinds of each split whose exchanges are looked at.
NEAREST = 512
#: What floating point may be off by in a count of rows.
SLACK = 1e-6
#: scipy.optimize.milp's status of a program that nothing can meet.
INFEASIBLE = 2


@dataclass(frozen=True, kw_only=True)
class Selection:
    """Rows to select of each pattern, and the certificate of that choice.

    Args:
        take: rows of each pattern [P].
        worst: the worst overshoot over a quota, as a share of that quota.
        bound: no selection has a smaller worst overshoot than this; equal to `worst` where that is proven.
        gap: how far the total over all labels may be from the least at this overshoot, as a share; 0 where proven.
    """

    take: Ints
    worst: float
    bound: float
    gap: float


def apportion(total: int, ratios: Sequence[float]) -> list[int]:
    """Return `total` in whole parts by `ratios`, by the largest remainders; the parts sum to `total`."""
    # Rounding each part by itself could miss the total by one; whole parts first, then the largest remainders, cannot.
    exact = [total * r / sum(ratios) for r in ratios]
    parts = [int(e) for e in exact]
    # Ties go to the earlier split, so that the parts are the same on every machine.
    by_remainder = sorted(range(len(parts)), key=lambda i: (parts[i] - exact[i], i))
    for i in by_remainder[: total - sum(parts)]:
        parts[i] += 1
    return parts


def select_rows(patterns: Mask, available: Ints, quotas: Ints) -> Selection:
    """Solve for the rows of each pattern: at least the quotas, least worst overshoot, then least total.

    Args:
        patterns: which pattern counts for which label [P, L].
        available: rows of each pattern [P].
        quotas: rows required of each label [L], at most what is available.

    Solved by HiGHS (scipy.optimize.milp). The program without whole numbers bounds the worst overshoot from below; an
    overshoot is a whole number of rows of some label, so the first level from that bound upwards that a mixed-integer
    program can meet is the least there is, and the same program finds the least total at that level.
    """
    # A label with a quota of 0 has no overshoot: the share would be a division by zero. Its rows may come with other
    # labels.
    has, required = patterns[:, quotas > 0].T.astype(np.float64), quotas[quotas > 0].astype(np.float64)
    if required.size == 0:
        return Selection(take=np.zeros(len(patterns), dtype=np.int64), worst=0.0, bound=0.0, gap=0.0)
    # Rows are whole: no overshoot lies between the continuous optimum and the next whole row of some label.
    result = _least_overshoot(has, available, required, whole=False)
    # HiGHS is exact to its tolerance only. Without SLACK a quota met exactly would round up to one row more, and the
    # bound would claim more than is proven.
    bound = _level(np.ceil(required * (1 + result.fun) - SLACK), required)
    for _ in range(LEVELS):
        result = _least_total(has, available, required, bound)
        if result.status != INFEASIBLE:
            break
        # No selection at this level: the next possible one is the label that reaches one more whole row at the smallest
        # share.
        bound = _level(np.floor(required * (1 + bound) + SLACK) + 1, required)
    if result.x is None:  # LEVELS were not enough: find the least level by a program of its own
        result = _least_overshoot(has, available, required, whole=True)
        bound = max(bound, float(result.mip_dual_bound))
        level = _level(np.rint(has @ np.rint(result.x[:-1])), required, worst=True)
        result = _least_total(has, available, required, level)
    # HiGHS returns whole numbers up to its tolerance; rounded, they must still meet every bound exactly.
    take = np.rint(result.x).astype(np.int64)
    selected = has @ take
    if (selected < required).any() or (take > available).any():
        raise RuntimeError(f"HiGHS gave a selection beyond its bounds: {result.message}")
    return Selection(take=take, worst=_level(selected, required, worst=True), bound=bound, gap=float(result.mip_gap))


def _level(rows: Floats, required: Floats, *, worst: bool = False) -> float:
    """Return the least (or worst) overshoot of `rows` [L] over what is `required` [L], as a share."""
    over = rows / required - 1
    return float(over.max() if worst else over.min())


def _least_overshoot(has: Floats, available: Ints, required: Floats, *, whole: bool) -> "OptimizeResult":
    """Solve for the least t with required <= has n <= required (1 + t); the variables are n [P] and t."""
    from scipy.optimize import LinearConstraint

    matrix = np.block([[has, np.zeros((len(required), 1))], [has, -required[:, None]]])
    lower = np.concatenate([required, np.full(len(required), -np.inf)])
    upper = np.concatenate([np.full(len(required), np.inf), required])
    cost = np.append(np.zeros(has.shape[1]), 1.0)
    # With every row selected the overshoot is as large as it can be: a bound on t that cuts off no solution.
    top = np.append(available, max(_level(has @ available, required, worst=True), 0.0))
    return _feasible(cost, LinearConstraint(matrix, lower, upper), np.append(np.full(has.shape[1], whole), False), top)


def _least_total(has: Floats, available: Ints, required: Floats, level: float) -> "OptimizeResult":
    """Solve for the n [P] with the least total over all labels and no overshoot beyond `level`."""
    from scipy.optimize import LinearConstraint

    # The level is a share computed in floating point; a count of rows at that level must still be allowed.
    most = np.floor(required * (1 + level) + SLACK)
    whole = np.ones(has.shape[1])
    return _feasible(has.sum(axis=0), LinearConstraint(has, required, most), whole, available.astype(np.float64))


# An infeasible program is an answer, which the search for the level relies on; any other lack of a point is a failure.
def _feasible(
    cost: Floats, constraint: "LinearConstraint", whole: NDArray[np.generic], top: Floats
) -> "OptimizeResult":
    result = solve_milp(cost, constraint, whole, top)
    if result.x is None and result.status != INFEASIBLE:
        raise RuntimeError(f"HiGHS result no selection: {result.message}")
    return result


def solve_milp(
    cost: Floats, constraint: "LinearConstraint", whole: NDArray[np.generic], top: Floats, *, gap: float = 0.0
) -> "OptimizeResult":
    """Solve a mixed-integer program by HiGHS: the least `cost`, variables from 0 to `top`, those `whole` integer.

    It stops after NODES nodes, or where the cost is within the share `gap` of the least. Returns scipy's
    `OptimizeResult`; its `x` is None where no point that meets the constraint was found.
    """
    from scipy.optimize import Bounds, milp

    options = {"mip_rel_gap": gap, "node_limit": NODES}
    return milp(cost, constraints=constraint, integrality=whole, bounds=Bounds(0, top), options=options)


def assign_splits(draws: Floats, counts: Ints, ratios: Iterable[float]) -> Ints:
    """Return a split (0, 1, 2) for each group, so that every column of `counts` is divided by `ratios`.

    Args:
        draws: a number in [0, 1) for each group [G], by chance but tied to its name.
        counts: rows of each label in each group, and all its rows [G, L].

    Returns:
        Splits [G]. Each group goes where its draw falls, then groups move while that brings the shares nearer; so
        adding or removing other groups moves few of those that stay.
    """
    share = np.array(list(ratios), dtype=np.float64)
    share /= share.sum()
    # Subjects with the same counts are interchangeable for the balance, so it works on kinds, which are far fewer.
    first, kind = distinct_rows(counts)
    # The last edge is left out: rounding may put the sum a little below 1, and a draw above it would have no split.
    split = np.searchsorted(np.cumsum(share)[:-1], draws, side="right")
    items: Ints = np.zeros((len(first), len(share)), dtype=np.int64)
    np.add.at(items, (kind, split), 1)
    items = balance(counts[first], items, share)
    # The balancing says how many of a kind go to each split; by their draws, the lowest go to train and so on, so that
    # most keep the split that their draw alone gave.
    order = np.lexsort((draws, kind))
    place = np.arange(len(kind)) - np.searchsorted(kind[order], kind[order])  # within its kind, by draw
    split[order] = (place[:, None] >= np.cumsum(items, axis=1)[kind[order], :-1]).sum(axis=1)
    return split.astype(np.int64)


def balance(columns: Ints, items: Ints, share: Floats) -> Ints:
    """Move items between splits while that brings each column's shares nearer to `share`.

    Args:
        columns: the amount of each column in one item of each kind [K, L].
        items: items of each kind in each split [K, S].
        share: the splits' shares [S].

    Returns:
        Items of each kind in each split [K, S]: no move of one item, and no exchange of two among those that alone
        would harm least, lowers the squared relative deviations, summed over columns and splits. Sums run in a fixed
        order, without BLAS, so that every machine takes the same moves.
    """
    # A column without any row has no share to bring nearer; it is left out below, before the division by its total.
    total = (items.sum(axis=1) @ columns).astype(np.float64)
    state = _Balance(columns[:, total > 0], total[total > 0], items, share)
    for _ in range(MOVES):
        # An exchange looks at NEAREST squared pairs, a move at one kind each: exchanges are tried only where moves end.
        moves = state.best_move() or state.best_exchange()
        if not moves:
            break
        for kind, a, b in moves:
            state.move(kind, a, b)
    return state.items


class _Balance:
    """The items of each split, and by how much moving one of a kind would change the sum of squared deviations.

    With h[s] the shares that split s holds of each column, w[s] the share it should hold and x[k] what an item of kind
    k holds, the sum is over s of |h[s] - w[s]|^2 / w[s]^2. Adding x[k] to split s changes it by
    2 x[k].(h[s] - w[s]) / w[s]^2 + |x[k]|^2 / w[s]^2: `pull` is the first part, `size` is |x[k]|^2.
    """

    def __init__(self, columns: Ints, total: Floats, items: Ints, share: Floats) -> None:
        self.x, self.items, self.share = columns / total, items.copy(), share  # [K, L], [K, S], [S]
        self.shares = (items.T @ columns) / total  # [S, L], shares
        self.size = _dot(self.x * self.x, np.ones(len(total)))
        self.pull = np.stack([self._pull(s) for s in range(len(share))])  # [S, K], the linear part of the change

    def move(self, kind: int, a: int, b: int) -> None:
        """Move one item of a kind from split a to split b."""
        # A move changes the shares of two splits alone, so the third one's pull is still right and is not computed
        # again.
        for s, sign in ((a, -1), (b, 1)):
            self.items[kind, s] += sign
            self.shares[s] += sign * self.x[kind]
            self.pull[s] = self._pull(s)

    def best_move(self) -> list[Move]:
        """Return the move that lowers the sum most; nothing where none does."""
        candidates = []
        for a, b in permutations(range(len(self.share)), 2):
            change = self._change(a, b)
            # argmin takes the first of equal values, which keeps the choice the same on every machine.
            kind = int(np.argmin(change))
            candidates.append((change[kind], [(kind, a, b)]))
        change, moves = min(candidates)
        return moves if change < -ENOUGH else []

    def best_exchange(self) -> list[Move]:
        """Return the best exchange of two items, among those whose own moves raise the sum least for their size."""
        candidates = []
        for a, b in combinations(range(len(self.share)), 2):
            forth, back = self._change(a, b), self._change(b, a)
            # A pair of all kinds with all kinds would be K squared. An exchange helps where the two moves harm little
            # for their size, since what they have in common is subtracted twice. ENOUGH keeps items without rows from
            # dividing by zero.
            i, j = (np.argsort(change / (self.size + ENOUGH), kind="stable")[:NEAREST] for change in (forth, back))
            # The two items change the sum together by their own moves, less twice the product of what they hold.
            both = np.zeros((len(i), len(j)))
            # Summed column by column and not as a matrix product, for the reason that `_dot` states.
            for column in self.x.T:
                both += np.outer(column[i], column[j])
            change = forth[i][:, None] + back[j] - 2 * self._weight(a, b) * both
            k = np.unravel_index(int(np.argmin(change)), change.shape)
            candidates.append((change[k], [(int(i[k[0]]), a, b), (int(j[k[1]]), b, a)]))
        change, moves = min(candidates)
        return moves if change < -ENOUGH else []

    def _change(self, a: int, b: int) -> Floats:
        """Return what moving one item of each kind from split a to split b adds to the sum [K]."""
        change: Floats = self.pull[b] - self.pull[a] + self.size * self._weight(a, b)
        # A kind of which split a has no item cannot leave it.
        change[self.items[:, a] == 0] = np.inf
        return change

    def _weight(self, a: int, b: int) -> float:
        return float(1 / self.share[a] ** 2 + 1 / self.share[b] ** 2)

    def _pull(self, s: int) -> Floats:
        # Divided by the squared share: a point of test, the smaller split, counts for more than a point of train.
        return _dot(self.x, 2 * (self.shares[s] - self.share[s]) / self.share[s] ** 2)


def _dot(x: Floats, weight: Floats) -> Floats:
    """Return x @ weight, summed column by column: BLAS may add in another order on another machine."""
    out = np.zeros(len(x))
    for column, w in zip(x.T, weight, strict=True):
        out += column * w
    return out
