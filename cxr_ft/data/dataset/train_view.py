"""Define how training sees its rows, where metrics see them otherwise: soft targets, weights, augmentation, order.

Shapes: N rows, L labels.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from cxr_ft.data.dataset.augment import Augmentation
from cxr_ft.errors import UsageError

Floats = NDArray[np.float64]


@dataclass(frozen=True, kw_only=True)
class TrainView:
    """Options of how training sees its rows. They change neither val nor test, nor the rows of train that metrics use.

    Args:
        seed: of the run.
        augmentation: random changes of the images; None: they stay as they are.
        uncertain: the target of an uncertain label (-1), in [0, 1]; None: by the policy of the splits.
        balanced: whether each class has the same weight in the loss, see `class_weights`.
        curriculum: the number of first epochs in which rows come from the shortest report to the longest.
    """

    seed: int = 0
    augmentation: Augmentation | None = None
    uncertain: float | None = None
    balanced: bool = False
    curriculum: int = 0


def soft_targets(raw: Floats, targets: Floats, uncertain: float | None, multi_label: bool) -> Floats:
    """Return `targets` [N, L] with `uncertain` where `raw` [N, L] is -1.

    Raises:
        UsageError: for single-label data, where nothing can be uncertain.
    """
    if uncertain is None:
        return targets
    if not multi_label:
        raise UsageError(f"data.uncertain: {uncertain}; these splits have one class a row, none of it uncertain")
    # From the raw values: the policy of the splits has already replaced -1 in `targets`.
    return np.where(raw == -1, uncertain, targets)


def class_weights(targets: Floats, multi_label: bool) -> Floats:
    """Return the weight of each label's part of the loss [N, L], for targets [N, L] in [0, 1], NaN where masked.

    Each class of a label (single-label: each class) has the same weight over all rows, and the mean weight is 1: a
    class of n among N known rows gets N / (n * number of classes that occur), as in scikit-learn's "balanced". A soft
    target gets the mean of its classes' weights.
    """
    if not multi_label:
        # One-hot: every row has a value of each class, none of them masked.
        counts = np.nansum(targets, axis=0)
        return np.tile(_weights(counts, axis=0), (len(targets), 1))
    # Counted label by label over the rows that state it: a label that few reports mention is not taken for absent in
    # the rest.
    known = (~np.isnan(targets)).sum(axis=0)
    positive = np.nansum(targets, axis=0)
    absent, present = _weights(np.stack([known - positive, positive]), axis=0)
    # A masked target would make its weight NaN, and NaN times a zero of the loss mask is still NaN.
    y = np.nan_to_num(targets)
    weights: Floats = y * present + (1 - y) * absent
    return weights


def _weights(counts: Floats, axis: int) -> Floats:
    """Return counts.sum() / (counts * classes that occur) along `axis`; 0 for a class that does not occur."""
    # A class that does not occur is not counted, or the mean weight would be below 1.
    occurs = counts > 0
    share = counts * occurs.sum(axis=axis, keepdims=True)
    weights: Floats = np.zeros_like(counts, dtype=np.float64)
    np.divide(counts.sum(axis=axis, keepdims=True), share, out=weights, where=occurs)
    return weights


def order(rows: int, seed: int, epoch: int, texts: Sequence[str] = ()) -> list[int]:
    """Return every row once, at random; with `texts`, from the fewest words to the most, equals at random.

    Drawn from seed and epoch alone, so that a resumed run goes on in the same order.
    """
    shuffled = np.random.default_rng([seed, epoch]).permutation(rows)
    if not texts:
        return [int(row) for row in shuffled]
    words = np.array([len(text.split()) for text in texts])
    # A stable sort of the shuffled rows leaves those of equal length in random order.
    return [int(row) for row in shuffled[np.argsort(words[shuffled], kind="stable")]]
