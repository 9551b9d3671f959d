"""Records to balanced, subject-disjoint train / val / test tables, compiled rather than sampled.

1. Mixed-integer programs over label patterns choose how many images of each pattern to take: at least the quota of
   every label, least worst overshoot first, then least total, then as near the natural mix as the counts by label
   allow. Nothing is duplicated.
2. Within a pattern, images are taken in the order of a hash of their id and the seed.
3. Every eligible subject, chosen from or not, goes to the side that a hash of its id says; then a few subjects move,
   until each label's share of each side meets the ratios, among the chosen images and among all.

So the result does not depend on the order of rows, on workers or on PYTHONHASHSEED, and few subjects change sides when
rows are added. Images that cannot be read are found when they are chosen, dropped, and the program is solved again.
"""

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from cxr_ft.data.records import GIVEN, IDS, OPTIONAL, SPLITS, Records, order_key
from cxr_ft.data.reports.text_columns import add_texts, columns, mini_reports
from cxr_ft.data.splits import official, prevalence, text_rows
from cxr_ft.data.splits.balance import Selection, assign, kinds, share_out, solve
from cxr_ft.data.splits.request import (
    NONE,
    UNITS,
    VIEWS,
    SplitRequest,
    eligible,
    join_studies,
    positives,
    refuse_outside,
)
from cxr_ft.errors import UsageError

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["NONE", "UNITS", "VIEWS", "Check", "Compiled", "compile_splits", "positives"]

Ints = NDArray[np.int64]
Floats = NDArray[np.float64]
Mask = NDArray[np.bool_]
#: Paths -> reason code and detail for each one that cannot be read.
Check = Callable[[Sequence[str]], dict[str, tuple[str, str]]]
#: Rows of the natural test set, at least, where there are so many.
NATURAL = 1000


@dataclass(frozen=True, kw_only=True)
class Compiled:
    """The splits: tables by side ("train", "val", "test", "test_natural"), what was refused, and the certificate.

    `labels` says for each label what was asked, is available, is the target, was achieved, and the overshoot (a share
    of the target); `selection` the worst overshoot, the bound below which none can be, the gap of the total, and the
    labels that bind: those with too few images, and those at the worst overshoot; `weights` for each weighted side the
    share of its rows whose pattern has no chosen row, and how far off a weighted prevalence is at most.
    """

    tables: dict[str, "pd.DataFrame"]
    rejected: list[tuple[str, str, str]]
    labels: dict[str, dict[str, int]]
    selection: dict[str, Any]
    weights: dict[str, dict[str, float]]
    counts: dict[str, int]
    notes: list[str] = field(default_factory=list)

    @property
    def worst_overshoot(self) -> float:
        """The worst overshoot over a target, as a share of it."""
        return float(self.selection["worst_overshoot"])


def compile_splits(records: Records, asked: SplitRequest, check: Check) -> Compiled:
    """Balanced, subject-disjoint splits of `records`.

    Args:
        check: says which of some paths cannot be read; called only for images about to be chosen.

    Raises:
        UsageError: where nothing is left to split, or too few subjects.
    """
    if is_text := records.card.unit == "text":
        records, asked = text_rows.about(records, asked)
    notes: list[str] = list(records.notes)
    refuse_outside(records)
    table = eligible(records, asked, notes)
    table = table if is_text else add_texts(table, records, asked.text, notes)
    if asked.unit == "study":
        table = join_studies(table)
        notes.append("a row is a study: its first image, PA before AP before LATERAL; data.views=2 reads two of them")
    if table.empty:
        raise UsageError(f"{records.root}: no row is left after the filters (views {asked.views}, text {asked.text})")
    problem = _Problem(table.sort_values("dicom_id", ignore_index=True), records, asked)
    checked: set[str] = set()
    while True:
        taken = problem.solve()
        new = [path for path in problem.paths(taken) if path not in checked]
        bad = check(new)
        checked.update(new)
        if not bad:
            break
        problem.drop(bad)
    refused = problem.refused
    out = problem.tables()
    if empty := [name for name in SPLITS if out[name].empty]:
        raise UsageError(
            f"--per-label {asked.per_label} leaves nothing for {', '.join(empty)}; ask for more, or other --ratios"
            + (f" ({in_words(refused)})" if refused else "")
        )
    certificate = problem.certificate()
    notes += [*problem.notes, _in_words(certificate), _in_mix(problem.mix)]
    return Compiled(
        tables=out,
        rejected=sorted((path, *why) for path, why in refused.items()),
        labels=problem.achieved(out),
        selection=certificate,
        weights=problem.mix,
        counts={"records": len(records.table), "eligible": int(problem.readable.sum()), "rejected": len(refused)},
        notes=notes,
    )


