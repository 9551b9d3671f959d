"""Compute a run's metrics from its predictions: classification, calibration, subgroups, and texts with baselines.

Shapes: N rows, L labels.
"""

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from cxr_ft.data.dataset.split_dataset import SplitDataset
from cxr_ft.data.demographics import SEXES
from cxr_ft.data.records import OTHER_VIEW, shown_view
from cxr_ft.data.reports.text_columns import TEXTS
from cxr_ft.json_values import JsonObject
from cxr_ft.model import methods
from cxr_ft.model.assembly import ModelParts
from cxr_ft.run.evaluation.evaluation_context import EvaluationContext, thumbnails
from cxr_ft.run.evaluation.inference import Predictions
from cxr_ft.run.record.saved_labels import SavedCalibration, SavedLabels
from cxr_ft.score.arrays import Metrics
from cxr_ft.score.metrics import calibration, classification, report_metrics, subgroups, text_overlap

#: The one split whose prevalences are those of the archive.
NATURAL = "test_natural"


def compute_metrics(
    parts: ModelParts,
    dataset: SplitDataset,
    predictions: Predictions,
    saved: SavedLabels,
    train_texts: Sequence[str] = (),
    *,
    split: str = "",
    context: EvaluationContext | None = None,
    text_column: str = "",
) -> Metrics:
    """Return the metrics of `predictions`: of scores by label, of texts, or of both, as the head gives them.

    Args:
        parts: the model.
        dataset: the rows that were predicted.
        predictions: of `run_inference`.
        saved: labels, thresholds and calibration of the run.
        train_texts: the texts of train, for the constant baseline; empty: none is computed.
        split: its name; probabilities on "test_natural" are also corrected to the natural prevalences.
        context: of a test split, where subgroups, the baselines and probes of texts that are written are evaluated
            too; None elsewhere.
        text_column: the configured column of the texts (`head.text`); empty: the first one that the table has.
    """
    metrics: Metrics = {"loss": predictions.loss}
    if predictions.score_rows:
        metrics |= score_metrics(dataset, predictions.scores, saved, split, context)
    if parts.head.output == "text" and predictions.outputs:
        of_text = text_metrics(dataset, predictions.texts, saved.labels, context, text_column)
        # A head of both kinds has reasons of both: the later dict must not replace the earlier one.
        undefined = {**reasons(metrics), **reasons(of_text)}
        metrics |= {**of_text, "undefined": undefined}
        if train_texts:
            baseline = text_overlap.constant_baseline(list(train_texts), dataset.texts, saved.labels)
            # The chosen reports are texts of patients: only their scores are recorded.
            metrics["constant_baseline"] = {name: baseline[name] for name in text_overlap.BASELINE_SCORES}
    return metrics


def reasons(metrics: Metrics) -> JsonObject:
    """Return the reasons for undefined values, by name; empty where there are none."""
    recorded = metrics.get("undefined")
    return recorded if isinstance(recorded, Mapping) else {}


def score_metrics(
    dataset: SplitDataset,
    scores: NDArray[np.float64],
    saved: SavedLabels,
    split: str,
    context: EvaluationContext | None,
) -> Metrics:
    """Return `classification.evaluate` of `scores` [N, L] with "calibration"; on a test split with "subgroups" too."""
    labels, multi_label = saved.labels, saved.multi_label
    metrics = classification.evaluate(dataset.targets, scores, labels, saved.thresholds, multi_label)
    metrics["calibration"] = _calibration_metrics(dataset, scores, saved, split, context)
    if context is not None:
        metrics["subgroups"] = subgroups.evaluate(
            dataset.targets,
            scores,
            classification.predicted(scores, saved.thresholds, multi_label),
            labels,
            groups=subgroups_of(dataset),
            subjects=dataset.ids["subject_id"].astype(str).tolist(),
        )
    return metrics


def subgroups_of(dataset: SplitDataset) -> dict[str, list[str]]:
    """Return the subgroup of each row by sex, age and view; a variable that no row has is left out."""
    groups = {}
    for variable in ("sex", "age", "view"):
        if variable in dataset.table:
            values = [_shown_group(variable, str(v)) for v in dataset.table[variable].fillna("").tolist()]
            if set(values) != {subgroups.UNKNOWN}:
                groups[variable] = values
    return groups


