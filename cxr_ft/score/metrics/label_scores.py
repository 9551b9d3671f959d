"""Metrics of scores by label and by row: AUROC, average precision, F1, precision, recall, accuracy, exact match.

Shapes: n rows of one label; N rows, L labels. By row (Tsoumakas and Vlahavas 2007) it is scikit-learn's
average="samples", but that a row without a value is left out instead of counting as 0.
"""

import numpy as np

from cxr_ft.score.arrays import Floats, Mask
from cxr_ft.score.metrics.registry import Metric
from cxr_ft.score.statistics import intervals, spread


def auroc(truth: Mask, score: Floats, predicted: Mask) -> float | None:
    """Return the area under the ROC curve; None for one class only."""
    from sklearn.metrics import roc_auc_score

    return float(roc_auc_score(truth, score)) if _both_classes(truth) else None


def average_precision(truth: Mask, score: Floats, predicted: Mask) -> float | None:
    """Return the average precision, without interpolation; None for one class only."""
    from sklearn.metrics import average_precision_score

    return float(average_precision_score(truth, score)) if _both_classes(truth) else None


def f1(truth: Mask, score: Floats, predicted: Mask) -> float | None:
    """Return 2 TP / (positives + predicted positives); None where nothing is positive."""
    # Nothing is positive: scikit-learn returns 0, which would lower a mean over labels that the model cannot change.
    positives = int(truth.sum())
    return 2 * int((truth & predicted).sum()) / (positives + int(predicted.sum())) if positives else None


def precision(truth: Mask, score: Floats, predicted: Mask) -> float | None:
    """Return TP / predicted positives; None where nothing is predicted positive."""
    count = int(predicted.sum())
    return int((truth & predicted).sum()) / count if count else None


def recall(truth: Mask, score: Floats, predicted: Mask) -> float | None:
    """Return TP / positives (sensitivity); None where nothing is positive."""
    positives = int(truth.sum())
    return int((truth & predicted).sum()) / positives if positives else None


def accuracy(truth: Mask, score: Floats, predicted: Mask) -> float | None:
    """Return the share of predictions that are right; None where there are none."""
    return float((truth == predicted).mean()) if len(truth) else None


def exact(truth: Mask, score: Floats, predicted: Mask) -> float | None:
    """Return 1.0 where all labels of a row are right, else 0.0; None where none is known."""
    return float((truth == predicted).all()) if len(truth) else None


def _both_classes(truth: Mask) -> bool:
    return 0 < int(truth.sum()) < len(truth)


def _auroc_by_row(truth: Mask, score: Floats, predicted: Mask, known: Mask) -> tuple[Floats, Mask]:
    """Return Mann-Whitney U / (positives x negatives) of each row, from ranks."""
    from scipy.stats import rankdata

    # Cells that do not count rank below all others, where they change no rank from the top.
    from_top = rankdata(np.where(known, -score, np.inf), method="average", axis=1)
    positives, n = truth.sum(axis=1), known.sum(axis=1)
    # A row without a pair is marked as undefined below; 1 only keeps the division quiet.
    pairs = np.maximum(positives * (n - positives), 1)
    # n + 1 minus the rank from the top is the rank from the bottom, which U is defined by.
    values = (positives * (n + 1) - (from_top * truth).sum(axis=1) - positives * (positives + 1) / 2) / pairs
    return values, (positives > 0) & (positives < n)


def _average_precision_by_row(truth: Mask, score: Floats, predicted: Mask, known: Mask) -> tuple[Floats, Mask]:
    from scipy.stats import rankdata

    positives = truth.sum(axis=1)
    # A step of the curve holds all cells of one score: its precision counts those above it and at it.
    at_least = rankdata(np.where(known, -score, np.inf), method="max", axis=1)
    true_at_least = rankdata(np.where(truth, -score, np.inf), method="max", axis=1)
    values = np.where(truth, true_at_least / at_least, 0.0).sum(axis=1) / np.maximum(positives, 1)
    # Each positive adds the precision at its own score; a row of one class has no curve.
    return values, (positives > 0) & (positives < known.sum(axis=1))


def _f1_by_row(truth: Mask, score: Floats, predicted: Mask, known: Mask) -> tuple[Floats, Mask]:
    # Unlike a label, a row without a true label but with a predicted one has the F1 of 0.
    total = truth.sum(axis=1) + predicted.sum(axis=1)
    return 2 * (truth & predicted).sum(axis=1) / np.maximum(total, 1), total > 0


