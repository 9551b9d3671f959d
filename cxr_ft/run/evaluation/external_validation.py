"""Evaluate a saved run on splits it was not trained on (cxr-evaluate)."""

import dataclasses
from pathlib import Path

import numpy as np
import torch

from cxr_ft.data import manifest
from cxr_ft.errors import UsageError
from cxr_ft.files import make_folder, write_json
from cxr_ft.run.evaluation.evaluate_split import TEST_SPLITS, SplitEvaluator
from cxr_ft.run.evaluation.evaluation_context import EvaluationContext
from cxr_ft.run.evaluation.run_datasets import build_datasets
from cxr_ft.run.record import results, saved_model
from cxr_ft.run.record.saved_labels import SavedLabels
from cxr_ft.score.arrays import Metrics


def evaluate_on(
    run: Path, folder: Path, out: Path, root: str | None = None, *, other_base: bool = False
) -> tuple[dict[str, Metrics], list[str]]:
    """Evaluate the saved run on both test splits in `folder`; labels are matched by name.

    Args:
        run: a run's folder.
        folder: splits that cxr-split wrote.
        out: where metrics.json and predictions.parquet are written.
        root: where the images are now; None: where the manifest says.
        other_base: allow a base with other weights than those that the run was trained on; a note then says so.

    Returns:
        Metrics by split, and notes on the base's weights and on the labels that could not be evaluated.

    Raises:
        UsageError: where the splits share no label with the run, or have classes that it does not know; also where
            the base has other weights and they are not allowed.
    """
    import pandas as pd

    base_note = saved_model.compare_base(run, other_base=other_base)
    parts, config, saved = saved_model.rebuild(run)
    splits = manifest.read(folder)
    missing: list[str] = []
    if parts.head.scored:
        splits, missing = _align_labels(splits, saved, run)
    # The run's own options of the data stay, as its texts and views: only the place changes.
    config = dataclasses.replace(config, data=dataclasses.replace(config.data, splits=str(folder), root=root))
    parts.model.to("cuda" if torch.cuda.is_available() else "cpu")
    datasets = build_datasets(config, splits, parts.base.image_size)
    notes = [base_note] if base_note else []
    notes += [f"the splits do not have {', '.join(missing)}: not evaluated"] if missing else []
    context = EvaluationContext(datasets["train"], datasets["val"], splits)
    evaluator = SplitEvaluator(
        parts=parts, config=config, saved=saved, context=context, batch_size=config.train.batch_size
    )
    evaluations = {}
    for split in TEST_SPLITS:
        if splits.card.multi_label:
            # A label that the data does not have is masked: its blanks mean nothing, whatever the policy for blanks.
            datasets[split].targets[:, [saved.labels.index(name) for name in missing]] = np.nan
        evaluations[split] = evaluator.evaluate(split, datasets[split])
    metrics = {split: evaluation.metrics for split, evaluation in evaluations.items()}
    make_folder(out, private=True)
    write_json(
        out / "metrics.json",
        {"run": str(run), "splits": str(folder), "sha256": splits.hashes, "notes": notes, "metrics": metrics},
    )
    tables = [evaluation.table for evaluation in evaluations.values()]
    results.write_predictions(out, pd.concat(tables, ignore_index=True))
    return metrics, notes


def _align_labels(splits: manifest.Splits, saved: SavedLabels, run: Path) -> tuple[manifest.Splits, list[str]]:
    """Return the splits with the run's labels in the run's order, and those labels that they do not have."""
    shared = [name for name in saved.labels if name in splits.card.labels]
    if not shared or splits.card.multi_label != saved.multi_label:
        raise UsageError(
            f"{splits.folder} cannot evaluate {run}: it was trained on {', '.join(saved.labels[:6])}; the splits have "
            f"{', '.join(splits.card.labels[:6])}"
        )
    if not saved.multi_label and len(shared) < len(splits.card.labels):
        raise UsageError(
            f"{splits.folder} has classes that {run} does not know: "
            f"{', '.join(sorted(set(splits.card.labels) - set(shared)))}"
        )
    # The model has an output for each of its labels, so that the data need a column for each, be it empty.
    missing = [name for name in saved.labels if name not in shared]
    tables = {split: table.assign(**dict.fromkeys(missing, np.nan)) for split, table in splits.tables.items()}
    card = dataclasses.replace(splits.card, labels=saved.labels)
    return dataclasses.replace(splits, card=card, tables=tables if missing else splits.tables), missing
