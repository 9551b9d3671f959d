"""Run a model on the rows of a split: its scores or texts, its loss, and the table that predictions.parquet holds."""

import contextlib
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray

from cxr_ft.data.dataset.split_dataset import SplitDataset
from cxr_ft.errors import TrainingError
from cxr_ft.model.assembly import ModelParts
from cxr_ft.model.protocols import HeadOutput
from cxr_ft.progress import bar
from cxr_ft.run.features.feature_store import FeatureStore, FrozenFeatures
from cxr_ft.run.record.saved_labels import SavedLabels

if TYPE_CHECKING:
    import pandas as pd

#: Words for "out of memory" of CPU allocators and CUDA's libraries, which raise a plain RuntimeError.
_OUT_OF_MEMORY = ("can't allocate memory", "not enough memory", "ALLOC_FAILED")


@dataclass
class Predictions:
    """The predictions of a model on N rows.

    Args:
        outputs: N times the head's first output: scores float [L] in [0, 1], or a text.
        score_rows: N times scores float [L] of a head that scores, also where its first output is a text; else empty.
        loss: the mean over the `counted` labels or tokens.
        counted: the number of unmasked labels, or of target tokens.
    """

    outputs: list[NDArray[np.float64] | str] = field(default_factory=list)
    score_rows: list[NDArray[np.float64]] = field(default_factory=list)
    loss: float = 0.0
    counted: int = 0

    @property
    def scores(self) -> NDArray[np.float64]:
        """Return the scores, [N, L]."""
        return np.stack(self.score_rows)

    @property
    def texts(self) -> list[str]:
        """Return the N texts of a head that writes."""
        return [str(output) for output in self.outputs]


def run_inference(
    parts: ModelParts,
    dataset: SplitDataset,
    batch_size: int,
    title: str,
    *,
    generate: bool = True,
    indices: Sequence[int] | None = None,
    store: FeatureStore | None = None,
) -> Predictions:
    """Return the model's predictions on `dataset`, in its order, in fp32.

    Where memory runs out, the batch is run again with half the rows, and so are all that follow.

    Args:
        parts: the model, left in the mode (training or evaluation) in which it came.
        dataset: the rows.
        batch_size: rows in a forward pass.
        title: names the rows in the progress bar and in messages; empty: no bar.
        generate: False: a head that writes texts computes its loss alone, and generates nothing.
        indices: the rows to predict, by position; None: all.
        store: where the output of the model's frozen part may be stored; None: it is computed.

    Raises:
        TrainingError: where memory does not suffice for one row.
    """
    indices = range(len(dataset)) if indices is None else indices
    # Also without a store: on CPU the frozen part then runs image by image, as with one, so that no bit differs.
    features = (store or FeatureStore(parts, enabled=False)).frozen_features(dataset)
    predictions, loss_sum, start = Predictions(), 0.0, 0
    was_training = parts.model.training
    parts.model.eval()
    with torch.no_grad(), bar(title, len(indices)) if title else contextlib.nullcontext() as progress:
        while start < len(indices):
            batch_rows = indices[start : start + batch_size]
            try:
                output = _predict_batch(parts, dataset, batch_rows, features, generate=generate)
            except (RuntimeError, MemoryError) as error:
                if not is_out_of_memory(error):
                    raise
                batch_size = _halve(len(batch_rows), title)
                continue  # with the same rows: `start` has not moved
            predictions.outputs.extend(output.answers)
            predictions.score_rows.extend(() if output.scores is None else output.scores)
            # Sums and counts, divided once at the end: a mean of batch means would weigh a short last batch too much.
            loss_sum, predictions.counted = loss_sum + output.loss, predictions.counted + output.counted
            start += len(batch_rows)
            if progress is not None:
                progress.advance(len(batch_rows))
    # The loop evaluates between two epochs: training goes on with dropout.
    parts.model.train(was_training)
    predictions.loss = loss_sum / max(predictions.counted, 1)
    return predictions


def _predict_batch(
    parts: ModelParts,
    dataset: SplitDataset,
    indices: Sequence[int],
    features: FrozenFeatures | None,
    *,
    generate: bool,
) -> HeadOutput:
    batch = parts.head.collate([dataset[row] for row in indices])
    device = next(parts.model.parameters()).device
    if features is None:
        batch = {key: value.to(device) for key, value in batch.items()}
    else:
        batch = features.replace_pixels(batch, indices, device)
    if generate or parts.head.output != "text":
        return parts.head.predict(parts.model, batch)
    loss, counted = parts.head.loss(parts.model, batch)
    return HeadOutput([], float(loss), counted)


def is_out_of_memory(error: Exception) -> bool:
    """Return whether `error` says that memory ran out, on CUDA or on CPU."""
    # By type on CUDA and in numpy, by message elsewhere: CPU allocators raise a plain RuntimeError.
    by_type = isinstance(error, (torch.OutOfMemoryError, MemoryError))
    return by_type or any(words in str(error) for words in _OUT_OF_MEMORY)


def _halve(rows: int, title: str) -> int:
    """Return half of `rows`, rounded up, and print it; raise a TrainingError where one row was too many."""
    if rows == 1:
        raise TrainingError(f"out of memory on one row{f' of {title}' if title else ''}; take a smaller model")
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
    fewer = -(-rows // 2)
    place = f" evaluating {title}" if title else " evaluating"
    print(f"out of memory{place} with {rows} rows at a time: going on with {fewer}", file=sys.stderr)
    return fewer


def prediction_table(
    parts: ModelParts, split: str, dataset: SplitDataset, predictions: Predictions, saved: SavedLabels
) -> "pd.DataFrame":
    """Return predictions as rows of predictions.parquet (columns: `results.write_predictions`)."""
    import pandas as pd

    ids = dataset.ids.astype(str).assign(split=split)[["split", "subject_id", "study_id", "dicom_id"]]
    tables = []
    if parts.head.output == "text":
        tables.append(ids.assign(reference=dataset.texts, generated=predictions.texts))
    if parts.head.scored:
        scores = predictions.scores
        tables += [
            ids.assign(label=name, truth=dataset.targets[:, i], score=scores[:, i])
            for i, name in enumerate(saved.labels)
        ]
    return pd.concat(tables, ignore_index=True)
