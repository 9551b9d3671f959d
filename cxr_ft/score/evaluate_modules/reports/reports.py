"""Words, findings and sides of generated reports: `cxr_ft.score.metrics.report_metrics.evaluate`."""

from typing import Any

import datasets
import evaluate

from cxr_ft.score.metrics import report_metrics


class Reports(evaluate.Metric):  # type: ignore[misc]
    """predictions: N generated texts; references: N texts."""

    def _info(self) -> evaluate.MetricInfo:
        return evaluate.MetricInfo(
            description=report_metrics.__doc__,
            citation="",
            inputs_description=self.__doc__,
            features=datasets.Features({name: datasets.Value("string") for name in ("predictions", "references")}),
        )

    def _compute(self, predictions: list[str], references: list[str]) -> dict[str, Any]:
        return report_metrics.evaluate(references, predictions)
