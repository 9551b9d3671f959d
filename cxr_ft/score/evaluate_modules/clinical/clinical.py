"""Clinical F1 of generated reports in every convention: `cxr_ft.score.metrics.clinical.evaluate`."""

from typing import Any

import datasets
import evaluate

from cxr_ft.score.metrics import clinical


class Clinical(evaluate.Metric):  # type: ignore[misc]
    """predictions: N generated texts; references: N texts."""

    def _info(self) -> evaluate.MetricInfo:
        return evaluate.MetricInfo(
            description=clinical.__doc__,
            citation="",
            inputs_description=self.__doc__,
            features=datasets.Features({name: datasets.Value("string") for name in ("predictions", "references")}),
        )

    def _compute(self, predictions: list[str], references: list[str]) -> dict[str, Any]:
        return clinical.evaluate(references, predictions)
