"""Rows of one split as a torch data set, and batches of them: the only torch file in `data/`.

Shapes: B batch, S image side in pixels, L labels, N rows, M further images.
"""

import hashlib
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple, TypedDict

import numpy as np
import torch
from numpy.typing import NDArray
from torch.utils.data import DataLoader, Dataset, Sampler

from cxr_ft.data.dataset.train_view import TrainView, order
from cxr_ft.data.pixels.shards import Images
from cxr_ft.data.records import IDS

if TYPE_CHECKING:
    import pandas as pd

Pixels = NDArray[np.uint8]


@dataclass(frozen=True)
class Example:
    """One row.

    Args:
        image: uint8 [S, S]; [0, 0] where the row has text alone.
        targets: float [L] in [0, 1], NaN where masked.
        text: the text to learn to write, empty where there is none.
        weights: float [L], the weights of the labels' parts of the loss; None where all are 1.
        given, pair: text that is input, with the image or instead of it, and the second text of a pair.
        further: the study's other images, each like `image`.
    """

    image: Pixels
    targets: NDArray[np.float64]
    text: str
    weights: NDArray[np.float64] | None = None
    given: str = ""
    pair: str = ""
    further: tuple[Pixels, ...] = ()


class PlainBatch(TypedDict):
    """A batch without any base's own form: image uint8 [B, S, S], targets float32 [B, L], and B texts."""

    image: torch.Tensor
    targets: torch.Tensor
    text: list[str]


class TrainIndex(NamedTuple):
    """The index of a row as training sees it: `data[TrainIndex(row, epoch)]`.

    Args:
        row: from 0 to N - 1.
        epoch: from 0; random changes of images are drawn from it.
    """

    row: int
    epoch: int


@dataclass(frozen=True)
class TrainTargets:
    """The targets and weights of training, where they differ from those that metrics use.

    Args:
        view: how training sees the rows.
        targets: float [N, L] in [0, 1], NaN where masked.
        weights: float [N, L], the weights of the labels' parts of the loss; None where all are 1.
    """

    view: TrainView
    targets: NDArray[np.float64]
    weights: NDArray[np.float64] | None


@dataclass(frozen=True, kw_only=True)
class SideInputs:
    """The inputs of each row besides its first image.

    Args:
        images: the further images of all rows, uint8 [M, S, S]; those of row i are images[starts[i]:starts[i + 1]].
        starts: int64 [N + 1].
        context: an input text a row [N], or empty: no row has one.
        pairs: the second text of each row [N], or empty: no row has one.
    """

    images: Images | None = None
    starts: NDArray[np.int64] | None = None
    context: Sequence[str] = ()
    pairs: Sequence[str] = ()

    def further(self, row: int) -> list[Pixels]:
        """Return the further images of a row, each uint8 [S, S]."""
        if self.images is None or self.starts is None:
            return []
        return [self.images[place] for place in range(self.starts[row], self.starts[row + 1])]


class NoImages:
    """The images of rows that are texts: uint8 [N, 0, 0], indexed like an array.

    Args:
        read: the input text and second text of each row [N]; they decide the digest.
    """

    dtype = np.dtype(np.uint8)

    def __init__(self, read: Sequence[tuple[str, str]]) -> None:
        self._read = tuple(read)

    @property
    def shape(self) -> tuple[int, int, int]:
        """Return (N, 0, 0)."""
        return len(self._read), 0, 0

    @property
    def digest(self) -> str:
        """Return a hash of the input texts, in their order."""
        # JSON marks where each text ends, so that two lists of texts cannot have one digest by moving words.
        return hashlib.sha256(json.dumps(self._read).encode()).hexdigest()

    def __len__(self) -> int:
        return len(self._read)

    def __getitem__(self, index: "int | slice | Sequence[int] | NDArray[np.integer] | NDArray[np.bool_]") -> Pixels:
        # NumPy's own indexing, so that every kind of index means here what it means for real images; nothing is
        # allocated, since each image has no pixel.
        return np.zeros(self.shape, dtype=np.uint8)[index]

    def __array__(self, dtype: np.dtype | None = None, copy: bool | None = None) -> NDArray[np.generic]:
        """Return all of them as one array."""
        return np.zeros(self.shape, dtype=dtype or self.dtype)


