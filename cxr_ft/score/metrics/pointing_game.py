"""The pointing game (Zhang et al. 2016): whether the point a map is highest at lies in a box of its label.

It is compared with what needs no model: a point drawn at random from the map's cells, and the image's centre. Points
and boxes are in shares of the image's side, x to the right and y down. Intervals resample whole subjects.

Shapes: N questions (an image and a label it has), C cells a side.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from cxr_ft.score.arrays import Floats, Mask
from cxr_ft.score.statistics import intervals

Box = tuple[float, float, float, float]
#: Subjects an interval needs, bootstrap replicates, and the seed of their draws.
LEAST, REPLICATES, DRAWS = 10, 2000, 0


class Rate(NamedTuple):
    """A share of hits with its 95 % interval; None where there are fewer than LEAST subjects to resample."""

    value: float
    interval: intervals.Interval | None


class Game(NamedTuple):
    """Shares of hits of the model, of a random cell and of the centre; the model's minus the others', paired."""

    questions: int
    subjects: int
    model: Rate
    random: Rate
    centre: Rate
    above_random: Rate
    above_centre: Rate


def play(maps: npt.ArrayLike, boxes: Sequence[Sequence[Box]], subjects: npt.ArrayLike) -> Game | None:
    """Count how often maps point at the boxes of their labels.

    A hit is a point no further than half a cell from a box, as wide as a map of cells can be wrong about a point. Of
    several highest cells each counts its share.

    Args:
        maps: [N, C, C], rows from top to bottom.
        boxes: of each question the boxes (left, top, right, bottom) of its label.
        subjects: [N].

    Returns:
        None where there is no question.

    Raises:
        ValueError: where the lengths disagree.
    """
    table, owners = np.asarray(maps, float), np.asarray(subjects)
    if not len(table) == len(boxes) == len(owners):
        raise ValueError(f"{len(table)} maps, {len(boxes)} lists of boxes, {len(owners)} subjects")
    if not len(table):
        return None
    cells = table.shape[1]
    hit = np.array([inside(_centres(cells), some, 0.5 / cells) for some in boxes], float)
    # Exact equality is meant: cells share the highest value only where the model gave the same number.
    highest = (table == table.max(axis=(1, 2), keepdims=True)).reshape(len(table), -1)
    # A flat map has many highest cells: choosing one of them would be a matter of their order.
    model = (hit * highest).sum(axis=1) / highest.sum(axis=1)
    # The expected share of a random cell, computed and not drawn, so that it adds no chance of its own.
    random = hit.mean(axis=1)
    centre = np.array([inside(np.array([[0.5, 0.5]]), some, 0.5 / cells)[0] for some in boxes], float)
    # The first row has each question once: the value itself. All shares use the same resamples, so differences are
    # paired.
    weights = np.concatenate([np.ones((1, len(owners))), intervals.cluster_bootstrap(owners, REPLICATES, DRAWS)])
    subject_count = len(np.unique(owners))
    shares = [
        weights @ values / weights.sum(axis=1) for values in (model, random, centre, model - random, model - centre)
    ]
    rates = [Rate(float(one[0]), intervals.interval(one[1:]) if subject_count >= LEAST else None) for one in shares]
    return Game(len(table), subject_count, *rates)


def inside(points: Floats, boxes: Sequence[Box], reach: float) -> Mask:
    """Return which points [P, 2] lie in a box, or no further from one than `reach` in x and in y."""
    hit = np.zeros(len(points), bool)
    for left, top, right, bottom in boxes:
        low, high = np.array([left, top]) - reach, np.array([right, bottom]) + reach
        hit |= ((points >= low) & (points <= high)).all(axis=1)
    return hit


def _centres(cells: int) -> Floats:
    """Return the centres [C * C, 2] of the cells, row by row."""
    at = (np.arange(cells) + 0.5) / cells
    y, x = np.meshgrid(at, at, indexing="ij")
    return np.stack([x.ravel(), y.ravel()], axis=1)
