"""Compile records into balanced, subject-disjoint train / val / test tables.

1. Mixed-integer programs over label sets (patterns) decide how many images of each to select: at least the quota of
   every label, least worst overshoot first, then least total, then as near the natural mix as the counts by label
   allow. Nothing is duplicated.
2. Within a pattern, images are selected in the order of a hash of their id and the seed.
3. Every eligible subject, selected from or not, goes to the split that a hash of its id says; then a few subjects move,
   until each label's share of each split meets the ratios, among the selected images and among all.

So the result does not depend on the order of rows, on workers or on PYTHONHASHSEED, and few subjects change splits when
rows are added. Images that cannot be read are found when they are selected, dropped, and the program is solved again.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, cast

import numpy as np
from numpy.typing import NDArray

from cxr_ft.data import sameness
from cxr_ft.data.labels import distinct_rows
from cxr_ft.data.manifest import Certificate, LabelCounts, WeightQuality
from cxr_ft.data.pixels.image_decode import CheckedImages
from cxr_ft.data.records import IDS, INPUT_TEXTS, OPTIONAL, SPLITS, Records, order_key
from cxr_ft.data.reports.text_columns import add_texts, columns, mini_reports
from cxr_ft.data.splits import prevalence
from cxr_ft.data.splits.balance import Selection, apportion, assign_splits, select_rows
from cxr_ft.data.splits.grouping import GROUP, grouped, same_pixels
from cxr_ft.data.splits.notes import all_notes, similar_labels_note, unreadable_summary
from cxr_ft.data.splits.request import SplitRequest, eligible, for_texts, join_studies, positives, relative_paths
from cxr_ft.errors import UsageError

if TYPE_CHECKING:
    import pandas as pd

Ints = NDArray[np.int64]
Floats = NDArray[np.float64]
Mask = NDArray[np.bool_]
#: Looks at the images of some paths.
Check = Callable[[Sequence[str]], CheckedImages]
#: Rows of the natural test set, at least, where there are so many.
NATURAL = 1000
NO_VAL = "the data's own split has no val: some of its train's subjects, at random, are taken for it"


@dataclass(frozen=True, kw_only=True)
class CompiledSplits:
    """Compiled splits and their certificate.

    Args:
        tables: by split: "train", "val", "test", "test_natural".
        rejected: path, reason code and detail of each unreadable image.
        labels: the counts of each label.
        selection: what the program proves.
        weights: for each weighted split what its weights leave over.
        counts: records, eligible and rejected rows.
        notes: one sentence each, for the manifest and the terminal.
        pixels: a hash of the pixels of each image that was looked at, by path.
    """

    tables: dict[str, "pd.DataFrame"]
    rejected: list[tuple[str, str, str]]
    labels: dict[str, LabelCounts]
    selection: Certificate
    weights: dict[str, WeightQuality]
    counts: dict[str, int]
    notes: list[str] = field(default_factory=list)
    pixels: dict[str, str] = field(default_factory=dict)

    @property
    def worst_overshoot(self) -> float:
        """Return the largest number of rows beyond a label's target, as a share of that target."""
        return float(self.selection["worst_overshoot"])


