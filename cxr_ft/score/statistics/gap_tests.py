"""Test whether rows of one group differ from others: calibration at equal scores, AUROC, and recall.

All tests are of the score type: the variance of a small group is at least what it would be if the group were like the
others. A group of 30 whose own values happen not to vary is not certain. The rows of a subject count together.

Shapes: n rows of one label, K subjects.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from cxr_ft.score.statistics import delong, recalibration
from cxr_ft.score.statistics.recalibration import Array, Codes, by_subject

Mask = npt.NDArray[np.bool_]
#: The share of a column's information below which it is a combination of the others.
_ROUNDING = 1e-9


class Evidence(NamedTuple):
    """A difference, its standard error, and the degrees of freedom of t = difference / error."""

    difference: float
    error: float
    freedom: float

    @property
    def p(self) -> float:
        """Return the two-sided p-value of no difference."""
        from scipy.special import stdtr

        return float(2 * stdtr(self.freedom, -abs(self.difference) / self.error))


class Rows(NamedTuple):
    """The known rows of one label: truth, score, prediction, whether in the group, subject; and how many subjects K."""

    truth: Mask
    score: Array
    predicted: Mask
    inside: Mask
    subjects: Codes
    many: int


class Part(NamedTuple):
    """Hold the evidence of one label for a difference.

    Args:
        total: the difference times `weight`.
        weight: of this label among several.
        by_subject: [K] each subject's share in the error of `total`.
        variance: of `total`, if the group were like the others.
        pieces: variances that make up `variance`, each with its degrees of freedom.
    """

    total: float
    weight: float
    by_subject: Array
    variance: float
    pieces: Sequence[tuple[float, float]]


def together(parts: Sequence[Part]) -> Evidence | None:
    """Return the evidence of labels together, their weights applied; None where nothing varies."""
    weight = sum(part.weight for part in parts)
    shares = np.sum([part.by_subject for part in parts], axis=0)
    many = int(np.count_nonzero(shares))
    if weight <= 0 or many < 2:
        return None
    # Labels of one subject vary together, which only the sums over subjects know; where a group is small these can be
    # small by chance, which only the variance under no difference knows.
    variance = max(float(shares @ shares) * many / (many - 1), sum(part.variance for part in parts))
    pieces = [piece for part in parts for piece in part.pieces]
    # Welch 1947, Satterthwaite 1946.
    squares = sum(v**2 / f for v, f in pieces)
    if variance <= 0 or squares <= 0:
        return None
    freedom = min(sum(v for v, _ in pieces) ** 2 / squares, many - 1)
    return Evidence(
        sum(part.total for part in parts) / weight, float(np.sqrt(variance)) / weight, max(float(freedom), 1.0)
    )


def calibration(rows: Rows) -> tuple[Part, Part]:
    """Return what a label says of the differences in calibration intercept and slope between group and others.

    Whatever the curve from score to frequency is, it is the same in both if the model is as well calibrated: the curve
    of all rows is fitted, then the group's own intercept, then its own slope, each by its efficient score (Rao 1948;
    Shah and Peters 2020 for the orthogonal form). Groups of other prevalence or other scores do not matter.
    """
    truth = rows.truth.astype(float)
    x = recalibration.log_odds(rows.score)
    rarer = min(len(np.unique(rows.subjects[rows.truth == side])) for side in (True, False))
    design = recalibration.curve(x, rarer)
    inside = rows.inside.astype(float)
    intercept = _score(design, truth, inside, rows)
    # The slope is asked given the intercept, so that a group of other prevalence alone has no other slope.
    slope = _score(np.column_stack([design, inside]), truth, inside * x, rows)
    return intercept, slope


def _score(design: Array, truth: Array, column: Array, rows: Rows) -> Part:
    """Return the efficient score of `column` [n] in a logistic regression that has `design` [n, q] alone."""
    p = recalibration.fit(design, truth).probability
    weight = p * (1 - p)
    # Least squares without the prior of the fit: what `design` explains of the column must be out of it exactly.
    root = np.sqrt(weight)
    own = column - design @ np.linalg.lstsq(design * root[:, None], column * root, rcond=1e-10)[0]
    information = float(weight @ own**2)
    # Of equal scores there is no slope: what is left of the column is rounding, and no evidence.
    if information < _ROUNDING * float(weight @ column**2):
        return Part(0.0, 0.0, np.zeros(rows.many), 0.0, [])
    shares = by_subject(own * (truth - p), rows.subjects, rows.many)
    expected = by_subject(weight * own**2, rows.subjects, rows.many)
    # As many subjects of equal weight would vary as much (Carter, Schnepel and Steigerwald 2017).
    freedom = max(expected.sum() ** 2 / max(float(expected @ expected), 1e-300) - 1, 1.0)
    return Part(float(shares.sum()), information, shares, information, [(information, freedom)])


def auroc(rows: Rows) -> Part:
    """Return what a label says of the AUROC of the group minus that of the others (DeLong 1988; Obuchowski 1997)."""
    difference = 0.0
    shares = np.zeros(rows.many)
    own: list[list[tuple[float, int]]] = []
    for side, sign in ((rows.inside, 1), (~rows.inside, -1)):
        area, classes = _placements(rows, side)
        difference += sign * area
        components = []
        for values, members in classes:
            sums = by_subject(values, members, rows.many)
            many = len(np.unique(members))
            shares += sign * sums
            components.append((float(sums @ sums) * many / (many - 1), many))
        own.append(components)
    pieces = []
    for one, other in ((own[0], own[1]), (own[1], own[0])):
        for (variance, many), (other_variance, other_many) in zip(one, other, strict=True):
            pieces.append((max(variance, other_variance * other_many / many), many - 1.0))
    return Part(difference, 1.0, shares, sum(v for v, _ in pieces), pieces)


def _placements(rows: Rows, side: Mask) -> tuple[float, list[tuple[Array, Codes]]]:
    """Return the AUROC of rows and, of positives and negatives, each row's share in its error with its subject."""
    truth, subjects = rows.truth[side], rows.subjects[side]
    (area,), (above,), (below,) = delong.placements(truth, rows.score[side][None])
    return float(area), [
        ((above - area) / len(above), subjects[truth]),
        ((below - area) / len(below), subjects[~truth]),
    ]


def recall(rows: Rows) -> Part:
    """Return what a label says of the share of positives found in the group minus that of the others.

    Labels are weighted as by Mantel and Haenszel (1959): no group is blamed for hard labels that are frequent in it.
    """
    positive = rows.truth
    hits, inside, subjects = rows.predicted[positive].astype(float), rows.inside[positive], rows.subjects[positive]
    # One found and one missed are added, so that a recall of 1 is not certain.
    pooled = (hits.sum() + 1) / (len(hits) + 2)
    counts = int(inside.sum()), int((~inside).sum())
    weight = counts[0] * counts[1] / (counts[0] + counts[1])
    difference, shares, pieces = 0.0, np.zeros(rows.many), []
    for side, sign, count in ((inside, 1, counts[0]), (~inside, -1, counts[1])):
        share = float(hits[side].mean())
        difference += sign * share
        sums = by_subject((hits[side] - share) / count, subjects[side], rows.many)
        many = len(np.unique(subjects[side]))
        shares += sign * sums
        pieces.append(
            (weight**2 * max(float(sums @ sums) * many / (many - 1), pooled * (1 - pooled) / count), many - 1.0)
        )
    return Part(weight * difference, weight, weight * shares, sum(v for v, _ in pieces), pieces)
