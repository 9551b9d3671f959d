"""Specificity: of the rows without a finding, the share that is predicted to be without it."""

import numpy as np
import numpy.typing as npt

from cxr_ft.score.metrics.registry import Metric


def specificity(
    truth: npt.NDArray[np.bool_], score: npt.NDArray[np.float64], predicted: npt.NDArray[np.bool_]
) -> float | None:
    """Return TN / N of one label; None where every row has the finding."""
    negatives = int((~truth).sum())
    return int((~truth & ~predicted).sum()) / negatives if negatives else None


METRIC = Metric(
    name="specificity",
    title="specificity",
    output="scores",
    description="TN / N (Altman and Bland 1994).",
    function=specificity,
    undefined="every row has the finding",
)
