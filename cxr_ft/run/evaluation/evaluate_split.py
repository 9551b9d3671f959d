"""Evaluate a saved model on one test split: predictions, metrics, baselines, and the rows of their files."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from cxr_ft.config import RunConfig
from cxr_ft.data.dataset.split_dataset import SplitDataset
from cxr_ft.model.assembly import ModelParts
from cxr_ft.run.evaluation.baseline_scores import BaselineScores
from cxr_ft.run.evaluation.compute_metrics import compute_metrics, reasons
from cxr_ft.run.evaluation.evaluation_context import EvaluationContext
from cxr_ft.run.evaluation.inference import Predictions, prediction_table, run_inference
from cxr_ft.run.features.feature_store import FeatureStore
from cxr_ft.run.record.saved_labels import SavedLabels
from cxr_ft.score.arrays import Metrics

if TYPE_CHECKING:
    import pandas as pd

#: The splits that a run is tested on, in the order of their rows in predictions.parquet.
TEST_SPLITS = ("test", "test_natural")


@dataclass(frozen=True, kw_only=True)
class SplitEvaluation:
    """The evaluation of one split.

    Args:
        predictions, metrics: of the model; the metrics have those of the baselines under "baselines".
        table: the predictions as rows of predictions.parquet.
        baselines: the baselines' scores as rows of baselines.parquet; None where there are none.
    """

    predictions: Predictions
    metrics: Metrics
    table: "pd.DataFrame"
    baselines: "pd.DataFrame | None" = None


@dataclass(frozen=True, kw_only=True)
class SplitEvaluator:
    """Evaluates one model on test splits.

    Args:
        parts: the model, on its device.
        config: of its run.
        saved: labels, thresholds and calibration of its run.
        context: of the splits.
        batch_size: rows in a forward pass.
        store: where the output of the model's frozen part may be stored; None: it is computed.
        baselines: of a model that reads images, by split; those of texts are fitted here.
    """

    parts: ModelParts
    config: RunConfig
    saved: SavedLabels
    context: EvaluationContext
    batch_size: int
    store: FeatureStore | None = None
    baselines: Mapping[str, BaselineScores] = field(default_factory=dict)

    def evaluate(self, split: str, dataset: SplitDataset) -> SplitEvaluation:
        """Return the evaluation of the rows of `dataset`, the split of that name.

        Raises:
            TrainingError: where memory does not suffice for one row.
        """
        predictions = run_inference(self.parts, dataset, self.batch_size, split, store=self.store)
        metrics = compute_metrics(
            self.parts,
            dataset,
            predictions,
            self.saved,
            self.context.train.texts,
            split=split,
            context=self.context,
            text_column=self.config.head.options.text,
        )
        table = prediction_table(self.parts, split, dataset, predictions, self.saved)
        labels, multi_label = self.saved.labels, self.saved.multi_label
        baselines = self.baselines.get(split)
        # A head that writes texts has baselines of its own, in the same place of its metrics.
        if baselines is None and self.parts.head.output == "scores":
            baselines = self.context.text_baselines(dataset, labels, multi_label)
        if baselines is None:
            return SplitEvaluation(predictions=predictions, metrics=metrics, table=table)
        metrics["baselines"] = baselines.metrics(dataset, labels, multi_label=multi_label)
        metrics["undefined"] = {**reasons(metrics), **baselines.missing}
        rows = baselines.table(split, dataset, labels)
        return SplitEvaluation(predictions=predictions, metrics=metrics, table=table, baselines=rows)