def compile_splits(records: Records, request: SplitRequest, check: Check) -> CompiledSplits:
    """Compile balanced, subject-disjoint splits of `records`.

    Args:
        check: says which of some paths cannot be read, and hashes the pixels of the others; called only for images
            about to be selected.

    Raises:
        UsageError: where nothing is left to split, or too few subjects.
    """
    if is_text := records.card.unit == "text":
        records, request = for_texts(records, request)
    notes: list[str] = list(records.notes)
    if similar := similar_labels_note(records.card.labels):
        notes.append(similar)
    records = relative_paths(records)
    # Groups are formed before any filter: two images of one patient stay together even if a third, left out, joins
    # them.
    table = grouped(records.table, records.root, request.ids, notes)
    table = eligible(table, records, request, notes)
    table = table if is_text else add_texts(table, records, request.text, notes)
    if request.unit == "study":
        table = join_studies(table)
        notes.append("a row is a study: its first image, PA before AP before LATERAL; data.views=2 reads two of them")
    if table.empty:
        raise UsageError(
            f"{records.root}: no row is left after the filters (views {request.views}, text {request.text})"
        )
    # Sorted by id first, so that the order of the archive's rows cannot reach the result through any tie.
    problem = _Problem(table.sort_values("dicom_id", ignore_index=True), records, request)
    _solve_with_readable(problem, check)
    tables = problem.tables()
    if empty := [name for name in SPLITS if tables[name].empty]:
        raise UsageError(
            f"--per-label {request.per_label} leaves nothing for {', '.join(empty)}; ask for more, or other --ratios"
            + (f" ({unreadable_summary(problem.refused)})" if problem.refused else "")
        )
    certificate = problem.certificate()
    rows = "texts" if is_text else "studies" if request.unit == "study" else "images"
    labels = problem.label_counts(tables)
    in_split = {name: len(table) for name, table in tables.items()}
    notes += [*problem.notes, *all_notes(certificate, rows, problem.weight_quality, in_split, labels)]
    readable, refused = int(problem.readable.sum()), problem.refused
    return CompiledSplits(
        tables=tables,
        rejected=sorted((path, *why) for path, why in refused.items()),
        labels=labels,
        selection=certificate,
        weights=problem.weight_quality,
        counts={"records": len(records.table), "eligible": readable, "rejected": len(refused)},
        notes=notes,
        pixels=problem.pixels,
    )


def _solve_with_readable(problem: "_Problem", check: Check) -> None:
    """Solve, check the images of the solution, and solve again until all can be read and no two splits show the same.

    An unreadable image goes; subjects of whom two images have the same pixels are joined.
    """
    checked: set[str] = set()
    while True:
        rows = problem.solve()
        # Only what a solution selects is decoded, which is a small part of a large archive.
        new = [path for path in problem.paths(rows) if path not in checked]
        images = check(new)
        checked.update(new)
        problem.pixels |= images.pixels
        problem.drop(images.unreadable)
        # Both must hold in the same round: a new group or a dropped row changes the selection, which may name unseen
        # files.
        if not problem.join_same_pixels(rows) and not images.unreadable:
            return


