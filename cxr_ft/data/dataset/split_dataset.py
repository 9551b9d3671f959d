"""Split CSVs to batches: the only torch file in `data/`.

Shapes: B batch, S image side in pixels, L labels, N rows.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import zip_longest
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from torch.utils.data import DataLoader, Dataset, Sampler

from cxr_ft.data import manifest
from cxr_ft.data.dataset.train_view import TrainView, class_weights, order, soft_targets
from cxr_ft.data.labels import targets
from cxr_ft.data.pixels import cache
from cxr_ft.data.pixels.shards import Images
from cxr_ft.data.records import GIVEN, IDS, raw_labels
from cxr_ft.data.reports.text_columns import CONTEXTS, TEXTS
from cxr_ft.data.splits.text_rows import NoImages
from cxr_ft.errors import UsageError, unknown

if TYPE_CHECKING:
    import pandas as pd


@dataclass(frozen=True)
class Example:
    """One row.

    Args:
        image: uint8 [S, S]; [0, 0] where the row has text alone.
        targets: float [L] in [0, 1], NaN where masked.
        text: what is to be written, empty where nothing is.
        weights: float [L] of the labels' parts of the loss, None where all are 1.
        given, pair: text that is read, beside the image or instead of it, and the second text of a pair.
        further: the study's other images, each like `image`.
    """

    image: NDArray[np.uint8]
    targets: NDArray[np.float64]
    text: str
    weights: NDArray[np.float64] | None = None
    given: str = ""
    pair: str = ""
    further: tuple[NDArray[np.uint8], ...] = ()


class TrainIndex(NamedTuple):
    """A row as training is shown it in an epoch."""

    row: int
    epoch: int


@dataclass(frozen=True)
class TrainTargets:
    """What of the rows training sees otherwise: how, targets and weights float [N, L]."""

    how: TrainView
    targets: NDArray[np.float64]
    weights: NDArray[np.float64] | None


@dataclass(frozen=True, kw_only=True)
class SideInputs:
    """What is read beside a row's first image.

    Args:
        images: the further images of all rows, uint8 [M, S, S]; row i has those from starts[i] to starts[i + 1].
        starts: int64 [N + 1].
        context: a text a row, or nothing at all.
        pairs: the second text of each row that has one, or nothing at all.
    """

    images: Images | None = None
    starts: NDArray[np.int64] | None = None
    context: Sequence[str] = ()
    pairs: Sequence[str] = ()

    def further(self, row: int) -> list[NDArray[np.uint8]]:
        """The further images of a row."""
        if self.images is None or self.starts is None:
            return []
        return [self.images[place] for place in range(self.starts[row], self.starts[row + 1])]


class SplitDataset(Dataset[Example]):
    """One side of a split, images decoded and mapped. `rows[i]` is what is judged, `rows[Draw(i, e)]` what is learnt.

    Args:
        table: the side's rows.
        images: uint8 [N, S, S].
        targets: float [N, L] in {0, 1, NaN}.
        text: the text column, or None.
        learnt: how training sees them; None: as they are.
        beside: further images, and a text that is given.
    """

    def __init__(
        self,
        table: "pd.DataFrame",
        images: Images | NoImages,
        goals: NDArray[np.float64],
        text: str | None,
        learnt: TrainTargets | None = None,
        *,
        beside: SideInputs | None = None,
    ) -> None:
        self.table, self.images, self.targets, self.learnt = table, images, goals, learnt
        self.beside = beside or SideInputs()
        self.texts: list[str] = [""] * len(table) if text is None else [str(t) for t in table[text]]

    def __len__(self) -> int:
        return len(self.table)

    def __getitem__(self, index: int | TrainIndex) -> Example:
        row, learnt = (index.row, self.learnt) if isinstance(index, TrainIndex) else (index, None)
        images = [self.images[row], *self.beside.further(row)]
        targets, weights = self.targets[row], None
        if learnt is not None and isinstance(index, TrainIndex):
            targets, weights = learnt.targets[row], None if learnt.weights is None else learnt.weights[row]
            if (changed := learnt.how.augmentation) is not None:
                # A study's images are changed apart from each other: each is a row of its own to the draws.
                images = [changed(one, index.epoch, row + place * len(self)) for place, one in enumerate(images)]
        given, pair = (column[row] if column else "" for column in (self.beside.context, self.beside.pairs))
        return Example(images[0], targets, self.texts[row], weights, given, pair, tuple(images[1:]))

    @property
    def ids(self) -> "pd.DataFrame":
        """subject_id, study_id, dicom_id of each row."""
        return self.table[list(IDS)]


class Shuffle(Sampler[TrainIndex]):
    """Every row once an epoch, in an order that depends on seed and epoch alone: a resumed run sees the same.

    Args:
        rows: the rows; where they are learnt by a curriculum, its epochs go by the length of their texts.
        seed: of the run.
    """

    def __init__(self, rows: SplitDataset, seed: int) -> None:
        self.rows, self.seed, self.epoch = rows, seed, 0

    def __iter__(self) -> Iterator[TrainIndex]:
        learnt = self.rows.learnt
        by_length = learnt is not None and self.epoch < learnt.how.curriculum
        texts = self.rows.texts if by_length else ()
        return (TrainIndex(row, self.epoch) for row in order(len(self.rows), self.seed, self.epoch, texts))

    def __len__(self) -> int:
        return len(self.rows)


def rows(
    splits: manifest.Splits,
    side: str,
    size: int,
    root: str | None = None,
    text: str | None = None,
    *,
    learning: TrainView | None = None,
    views: int = 1,
    context: Sequence[str] = (),
) -> SplitDataset:
    """One side of `splits` as a data set of images of `size` pixels; 0: of texts alone.

    Args:
        side: "train", "val", "test" or "test_natural".
        root: where the images lie now, if not where the manifest says.
        text: a text column. Then a study is taken once (its first row), so that no report counts twice, and rows
            without text are left out.
        learning: how training sees the rows; None: as they are.
        views: how many images of a row are read, of those it lists.
        context: text columns that are read beside the images; where they are empty, nothing is.

    Raises:
        UsageError: where the text column or the images are missing.
    """
    table = splits.tables[side]
    if text is not None:
        table = table[table[text].notna() & (table[text] != "")].drop_duplicates("study_id").reset_index(drop=True)
        if table.empty:
            raise UsageError(f"{splits.folder}: no row of {side} has a {text}; make the splits with --text")
    asked = splits.manifest["asked"]
    raw = raw_labels(table, splits.card)
    goals = targets(raw, asked["uncertain"], asked["blank"])
    if splits.card.unit == "text":
        if size:
            raise UsageError(f"the model reads images, and {splits.folder} holds texts alone; take one that reads text")
        _refuse_changes(splits, learning, views, context)
        beside = _given(table)
        images: Images | NoImages = NoImages(list(zip_longest(beside.context, beside.pairs, fillvalue="")))
    elif not size:
        if not context or (learning is not None and learning.augmentation is not None):
            raise UsageError(
                f"the model reads text, and {splits.folder} holds images: say what it reads of the reports, as "
                "data.context=findings, and leave out data.augment and data.flip"
            )
        beside = _texts_of(table, [column_of(splits, name, text) for name in context])
        images = NoImages([(read, "") for read in beside.context])
    else:
        # One cache for all sides and texts: what `cache.build` made beforehand is what is read here.
        cached = partial(cache.cached, cache.source_folder(splits, root), size=size, among=cache.shown(splits))
        images = cached(cache.first(table))
        beside = _beside(table, cached, views, [column_of(splits, name, text) for name in context])
    if learning is None:
        return SplitDataset(table, images, goals, text, beside=beside)
    if learning.curriculum and text is None:
        raise UsageError("data.curriculum goes by the length of reports, and this task learns none; leave it 0")
    soft = soft_targets(raw, goals, learning.uncertain, splits.card.multi_label)
    weights = class_weights(soft, splits.card.multi_label) if learning.balanced else None
    return SplitDataset(table, images, goals, text, TrainTargets(learning, soft, weights), beside=beside)


def _beside(
    table: "pd.DataFrame", cached: Callable[[Sequence[str]], Images], views: int, context: Sequence[str]
) -> SideInputs:
    texts = _texts_of(table, context)
    if views == 1:
        return texts
    further = [row[1:] for row in cache.several(table, views)]
    starts = np.cumsum([0, *map(len, further)], dtype=np.int64)
    return SideInputs(images=cached([path for row in further for path in row]), starts=starts, context=texts.context)


def _texts_of(table: "pd.DataFrame", context: Sequence[str]) -> SideInputs:
    texts = [" ".join(filter(None, row)) for row in zip(*(table[c].fillna("").tolist() for c in context), strict=True)]
    return SideInputs(context=texts)


def _given(table: "pd.DataFrame") -> SideInputs:
    """What is read of rows that are texts."""
    first, second = (table[name].tolist() if name in table else [] for name in GIVEN)
    return SideInputs(context=first, pairs=second)


def _refuse_changes(splits: manifest.Splits, learning: TrainView | None, views: int, context: Sequence[str]) -> None:
    for name, asked in (
        ("data.augment and data.flip change", learning is not None and learning.augmentation is not None),
        ("data.views counts", views != 1),
        ("data.context stands beside", bool(context)),
    ):
        if asked:
            raise UsageError(f"{name} images, and {splits.folder} holds texts alone; leave it out")


def column_of(splits: manifest.Splits, name: str, learnt: str | None) -> str:
    """`name` as a column that can be read beside the images.

    Raises:
        UsageError: where the splits have none of that name, or it is what is to be written.
    """
    there = [one for one in (*CONTEXTS, *TEXTS["all"]) if one in splits.tables["train"] and one != learnt]
    if name == learnt:
        raise UsageError(f"data.context: {name} is what the report task learns to write; choose another, or head.text")
    if name not in there:
        known = name in (*CONTEXTS, *TEXTS["all"])
        made = "; cxr-split --text all keeps it, where reports have such a section" if known else ""
        raise UsageError(f"{unknown('data.context', name, there, str(splits.folder))}{made}")
    return name


def text_column(splits: manifest.Splits, wanted: str = "") -> str:
    """The text column to learn: `wanted`, or the first one the splits have.

    Raises:
        UsageError: where there is none, or not that one.
    """
    there = [name for name in TEXTS["all"] if name in splits.tables["train"]]
    if not there:
        raise UsageError(
            f"{splits.folder} has no text column; make the splits with --text mini_report, findings, impression or all"
        )
    if wanted and wanted not in there:
        raise unknown("text column", wanted, there, str(splits.folder))
    return wanted or there[0]


def loader(
    data: SplitDataset, collate: Callable[[Sequence[Example]], dict[str, Any]], batch_size: int, seed: int | None = None
) -> "DataLoader[Example]":
    """Batches of `data`: shuffled by `seed` (set `loader.sampler.epoch` each epoch), in order where it is None."""
    sampler = None if seed is None else Shuffle(data, seed)
    return DataLoader(data, batch_size=batch_size, sampler=sampler, collate_fn=collate)