def _in_words(certificate: dict[str, Any]) -> str:
    """The certificate in one sentence, for the manifest and the terminal."""
    worst, least, gap = (100 * certificate[key] for key in ("worst_overshoot", "least_possible", "gap"))
    proof = "the least there can be" if worst == least else f"and no selection can do better than {least:.2f} %"
    binds = f", at {' and '.join(certificate['at_worst'])}" if certificate["at_worst"] else ""
    return f"the selection's worst overshoot over a target is {worst:.2f} %{binds}: {proof}; gap of the total {gap:g} %"


def _in_mix(mix: dict[str, dict[str, float]]) -> str:
    """What the weights restore, in one sentence."""
    lost, off = (max(side[key] for side in mix.values()) for key in ("rows_without", "prevalence_error"))
    return (
        f"the weights give back each side's natural prevalences to within {100 * off:.2f} points; "
        f"{100 * lost:.1f} % of a side's rows at most have a combination of labels of which no row was chosen"
    )


class _Problem:
    """The eligible rows [N], and what is chosen of them as rows turn out to be unreadable."""

    def __init__(self, table: "pd.DataFrame", records: Records, asked: SplitRequest) -> None:
        import pandas as pd

        self.table, self.card, self.root, self.asked = table, records.card, records.root, asked
        self.notes: list[str] = []
        self.held, self.names = positives(table, self.card, asked)
        first, self.pattern = kinds(self.held)
        self.patterns: Mask = self.held[first]
        self.subject, subjects = pd.factorize(table["subject_id"].to_numpy(dtype=object), sort=True)
        self.subjects = subjects
        if len(subjects) < len(SPLITS):
            raise UsageError(
                f"{self.root}: {len(subjects)} eligible subjects; train, val and test need one each at least"
            )
        self.draw = _keys(asked.seed, subjects) / 2.0**64
        self.rank = _keys(asked.seed, table["dicom_id"].to_numpy(dtype=object))
        draws = self.draw[self.subject]
        self.official = official.sides(table, draws, asked.ratios, self.notes) if asked.official else None
        self.readable: Mask = np.ones(len(table), dtype=bool)
        self.refused: dict[str, tuple[str, str]] = {}

    def solve(self) -> Mask:
        """Choose rows, give every subject a side, and say which rows are in any table."""
        pool = self.readable if self.official is None else self.readable & (self.official == 0)
        self.quotas: Ints = np.minimum(self.asked.per_label, self.held[pool].sum(axis=0))
        chosen = self._choose(pool)
        self.side = self._assigned(chosen) if self.official is None else self.official
        if self.official is not None:
            chosen |= self.readable & (self.official > 0)
        self.chosen = {name: chosen & (self.side == s) for s, name in enumerate(SPLITS)}
        self.chosen["test_natural"] = self._natural(least=int(self.chosen["test"].sum()))
        taken: Mask = chosen | self.chosen["test_natural"]
        return taken

    def paths(self, rows: Mask) -> list[str]:
        """The files of some rows."""
        return [path for row in self.table["path"][rows] for path in row.split("|") if path]

    def drop(self, bad: dict[str, tuple[str, str]]) -> None:
        """Take rows with an unreadable file out of the problem."""
        self.refused |= bad
        self.readable &= [bad.keys().isdisjoint(row.split("|")) for row in self.table["path"]]

    def tables(self) -> dict[str, "pd.DataFrame"]:
        """The CSVs' tables. `weight`: how many readable rows of its side a chosen row stands for."""
        out = {}
        self.mix: dict[str, dict[str, float]] = {}
        for name, mask in self.chosen.items():
            weight = 1.0 if name == "test_natural" else self._weights(name, mask)[self.pattern[mask]]
            rows = self.table[mask].assign(split=name, weight=weight)
            texts = [n for n in GIVEN if n in rows] if self.card.unit == "text" else columns(self.asked.text, rows)
            if "mini_report" in texts:
                rows["mini_report"] = mini_reports(rows, self.card)
            first = [*IDS, "path", "view", "split", "weight", *(column for column in OPTIONAL if column in rows)]
            labels = list(self.card.labels) if self.card.multi_label else ["label"]
            out[name] = rows[list(dict.fromkeys([*first, *labels, *texts]))].reset_index(drop=True)
        return out

    def _weights(self, name: str, mask: Mask) -> Floats:
        """The weight of a chosen row of each pattern [P], to six digits; what they miss is kept in `mix`."""
        there = np.bincount(self.pattern[self._here(name)], minlength=len(self.patterns))
        here = np.bincount(self.pattern[mask], minlength=len(self.patterns))
        weight = np.array([float(f"{w:.6g}") for w in prevalence.weights(self.patterns, there, here)])
        held = (weight * here) @ self.patterns / max(float(weight @ here), 1.0)
        off = np.abs(held - there @ self.patterns / max(int(there.sum()), 1)).max()
        lost = there[here == 0].sum() / max(int(there.sum()), 1)
        self.mix[name] = {"rows_without": round(float(lost), 6), "prevalence_error": round(float(off), 6)}
        return weight

    def achieved(self, out: dict[str, "pd.DataFrame"]) -> dict[str, dict[str, int]]:
        """For each label: asked, available, target, achieved, and each side's part of the target and rows."""
        counts = {name: positives(rows, self.card, self.asked)[0].sum(axis=0) for name, rows in out.items()}
        targets = np.stack([share_out(int(quota), self.asked.ratios) for quota in self.quotas])
        if self.official is not None:  # the other sides are taken whole
            targets = np.stack([self.quotas, *(self.held[self._here(name)].sum(axis=0) for name in SPLITS[1:])], axis=1)
        return {
            label: {
                "asked": self.asked.per_label,
                "available": int(self.held[self.readable, i].sum()),
                "target": int(self.quotas[i]),
                "achieved": int(self.got[i]),
                **{f"{side}_quota": int(targets[i, s]) for s, side in enumerate(SPLITS)},
                **{name: int(count[i]) for name, count in counts.items()},
            }
            for i, label in enumerate(self.names)
        }

    def certificate(self) -> dict[str, Any]:
        """What the program proves, and the labels that bind it."""
        worst = np.isclose(self.got / np.maximum(self.quotas, 1) - 1, self.selection.worst) & (self.quotas > 0)
        return {
            "worst_overshoot": round(self.selection.worst, 6),
            "least_possible": round(self.selection.bound, 6),
            "gap": round(self.selection.gap, 6),
            "from_wished": round(self.spread.distance, 6),
            "from_wished_gap": None if self.spread.gap is None else round(self.spread.gap, 6),
            "short": [name for i, name in enumerate(self.names) if self.quotas[i] < self.asked.per_label],
            "at_worst": [name for i, name in enumerate(self.names) if worst[i] and self.selection.worst > 0],
        }

    def _here(self, name: str) -> Mask:
        here: Mask = (self.side == SPLITS.index(name.removesuffix("_natural"))) & self.readable
        return here

    def _choose(self, pool: Mask) -> Mask:
        """The rows of `pool` [N] that the program takes: of each pattern the first ones by their hash."""
        rows = np.flatnonzero(pool & self.held.any(axis=1))
        if rows.size == 0 and self.refused:
            raise UsageError(f"{self.root}: no image with a positive label is left: {in_words(self.refused)}")
        if rows.size == 0:
            raise UsageError(f"{self.root}: no image has a positive label; other --views or --uncertain are needed")
        code = self.pattern[rows]
        there = np.bincount(code, minlength=len(self.patterns))
        self.selection: Selection = solve(self.patterns, there, self.quotas)
        self.spread = prevalence.spread(self.patterns, there, self.selection.take)
        take = self.spread.take
        self.got: Ints = take @ self.patterns
        order = np.lexsort((self.rank[rows], code))
        place = np.arange(len(rows)) - np.searchsorted(code[order], code[order])  # within its pattern
        chosen: Mask = np.zeros(len(pool), dtype=bool)
        chosen[rows[order][place < take[code[order]]]] = True
        return chosen

    def _assigned(self, chosen: Mask) -> Ints:
        """The side of each row [N]: shares are met among the chosen rows, and among all, for the natural test set."""
        counts: Ints = np.zeros((len(self.draw), 2 * self.held.shape[1] + 2), dtype=np.int64)
        for i, column in enumerate([*self.held.T, np.ones(len(chosen), dtype=bool)]):
            for j, mask in enumerate((chosen, self.readable)):
                counts[:, 2 * i + j] = np.bincount(self.subject[column & mask], minlength=len(self.draw))
        side: Ints = assign(self.draw, counts, self.asked.ratios)[self.subject]
        return side

    def _natural(self, least: int) -> Mask:
        """All readable rows of whole test subjects, by chance, until there are `least` (and NATURAL, of so many)."""
        rows = np.flatnonzero(self._here("test"))
        taken: Mask = np.zeros(len(self.table), dtype=bool)
        if rows.size:
            # Not the draw that sides go by: those who moved to this side would come first.
            names, which = np.unique(self.subject[rows], return_inverse=True)
            place = _keys(self.asked.seed, [f"natural|{name}" for name in self.subjects[names]])[which]
            last = np.sort(place)[min(max(least, NATURAL), len(rows)) - 1]
            taken[rows[place <= last]] = True
        return taken


def in_words(refused: dict[str, tuple[str, str]]) -> str:
    """How many images could not be read, why, and one of them."""
    reasons = Counter(reason for reason, _ in refused.values())
    counts = ", ".join(f"{reason} {count}" for reason, count in sorted(reasons.items()))
    path, (reason, detail) = min(refused.items())
    return f"{len(refused)} images could not be read ({counts}), for example {path}: {reason}, {detail}"


def _keys(seed: int, names: Iterable[str]) -> NDArray[np.uint64]:
    """`order_key` of each name as a number."""
    joined = b"".join([order_key(seed, name) for name in names])
    return np.frombuffer(joined, dtype=">u8").astype(np.uint64)
