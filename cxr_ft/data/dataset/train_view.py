"""How train's rows are learnt, where that differs from how they are judged: soft labels, weights, images, order."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from cxr_ft.data.dataset.augment import Augmentation
from cxr_ft.errors import UsageError

Floats = NDArray[np.float64]


@dataclass(frozen=True, kw_only=True)
class TrainView:
    """What training changes of the rows it is shown. Nothing of it touches val, test, or what train is judged by.

    Args:
        seed: of the run.
        augmentation: None: images stay as they are.
        uncertain: what -1 counts as, in [0, 1]; None: as the splits say.
        balanced: weights by class, see `class_weights`.
        curriculum: in so many first epochs the rows come from the shortest report to the longest.
    """

    seed: int = 0
    augmentation: Augmentation | None = None
    uncertain: float | None = None
    balanced: bool = False
    curriculum: int = 0


def soft_targets(raw: Floats, targets: Floats, uncertain: float | None, multi_label: bool) -> Floats:
    """`targets` [N, L] with `uncertain` where `raw` [N, L] is -1.

    Raises:
        UsageError: for single-label data, where nothing can be uncertain.
    """
    if uncertain is None:
        return targets
    if not multi_label:
        raise UsageError(f"data.uncertain: {uncertain}; these splits have one class a row, none of it uncertain")
    return np.where(raw == -1, uncertain, targets)


def class_weights(targets: Floats, multi_label: bool) -> Floats:
    """The weight of each label's part of the loss, [N, L], for targets [N, L] in [0, 1], NaN where masked.

    Each class of a label (single-label: each class) weighs alike over all rows, and the mean weight is 1: a class that
    n of N known rows have gets N / (n * number of classes that occur), as in scikit-learn's "balanced". A soft target
    gets the mean of its classes' weights.
    """
    if not multi_label:
        counts = np.nansum(targets, axis=0)
        return np.tile(_weights(counts, axis=0), (len(targets), 1))
    known = (~np.isnan(targets)).sum(axis=0)
    positive = np.nansum(targets, axis=0)
    absent, present = _weights(np.stack([known - positive, positive]), axis=0)
    y = np.nan_to_num(targets)
    weights: Floats = y * present + (1 - y) * absent
    return weights


def _weights(counts: Floats, axis: int) -> Floats:
    """counts.sum() / (counts * classes that occur) along `axis`; 0 for what does not occur, which nothing reads."""
    occurs = counts > 0
    share = counts * occurs.sum(axis=axis, keepdims=True)
    weights: Floats = np.zeros_like(counts, dtype=np.float64)
    np.divide(counts.sum(axis=axis, keepdims=True), share, out=weights, where=occurs)
    return weights


def order(rows: int, seed: int, epoch: int, texts: Sequence[str] = ()) -> list[int]:
    """Every row once, by chance; with `texts`, from the one with the fewest words to the longest, equals by chance."""
    chance = np.random.default_rng([seed, epoch]).permutation(rows)
    if not texts:
        return [int(row) for row in chance]
    words = np.array([len(text.split()) for text in texts])
    return [int(row) for row in chance[np.argsort(words[chance], kind="stable")]]
