"""Judging a model: val while training; test once, after the saved artefact was reloaded in a fresh process.

    python -m cxr_ft.run.evaluation.evaluate RUN...

is that process: it reloads each trained run, holds its val predictions against those of the trained model, and only
then touches test. One process serves a whole ablation.
"""

import contextlib
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray

from cxr_ft.config import RunConfig
from cxr_ft.data import manifest
from cxr_ft.data.dataset import split_dataset
from cxr_ft.data.dataset.augment import Augmentation
from cxr_ft.data.dataset.train_view import TrainView
from cxr_ft.errors import UsageError
from cxr_ft.model.assembly import ModelParts
from cxr_ft.model.protocols import HeadOutput
from cxr_ft.progress import bar
from cxr_ft.run.evaluation import evaluation_context, gallery_files
from cxr_ft.run.features import feature_store
from cxr_ft.run.record import results, saved_model
from cxr_ft.run.training.divergence import TrainingError, out_of_memory
from cxr_ft.score.metrics import text_overlap

if TYPE_CHECKING:
    import pandas as pd

#: Largest difference of a score between the trained model and its reloaded artefact.
TOLERANCE = 1e-5


@dataclass
class Predictions:
    """A model's answers on one side of a split.

    values: N times what the head puts out, scores [L] or a text; scored: N times scores [L] of a head that gives them,
    be it beside texts; loss: the mean over what counted.
    """

    values: list[Any] = field(default_factory=list)
    scored: list[Any] = field(default_factory=list)
    loss: float = 0.0
    counted: int = 0

    @property
    def scores(self) -> NDArray[np.float64]:
        """The scores [N, L]."""
        return np.stack(self.scored)


def datasets_of(config: RunConfig, splits: manifest.Splits, size: int) -> dict[str, split_dataset.SplitDataset]:
    """All sides of the splits as data sets, for the task of `config`."""
    head = config.head.options
    column = split_dataset.text_column(splits, head.text) if head.writes else None
    return {
        side: split_dataset.rows(
            splits,
            side,
            size,
            config.data.root,
            column,
            learning=_learning(config) if side == "train" else None,
            views=config.data.views,
            context=config.data.context,
        )
        for side in splits.tables
    }


def _learning(config: RunConfig) -> TrainView:
    data, seed = config.data, config.train.seed
    changes = data.augment != "none" or data.flip
    return TrainView(
        seed=seed,
        augmentation=Augmentation(mild=data.augment == "mild", flip=data.flip, seed=seed) if changes else None,
        uncertain=data.uncertain,
        balanced=config.head.options.weights == "balanced",
        curriculum=data.curriculum,
    )


def run_inference(
    parts: ModelParts,
    rows: split_dataset.SplitDataset,
    batch_size: int,
    what: str,
    *,
    texts: bool = True,
    among: Sequence[int] | None = None,
    store: feature_store.FeatureStore | None = None,
) -> Predictions:
    """The model's answers on `rows`, in order, in fp32; out of memory, with half the rows at a time from there on.

    Args:
        what: said by the progress bar; none where it is empty.
        texts: off, a text head gives its loss alone.
        among: the rows to answer; None: all.
        store: where the frozen part's output may lie; None: it is computed.

    Raises:
        TrainingError: where memory does not take one row.
    """
    places = range(len(rows)) if among is None else among
    frozen = (store or feature_store.FeatureStore(parts, keep=False)).frozen(rows)
    out, total, start = Predictions(), 0.0, 0
    was_training = parts.model.training
    parts.model.eval()
    with torch.no_grad(), bar(what, len(places)) if what else contextlib.nullcontext() as progress:
        while start < len(places):
            chosen = places[start : start + batch_size]
            try:
                one = _predicted(parts, rows, chosen, frozen, texts=texts)
            except (RuntimeError, MemoryError) as error:
                if not out_of_memory(error):
                    raise
                batch_size = _fewer(len(chosen), what)
                continue
            out.values.extend(one.answers)
            out.scored.extend(() if one.scores is None else one.scores)
            total, out.counted = total + one.loss, out.counted + one.counted
            start += len(chosen)
            if progress is not None:
                progress.advance(len(chosen))
    parts.model.train(was_training)
    out.loss = total / max(out.counted, 1)
    return out


def _predicted(
    parts: ModelParts,
    rows: split_dataset.SplitDataset,
    chosen: Sequence[int],
    frozen: feature_store.FrozenFeatures | None,
    *,
    texts: bool,
) -> HeadOutput:
    batch = parts.head.collate([rows[row] for row in chosen])
    device = next(parts.model.parameters()).device
    if frozen is None:
        batch = {key: value.to(device) for key, value in batch.items()}
    else:
        batch = frozen.put(batch, chosen, device)
    if texts or parts.head.output != "text":
        return parts.head.predict(parts.model, batch)
    loss, counted = parts.head.loss(parts.model, batch)
    return HeadOutput([], float(loss), counted)