class _Problem:
    """The eligible rows [N], and the solution, which changes as rows turn out to be unreadable.

    Shapes: N rows, P patterns (label sets), Q quotas (labels, and one more where no label is "normal"), G subjects.
    """

    def __init__(self, table: "pd.DataFrame", records: Records, request: SplitRequest) -> None:
        self.table, self.card, self.root, self.request = table, records.card, records.root, request
        self.notes: list[str] = []
        self.has, self.names = positives(table, self.card, request)  # bool [N, Q]
        # The programs count rows by pattern: their size is that of the distinct label sets, not of the archive.
        first, self.pattern = distinct_rows(self.has)  # the pattern of each row [N]
        self.patterns: Mask = self.has[first]  # [P, Q]
        # Every random choice is a hash of seed and id: it does not change with other rows or their order.
        images = table["dicom_id"] if request.ids == "exact" else sameness.id_keys(table["dicom_id"])
        self.rank = _keys(request.seed, images.to_numpy(dtype=object))  # [N]
        self._name_subjects()
        draws = self.draw[self.subject]
        self.official = _official_splits(table, draws, request.ratios, self.notes) if request.official else None
        self.readable: Mask = np.ones(len(table), dtype=bool)
        self.refused: dict[str, tuple[str, str]] = {}
        self.pixels: dict[str, str] = {}  # a hash of the pixels of each image looked at, by path

    def _name_subjects(self) -> None:
        """Number the groups that must stay in one split (a subject, as a rule), and draw a number in [0, 1) for each.

        Raises:
            UsageError: where there are fewer than splits.
        """
        import pandas as pd

        # Sorted names: a subject's number does not depend on which of its rows comes first.
        self.subject, self.subjects = pd.factorize(self.table[GROUP].to_numpy(dtype=object), sort=True)
        if len(self.subjects) < len(SPLITS):
            raise UsageError(
                f"{self.root}: {len(self.subjects)} eligible subjects; train, val and test need one each at least"
            )
        # Tied to the name by a hash, not drawn in order: a subject keeps its number when others are added or removed.
        self.draw = _keys(self.request.seed, self.subjects) / 2.0**64  # [G]

    def solve(self) -> Mask:
        """Select rows, give every subject a split, and return which rows are in any table [N]."""
        # With the data's own split the quotas hold for train alone; its val and test are taken whole.
        pool = self.readable if self.official is None else self.readable & (self.official == 0)
        self.quotas: Ints = np.minimum(self.request.per_label, self.has[pool].sum(axis=0))
        selected = self._select(pool)
        self.split = self._assigned(selected) if self.official is None else self.official
        if self.official is not None:
            selected |= self.readable & (self.official > 0)
        self.selected = {name: selected & (self.split == s) for s, name in enumerate(SPLITS)}
        # After the balanced test set, since the natural one has at least as many rows.
        self.selected["test_natural"] = self._natural(least=int(self.selected["test"].sum()))
        used: Mask = selected | self.selected["test_natural"]
        return used

    def paths(self, rows: Mask) -> list[str]:
        """Return the files of some rows."""
        return [path for row in self.table["path"][rows] for path in row.split("|") if path]

    def join_same_pixels(self, rows: Mask) -> bool:
        """Join the subjects of whom some `rows` [N] show the same pixels; return whether any were joined."""
        shown = self.table[rows]
        # The data's own split is taken as it is: joining groups could not move them, and the leak is counted instead.
        if self.official is not None or (joined := same_pixels(shown, self.pixels)) is None:
            return False
        groups, images = joined
        new_name = dict(zip(shown[GROUP].tolist(), groups.tolist(), strict=True))
        # All rows of a joined group are renamed, also those that are not selected: they can be drawn for the natural
        # test set.
        names = self.table[GROUP].map(lambda name: new_name.get(name, name)).astype("string")
        self.table = self.table.assign(**{GROUP: names})
        self.notes.append(f"{images} images of other subjects have the same pixels; these subjects stay in one split")
        self._name_subjects()
        return True

    def drop(self, unreadable: dict[str, tuple[str, str]]) -> None:
        """Take rows with an unreadable file out of the problem."""
        if not unreadable:
            return
        # A study's row lists several files: one that cannot be read takes the whole row out.
        self.refused |= unreadable
        self.readable &= [unreadable.keys().isdisjoint(row.split("|")) for row in self.table["path"]]

    def tables(self) -> dict[str, "pd.DataFrame"]:
        """Return the CSVs' tables by split. `weight`: how many readable rows of its split a selected row stands for."""
        out = {}
        self.weight_quality: dict[str, WeightQuality] = {}
        for name, mask in self.selected.items():
            # The natural test set has the archive's own prevalences: weights would correct what is not off.
            weight = 1.0 if name == "test_natural" else self._weights(name, mask)[self.pattern[mask]]
            rows = self.table[mask].assign(split=name, weight=weight)
            texts = (
                [n for n in INPUT_TEXTS if n in rows] if self.card.unit == "text" else columns(self.request.text, rows)
            )
            if "mini_report" in texts:
                rows["mini_report"] = mini_reports(rows, self.card)
            first = [*IDS, "path", "view", "split", "weight", *(column for column in OPTIONAL if column in rows)]
            labels = list(self.card.labels) if self.card.multi_label else ["label"]
            out[name] = rows[list(dict.fromkeys([*first, *labels, *texts]))].reset_index(drop=True)
        return out

    def _weights(self, name: str, mask: Mask) -> Floats:
        """Return the weight of a selected row of each pattern [P], to six digits; keep what weights leave over."""
        natural = np.bincount(self.pattern[self._in_split(name)], minlength=len(self.patterns))
        chosen = np.bincount(self.pattern[mask], minlength=len(self.patterns))
        # Six digits: the last bits of a machine's sums must not reach the CSVs.
        exact = prevalence.prevalence_weights(self.patterns, natural, chosen)
        weight = np.array([float(f"{w:.6g}") for w in exact])
        # Measured with the rounded weights, since those are what a reader of the CSV computes with.
        weighted = (weight * chosen) @ self.patterns / max(float(weight @ chosen), 1.0)
        error = np.abs(weighted - natural @ self.patterns / max(int(natural.sum()), 1)).max()
        # No weight of another pattern can stand in for a label set that was not selected at all; this share says how
        # much.
        without = natural[chosen == 0].sum() / max(int(natural.sum()), 1)
        self.weight_quality[name] = {
            "rows_without": round(float(without), 6),
            "prevalence_error": round(float(error), 6),
            **prevalence.effective(weight, chosen),
        }
        return weight

    def label_counts(self, tables: dict[str, "pd.DataFrame"]) -> dict[str, LabelCounts]:
        """Return for each quota: requested, available, target, achieved, and each split's part of target and rows."""
        counts = {name: positives(rows, self.card, self.request)[0].sum(axis=0) for name, rows in tables.items()}
        targets = np.stack([apportion(int(quota), self.request.ratios) for quota in self.quotas])
        if self.official is not None:  # val and test are taken whole
            whole = (self.has[self._in_split(name)].sum(axis=0) for name in SPLITS[1:])
            targets = np.stack([self.quotas, *whole], axis=1)
        return {
            label: cast(
                LabelCounts,
                {
                    "requested": self.request.per_label,
                    "available": int(self.has[self.readable, i].sum()),
                    "target": int(self.quotas[i]),
                    "achieved": int(self.by_label[i]),
                    **{f"{name}_quota": int(targets[i, s]) for s, name in enumerate(SPLITS)},
                    **{name: int(count[i]) for name, count in counts.items()},
                },
            )
            for i, label in enumerate(self.names)
        }

    def certificate(self) -> Certificate:
        """Return what the program proves, and the labels that decide it."""
        overshoot = self.by_label / np.maximum(self.quotas, 1) - 1
        # The same share computed in two ways may differ in its last bit, so labels at the worst are compared with a
        # tolerance.
        worst = np.isclose(overshoot, self.selection.worst) & (self.quotas > 0)
        return {
            "worst_overshoot": round(self.selection.worst, 6),
            "least_possible": round(self.selection.bound, 6),
            "gap": round(self.selection.gap, 6),
            "from_wished": round(self.mix.distance, 6),
            "from_wished_gap": None if self.mix.gap is None else round(self.mix.gap, 6),
            "short": [name for i, name in enumerate(self.names) if self.quotas[i] < self.request.per_label],
            "at_worst": [name for i, name in enumerate(self.names) if worst[i] and self.selection.worst > 0],
        }

    def _in_split(self, name: str) -> Mask:
        """Return which rows [N] are readable and of a split; "test_natural" is of test."""
        mask: Mask = (self.split == SPLITS.index(name.removesuffix("_natural"))) & self.readable
        return mask

    def _select(self, pool: Mask) -> Mask:
        """Return the rows of `pool` [N] that the program selects: of each pattern the first ones by their hash."""
        # A row without any positive label serves no quota, and the least total never takes it.
        rows = np.flatnonzero(pool & self.has.any(axis=1))
        if rows.size == 0 and self.refused:
            raise UsageError(f"{self.root}: no image with a positive label is left: {unreadable_summary(self.refused)}")
        if rows.size == 0:
            raise UsageError(f"{self.root}: no image has a positive label; other --views or --uncertain are needed")
        code = self.pattern[rows]
        available = np.bincount(code, minlength=len(self.patterns))
        self.selection: Selection = select_rows(self.patterns, available, self.quotas)
        # Last of the three aims: it may move rows between patterns, but not change what any label has.
        self.mix = prevalence.nearest_to_natural_mix(self.patterns, available, self.selection.take)
        take = self.mix.take
        self.by_label: Ints = take @ self.patterns
        # Within a pattern by the hash of the image's id: of those taken, a new image displaces one at most.
        order = np.lexsort((self.rank[rows], code))
        place = np.arange(len(rows)) - np.searchsorted(code[order], code[order])  # within its pattern
        selected: Mask = np.zeros(len(pool), dtype=bool)
        selected[rows[order][place < take[code[order]]]] = True
        return selected

    def _assigned(self, selected: Mask) -> Ints:
        """Return the split of each row [N]: shares are met among the selected rows, and among all.

        Among all too, since the natural test set is drawn from all rows of test.
        """
        counts: Ints = np.zeros((len(self.draw), 2 * self.has.shape[1] + 2), dtype=np.int64)
        for i, column in enumerate([*self.has.T, np.ones(len(selected), dtype=bool)]):
            # Each label is balanced twice, among the selected and among all readable rows, in columns of one table, so
            # that one descent weighs both against each other.
            for j, mask in enumerate((selected, self.readable)):
                counts[:, 2 * i + j] = np.bincount(self.subject[column & mask], minlength=len(self.draw))
        split: Ints = assign_splits(self.draw, counts, self.request.ratios)[self.subject]
        return split

    def _natural(self, least: int) -> Mask:
        """Return all readable rows [N] of whole test subjects, at random, until there are `least` and NATURAL of them.

        All rows of test where there are fewer.
        """
        rows = np.flatnonzero(self._in_split("test"))
        taken: Mask = np.zeros(len(self.table), dtype=bool)
        if rows.size:
            # Not the draw that splits go by: subjects who moved to test would come first.
            names, which = np.unique(self.subject[rows], return_inverse=True)
            place = _keys(self.request.seed, [f"natural|{name}" for name in self.subjects[names]])[which]
            # The subject with which the number is reached comes in whole, so there may be some rows more.
            last = np.sort(place)[min(max(least, NATURAL), len(rows)) - 1]
            taken[rows[place <= last]] = True
        return taken


