"""Make an `evaluate.Metric` class of a module of `cxr_ft.score.metrics`, by the kind of its input."""

from collections.abc import Callable, Sequence
from types import ModuleType
from typing import TypeAlias

import datasets
import evaluate
import numpy as np

from cxr_ft.score.arrays import Metrics

#: An option of a metric of scores: `thresholds`, `temperature`, ...
Option: TypeAlias = float | Sequence[float] | Sequence[float | None] | None

TEXTS = "predictions: N generated texts; references: N texts."
SCORES = "predictions: N rows of L scores in [0, 1]; references: N rows of 1, 0 or None (masked)."


def of_texts(module: ModuleType) -> type[evaluate.Metric]:
    """Return a class that computes `module.evaluate(references, generated)`."""

    def compute(predictions: list[str], references: list[str]) -> Metrics:
        result: Metrics = module.evaluate(references, predictions)
        return result

    return _metric(module, TEXTS, lambda: datasets.Value("string"), compute)


def of_scores(module: ModuleType) -> type[evaluate.Metric]:
    """Return a class that computes `module.evaluate(truth, score, labels, multi_label=..., ...)`.

    It takes `labels` (None: the numbers of the columns), `multi_label`, and the options of that function by name.
    """

    def compute(
        predictions: list[list[float]],
        references: list[list[float | None]],
        *,
        labels: Sequence[str] | None = None,
        multi_label: bool = True,
        **options: Option,
    ) -> Metrics:
        score, truth = np.array(predictions, dtype=float), np.array(references, dtype=float)
        names = [str(i) for i in range(score.shape[1])] if labels is None else labels
        result: Metrics = module.evaluate(truth, score, names, multi_label=multi_label, **options)
        return result

    return _metric(module, SCORES, lambda: datasets.List(datasets.Value("float64")), compute)


def _metric(
    module: ModuleType, inputs: str, feature: Callable[[], object], compute: Callable[..., Metrics]
) -> type[evaluate.Metric]:
    class Metric(evaluate.Metric):  # type: ignore[misc]
        __doc__ = inputs

        def _info(self) -> evaluate.MetricInfo:
            return evaluate.MetricInfo(
                description=module.__doc__,
                citation="",
                inputs_description=inputs,
                features=datasets.Features({"predictions": feature(), "references": feature()}),
            )

        def _compute(self, **arguments: object) -> Metrics:
            return compute(**arguments)

    return Metric
