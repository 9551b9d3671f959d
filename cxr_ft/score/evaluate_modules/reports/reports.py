"""Words, findings and sides of generated reports: `cxr_ft.score.metrics.reports.evaluate`."""

from typing import Any

import datasets
import evaluate

from cxr_ft.score.metrics import reports


class Reports(evaluate.Metric):  # type: ignore[misc]
    """predictions: N generated texts; references: N texts."""

    def _info(self) -> evaluate.MetricInfo:
        return evaluate.MetricInfo(
            description=reports.__doc__,
            citation="",
            inputs_description=self.__doc__,
            features=datasets.Features({name: datasets.Value("string") for name in ("predictions", "references")}),
        )

    def _compute(self, predictions: list[str], references: list[str]) -> dict[str, Any]:
        return reports.evaluate(references, predictions)