class SplitDataset(Dataset[Example]):
    """The rows of one split, images decoded and resized, labels mapped to targets.

    `data[i]` is row i as metrics see it: its image unchanged, hard targets, no weights. `data[TrainIndex(i, epoch)]` is
    the same row as training sees it in that epoch: its images augmented, with the targets and weights of
    `train_targets`. Both are an `Example`; without `train_targets` they are equal.

    Args:
        table: the split's rows [N].
        images: uint8 [N, S, S], the first image of each row; [N, 0, 0] where rows are texts.
        targets: float [N, L] in {0, 1, NaN}.
        text: the column of texts to learn to write; None: there is none.
        train_targets: how training sees the rows; None: as metrics do.
        side_inputs: further images, and texts that are input.
        row_numbers: the number of each row in the split's CSV [N], where 1 is the first below the header; None: all
            rows of the CSV are here, in its order.
    """

    def __init__(
        self,
        table: "pd.DataFrame",
        images: Images | NoImages,
        targets: NDArray[np.float64],
        text: str | None,
        train_targets: TrainTargets | None = None,
        *,
        side_inputs: SideInputs | None = None,
        row_numbers: Sequence[int] | None = None,
    ) -> None:
        self.table, self.images, self.targets, self.train_targets = table, images, targets, train_targets
        self.side_inputs = side_inputs or SideInputs()
        self.row_numbers: Sequence[int] = range(1, len(table) + 1) if row_numbers is None else row_numbers
        self.texts: list[str] = [""] * len(table) if text is None else [str(t) for t in table[text]]

    @staticmethod
    def collate(examples: Sequence[Example]) -> PlainBatch:
        """Return a batch of plain tensors: "image" uint8 [B, S, S], "targets" float32 [B, L], "text" a list of B.

        For torch's own DataLoader and models of one's own; a head collates what its base reads.
        """
        return {
            "image": torch.from_numpy(np.stack([example.image for example in examples])),
            # float32: what a loss in torch expects, while metrics keep float64.
            "targets": torch.from_numpy(np.stack([example.targets for example in examples]).astype(np.float32)),
            "text": [example.text for example in examples],
        }

    def __len__(self) -> int:
        return len(self.table)

    def __getitem__(self, index: int | TrainIndex) -> Example:
        row, train = (index.row, self.train_targets) if isinstance(index, TrainIndex) else (index, None)
        # Read from the mapped shards on demand, so workers hold no images of their own.
        images = [self.images[row], *self.side_inputs.further(row)]
        targets, weights = self.targets[row], None
        if train is not None and isinstance(index, TrainIndex):
            targets, weights = train.targets[row], None if train.weights is None else train.weights[row]
            if (augment := train.view.augmentation) is not None:
                # Each image of a study gets a row number of its own, beyond those of the first images, so that they
                # are changed independently of each other.
                images = [augment(image, index.epoch, row + place * len(self)) for place, image in enumerate(images)]
        inputs = self.side_inputs
        given, pair = (column[row] if column else "" for column in (inputs.context, inputs.pairs))
        return Example(images[0], targets, self.texts[row], weights, given, pair, tuple(images[1:]))

    @property
    def ids(self) -> "pd.DataFrame":
        """Return subject_id, study_id, dicom_id of each row."""
        return self.table[list(IDS)]


class Shuffle(Sampler[TrainIndex]):
    """Every row once an epoch, in an order that depends on seed and epoch alone: a resumed run sees the same.

    Set `epoch` before each pass.

    Args:
        rows: the data set; with a curriculum, its first epochs go from the shortest text to the longest.
        seed: of the run.
    """

    def __init__(self, rows: SplitDataset, seed: int) -> None:
        self.rows, self.seed, self.epoch = rows, seed, 0

    def __iter__(self) -> Iterator[TrainIndex]:
        train = self.rows.train_targets
        by_length = train is not None and self.epoch < train.view.curriculum
        texts = self.rows.texts if by_length else ()
        return (TrainIndex(row, self.epoch) for row in order(len(self.rows), self.seed, self.epoch, texts))

    def __len__(self) -> int:
        return len(self.rows)


def loader(
    data: SplitDataset,
    collate: Callable[[Sequence[Example]], Mapping[str, object]],
    batch_size: int,
    seed: int | None = None,
) -> "DataLoader[Example]":
    """Return batches of `data`: in order without a seed; shuffled with one (set `loader.sampler.epoch` each epoch)."""
    # DataLoader's own shuffle draws from torch's global state, which a resumed run does not have.
    sampler = None if seed is None else Shuffle(data, seed)
    return DataLoader(data, batch_size=batch_size, sampler=sampler, collate_fn=collate)
