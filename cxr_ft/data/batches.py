"""Split CSVs to batches: the only torch file in `data/`.

Shapes: B batch, S image side in pixels, L labels, N rows.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from torch.utils.data import DataLoader, Dataset, Sampler

from cxr_ft.data import cache, manifest
from cxr_ft.data.labels import targets
from cxr_ft.data.learning import Learning, class_weights, order, soft_targets
from cxr_ft.data.records import IDS, raw_labels
from cxr_ft.data.reports import TEXTS
from cxr_ft.data.shards import Images
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
    """

    image: NDArray[np.uint8]
    targets: NDArray[np.float64]
    text: str
    weights: NDArray[np.float64] | None = None
    given: str = ""
    pair: str = ""


class Draw(NamedTuple):
    """A row as training is shown it in an epoch."""

    row: int
    epoch: int


@dataclass(frozen=True)
class Learnt:
    """What of the rows training sees otherwise: how, targets and weights float [N, L]."""

    how: Learning
    targets: NDArray[np.float64]
    weights: NDArray[np.float64] | None


class Rows(Dataset[Example]):
    """One side of a split, images decoded and mapped. `rows[i]` is what is judged, `rows[Draw(i, e)]` what is learnt.

    Args:
        table: the side's rows.
        images: uint8 [N, S, S].
        targets: float [N, L] in {0, 1, NaN}.
        text: the text column, or None.
        learnt: how training sees them; None: as they are.
    """

    def __init__(
        self,
        table: "pd.DataFrame",
        images: Images,
        goals: NDArray[np.float64],
        text: str | None,
        learnt: Learnt | None = None,
    ) -> None:
        self.table, self.images, self.targets, self.learnt = table, images, goals, learnt
        self.texts: list[str] = [""] * len(table) if text is None else [str(t) for t in table[text]]

    def __len__(self) -> int:
        return len(self.table)

    def __getitem__(self, index: int | Draw) -> Example:
        row, learnt = (index.row, self.learnt) if isinstance(index, Draw) else (index, None)
        image = self.images[row]
        if learnt is None or not isinstance(index, Draw):
            return Example(image, self.targets[row], self.texts[row])
        if learnt.how.augmentation is not None:
            image = learnt.how.augmentation(image, index.epoch, row)
        return Example(
            image, learnt.targets[row], self.texts[row], None if learnt.weights is None else learnt.weights[row]
        )

    @property
    def ids(self) -> "pd.DataFrame":
        """subject_id, study_id, dicom_id of each row."""
        return self.table[list(IDS)]


class Shuffle(Sampler[Draw]):
    """Every row once an epoch, in an order that depends on seed and epoch alone: a resumed run sees the same.

    Args:
        rows: the rows; where they are learnt by a curriculum, its epochs go by the length of their texts.
        seed: of the run.
    """

    def __init__(self, rows: Rows, seed: int) -> None:
        self.rows, self.seed, self.epoch = rows, seed, 0

    def __iter__(self) -> Iterator[Draw]:
        learnt = self.rows.learnt
        by_length = learnt is not None and self.epoch < learnt.how.curriculum
        texts = self.rows.texts if by_length else ()
        return (Draw(row, self.epoch) for row in order(len(self.rows), self.seed, self.epoch, texts))

    def __len__(self) -> int:
        return len(self.rows)


def rows(
    splits: manifest.Splits,
    side: str,
    size: int,
    root: str | None = None,
    text: str | None = None,
    *,
    learning: Learning | None = None,
) -> Rows:
    """One side of `splits` as a data set of images of `size` pixels.

    Args:
        side: "train", "val", "test" or "test_natural".
        root: where the images lie now, if not where the manifest says.
        text: a text column. Then a study is taken once (its first image), so that no report counts twice, and rows
            without text are left out.
        learning: how training sees the rows; None: as they are.

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
    # One cache for all sides and texts: what `cache.build` made beforehand is what is read here.
    images = cache.cached(cache.source_folder(splits, root), cache.first(table), size, among=cache.shown(splits))
    if learning is None:
        return Rows(table, images, goals, text)
    if learning.curriculum and text is None:
        raise UsageError("data.curriculum goes by the length of reports, and this task learns none; leave it 0")
    soft = soft_targets(raw, goals, learning.uncertain, splits.card.multi_label)
    weights = class_weights(soft, splits.card.multi_label) if learning.balanced else None
    return Rows(table, images, goals, text, Learnt(learning, soft, weights))


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
    data: Rows, collate: Callable[[Sequence[Example]], dict[str, Any]], batch_size: int, seed: int | None = None
) -> "DataLoader[Example]":
    """Batches of `data`: shuffled by `seed` (set `loader.sampler.epoch` each epoch), in order where it is None."""
    sampler = None if seed is None else Shuffle(data, seed)
    return DataLoader(data, batch_size=batch_size, sampler=sampler, collate_fn=collate)