def _official_splits(
    table: "pd.DataFrame", draws: Floats, ratios: tuple[float, float, float], notes: list[str]
) -> Ints:
    """Return the data's own split of each row [N], -1 where it says none. Without a val, subjects of train become it.

    Args:
        draws: a random number in [0, 1) for each row's subject [N].
        ratios: train, val, test in percent.

    Raises:
        UsageError: where train or test has no row.
    """
    number = {name: i for i, name in enumerate(SPLITS)}
    split = np.array([number.get(name, -1) for name in table["official"].tolist()], dtype=np.int64)
    missing = [name for i, name in enumerate(SPLITS) if not (split == i).any()]
    if missing == ["val"]:
        train, val, _ = ratios
        # The ratio of train to val alone decides: the data's own test set stays as large as it is.
        split[(split == 0) & (draws >= train / (train + val))] = SPLITS.index("val")
        notes.append(NO_VAL)
    elif missing:
        raise UsageError(f"--official: the data's own split has no eligible row for {', '.join(missing)}")
    return split


def _keys(seed: int, names: Iterable[str]) -> NDArray[np.uint64]:
    """Return `order_key` of each name as a number."""
    # Big-endian on every machine: the order of the numbers is then that of the hash's bytes.
    joined = b"".join([order_key(seed, name) for name in names])
    return np.frombuffer(joined, dtype=">u8").astype(np.uint64)