def _shown_group(variable: str, value: str) -> str:
    """Return the subgroup of a cell: a word of a fixed list, since results name it and a cell may say anything."""
    if variable == "age":
        return subgroups.age_bands([value])[0]
    if not value:
        return subgroups.UNKNOWN
    if variable == "view":
        return shown_view(value) or subgroups.UNKNOWN
    return value if value in SEXES else OTHER_VIEW


def fit_calibration(
    method: str,
    train: SplitDataset,
    val: SplitDataset,
    scores: NDArray[np.float64],
    multi_label: bool,
) -> SavedCalibration:
    """Return the temperature that fits `scores` [N, L] of val best, and the prevalences that `method` trained at."""
    temperature, why = calibration.fit_temperature(val.targets, scores, multi_label)
    prevalence = _train_prevalences(train, multi_label) if methods.load(method).trains else None
    return SavedCalibration(temperature=temperature, prevalence=prevalence, why=why)


def _train_prevalences(train: SplitDataset, multi_label: bool) -> tuple[float | None, ...]:
    """Return the prevalence of each label by the targets and weights of training; None for one without weight."""
    view = train.train_targets
    targets = train.targets if view is None else view.targets
    weights = np.ones_like(targets) if view is None or view.weights is None else view.weights
    # A masked target has no part in training, whatever its weight.
    weights = np.where(np.isnan(targets), 0.0, weights)
    positive = (weights * np.nan_to_num(targets)).sum(axis=0)
    # Independent labels are each compared with their own known rows, classes with all rows together.
    total = weights.sum(axis=0) if multi_label else np.full_like(positive, positive.sum())
    return tuple(float(p / n) if n > 0 else None for p, n in zip(positive, total, strict=True))


def _calibration_metrics(
    dataset: SplitDataset,
    scores: NDArray[np.float64],
    saved: SavedLabels,
    split: str,
    context: EvaluationContext | None,
) -> Metrics:
    """Return `calibration.evaluate` of `scores`, with the reason for each correction that is not made."""
    labels, multi_label = saved.labels, saved.multi_label
    fitted = saved.calibration or SavedCalibration(temperature=None, prevalence=None, why="the run recorded none")
    why, shift = {"temperature": fitted.why}, None
    if fitted.prevalence is None:
        why["prior"] = "nothing was trained, or no prevalence was recorded: there is none to correct"
    elif split != NATURAL or context is None:
        why["prior"] = "this split is balanced as train is: its prevalences are not the natural ones"
    else:
        shift_of = calibration.prior_shift if multi_label else calibration.class_shift
        natural = context.natural_prevalences(labels)
        # From the prevalences that training saw, weights included, to those of the archive.
        shift = [shift_of(a, b) for a, b in zip(fitted.prevalence, natural, strict=True)]
        why["prior"] = "the manifest does not say the natural prevalences, or a label is on all rows or none"
    return calibration.evaluate(
        dataset.targets,
        scores,
        labels,
        multi_label,
        temperature=fitted.temperature,
        shift=shift,
        why=why,
        subjects=dataset.ids["subject_id"].astype(str).tolist(),
    )


def text_metrics(
    dataset: SplitDataset,
    texts: Sequence[str],
    labels: Sequence[str],
    context: EvaluationContext | None,
    text_column: str = "",
) -> Metrics:
    """Return `report_metrics.evaluate` of generated `texts` [N]; on a test split with "baselines" and "probes" too."""
    metrics = report_metrics.evaluate(dataset.texts, texts, labels, report_section(text_column, dataset))
    if context is not None:
        nearest, why = _nearest_train_rows(dataset, context)
        metrics["baselines"] = report_metrics.baselines(context.train.texts, dataset.texts, nearest, why)
        metrics["probes"] = report_metrics.probed(dataset.texts)
    return metrics


def _nearest_train_rows(dataset: SplitDataset, context: EvaluationContext) -> tuple[Sequence[int] | None, str]:
    """Return for each row the train row with the most similar thumbnail, or None and the reason."""
    images = thumbnails(dataset)
    if images is None or context.thumbnails is None:
        return None, "the rows have no image"
    return report_metrics.nearest(context.thumbnails, images).tolist(), ""


def report_section(configured: str, dataset: SplitDataset) -> str:
    """Return the text column that the head writes: the configured one, or the first that the table has."""
    return configured or next((name for name in TEXTS["all"] if name in dataset.table), "")
