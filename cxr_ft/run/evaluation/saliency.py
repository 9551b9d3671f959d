"""Map where the model looks, by occlusion: what a prediction loses when a part of the image is covered.

It needs predictions alone, and so fits every base, head and method; attention need not show what a prediction rests on
(Jain and Wallace 2019). Each cell of a grid is covered in turn with the image's mean grey.

Shapes: C cells a side, L labels, S image side in pixels.

Source: Zeiler and Fergus 2014, section 4.2.
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

#: Cells a side: 49 forward passes an image; a cell is some 3 cm of a chest wide.
CELLS = 7
Pixels = NDArray[np.uint8]
Map = NDArray[np.float64]


def of_scores(parts: ModelParts, example: Example, batch_size: int, cells: int = CELLS) -> Map:
    """Return by how much the log odds of each label's score fall when a cell is covered, [L, C, C].

    Above 0 the cell is evidence for the label.

    Args:
        parts: the model.
        example: a row with an image; of several images the first is covered.
        batch_size: rows in a forward pass.
        cells: C.
    """
    # The whole image first, then each covered one: one list, so that all share their batches.
    examples = [example, *(dataclasses.replace(example, image=image) for image in cover_cells(example.image, cells))]
    with torch.no_grad():
        scores = [_scores(parts, examples[start : start + batch_size]) for start in range(0, len(examples), batch_size)]
    p = np.clip(np.concatenate(scores), 1e-7, 1 - 1e-7)  # a saturated score would have infinite odds
    log_odds = np.log(p) - np.log1p(-p)
    return np.asarray(log_odds[0] - log_odds[1:]).T.reshape(-1, cells, cells)


def of_text(parts: ModelParts, example: Example, text: str, cells: int = CELLS) -> Map:
    """Return by how much the loss of the generated `text` rises when a cell is covered, [C, C], in nats."""
    # The generated text takes the place of the truth, so that its loss is the model's own; masked targets keep the
    # loss of a head that also scores labels out of the sum.
    example = dataclasses.replace(example, text=text, targets=np.full_like(example.targets, np.nan))
    examples = [example, *(dataclasses.replace(example, image=image) for image in cover_cells(example.image, cells))]
    with torch.no_grad():
        losses = np.array([float(parts.head.loss(parts.model, _collate(parts, [one]))[0]) for one in examples])
    return np.asarray(losses[1:] - losses[0]).reshape(cells, cells)


def cover_cells(image: Pixels, cells: int) -> list[Pixels]:
    """Return copies of `image` [S, S], each with one cell of the grid filled with the image's mean, row by row."""
    edges = np.linspace(0, len(image), cells + 1).round().astype(int)
    copies = []
    for top, bottom in pairwise(edges):
        for left, right in pairwise(edges):
            copy = image.copy()
            # The mean keeps the image's brightness, which black or white cells would change.
            copy[top:bottom, left:right] = round(float(image.mean()))
            copies.append(copy)
    return copies


def _scores(parts: ModelParts, examples: Sequence[Example]) -> Map:
    scores = parts.head.predict(parts.model, _collate(parts, examples)).scores
    if scores is None:
        raise ValueError(f"the head {parts.head.output} gives no scores")
    return np.asarray(scores, float)


def _collate(parts: ModelParts, examples: Sequence[Example]) -> Batch:
    device = next(parts.model.parameters()).device
    return {key: value.to(device) for key, value in parts.head.collate(list(examples)).items()}
