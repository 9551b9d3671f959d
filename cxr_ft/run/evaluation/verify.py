"""Verify a trained run: reload its saved model in a fresh process, compare it with the trained one, then test it once.

    python -m cxr_ft.run.evaluation.verify RUN...

is that process. It reloads each run, compares the predictions on val with those of the trained model, and only then
evaluates the test splits. One process serves a whole ablation.
"""

import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch

from cxr_ft.child_processes import module_command
from cxr_ft.data import manifest
from cxr_ft.errors import TrainingError, UsageError
from cxr_ft.run.evaluation import gallery_files
from cxr_ft.run.evaluation.evaluate_split import TEST_SPLITS, SplitEvaluation, SplitEvaluator
from cxr_ft.run.evaluation.evaluation_context import EvaluationContext
from cxr_ft.run.evaluation.image_baselines import ImageBaselines
from cxr_ft.run.evaluation.inference import prediction_table, run_inference
from cxr_ft.run.evaluation.run_datasets import build_datasets
from cxr_ft.run.features.feature_store import FeatureStore, mark_trained
from cxr_ft.run.record import failures, results, saved_model
from cxr_ft.run.record.run_splits import splits_folder

if TYPE_CHECKING:
    import pandas as pd

#: Largest difference of a score between the trained model and the saved one, reloaded.
TOLERANCE = 1e-5


class ReloadError(TrainingError, RuntimeError):
    """A saved model that predicts otherwise than the trained one once it is reloaded."""


def verify(run: Path, *, shared: bool = False) -> results.Result:
    """Return the verified result of the run in folder `run`, with metrics on test; written to its result.json.

    Args:
        run: a folder whose result has the status "trained".
        shared: True where other runs are verified after it, which may read the features that are stored now.

    Raises:
        ReloadError: where the reloaded model predicts otherwise than the trained one.
        TrainingError: where the base has other weights than in training, or the saved model cannot be read.
        UsageError: where the splits have changed since training.
    """
    result = results.read(run)
    began = time.perf_counter()
    try:
        parts, config, saved = saved_model.load(run)
    except UsageError as error:
        # What is wrong with weights or configuration names no row, so that others may read the line as it is.
        raise TrainingError(str(error).removeprefix(f"{run}: ")) from error
    splits = manifest.read(splits_folder(run, result))
    parts.model.to("cuda" if torch.cuda.is_available() else "cpu")
    datasets = build_datasets(config, splits, parts.base.image_size)
    # As many rows at a time as fitted into memory while it was trained.
    batch_size = result.cost.get("micro_batch") or config.train.batch_size
    # A reloaded model has no frozen part of its own: without this, features stored in training would not be found.
    mark_trained(parts.model, result.plan["modules"])
    store = FeatureStore(parts, enabled=config.train.store_features == "auto", shared=shared)
    # Val first: a model that was not saved as it was trained must never touch test.
    val = run_inference(parts, datasets["val"], batch_size, "reloaded, val", store=store)
    val_table = prediction_table(parts, "val", datasets["val"], val, saved)
    _check_same(val_table, results.read_predictions(run))
    context = EvaluationContext(datasets["train"], datasets["val"], splits)
    baselines = ImageBaselines(
        parts=parts,
        config=config,
        splits=splits,
        datasets=datasets,
        labels=saved.labels,
        multi_label=saved.multi_label,
        batch_size=batch_size,
    )
    evaluator = SplitEvaluator(
        parts=parts,
        config=config,
        saved=saved,
        context=context,
        batch_size=batch_size,
        store=store,
        baselines=baselines.scores(TEST_SPLITS),
    )
    evaluations = {split: evaluator.evaluate(split, datasets[split]) for split in TEST_SPLITS}
    outputs = evaluations["test"].predictions.outputs
    gallery_files.write_gallery(run, datasets["test"], outputs, saved.labels, parts, batch_size=batch_size)
    return _write(run, result, val_table, evaluations, time.perf_counter() - began)


def _write(
    run: Path,
    result: results.Result,
    val_table: "pd.DataFrame",
    evaluations: Mapping[str, SplitEvaluation],
    seconds: float,
) -> results.Result:
    """Write predictions and baselines row by row, then the record with the metrics on test, and return it."""
    import pandas as pd

    tables = [val_table, *(evaluation.table for evaluation in evaluations.values())]
    results.write_predictions(run, pd.concat(tables, ignore_index=True))
    if rows := [evaluation.baselines for evaluation in evaluations.values() if evaluation.baselines is not None]:
        results.write_baselines(run, pd.concat(rows, ignore_index=True))
    metrics = {**result.metrics, **{split: evaluation.metrics for split, evaluation in evaluations.items()}}
    cost = {**result.cost, "test_seconds": round(seconds, 3)}
    # The record comes last: a run without its predictions on test must not look verified.
    result = result.replace(status="success", metrics=metrics, cost=cost)
    results.write(run, result)
    return result


def verify_all(runs: Sequence[Path]) -> list[results.Result]:
    """Verify each run in one fresh process and return their results; a run that fails there is recorded as failed."""
    if runs:
        command = module_command("cxr_ft.run.evaluation.verify", *map(str, runs))
        # In a session of its own: an interrupt reaches this process alone, which then ends the other.
        code = subprocess.run(command, check=False, start_new_session=True).returncode
        for run in runs:
            if (result := results.read(run)).status == "trained":
                results.write(
                    run, result.replace(status="failed", error=f"the verifying process ended with code {code}")
                )
    return [results.read(run) for run in runs]


def _check_same(reloaded: "pd.DataFrame", trained: "pd.DataFrame") -> None:
    """Raise a ReloadError where the reloaded model's predictions on val are not those of the trained one."""
    trained = trained[trained["split"] == "val"].reset_index(drop=True)
    if "score" in reloaded:
        largest = float(np.abs(reloaded["score"] - trained["score"]).max())
        if not largest <= TOLERANCE:  # and not `>`: NaN must fail too
            raise ReloadError(f"the reloaded model's scores on val differ by {largest:.2g} from the trained model's")
    if "generated" in reloaded and (reloaded["generated"].fillna("") != trained["generated"].fillna("")).any():
        raise ReloadError("the reloaded model writes other texts on val than the trained one")


def main(arguments: Sequence[str]) -> int:
    """Verify the runs whose folders are named; return 1 where one failed, else 0."""
    failed = False
    for name in arguments:
        run = Path(name)
        try:
            verify(run, shared=len(arguments) > 1)
        # Whatever goes wrong belongs in the run's record; the other runs go on.
        except Exception as error:  # noqa: BLE001
            failed = True
            line = f"after training: {failures.record(run, error)}"
            results.write(run, results.read(run).replace(status="failed", error=line))
            print(f"{run}: {line}", file=sys.stderr)
    return int(failed)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
