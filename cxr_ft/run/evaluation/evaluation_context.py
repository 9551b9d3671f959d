"""The other splits, as far as metrics on a test split need them: prevalences, baselines and thumbnails of train."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from cxr_ft.data import manifest
from cxr_ft.data.dataset.split_dataset import SplitDataset
from cxr_ft.run.evaluation.baseline_scores import BaselineScores
from cxr_ft.score.metrics import text_baselines

#: Side, in pixels, of the thumbnails by which the nearest train image is found.
THUMBNAIL = 16


@dataclass(frozen=True)
class EvaluationContext:
    """The inputs of a test split's evaluation that come from elsewhere.

    Args:
        train: what baselines are fitted on, and where nearest neighbours are looked for.
        val: what the baselines' thresholds are chosen on.
        splits: whose manifest knows the prevalences of the archive.
    """

    train: SplitDataset
    val: SplitDataset
    splits: manifest.Splits

    @cached_property
    def thumbnails(self) -> NDArray[np.uint8] | None:
        """Return the thumbnails of train, see `thumbnails`."""
        return thumbnails(self.train)

    def text_baselines(self, dataset: SplitDataset, labels: Sequence[str], multi_label: bool) -> BaselineScores | None:
        """Return the scores of the text baselines on `dataset`; None for a task that reads images."""
        context = dataset.side_inputs.context
        if not context or (len(dataset) and dataset.images[0].size):
            return None
        fitted = _last_fitted.get(self, labels, multi_label)
        scores = text_baselines.scores(
            fitted.baselines,
            list(context),
            pairs=dataset.side_inputs.pairs,
            ruled=text_baselines.by_rules(context, labels),
        )
        rows = dict.fromkeys(scores, len(self.train))
        return BaselineScores(scores=scores, thresholds=fitted.thresholds, train_rows=rows)

    def natural_prevalences(self, labels: Sequence[str]) -> list[float | None]:
        """Return the share of the archive's eligible rows that have each label, from 0 to 1; None: not known.

        The shares come from the manifest's counts of the whole archive, so no label of a test row is looked at. Where
        uncertain labels are masked, they count as absent here.
        """
        recorded = self.splits.manifest
        rows, counts = recorded.get("counts", {}).get("eligible"), recorded.get("labels", {})
        # With blanks ignored, nobody knows which of the archive's rows lack the label.
        if not rows or recorded["request"]["blank"] == "ignore":
            return [None] * len(labels)
        return [counts[name]["available"] / rows if name in counts else None for name in labels]


@dataclass(frozen=True)
class FittedBaselines:
    """Text baselines fitted on train, and the thresholds chosen for each of them on val."""

    baselines: text_baselines.TextBaselines
    thresholds: dict[str, list[float]]


class LastFittedBaselines:
    """A cache of one entry: the baselines of the splits that were evaluated last.

    One process verifies all runs of an ablation, mostly on the same splits, and fitting takes longer than evaluating a
    small model. One entry suffices since the runs come ordered; the key is content, since each run reads its splits
    anew.
    """

    def __init__(self) -> None:
        self._key: str | None = None
        self._fitted: FittedBaselines | None = None

    def get(self, context: EvaluationContext, labels: Sequence[str], multi_label: bool) -> FittedBaselines:
        """Return the baselines for `context`, fitted now unless they were fitted last."""
        # The texts count besides the splits' hashes: which columns are read is the run's choice.
        texts = hash(tuple(context.train.side_inputs.context))
        key = repr((sorted(context.splits.hashes.items()), list(labels), texts))
        if self._fitted is None or key != self._key:
            self._key, self._fitted = key, _fit_baselines(context, labels, multi_label)
        return self._fitted


#: Module state, for the reason in its class's docstring; it holds no more than one entry.
_last_fitted = LastFittedBaselines()


def _fit_baselines(context: EvaluationContext, labels: Sequence[str], multi_label: bool) -> FittedBaselines:
    train, val = context.train, context.val
    texts, pairs = train.side_inputs.context, train.side_inputs.pairs
    baselines = text_baselines.fit(texts, train.targets, multi_label=multi_label, pairs=pairs)
    thresholds = text_baselines.thresholds(
        baselines,
        val.side_inputs.context,
        val.targets,
        pairs=val.side_inputs.pairs,
        ruled=text_baselines.by_rules(val.side_inputs.context, labels),
    )
    return FittedBaselines(baselines, thresholds)


def thumbnails(dataset: SplitDataset) -> NDArray[np.uint8] | None:
    """Return each row's first image as area means, uint8 [N, THUMBNAIL * THUMBNAIL]; None where rows have no image."""
    import cv2

    if len(dataset) == 0 or not dataset.images[0].size:
        return None
    out = np.empty((len(dataset), THUMBNAIL * THUMBNAIL), np.uint8)
    for row in range(len(dataset)):
        # Area means: each pixel of the image counts alike, and noise averages out.
        out[row] = cv2.resize(dataset.images[row], (THUMBNAIL, THUMBNAIL), interpolation=cv2.INTER_AREA).ravel()
    return out
