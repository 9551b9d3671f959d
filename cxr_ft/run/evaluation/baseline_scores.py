"""Hold the scores of baselines on a split, row by row: their metrics are recorded, and the page tests models on them.

Shapes: M rows, L labels.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from cxr_ft.data.dataset.split_dataset import SplitDataset
from cxr_ft.json_values import Json
from cxr_ft.score.metrics import label_regression

if TYPE_CHECKING:
    import pandas as pd

Floats = NDArray[np.float64]


@dataclass(frozen=True, kw_only=True)
class BaselineScores:
    """The scores of baselines on the rows of one split.

    Args:
        scores: by baseline, [M, L] in [0, 1].
        thresholds: by baseline, those of the L labels that are best on val.
        train_rows: by baseline, how many rows of train it was fitted on.
        missing: why a baseline has none, by its name.
    """

    scores: Mapping[str, Floats]
    thresholds: Mapping[str, Sequence[float]]
    train_rows: Mapping[str, int]
    missing: Mapping[str, str] = field(default_factory=dict)

    def metrics(self, dataset: SplitDataset, labels: Sequence[str], *, multi_label: bool) -> dict[str, dict[str, Json]]:
        """Return the metrics of each baseline, with its thresholds and how many rows it was fitted on; JSON-ready."""
        out = {}
        for name, scores in self.scores.items():
            chosen = [float(level) for level in self.thresholds[name]]
            measured = label_regression.metrics(scores, dataset.targets, labels, chosen, multi_label=multi_label)
            out[name] = {**measured, "thresholds": chosen, "train_rows": self.train_rows[name]}
        return out

    def table(self, split: str, dataset: SplitDataset, labels: Sequence[str]) -> "pd.DataFrame":
        """Return the scores as rows of baselines.parquet: a line for each row and label, a column for each baseline."""
        import pandas as pd

        ids = dataset.ids.astype(str).assign(split=split)[["split", "subject_id", "study_id", "dicom_id"]]
        return pd.concat(
            [
                ids.assign(
                    label=label,
                    truth=dataset.targets[:, place],
                    **{name: scores[:, place] for name, scores in self.scores.items()},
                )
                for place, label in enumerate(labels)
            ],
            ignore_index=True,
        )
