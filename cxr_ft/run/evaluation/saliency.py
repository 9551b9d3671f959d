"""Where the model looked: what an answer loses when a part of the image is covered (Zeiler and Fergus 2014, 4.2).

It asks the model that answers, as it answers, and so fits every base, head and method; attention alone need not tell
what an answer rests on (Jain and Wallace 2019). Each cell of a grid is covered in turn with the image's mean grey.

Shapes: C cells a side, L labels, S image side in pixels.
"""

import dataclasses
from collections.abc import Sequence
from itertools import pairwise

import numpy as np
import torch
from numpy.typing import NDArray

from cxr_ft.data.dataset.split_dataset import Example
from cxr_ft.model.assembly import ModelParts
from cxr_ft.model.protocols import Batch

#: Cells a side: 49 looks an image, each some 3 cm of a chest wide.
CELLS = 7
Pixels = NDArray[np.uint8]
Map = NDArray[np.float64]


def of_scores(parts: ModelParts, example: Example, batch_size: int, cells: int = CELLS) -> Map:
    """How much the log odds of each label's score fall when a cell is covered: [L, C, C]; above 0: it speaks for it.

    Args:
        example: a row with an image; of several images the first is covered.
        batch_size: rows that are put through the model at a time.
        cells: C.
    """
    shown = [example, *(dataclasses.replace(example, image=image) for image in covered(example.image, cells))]
    with torch.no_grad():
        found = [_scores(parts, shown[start : start + batch_size]) for start in range(0, len(shown), batch_size)]
    p = np.clip(np.concatenate(found), 1e-7, 1 - 1e-7)
    odds = np.log(p) - np.log1p(-p)
    return np.asarray(odds[0] - odds[1:]).T.reshape(-1, cells, cells)


def of_text(parts: ModelParts, example: Example, written: str, cells: int = CELLS) -> Map:
    """How much less likely the model finds the text it has `written` when a cell is covered: [C, C], in nats."""
    # Its own text takes the place of the truth; where the head scores labels besides, these have no say.
    said = dataclasses.replace(example, text=written, targets=np.full_like(example.targets, np.nan))
    shown = [said, *(dataclasses.replace(said, image=image) for image in covered(example.image, cells))]
    with torch.no_grad():
        losses = np.array([float(parts.head.loss(parts.model, _collated(parts, [one]))[0]) for one in shown])
    return np.asarray(losses[1:] - losses[0]).reshape(cells, cells)


def covered(image: Pixels, cells: int) -> list[Pixels]:
    """`image` [S, S] with each cell of the grid in turn filled with its mean, row by row."""
    edges = np.linspace(0, len(image), cells + 1).round().astype(int)
    out = []
    for top, bottom in pairwise(edges):
        for left, right in pairwise(edges):
            one = image.copy()
            one[top:bottom, left:right] = round(float(image.mean()))
            out.append(one)
    return out


def _scores(parts: ModelParts, examples: Sequence[Example]) -> Map:
    found = parts.head.predict(parts.model, _collated(parts, examples)).scores
    if found is None:
        raise ValueError(f"the head {parts.head.output} gives no scores")
    return np.asarray(found, float)


def _collated(parts: ModelParts, examples: Sequence[Example]) -> Batch:
    device = next(parts.model.parameters()).device
    return {key: value.to(device) for key, value in parts.head.collate(list(examples)).items()}
