"""ECE, Brier score and log loss, raw and corrected: `cxr_ft.score.metrics.calibration.evaluate`."""

from collections.abc import Sequence
from typing import Any

import datasets
import evaluate
import numpy as np

from cxr_ft.score.metrics import calibration


class Calibration(evaluate.Metric):  # type: ignore[misc]
    """predictions: N rows of L scores in [0, 1]; references: N rows of 1, 0 or None (masked)."""

    def _info(self) -> evaluate.MetricInfo:
        rows = datasets.List(datasets.Value("float64"))
        return evaluate.MetricInfo(
            description=calibration.__doc__,
            citation="",
            inputs_description=self.__doc__,
            features=datasets.Features({"predictions": rows, "references": rows}),
        )

    def _compute(
        self,
        predictions: list[list[float]],
        references: list[list[float | None]],
        *,
        labels: Sequence[str] | None = None,
        multi_label: bool = True,
        temperature: float | None = None,
        shift: Sequence[float | None] | None = None,
    ) -> dict[str, Any]:
        score, truth = np.array(predictions, dtype=float), np.array(references, dtype=float)
        names = [str(i) for i in range(score.shape[1])] if labels is None else labels
        return calibration.evaluate(truth, score, names, multi_label, temperature=temperature, shift=shift)
