"""After the last epoch: the best epoch's weights are judged on train and val, and saved."""

import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from cxr_ft.config import RunConfig
from cxr_ft.data import batches
from cxr_ft.data.card import DatasetCard
from cxr_ft.model.find import Parts
from cxr_ft.run import artefact, checkpoint, cost, evaluate, export, features, judging, model_card, results
from cxr_ft.score.metrics.classification import best_thresholds


@dataclass(frozen=True, kw_only=True)
class Finish:
    """What is left to do on one process; `began` is the time of `time.perf_counter` at which the run began."""

    config: RunConfig
    out: Path
    card: DatasetCard
    data: dict[str, batches.Rows]
    start: results.Result
    began: float

    def __call__(self, parts: Parts, state: checkpoint.State, store: features.Store) -> results.Result:
        """Take the best weights, choose thresholds on val, save the artefact, and record the run as trained."""
        with torch.no_grad():
            for name, tensor in checkpoint.changing(parts.model).items():
                if name in state.best:
                    tensor.copy_(state.best[name])
        val = evaluate.answer(parts, self.data["val"], state.micro, "val", store=store)
        saved: dict[str, Any] = {
            "task": self.config.head.name,
            "labels": list(self.card.labels),
            "multi_label": self.card.multi_label,
            "image_size": parts.base.image_size,
            "thresholds": best_thresholds(self.data["val"].targets, val.scores) if parts.head.scored else [],
        }
        if parts.head.scored:
            val_rows, multi_label = self.data["val"], self.card.multi_label
            saved["calibration"] = judging.fitted(
                parts.tuning.name, self.data["train"], val_rows, val.scores, multi_label
            )
        train = evaluate.answer(parts, self.data["train"], state.micro, "train", texts=False, store=store)
        metrics = {
            "train": evaluate.judge(parts, self.data["train"], train, saved),
            "val": evaluate.judge(parts, self.data["val"], val, saved, self.data["train"].texts),
        }
        told = self.start.replace(metrics=metrics)
        card = model_card.text(told, parts, saved, export.kind(parts, self.config))
        size = artefact.save(self.out, parts, saved, card)
        results.write_predictions(self.out, evaluate.table(parts, "val", self.data["val"], val, saved))
        spent = self._cost(state, size)
        done = self.start.replace(status="trained", cost=spent, history=state.history, metrics=metrics)
        results.write(self.out, done)
        checkpoint.remove(self.out)
        return done

    def _cost(self, state: checkpoint.State, size: int) -> dict[str, Any]:
        return {
            **state.cost,
            "micro_batch": state.micro,
            "parameters": self.start.plan["parameters"],
            "artefact_bytes": size,
            "cuda_memory": cost.cuda_memory(),
            "wall_seconds": round(time.perf_counter() - self.began, 3),
        }
