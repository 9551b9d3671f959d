"""Estimate a metric with its interval: of each label, of the mean over labels (macro), and of texts.

An interval covers two levels of chance: which subjects were tested, and, with several seeds of a variant, which were
trained (Obuchowski and Rockette 1995; see `variance_components`). The mean over labels has the labels' own variances
put together with their correlations over subjects. Nothing is resampled, so that no label is ever left out of it.

Shapes: N rows, L labels, S seeds, K subjects.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from cxr_ft.score.arrays import Floats, Mask, Names
from cxr_ft.score.statistics.intervals import Interval
from cxr_ft.score.statistics.spread import LabelRows, Spread, SpreadFunction, Z, of_sums, on_logit

#: Positive and negative subjects that an interval needs: below, none of the methods covers (docs/statistics.md).
LEAST = 10


@dataclass(frozen=True, kw_only=True)
class Estimate:
    """A value and its 95 % interval.

    Args:
        value: the mean over seeds; None where the metric has no value.
        low, high: None where there is no interval.
        note: why there is none; "" where there is one.
        labels: how many labels it is the mean of; None for a single label or a text metric.
    """

    value: float | None
    low: float | None = None
    high: float | None = None
    note: str = ""
    labels: int | None = None

    @property
    def interval(self) -> Interval | None:
        """Return both ends; None where there is no interval."""
        return None if self.low is None or self.high is None else (self.low, self.high)


@dataclass(frozen=True, kw_only=True)
class Answers:
    """Hold the predictions of a variant's runs on the same rows.

    Args:
        truth: [N, L] 1, 0 or NaN (masked).
        scores: [S, N, L]; `predicted`: bool [S, N, L].
        subjects: [N] the subject of each row.
        one_class_each: each row has exactly one label.
    """

    truth: Floats
    scores: Floats
    predicted: Mask
    subjects: Names
    one_class_each: bool = False

    def labels(self) -> list[LabelRows]:
        """Return the known rows of each label."""
        subjects = np.unique(self.subjects, return_inverse=True)[1]
        size = int(subjects.max(initial=-1)) + 1
        known = ~np.isnan(self.truth)
        # Of a row with one label a masked class could be the true one: the others are no sure negatives.
        if self.one_class_each:
            known &= known.all(axis=1, keepdims=True)
        return [
            LabelRows(
                truth=self.truth[rows, i] > 0.5,
                scores=self.scores[:, rows, i],
                predicted=self.predicted[:, rows, i],
                subjects=subjects[rows],
                size=size,
                one_class_each=self.one_class_each,
            )
            for i, rows in enumerate(known.T)
        ]


def by_label(family: SpreadFunction, labels: Sequence[LabelRows]) -> list[Estimate]:
    """Return the estimate of each label."""
    return [_one(family(rows), _lacking(rows)) for rows in labels]


def macro(family: SpreadFunction, labels: Sequence[LabelRows]) -> Estimate:
    """Return the estimate of the mean over the labels that have both classes and a value."""
    rows = [one for one in labels if one.truth.any() and not one.truth.all()]
    known = [(one, spread) for one in rows if (spread := family(one)) is not None]
    if not known:
        return Estimate(value=None, note="no label has both classes" if not rows else "no label has a value", labels=0)
    spreads = [spread for _, spread in known]
    points = np.mean([spread.points for spread in spreads], axis=0)
    value, number = float(points.mean()), len(spreads)
    note = _lacking_in_all([one for one, _ in known])
    if note:
        return Estimate(value=value, note=note, labels=number)
    factor = _seeds_factor(points, np.mean([spread.influence for spread in spreads], axis=0))
    centre = float(np.mean([spread.centre for spread in spreads]))
    return _checked(value, _of_mean(spreads, centre, factor), number)


def _of_mean(spreads: Sequence[Spread], centre: float, factor: float) -> Interval:
    """Return the interval of the mean over labels: Student's on the logit scale.

    Each label has the variance of its own family, so that a rare one is not taken as sure; how the labels vary together
    comes from the subjects.
    """
    from scipy.special import stdtrit

    moved = np.array([spread.influence.mean(axis=0) for spread in spreads])
    lengths = np.sqrt(np.square(moved).sum(axis=1))
    # A label without any spread, as one with perfect scores, is taken as independent of the others.
    units = moved / np.where(lengths > 0, lengths, 1.0)[:, None]
    together = units @ units.T
    np.fill_diagonal(together, 1.0)
    variances = np.array([spread.variance for spread in spreads])
    deviations = np.sqrt(variances)
    variance = max(float(deviations @ together @ deviations), 0.0)
    # Satterthwaite (1946): labels whose variance is large decide how well the sum's is known.
    freedom = variances.sum() ** 2 / max(
        float((variances**2 / np.array([spread.freedom for spread in spreads])).sum()), 1e-300
    )
    reach = float(stdtrit(max(1.0, freedom), 0.975)) * math.sqrt(factor * variance) / len(spreads)
    return on_logit(centre, reach)


def pooled(family: SpreadFunction, labels: Sequence[LabelRows]) -> Estimate:
    """Return the estimate over the rows of all labels one below the other."""
    parts = [one for one in labels if len(one.truth)]
    if not parts:
        return Estimate(value=None, note="no cell is known")
    rows = LabelRows(
        truth=np.concatenate([one.truth for one in parts]),
        scores=np.concatenate([one.scores for one in parts], axis=1),
        predicted=np.concatenate([one.predicted for one in parts], axis=1),
        subjects=np.concatenate([one.subjects for one in parts]),
        size=parts[0].size,
        one_class_each=parts[0].one_class_each,
    )
    return _one(family(rows), _too_few(rows.count(np.ones(len(rows.truth), bool)), ""))


def of_texts(statistic: Callable[[Floats], Floats], counts: Floats, subjects: Names) -> Estimate:
    """Return the estimate of a metric of texts that follows from sums over pairs.

    Args:
        statistic: sums [..., C] -> values [...] in [0, 1].
        counts: [S, N, C] of each pair.
        subjects: [N].
    """
    names, codes = np.unique(subjects, return_inverse=True)
    sums = np.zeros((len(counts), len(names), counts.shape[2]))
    for one, rows in zip(sums, counts, strict=True):
        np.add.at(one, codes, rows)
    spread = of_sums(statistic, sums)
    note = _too_few(len(names), "")
    return _one(spread, note)


def _one(spread: Spread | None, note: str) -> Estimate:
    if spread is None:
        return Estimate(value=None, note=note.replace("no interval", "no value") or "no value")
    value = float(spread.points.mean())
    if note:
        return Estimate(value=value, note=note)
    return _checked(value, spread.limits(_seeds_factor(spread.points, spread.influence)), None)


def _checked(value: float, ends: Interval, labels: int | None) -> Estimate:
    low, high = ends
    # No width would say that the truth is known: all subjects answered alike.
    if not low < high:
        return Estimate(value=value, note="no interval: all subjects have the same value", labels=labels)
    return Estimate(value=value, low=low, high=high, labels=labels)


def _seeds_factor(points: Floats, influence: Floats) -> float:
    """Return by what factor of the subjects' variance the mean of S seeds varies; with one seed nothing is known: 1.

    The square of Student's quantile of the sum is in it, by Satterthwaite (1946).
    """
    from scipy.special import stdtrit

    seeds = len(points)
    covariance = influence @ influence.T
    subjects = float(covariance.mean())
    if seeds == 1 or subjects <= 0:
        return 1.0
    shared = float(covariance.sum() - np.trace(covariance)) / (seeds * (seeds - 1))
    # The spread of the seeds holds the chance of training, and the part of the subjects' that seeds do not share.
    trained = float(points.var(ddof=1)) / seeds
    total = max(0.0, shared) + trained
    if total <= subjects:
        return 1.0
    freedom = total**2 / (trained**2 / (seeds - 1))
    return total / subjects * (float(stdtrit(freedom, 0.975)) / Z) ** 2


def _lacking(rows: LabelRows) -> str:
    return _too_few(rows.count(rows.truth), "positive ") or _too_few(rows.count(~rows.truth), "negative ")


def _lacking_in_all(labels: Sequence[LabelRows]) -> str:
    """Return why the mean of some labels has no interval: they have too few subjects of a class together."""
    for kind, truth in (("positive ", True), ("negative ", False)):
        seen = {subject for rows in labels for subject in rows.subjects[rows.truth == truth].tolist()}
        if note := _too_few(len(seen), kind):
            return note
    return ""


def _too_few(subjects: int, kind: str) -> str:
    return f"no interval: {subjects} {kind}subject{'' if subjects == 1 else 's'}" if subjects < LEAST else ""
