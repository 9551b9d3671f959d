"""Compute the metrics of scores by label, macro, micro and by row; which metrics there are, `registry` says.

Shapes: N rows, L labels. Truth is 1, 0 or NaN (masked: the label is ignored in that row); scores lie in [0, 1]. A value
that does not exist (one class only, nothing predicted) is None and its reason is under "undefined": never NaN or 0.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from cxr_ft.errors import UsageError
from cxr_ft.score.arrays import Floats, Mask, Metrics, Values
from cxr_ft.score.metrics import registry


class _Group(NamedTuple):
    """The values of the metrics over some cells, and why some are None ("" where none is)."""

    values: Values
    positives: int
    n: int
    reason: str

    @property
    def both_classes(self) -> bool:
        return 0 < self.positives < self.n

    def record(self) -> Values:
        return {**self.values, "positives": self.positives, "n": self.n}


def evaluate(
    truth: Floats,
    score: Floats,
    labels: Sequence[str],
    thresholds: Sequence[float] | None = None,
    multi_label: bool = True,
) -> Metrics:
    """Compute the metrics of scores.

    Args:
        truth: [N, L] 1, 0 or NaN; single-label: one-hot, and a row that is masked anywhere is left out.
        score: [N, L] in [0, 1]; single-label: probabilities, the prediction is the largest.
        labels: the L names.
        thresholds: L thresholds chosen on val (None: 0.5); a score at the threshold counts as positive. Unused when
            single-label.
        multi_label: whether a row may have several labels.

    Returns:
        JSON-ready: "n"; "labels" by name; "macro" over the labels that have both classes ("labels" says how many; a
        label without a value, as the precision where nothing was predicted, is left out of that mean); "micro" over all
        known cells; "examples" over rows, see `by_row`; "undefined" with a reason by name; single-label: "accuracy"
        (top-1).

    Raises:
        UsageError: where a score is not a number, which a diverged training leaves.
        ValueError: where the shapes disagree.
    """
    truth, score = np.asarray(truth, float), np.asarray(score, float)
    _check(truth, score, labels)
    known = ~np.isnan(truth)
    # Of a row with one label a masked class could be the true one: the others are no sure negatives.
    if not multi_label:
        known[np.isnan(truth).any(axis=1)] = False
    positive = predicted(score, thresholds, multi_label)
    by_label = _by_label(truth, score, positive, known, labels)
    undefined = {name: label.reason for name, label in by_label.items() if label.reason}
    micro = _of_cells(truth[known], score[known], positive[known])
    if micro.reason:
        undefined["micro"] = micro.reason
    row_means, reason = by_row(truth, score, positive, known)
    if reason:
        undefined["examples"] = reason
    # A label of one class would be in the mean of some metrics and not of others: the means would not be of one set.
    both_classes = [label.values for label in by_label.values() if label.both_classes]
    if not both_classes:
        undefined["macro"] = "no label has both classes"
    result: Metrics = {
        "n": len(truth),
        "labels": {name: label.record() for name, label in by_label.items()},
        "macro": {metric.name: _mean(both_classes, metric.name) for metric in registry.of_level("scores", "label")}
        | {"labels": len(both_classes)},
        "micro": micro.record(),
        "examples": row_means,
        "undefined": undefined,
    }
    if not multi_label:
        # A row has one true class, so any hit in it is the whole row right.
        right = np.logical_and(positive, truth > 0.5)[known.all(axis=1)].any(axis=1)
        result["accuracy"] = float(np.mean(right)) if np.size(right) else None
    return result


def predicted(score: Floats, thresholds: Sequence[float] | None, multi_label: bool) -> Mask:
    """Return the predictions of scores [N, L]: at or above the threshold (None: 0.5); single-label: the largest."""
    score = np.asarray(score, float)
    if multi_label:
        return np.greater_equal(score, 0.5 if thresholds is None else np.asarray(thresholds, float))
    positive = np.zeros(score.shape, bool)
    positive[np.arange(len(score)), score.argmax(axis=1)] = True
    return positive


def best_thresholds(truth: Floats, score: Floats) -> list[float]:
    """Return for each label the threshold of the best F1; among equals the one nearest to 0.5.

    Choose them on val, never on test. Candidates are 0.5, the lowest score and the middles between neighbouring scores.

    Args:
        truth: [N, L] 1, 0 or NaN (masked).
        score: [N, L] in [0, 1].

    Returns:
        L thresholds; 0.5 for a label of one class only.
    """
    truth, score = np.asarray(truth, float), np.asarray(score, float)
    known = ~np.isnan(truth)
    return [_best_threshold(truth[rows, i] > 0.5, score[rows, i]) for i, rows in enumerate(known.T)]


def _best_threshold(truth: Mask, score: Floats) -> float:
    if truth.all() or not truth.any():
        return 0.5
    # Between two neighbouring scores every threshold predicts the same: one candidate is enough for each gap.
    levels = np.unique(score)
    candidates = np.concatenate([[0.5], levels[:1], (levels[:-1] + levels[1:]) / 2])
    # Two sorts and a binary search give the counts at all candidates: a table [candidates, N] would not fit in memory.
    predicted = len(score) - np.searchsorted(np.sort(score), candidates)
    hits = truth.sum() - np.searchsorted(np.sort(score[truth]), candidates)
    f1 = 2 * hits / (predicted + truth.sum())
    # lexsort sorts by its last key first: the best F1, then the nearest to 0.5.
    return float(candidates[np.lexsort((np.abs(candidates - 0.5), -f1))[0]])


def by_row(truth: Floats, score: Floats, positive: Mask, known: Mask) -> tuple[Values, str]:
    """Compute each metric within each row, over its known labels, and average over the rows that have a value.

    Args:
        truth: [N, L] 1 or 0; read where known.
        score: [N, L].
        positive: bool [N, L], the predictions.
        known: bool [N, L], the cells that count.

    Returns:
        The means by name and "n" (rows with a known cell), and why some are None ("" where none is). "accuracy" of rows
        that are known in all labels is 1 minus the Hamming loss; "exact" is the share of rows right in all labels.
    """
    # A row without a known cell has no value, and would only count as one that failed.
    rows = known.any(axis=1)
    known, score = known[rows], score[rows]
    true, predicted_here = (truth[rows] > 0.5) & known, positive[rows] & known
    means: Values = {}
    for metric in (*registry.of_level("scores", "label"), *registry.of_level("scores", "row")):
        values, defined = _row_values(metric, true, score, predicted_here, known)
        # A row without a value is left out: as 0 it would punish rows that have no positive label.
        means[metric.name] = float(values[defined].mean()) if defined.any() else None
    missing = [name for name, value in means.items() if value is None]
    n = int(rows.sum())
    why = "no cell is known" if n == 0 else f"no row gives a value for {', '.join(missing)}"
    return {**means, "n": n}, why if missing else ""


def _row_values(metric: registry.Metric, true: Mask, score: Floats, positive: Mask, known: Mask) -> tuple[Floats, Mask]:
    """Return the values of a metric by row [N], and where they are defined [N]."""
    if not len(true):
        return np.zeros(0), np.zeros(0, bool)
    if metric.by_row is not None:
        return metric.by_row(true, score, positive, known)
    function = metric.score_function
    values = [function(t[k], s[k], p[k]) for t, s, p, k in zip(true, score, positive, known, strict=True)]
    return np.array([np.nan if v is None else v for v in values]), np.array([v is not None for v in values])


def _by_label(truth: Floats, score: Floats, positive: Mask, known: Mask, labels: Sequence[str]) -> dict[str, _Group]:
    """Compute the metrics of each label over its known rows; all arrays [N, L]."""
    groups: dict[str, _Group] = {}
    for column, name in enumerate(labels):
        rows = known[:, column]
        groups[name] = _of_cells(truth[rows, column], score[rows, column], positive[rows, column])
    return groups


def _of_cells(truth: Floats, score: Floats, positive: Mask) -> _Group:
    """Compute the metrics of one label, or of all cells together; all arrays [n]."""
    true = truth > 0.5
    n, positives = len(true), int(true.sum())
    both_classes = 0 < positives < n
    reasons = []
    if not both_classes:
        reasons.append("no cell is known" if n == 0 else f"all {n} are {'positive' if positives else 'negative'}")
    values: Values = {}
    for metric in registry.of_level("scores", "label"):
        lacking = registry.missing(metric)
        values[metric.name] = None if lacking else metric.score_function(true, score, positive)
        # A label of one class explains most missing values; the metric itself explains the others.
        own = lacking or metric.undefined or (f"{metric.name} has no value" if both_classes else "")
        if values[metric.name] is None and n and own:
            reasons.append(own)
    return _Group(values, positives, n, "; ".join(reasons))


def _mean(rows: Sequence[Values], name: str) -> float | None:
    values = [value for row in rows if (value := row[name]) is not None]
    return float(np.mean(values)) if values else None


def _check(truth: Floats, score: Floats, labels: Sequence[str]) -> None:
    if truth.shape != score.shape or truth.ndim != 2 or truth.shape[1] != len(labels):
        raise ValueError(f"truth {truth.shape}, score {score.shape} and {len(labels)} labels do not fit together")
    # NaN compares false with every threshold: the model would pass as one that predicts nothing.
    bad = np.isnan(score)
    if bad.any():
        row, column = np.argwhere(bad)[0]
        raise UsageError(
            f"{bad.sum()} scores are not numbers (first: row {row}, {labels[column]!r}): the training diverged; "
            "try a lower learning rate or full precision"
        )
