"""BLEU, ROUGE-L, METEOR and CIDEr-D of generated texts: `cxr_ft.score.metrics.text_overlap.evaluate`."""

from typing import Any

import datasets
import evaluate

from cxr_ft.score.metrics import text_overlap


class Text(evaluate.Metric):  # type: ignore[misc]
    """predictions: N generated texts; references: N texts."""

    def _info(self) -> evaluate.MetricInfo:
        return evaluate.MetricInfo(
            description=text_overlap.__doc__,
            citation="",
            inputs_description=self.__doc__,
            features=datasets.Features({name: datasets.Value("string") for name in ("predictions", "references")}),
        )

    def _compute(self, predictions: list[str], references: list[str]) -> dict[str, Any]:
        return text_overlap.evaluate(references, predictions)
