"""AUROCs of several runs over the same rows, and how they vary together: DeLong, DeLong and Clarke-Pearson (1988).

Placement values come from ranks (Sun and Xu 2014). A subject's rows count together (Obuchowski 1997), which is DeLong's
covariance where each subject has one row. Of several labels the mean area is taken, with the labels' covariances.

Shapes: M runs, N rows, K subjects, L labels.
"""

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[np.floating]


class PairedAurocs(NamedTuple):
    """AUROCs (of several labels: their mean) and their covariance over the sampling of subjects.

    Args:
        points: [M].
        covariance: [M, M]; None where it is undefined.
        reason: why it is.
    """

    points: Array
    covariance: Array | None
    reason: str | None = None


class Placements(NamedTuple):
    """Areas [M] and placements of positives [M, P] and negatives [M, Q].

    A placement is the share of the other class's rows that a row is ordered rightly to, ties half. Placement minus
    area, over the number of rows of its class, is what a row adds to the area's error.
    """

    areas: Array
    positive: Array
    negative: Array


class _Label(NamedTuple):
    """One label: areas [M], each subject's share in their error [M, K] by class, and subjects by class and in all."""

    points: Array
    positive: Array
    negative: Array
    subjects: tuple[int, int, int]


def paired_aurocs(truth: npt.ArrayLike, scores: npt.ArrayLike, subjects: npt.ArrayLike) -> PairedAurocs:
    """Return the areas under the ROC curves of M runs, and their covariance.

    Args:
        truth: [N] or [N, L], 1 or 0, NaN for a masked cell.
        scores: [M, N] or [M, N, L].
        subjects: [N] the subject of each row.

    Returns:
        Areas; points are NaN where no label has both classes.
    """
    table, values = np.asarray(truth, float), np.asarray(scores, float)
    if table.ndim == 1:
        table, values = table[:, None], values[..., None]
    # Subjects are numbered from 0, whatever their ids are, so that bincount can add up the rows of each.
    group = np.unique(np.asarray(subjects), return_inverse=True)[1]
    by_column = [_label(table[:, i], values[:, :, i], group) for i in range(table.shape[1])]
    # Which labels have both classes depends on the truth alone: every run is averaged over the same ones.
    labels = [label for label in by_column if label is not None]
    if not labels:
        return PairedAurocs(np.full(len(values), np.nan), None, "no label has both positives and negatives")
    points = np.mean([label.points for label in labels], axis=0)
    # With one subject in a class nothing shows how much that class varies between subjects.
    if any(min(label.subjects) < 2 for label in labels):
        return PairedAurocs(points, None, "all positives, or all negatives, of a label are of one subject")
    return PairedAurocs(points, _covariance(labels))


def _covariance(labels: list[_Label]) -> Array:
    # Each class's sum of squares has the factor of its own number of subjects (Obuchowski 1997, S10 and S01), products
    # of the classes that of all subjects (S11). A factor's root goes with each label, so that labels can be mixed.
    many = len(labels)
    positive = sum(_root(label.subjects[0]) * label.positive for label in labels)
    negative = sum(_root(label.subjects[1]) * label.negative for label in labels)
    mixed = sum(_root(label.subjects[2]) * label.positive for label in labels)
    mixed = np.asarray(mixed) @ np.asarray(sum(_root(label.subjects[2]) * label.negative for label in labels)).T
    squares = positive @ np.transpose(positive) + negative @ np.transpose(negative)
    return np.asarray((squares + mixed + mixed.T) / many**2)


def _root(subjects: int) -> float:
    # The variance of n subjects has the factor n / (n - 1); a product of two labels takes the root of each one's.
    return float(np.sqrt(subjects / (subjects - 1)))


def _label(truth: Array, scores: Array, group: npt.NDArray[np.intp]) -> _Label | None:
    """Return one label's areas and errors; None where it has one class only."""
    # Counted over all rows, before masked ones leave: the tables of all labels need a column for every subject.
    size = int(group.max(initial=-1)) + 1
    known = ~np.isnan(truth)
    # Masked rows leave before the ranks are taken, since they would shift the ranks of the others.
    positive, scores, group = truth[known] > 0.5, scores[:, known], group[known]
    positives, negatives = int(positive.sum()), int((~positive).sum())
    if not positives or not negatives:
        return None
    points, above, below = placements(positive, scores)
    # The third is not the sum of the first two: a subject can have rows of both classes.
    counted = (len(np.unique(group[positive])), len(np.unique(group[~positive])), len(np.unique(group)))
    # A placement value minus the area is what its row contributes to the error; the rows of a subject are added up.
    return _Label(
        points,
        by_subject(above - points[:, None], group[positive], size) / positives,
        by_subject(below - points[:, None], group[~positive], size) / negatives,
        counted,
    )


def placements(positive: npt.NDArray[np.bool_], scores: Array) -> Placements:
    """Return the areas of scores [M, n] and the placements behind them; both classes need a row.

    Args:
        positive: [n].
    """
    from scipy.stats import rankdata

    # Rank among all minus rank among the own class is the number of the other class below, ties half.
    ranks = rankdata(scores, axis=1)
    high, low = scores[:, positive], scores[:, ~positive]
    above = (ranks[:, positive] - rankdata(high, axis=1)) / low.shape[1]
    below = 1 - (ranks[:, ~positive] - rankdata(low, axis=1)) / high.shape[1]
    return Placements(above.mean(axis=1), above, below)


def by_subject(values: Array, subjects: npt.NDArray[np.intp], size: int) -> Array:
    """Return the sums [M, K] of values [M, n] over the rows of each subject, numbered from 0 to K - 1."""
    return np.array([np.bincount(subjects, row, size) for row in values])
