"""Give the numbers of a variant their intervals, from the predictions of its runs; or say why one has none."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from cxr_ft.run.record.saved_labels import SavedLabels
from cxr_ft.score.arrays import Mask
from cxr_ft.score.metrics import classification, registry
from cxr_ft.score.metrics.registry import Metric
from cxr_ft.score.statistics import estimates
from cxr_ft.score.statistics.estimates import Answers, Estimate
from cxr_ft.score.statistics.spread import LabelRows
from cxr_ft.show import metric_columns, number_format
from cxr_ft.show.prediction_rows import TOLERANCE, PredictionBook, SplitPredictions
from cxr_ft.show.recorded_runs import RecordedRun

#: Why a number has none. The thresholds lie in model/labels.json.
NO_PREDICTIONS = "no interval: no predictions"
OTHER_ROWS = "no interval: seeds on different rows"
NO_THRESHOLDS = "no interval: thresholds unknown"


@dataclass(frozen=True, kw_only=True)
class VariantEstimates:
    """The estimates of a variant.

    Args:
        metrics: by split ("test", "test_natural") and name of the metric.
        labels: of the primary metric on test, by label; empty for texts.
    """

    metrics: Mapping[str, Mapping[str, Estimate]] = field(default_factory=dict)
    labels: Mapping[str, Estimate] = field(default_factory=dict)

    def of(self, split: str, name: str, value: float | None) -> Estimate:
        """Return the estimate of a metric whose recorded value, the mean over seeds, is `value`."""
        return agreeing(self.metrics.get(split, {}).get(name), value)

    def of_label(self, label: str, value: float | None) -> Estimate:
        """Return the estimate of the primary metric of one label on test."""
        return agreeing(self.labels.get(label), value)


def of_runs(runs: Sequence[RecordedRun], book: PredictionBook) -> VariantEstimates:
    """Return the estimates of a variant, the runs that differ in seed alone.

    Raises:
        UsageError: for a file of predictions that is not what cxr-train writes.
    """
    output = runs[0].result.output
    primary = registry.primary(output)
    wanted = {"test": (primary, *metric_columns.columns(output)), "test_natural": (primary,)}
    metrics: dict[str, Mapping[str, Estimate]] = {}
    labels: dict[str, Estimate] = {}
    for split, chosen in wanted.items():
        read = [one for run in runs if (one := book.split(run, split)) is not None]
        if len(read) < len(runs) or len({one.digest for one in read}) > 1:
            note = NO_PREDICTIONS if len(read) < len(runs) else OTHER_ROWS
            metrics[split] = {metric.name: Estimate(value=None, note=note) for metric in chosen}
        elif output == "text":
            metrics[split] = {metric.name: _of_texts(metric, runs, split, book) for metric in chosen}
        else:
            metrics[split], each = of_scores(chosen, read, [run.labels() for run in runs])
            labels = labels or each
    return VariantEstimates(metrics=metrics, labels=labels)


def of_labels(runs: Sequence[RecordedRun]) -> VariantEstimates:
    """Return the estimates of the primary metric by label on test, of the runs that differ in seed alone."""
    book = PredictionBook()
    read = [one for run in runs if (one := book.split(run, "test")) is not None]
    if runs[0].result.output != "scores" or len(read) < len(runs) or len({one.digest for one in read}) > 1:
        return VariantEstimates()
    return VariantEstimates(labels=of_scores((registry.primary("scores"),), read, [])[1])


def _of_texts(metric: Metric, runs: Sequence[RecordedRun], split: str, book: PredictionBook) -> Estimate:
    first = book.split(runs[0], split)
    if metric.of_sums is None or first is None:
        return Estimate(value=None, note=f"no interval: {metric.no_interval}")
    saved = runs[0].labels()
    labels = () if saved is None else saved.labels
    counts = np.array([book.counts(metric, run, split, labels) for run in runs])
    return estimates.of_texts(metric.of_sums, counts, first.subjects)


def of_scores(
    metrics: Sequence[Metric], read: Sequence[SplitPredictions], saved: Sequence[SavedLabels | None]
) -> tuple[dict[str, Estimate], dict[str, Estimate]]:
    """Return the estimates by metric, and those of the first, the primary metric, by label.

    Args:
        metrics: of scores, the primary metric first.
        read: the scores of each seed on the same rows.
        saved: the labels and thresholds of each seed; None: not known.
    """
    names, known = read[0].labels, [one for one in saved if one is not None and one.thresholds]
    one_class_each = bool(known) and not known[0].multi_label
    decided = [_predicted(one, by) for one, by in zip(read, known, strict=False)]
    complete = len(known) == len(read)
    scores = np.array([one.scores for one in read])
    rows = Answers(
        truth=read[0].truth,
        scores=scores,
        # Without thresholds no metric that needs them is estimated below.
        predicted=np.array(decided) if complete else np.zeros(scores.shape, bool),
        subjects=read[0].subjects,
        one_class_each=one_class_each,
    ).labels()
    found = {metric.name: _of_labels(metric, rows, complete) for metric in metrics}
    primary = metrics[0].interval
    each = {} if primary is None else dict(zip(names, estimates.by_label(primary, rows), strict=True))
    return found, each


def _of_labels(metric: Metric, rows: Sequence[LabelRows], thresholds: bool) -> Estimate:
    if metric.interval is None:
        return Estimate(value=None, note=f"no interval: {metric.no_interval}")
    if not (thresholds or metric.primary):
        return Estimate(value=None, note=NO_THRESHOLDS)
    return (estimates.pooled if metric.over_cells else estimates.macro)(metric.interval, rows)


def _predicted(one: SplitPredictions, saved: SavedLabels) -> Mask:
    # The table's labels are sorted; those of the model are in the order of its scores.
    by_name = dict(zip(saved.labels, saved.thresholds, strict=True))
    thresholds = [by_name.get(name, 0.5) for name in one.labels]
    return classification.predicted(one.scores, thresholds, saved.multi_label)


def agreeing(estimate: Estimate | None, value: float | None) -> Estimate:
    """Return an estimate with the recorded value; without its interval where the predictions give another value."""
    if value is None:
        # The table gives the reason for a value that is missing.
        return Estimate(value=None)
    if estimate is None:
        return Estimate(value=value, note=NO_PREDICTIONS)
    if estimate.value is not None and not abs(estimate.value - value) <= TOLERANCE:
        recomputed = number_format.decimal(estimate.value)
        return Estimate(value=value, note=f"no interval: the predictions give {recomputed}")
    return replace(estimate, value=value)
