"""After the last epoch: the best epoch's weights are judged on train and val, and saved."""

import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from cxr_ft.config import RunConfig
from cxr_ft.data.card import DatasetCard
from cxr_ft.data.dataset import split_dataset
from cxr_ft.model.assembly import ModelParts
from cxr_ft.run.cost import memory
from cxr_ft.run.evaluation import evaluate, evaluation_context
from cxr_ft.run.features import feature_store
from cxr_ft.run.record import export, model_card, results, saved_model
from cxr_ft.run.training import checkpoint
from cxr_ft.score.metrics.classification import best_thresholds


@dataclass(frozen=True, kw_only=True)
class Finish:
    """What is left to do on one process; `began` is the time of `time.perf_counter` at which the run began."""

    config: RunConfig
    out: Path
    card: DatasetCard
    data: dict[str, split_dataset.SplitDataset]
    start: results.Result
    began: float

    def __call__(
        self, parts: ModelParts, state: checkpoint.LoopState, store: feature_store.FeatureStore
    ) -> results.Result:
        """Take the best weights, choose thresholds on val, save the model, and record the run as trained."""
        with torch.no_grad():
            for name, tensor in checkpoint.changing(parts.model).items():
                if name in state.best:
                    tensor.copy_(state.best[name])
        val = evaluate.run_inference(parts, self.data["val"], state.micro, "val", store=store)
        saved: dict[str, Any] = {
            "task": self.config.head.name,
            "labels": list(self.card.labels),
            "multi_label": self.card.multi_label,
            "image_size": parts.base.image_size,
            "thresholds": best_thresholds(self.data["val"].targets, val.scores) if parts.head.scored else [],
        }
        if parts.head.scored:
            val_rows, multi_label = self.data["val"], self.card.multi_label
            saved["calibration"] = evaluation_context.fitted(
                parts.tuning.name, self.data["train"], val_rows, val.scores, multi_label
            )
        train = evaluate.run_inference(parts, self.data["train"], state.micro, "train", texts=False, store=store)
        metrics = {
            "train": evaluate.compute_metrics(parts, self.data["train"], train, saved),
            "val": evaluate.compute_metrics(parts, self.data["val"], val, saved, self.data["train"].texts),
        }
        told = self.start.replace(metrics=metrics)
        card = model_card.text(told, parts, saved, export.kind(parts, self.config))
        size = saved_model.save(self.out, parts, saved, card)
        results.write_predictions(self.out, evaluate.prediction_table(parts, "val", self.data["val"], val, saved))
        spent = self._cost(state, size)
        done = self.start.replace(status="trained", cost=spent, history=state.history, metrics=metrics)
        results.write(self.out, done)
        checkpoint.remove(self.out)
        return done

    def _cost(self, state: checkpoint.LoopState, size: int) -> dict[str, Any]:
        return {
            **state.cost,
            "micro_batch": state.micro,
            "parameters": self.start.plan.parameters,
            "saved_model_bytes": size,
            "cuda_memory": memory.cuda_memory(),
            "wall_seconds": round(time.perf_counter() - self.began, 3),
        }
