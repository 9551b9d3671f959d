"""Records to balanced, subject-disjoint train / val / test tables, compiled rather than sampled.

1. Every eligible subject is assigned to one side, so that each label's share of each side meets the ratios as evenly as
   the data allows (greedy in order of scarcity, then local moves).
2. On each side a mixed-integer program over label patterns chooses how many images of each pattern to take: at least
   the quota of every label, least worst overshoot first, then least total. Nothing is duplicated.
3. Within a pattern, images are taken in the order of a hash of their id and the seed.

So the result does not depend on the order of rows, on workers or on PYTHONHASHSEED. Images that cannot be read are
found when they are chosen, dropped, and the program is solved again.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from cxr_ft.data.balance import assign, share_out, solve
from cxr_ft.data.card import DatasetCard
from cxr_ft.data.labels import targets
from cxr_ft.data.records import FRONTAL, IDS, OPTIONAL, SPLITS, Records, order_key, raw_labels
from cxr_ft.data.reports import TEXTS, add_texts
from cxr_ft.errors import UsageError, unknown

if TYPE_CHECKING:
    import pandas as pd

Ints = NDArray[np.int64]
Mask = NDArray[np.bool_]
#: Paths -> reason code and detail for each one that cannot be read.
Check = Callable[[Sequence[str]], dict[str, tuple[str, str]]]
VIEWS = ("frontal", "all", "PA", "AP", "LATERAL")
UNITS = ("image", "study")
#: The quota of rows without any positive label, in data that has no label for normal films.
NONE = "(none)"
#: Rows of the natural test set, at least, where there are so many.
NATURAL = 1000


@dataclass(frozen=True, kw_only=True)
class Asked:
    """What the user asked of the splits.

    Args:
        per_label: images (or studies) wanted of each label over the three sides together.
        seed: decides which images are taken among equals.
        ratios: train, val, test in percent.
        views: frontal (PA and AP), all, or one view. Images without a view pass where the data has none at all.
        uncertain, blank: policies of `cxr_ft.data.labels`.
        unit: what a row is; "study" joins the images of a study.
        official: keep the data's own split; quotas hold for train only.
        text: the text columns, one of `cxr_ft.data.reports.TEXTS`.
    """

    per_label: int
    seed: int = 0
    ratios: tuple[float, float, float] = (70.0, 15.0, 15.0)
    views: str = "frontal"
    uncertain: str = "ignore"
    blank: str = "negative"
    unit: str = "image"
    official: bool = False
    text: str = "mini_report"

    def __post_init__(self) -> None:
        if self.per_label < 1:
            raise UsageError(f"--per-label {self.per_label}: at least 1 image a label is needed")
        if len(self.ratios) != 3 or not all(r > 0 for r in self.ratios) or abs(sum(self.ratios) - 100) > 1e-6:
            raise UsageError(
                f"--ratios {'/'.join(f'{r:g}' for r in self.ratios)}: "
                "give three positive numbers with sum 100, as 70/15/15"
            )
        for kind, value, known in (
            ("--views", self.views, VIEWS),
            ("--unit", self.unit, UNITS),
            ("--text", self.text, TEXTS),
        ):
            if value not in known:
                raise unknown(f"{kind} value", value, known)


@dataclass(frozen=True, kw_only=True)
class Compiled:
    """The splits: tables by side ("train", "val", "test", "test_natural"), what was refused, and the certificate."""

    tables: dict[str, "pd.DataFrame"]
    rejected: list[tuple[str, str, str]]
    labels: dict[str, dict[str, int]]
    worst_overshoot: float
    counts: dict[str, int]
    notes: list[str] = field(default_factory=list)


def compile_splits(records: Records, asked: Asked, check: Check) -> Compiled:
    """Balanced, subject-disjoint splits of `records`.

    Args:
        check: says which of some paths cannot be read; called only for images about to be chosen.

    Raises:
        UsageError: where nothing is left to split, or too few subjects.
    """
    notes: list[str] = list(records.notes)
    table = eligible(records, asked, notes)
    table = add_texts(table, records, asked.text, notes)
    if asked.unit == "study":
        table = join_studies(table)
        notes.append("a row is a study: its first image, PA before AP before LATERAL, is the one trained on")
    if table.empty:
        raise UsageError(f"{records.root}: no image is left after the filters (views {asked.views}, text {asked.text})")
    problem = _Problem(table.sort_values("dicom_id", ignore_index=True), records, asked)
    checked: set[str] = set()
    refused: dict[str, tuple[str, str]] = {}
    while True:
        taken = problem.solve()
        new = [path for path in problem.paths(taken) if path not in checked]
        bad = check(new)
        checked.update(new)
        if not bad:
            break
        refused |= bad
        problem.drop(set(bad))
    out = problem.tables()
    if empty := [name for name in SPLITS if out[name].empty]:
        raise UsageError(
            f"--per-label {asked.per_label} leaves nothing for {', '.join(empty)}; ask for more, or other --ratios"
        )
    return Compiled(
        tables=out,
        rejected=sorted((path, *why) for path, why in refused.items()),
        labels=problem.achieved(out),
        worst_overshoot=problem.worst,
        counts={"records": len(records.table), "eligible": int(problem.readable.sum()), "rejected": len(refused)},
        notes=notes,
    )


def eligible(records: Records, asked: Asked, notes: list[str]) -> "pd.DataFrame":
    """The rows of the views asked for; data without any view is taken whole, and says so."""
    table = records.table
    if asked.views == "all":
        return table
    if (table["view"] == "").all():
        if asked.views != "frontal":
            raise UsageError(f"--views {asked.views}: {records.root} says no view of any image; use --views all")
        notes.append("the data says no views: all images are taken for frontal ones")
        return table
    kept = table[table["view"].isin(FRONTAL if asked.views == "frontal" else [asked.views])]
    there = ", ".join(sorted({str(view) or "none said" for view in table["view"]}))
    if kept.empty:
        raise UsageError(f"--views {asked.views}: {records.root} has none; its views are {there}; use --views all")
    notes.append(
        f"{len(table) - len(kept)} of {len(table)} images are left out by --views {asked.views} (views: {there})"
    )
    return kept


def join_studies(table: "pd.DataFrame") -> "pd.DataFrame":
    """One row a study: dicom_id, path and view joined by `|`, PA, AP, LATERAL first in this order."""
    order = {"PA": 0, "AP": 1, "LATERAL": 2}
    table = table.assign(_order=table["view"].map(order).fillna(3)).sort_values(["study_id", "_order", "dicom_id"])
    joined = table.groupby("study_id", sort=True)[["dicom_id", "path", "view"]].agg("|".join)
    first = table.drop_duplicates("study_id").drop(columns="_order").set_index("study_id", drop=False)
    first[["dicom_id", "path", "view"]] = joined.loc[first.index]
    return first.reset_index(drop=True)


def positives(table: "pd.DataFrame", card: DatasetCard, asked: Asked) -> tuple[Mask, tuple[str, ...]]:
    """Which row counts for which quota [N, L'], and the quotas' names: the labels, and NONE where none is normal."""
    values = targets(raw_labels(table, card), asked.uncertain, asked.blank) == 1
    if card.multi_label and card.normal is None:
        return np.column_stack([values, ~values.any(axis=1)]), (*card.labels, NONE)
    return values, card.labels


class _Problem:
    """The eligible rows [N] with their sides fixed, and what is chosen of them as rows turn out to be unreadable."""

    def __init__(self, table: "pd.DataFrame", records: Records, asked: Asked) -> None:
        self.table, self.card, self.root, self.asked = table, records.card, records.root, asked
        self.held, self.names = positives(table, self.card, asked)
        self.side = self._official() if asked.official else self._assigned()
        self.rank = np.array([order_key(asked.seed, name) for name in table["dicom_id"]], dtype="S8")
        self.readable: Mask = np.ones(len(table), dtype=bool)
        self.chosen: dict[str, Mask] = {}
        self.quotas: Ints = np.zeros((3, len(self.names)), dtype=np.int64)
        self.worst = 0.0

    def solve(self) -> Mask:
        """Choose rows for every side, and say which rows are in any table."""
        self.quotas, self.worst = self._quotas(), 0.0
        self.chosen = {name: self._choose(s) for s, name in enumerate(SPLITS)}
        self.chosen["test_natural"] = self._natural(least=int(self.chosen["test"].sum()))
        taken: Mask = np.logical_or.reduce(list(self.chosen.values()))
        return taken

    def paths(self, rows: Mask) -> list[str]:
        """The files of some rows."""
        return [path for row in self.table["path"][rows] for path in row.split("|")]

    def drop(self, bad: set[str]) -> None:
        """Take rows with an unreadable file out of the problem; sides stay as they are."""
        self.readable &= [bad.isdisjoint(row.split("|")) for row in self.table["path"]]

    def tables(self) -> dict[str, "pd.DataFrame"]:
        """The CSVs' tables. `weight`: how many readable rows of its side a chosen row stands for."""
        _, code = np.unique(self.held, axis=0, return_inverse=True)
        out = {}
        for name, mask in self.chosen.items():
            there = np.bincount(code[self._here(SPLITS.index(name.removesuffix("_natural")))], minlength=code.max() + 1)
            here = np.bincount(code[mask], minlength=code.max() + 1)
            weight = 1.0 if name == "test_natural" else np.round(there[code[mask]] / here[code[mask]], 6)
            rows = self.table[mask].assign(split=name, weight=weight)
            first = [*IDS, "path", "view", "split", "weight", *(column for column in OPTIONAL if column in rows)]
            labels = list(self.card.labels) if self.card.multi_label else ["label"]
            out[name] = rows[[*first, *labels, *TEXTS[self.asked.text]]].reset_index(drop=True)
        return out

    def achieved(self, out: dict[str, "pd.DataFrame"]) -> dict[str, dict[str, int]]:
        """For each label: asked, available, quota and rows of each side."""
        counts = {name: positives(rows, self.card, self.asked)[0].sum(axis=0) for name, rows in out.items()}
        return {
            label: {
                "asked": self.asked.per_label,
                "available": int(self.held[self.readable, i].sum()),
                **{f"{side}_quota": int(self.quotas[s, i]) for s, side in enumerate(SPLITS)},
                **{name: int(count[i]) for name, count in counts.items()},
            }
            for i, label in enumerate(self.names)
        }

    def _here(self, s: int) -> Mask:
        here: Mask = (self.side == s) & self.readable
        return here

    def _official(self) -> Ints:
        side = self.table["official"].map({name: i for i, name in enumerate(SPLITS)}).fillna(-1)
        if missing := [name for i, name in enumerate(SPLITS) if not (side == i).any()]:
            raise UsageError(f"--official: the data's own split has no eligible image for {', '.join(missing)}")
        return np.asarray(side, dtype=np.int64)

    def _assigned(self) -> Ints:
        import pandas as pd

        code, subjects = pd.factorize(self.table["subject_id"], sort=True)
        if len(subjects) < len(SPLITS):
            raise UsageError(
                f"{self.root}: {len(subjects)} eligible subjects; train, val and test need one each at least"
            )
        counts = np.zeros((len(subjects), self.held.shape[1] + 1))
        np.add.at(counts, code, np.column_stack([self.held, np.ones(len(code))]))
        side = assign([str(s) for s in subjects], counts, self.asked.ratios, self.asked.seed)
        return np.asarray(side[code])

    def _quotas(self) -> Ints:
        """Rows wanted of each label on each side [3, L]: what was asked, or is available, shared out by the ratios."""
        there: Ints = np.stack([self.held[self._here(s)].sum(axis=0) for s in range(3)])
        if self.asked.official:
            wanted: Ints = np.array([[self.asked.per_label], [len(self.held)], [len(self.held)]])
        else:
            totals = [min(self.asked.per_label, int(n)) for n in there.sum(axis=0)]
            wanted = np.array([share_out(total, self.asked.ratios) for total in totals]).T
        quotas: Ints = np.minimum(wanted, there)
        return quotas

    def _choose(self, s: int) -> Mask:
        here = self._here(s)
        if self.asked.official and SPLITS[s] != "train":
            return here
        chosen: Mask = np.zeros(len(here), dtype=bool)
        rows = np.flatnonzero(here & self.held.any(axis=1))
        if rows.size == 0:
            raise UsageError(
                f"{self.root}: no labelled image for {SPLITS[s]}; more subjects or other --ratios are needed"
            )
        patterns, code = np.unique(self.held[rows], axis=0, return_inverse=True)
        take, overshoot = solve(patterns, np.bincount(code, minlength=len(patterns)), self.quotas[s])
        self.worst = max(self.worst, overshoot)
        order = np.lexsort((self.rank[rows], code))
        place = np.arange(len(rows)) - np.searchsorted(code[order], code[order])  # within its pattern
        chosen[rows[order][place < take[code[order]]]] = True
        return chosen

    def _natural(self, least: int) -> Mask:
        """All readable rows of whole test subjects, by chance, until there are `least` (and NATURAL, of so many)."""
        rows = np.flatnonzero(self._here(SPLITS.index("test")))
        subject = self.table["subject_id"].to_numpy()[rows]
        by_chance = sorted(set(subject), key=lambda name: order_key(self.asked.seed, name))
        order = {name: i for i, name in enumerate(by_chance)}
        place = np.array([order[name] for name in subject])
        last = np.sort(place)[min(max(least, NATURAL), len(place)) - 1]
        taken: Mask = np.zeros(len(self.table), dtype=bool)
        taken[rows[place <= last]] = True
        return taken
