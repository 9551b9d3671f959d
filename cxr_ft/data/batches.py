"""Split CSVs to batches: the only torch file in `data/`.

Shapes: B batch, S image side in pixels, L labels, N rows.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from torch.utils.data import DataLoader, Dataset, Sampler

from cxr_ft.data import cache, manifest
from cxr_ft.data.labels import targets
from cxr_ft.data.records import IDS, raw_labels
from cxr_ft.data.reports import TEXTS
from cxr_ft.data.shards import Images
from cxr_ft.errors import UsageError, unknown

if TYPE_CHECKING:
    import pandas as pd


@dataclass(frozen=True)
class Example:
    """One row: image uint8 [S, S]; targets float [L] in {0, 1, NaN}, NaN where masked; text, empty where none."""

    image: NDArray[np.uint8]
    targets: NDArray[np.float64]
    text: str


class Rows(Dataset[Example]):
    """One side of a split, images decoded and mapped.

    Args:
        table: the side's rows.
        images: uint8 [N, S, S].
        targets: float [N, L] in {0, 1, NaN}.
        text: the text column, or None.
    """

    def __init__(self, table: "pd.DataFrame", images: Images, goals: NDArray[np.float64], text: str | None) -> None:
        self.table, self.images, self.targets = table, images, goals
        self.texts: list[str] = [""] * len(table) if text is None else [str(t) for t in table[text]]

    def __len__(self) -> int:
        return len(self.table)

    def __getitem__(self, index: int) -> Example:
        return Example(self.images[index], self.targets[index], self.texts[index])

    @property
    def ids(self) -> "pd.DataFrame":
        """subject_id, study_id, dicom_id of each row."""
        return self.table[list(IDS)]


class Shuffle(Sampler[int]):
    """Every row once an epoch, in an order that depends on seed and epoch alone: a resumed run sees the same."""

    def __init__(self, length: int, seed: int) -> None:
        self.length, self.seed, self.epoch = length, seed, 0

    def __iter__(self) -> Iterator[int]:
        order = np.random.default_rng([self.seed, self.epoch]).permutation(self.length)
        return iter(order.tolist())

    def __len__(self) -> int:
        return self.length


def rows(splits: manifest.Splits, side: str, size: int, root: str | None = None, text: str | None = None) -> Rows:
    """One side of `splits` as a data set of images of `size` pixels.

    Args:
        side: "train", "val", "test" or "test_natural".
        root: where the images lie now, if not where the manifest says.
        text: a text column. Then a study is taken once (its first image), so that no report counts twice, and rows
            without text are left out.

    Raises:
        UsageError: where the text column or the images are missing.
    """
    table = splits.tables[side]
    if text is not None:
        table = table[table[text].notna() & (table[text] != "")].drop_duplicates("study_id").reset_index(drop=True)
        if table.empty:
            raise UsageError(f"{splits.folder}: no row of {side} has a {text}; make the splits with --text")
    asked = splits.manifest["asked"]
    goals = targets(raw_labels(table, splits.card), asked["uncertain"], asked["blank"])
    # One cache for all sides and texts: what `cache.build` made beforehand is what is read here.
    images = cache.cached(cache.source_folder(splits, root), cache.first(table), size, among=cache.shown(splits))
    return Rows(table, images, goals, text)


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
    sampler = None if seed is None else Shuffle(len(data), seed)
    return DataLoader(data, batch_size=batch_size, sampler=sampler, collate_fn=collate)