def _precision_by_row(truth: Mask, score: Floats, predicted: Mask, known: Mask) -> tuple[Floats, Mask]:
    total = predicted.sum(axis=1)
    return (truth & predicted).sum(axis=1) / np.maximum(total, 1), total > 0


def _recall_by_row(truth: Mask, score: Floats, predicted: Mask, known: Mask) -> tuple[Floats, Mask]:
    total = truth.sum(axis=1)
    return (truth & predicted).sum(axis=1) / np.maximum(total, 1), total > 0


def _accuracy_by_row(truth: Mask, score: Floats, predicted: Mask, known: Mask) -> tuple[Floats, Mask]:
    total = known.sum(axis=1)
    return ((truth == predicted) & known).sum(axis=1) / np.maximum(total, 1), total > 0


def _exact_by_row(truth: Mask, score: Floats, predicted: Mask, known: Mask) -> tuple[Floats, Mask]:
    # Masked labels cannot be wrong; a row of masked labels alone is undefined, not right.
    wrong = ((truth != predicted) & known).any(axis=1)
    return np.asarray(~wrong, float), np.asarray(known.any(axis=1), bool)


def _weighted_auroc(truth: Floats, score: Floats, predicted: Mask, weights: Floats) -> Floats:
    return np.asarray(intervals.macro_auroc(truth, score, weights), np.float64)


def _pooled_recall(truth: Floats, score: Floats, predicted: Mask, weights: Floats) -> Floats:
    """Return the recall of all labels together: 1 minus the rate of underdiagnosis (Seyyed-Kalantari et al. 2021)."""
    true = truth == 1
    # A resample without a positive has no recall: 0 / 0 is NaN, and the interval leaves it out.
    with np.errstate(invalid="ignore"):
        out: Floats = weights @ (true & predicted).sum(axis=1) / (weights @ true.sum(axis=1))
    return out


METRICS = (
    Metric(
        name="auroc",
        title="macro AUROC",
        output="scores",
        description="Area under the receiver operating characteristic (Hanley and McNeil 1982).",
        function=auroc,
        by_row=_auroc_by_row,
        weighted=_weighted_auroc,
        statistic=intervals.macro_auroc,
        needs_both_classes=True,
        primary=True,
        interval=spread.area,
        shown=frozenset(("table", "csv", "card", "command", "subgroup")),
        position=10,
    ),
    Metric(
        name="ap",
        title="average precision",
        output="scores",
        description="Average precision: the area under the precision-recall curve, without interpolation.",
        function=average_precision,
        by_row=_average_precision_by_row,
        needs_both_classes=True,
        interval=spread.average_precision,
        shown=frozenset(("csv", "card", "command")),
        position=20,
    ),
    Metric(
        name="f1",
        title="F1",
        output="scores",
        description="Harmonic mean of precision and recall at the thresholds chosen on val.",
        function=f1,
        by_row=_f1_by_row,
        interval=spread.f1,
        shown=frozenset(("table", "csv", "card", "command")),
        position=30,
    ),
    Metric(
        name="precision",
        title="precision",
        output="scores",
        description="Share of predicted positives that are positive.",
        function=precision,
        by_row=_precision_by_row,
        undefined="nothing was predicted positive, so precision has no value",
        interval=spread.precision,
        shown=frozenset(("table", "csv")),
        position=40,
    ),
    Metric(
        name="recall",
        title="recall",
        output="scores",
        description="Share of positives that are predicted positive.",
        function=recall,
        by_row=_recall_by_row,
        weighted=_pooled_recall,
        interval=spread.recall,
        shown=frozenset(("table", "csv", "subgroup")),
        position=50,
    ),
    Metric(
        name="accuracy",
        title="accuracy",
        output="scores",
        description="Share of predictions that are right, averaged over labels.",
        function=accuracy,
        by_row=_accuracy_by_row,
        interval=spread.accuracy,
        shown=frozenset(("csv", "card", "command")),
        position=60,
    ),
    Metric(
        name="overall_accuracy",
        title="accuracy",
        output="scores",
        description="Share of rows that are right (one label a row), else of all known cells.",
        level="recorded",
        paths=(("accuracy",), ("micro", "accuracy")),
        interval=spread.accuracy,
        over_cells=True,
        shown=frozenset(("table",)),
        position=65,
        table_position=15,
    ),
    Metric(
        name="exact",
        title="exact match",
        output="scores",
        description="Share of rows of which all labels are right.",
        function=exact,
        by_row=_exact_by_row,
        level="row",
        shown=frozenset(),
        position=70,
    ),
)
