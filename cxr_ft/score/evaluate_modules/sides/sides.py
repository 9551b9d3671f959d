"""Left and right in generated reports: `cxr_ft.score.metrics.laterality.evaluate`."""

from typing import Any

import datasets
import evaluate

from cxr_ft.score.metrics import laterality


class Sides(evaluate.Metric):  # type: ignore[misc]
    """predictions: N generated texts; references: N texts."""

    def _info(self) -> evaluate.MetricInfo:
        return evaluate.MetricInfo(
            description=laterality.__doc__,
            citation="",
            inputs_description=self.__doc__,
            features=datasets.Features({name: datasets.Value("string") for name in ("predictions", "references")}),
        )

    def _compute(self, predictions: list[str], references: list[str]) -> dict[str, Any]:
        return laterality.evaluate(references, predictions)