def _fewer(rows: int, what: str) -> int:
    """Half of `rows`, said."""
    if rows == 1:
        raise TrainingError(f"out of memory on one row{f' of {what}' if what else ''}; take a smaller model")
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
    fewer = -(-rows // 2)
    place = f" judging {what}" if what else " judging"
    print(f"out of memory{place} with {rows} rows at a time: going on with {fewer}", file=sys.stderr)
    return fewer


def compute_metrics(
    parts: ModelParts,
    rows: split_dataset.SplitDataset,
    answers: Predictions,
    saved: dict[str, Any],
    train: Sequence[str] = (),
    *,
    side: str = "",
    tested: evaluation_context.EvaluationContext | None = None,
) -> dict[str, Any]:
    """The metrics of `answers`: of scores by label, of texts beside the best constant report of `train`; or of both.

    Args:
        side: "test_natural" is also judged as corrected to the natural prevalences.
        tested: of a test side, where subgroups, all baselines and probes are judged too.
    """
    metrics: dict[str, Any] = {"loss": answers.loss}
    if answers.scored:
        metrics |= evaluation_context.of_scores(rows, answers.scores, saved, side, tested)
    if parts.head.output == "text" and answers.values:
        undefined = metrics.get("undefined", {})
        metrics |= evaluation_context.of_texts(parts, rows, answers.values, saved, tested)
        metrics["undefined"] = undefined | metrics["undefined"]
        if train:
            metrics["constant_baseline"] = text_overlap.constant_baseline(list(train), rows.texts, saved["labels"])
    return metrics


def prediction_table(
    parts: ModelParts, side: str, rows: split_dataset.SplitDataset, answers: Predictions, saved: dict[str, Any]
) -> "pd.DataFrame":
    """The answers as rows of predictions.parquet."""
    import pandas as pd

    ids = rows.ids.astype(str).assign(split=side)[["split", "subject_id", "study_id", "dicom_id"]]
    tables = []
    if parts.head.output == "text":
        tables.append(ids.assign(reference=rows.texts, generated=answers.values))
    if parts.head.scored:
        scores = answers.scores
        tables += [
            ids.assign(label=name, truth=rows.targets[:, i], score=scores[:, i])
            for i, name in enumerate(saved["labels"])
        ]
    return pd.concat(tables, ignore_index=True)


def verify(run: Path, *, shared: bool = False) -> results.Result:
    """Reload a trained run, hold it against its val predictions, then judge it on test: the one touch.

    Args:
        shared: other runs are verified after it, which may use what is stored now.

    Raises:
        RuntimeError: where the reloaded model answers otherwise than the trained one.
    """
    import pandas as pd

    result = results.read(run)
    start = time.perf_counter()
    parts, config, saved = saved_model.load(run)
    splits = manifest.read(Path(config.data.splits))
    if splits.hashes != result.data["sha256"]:
        raise UsageError(f"{run}: the splits in {splits.folder} changed since it was trained")
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    parts.model.to(device)
    data = datasets_of(config, splits, parts.base.image_size)
    # So many rows at a time as fitted into memory while it was trained.
    size = result.cost.get("micro_batch") or config.train.batch_size
    feature_store.as_trained(parts.model, result.plan["modules"])
    store = feature_store.FeatureStore(parts, keep=config.train.store_features == "auto", shared=shared)
    again = prediction_table(
        parts, "val", data["val"], run_inference(parts, data["val"], size, "reloaded, val", store=store), saved
    )
    _same(again, results.read_predictions(run))
    tables, metrics = [again], dict(result.metrics)
    tested = evaluation_context.EvaluationContext(data["train"], data["val"], splits)
    for side in ("test", "test_natural"):
        answers = run_inference(parts, data[side], size, side, store=store)
        metrics[side] = compute_metrics(
            parts, data[side], answers, saved, data["train"].texts, side=side, tested=tested
        )
        tables.append(prediction_table(parts, side, data[side], answers, saved))
        if side == "test":
            gallery_files.write(run, data[side], answers.values, saved, parts, batch_size=size)
    results.write_predictions(run, pd.concat(tables, ignore_index=True))
    cost = {**result.cost, "test_seconds": round(time.perf_counter() - start, 3)}
    result = result.replace(status="success", metrics=metrics, cost=cost)
    results.write(run, result)
    return result


def verify_all(runs: Sequence[Path]) -> list[results.Result]:
    """`verify` each run in one fresh process; a run that fails there is recorded as failed."""
    if runs:
        command = [sys.executable, "-m", "cxr_ft.run.evaluation.evaluate", *map(str, runs)]
        # In a session of its own: an interrupt is for this process, which then ends that one.
        code = subprocess.run(command, check=False, start_new_session=True).returncode
        for run in runs:
            if (result := results.read(run)).status == "trained":
                results.write(
                    run, result.replace(status="failed", error=f"the verifying process ended with code {code}")
                )
    return [results.read(run) for run in runs]


def _same(again: "pd.DataFrame", before: "pd.DataFrame") -> None:
    before = before[before["split"] == "val"].reset_index(drop=True)
    if "score" in again:
        worst = float(np.abs(again["score"] - before["score"]).max())
        if not worst <= TOLERANCE:
            raise RuntimeError(f"the reloaded model's scores on val differ by {worst:.2g} from the trained model's")
    if "generated" in again and (again["generated"].fillna("") != before["generated"].fillna("")).any():
        raise RuntimeError("the reloaded model writes other texts on val than the trained one")


def main(arguments: Sequence[str]) -> int:
    """Verify the runs named; returns 1 where one failed."""
    failed = False
    for name in arguments:
        run = Path(name)
        try:
            verify(run, shared=len(arguments) > 1)
        # Whatever goes wrong belongs in the run's record; the other runs go on.
        except Exception as error:  # noqa: BLE001
            failed = True
            results.write(run, results.read(run).replace(status="failed", error=f"after training: {error}"))
            print(f"{run}: {error}", file=sys.stderr)
    return int(failed)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
