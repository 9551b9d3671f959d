"""A saved run on data it was not made for: other splits (cxr-evaluate), single images (cxr-predict)."""

import dataclasses
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from cxr_ft.data import manifest
from cxr_ft.data.dataset.split_dataset import Example
from cxr_ft.data.dicom import DicomError
from cxr_ft.data.pixels import image_decode
from cxr_ft.errors import UsageError
from cxr_ft.files import write_json
from cxr_ft.run.evaluation import evaluate, evaluation_context
from cxr_ft.run.record import results, saved_model

SIDES = ("test", "test_natural")


def evaluate_on(run: Path, folder: Path, out: Path, root: str | None = None) -> tuple[dict[str, Any], list[str]]:
    """Judge the saved run on both test sides of the splits in `folder`; labels are matched by name.

    Returns:
        Metrics by side, and notes on what could not be judged. Written to `out` as metrics.json, predictions.parquet.

    Raises:
        UsageError: where the splits share no label with the run.
    """
    import pandas as pd

    parts, config, saved = saved_model.load(run)
    splits = manifest.read(folder)
    missing: list[str] = []
    if parts.head.scored:
        splits, missing = _with_labels(splits, saved, run)
    config = dataclasses.replace(config, data=dataclasses.replace(config.data, splits=str(folder), root=root))
    parts.model.to("cuda" if torch.cuda.is_available() else "cpu")
    data = evaluate.datasets_of(config, splits, parts.base.image_size)
    notes = [f"the splits do not have {', '.join(missing)}: not judged"] if missing else []
    metrics, tables = {}, []
    tested = evaluation_context.EvaluationContext(data["train"], data["val"], splits)
    for side in SIDES:
        if splits.card.multi_label:
            # What the data does not have is masked: its blanks say nothing, whatever the policy for blanks.
            data[side].targets[:, [saved["labels"].index(name) for name in missing]] = np.nan
        answers = evaluate.run_inference(parts, data[side], config.train.batch_size, side)
        metrics[side] = evaluate.compute_metrics(
            parts, data[side], answers, saved, data["train"].texts, side=side, tested=tested
        )
        tables.append(evaluate.prediction_table(parts, side, data[side], answers, saved))
    write_json(
        out / "metrics.json",
        {"run": str(run), "splits": str(folder), "sha256": splits.hashes, "notes": notes, "metrics": metrics},
    )
    results.write_predictions(out, pd.concat(tables, ignore_index=True))
    return metrics, notes


def predict(run: Path, files: Sequence[Path]) -> Iterator[tuple[Path, dict[str, Any]]]:
    """For each file {"scores": {label: score}, "positive": [labels]}, {"report": text}, both, or {"refused": why}."""
    parts, _, saved = saved_model.load(run)
    size = parts.base.image_size
    for file in files:
        try:
            image = image_decode.square(file, size)
        except DicomError as error:
            yield file, {"refused": f"{error.reason.value}: {error.detail}"}
            continue
        nothing = np.full(len(saved["labels"]), np.nan)
        with torch.no_grad():
            predicted = parts.head.predict(parts.model, parts.head.collate([Example(image, nothing, "")]))
        answer = {"report": predicted.answers[0]} if parts.head.output == "text" else {}
        yield file, answer if predicted.scores is None else {**answer, **_scored(predicted.scores[0], saved)}


def _scored(scores: NDArray[np.float64], saved: dict[str, Any]) -> dict[str, Any]:
    """Scores [L] by label, and the labels that are positive: from their thresholds on, or the likeliest class."""
    names = saved["labels"]
    if saved["multi_label"]:
        positive = [n for n, s, t in zip(names, scores, saved["thresholds"], strict=True) if s >= t]
    else:
        positive = [names[int(np.argmax(scores))]]
    return {"scores": {n: round(float(s), 4) for n, s in zip(names, scores, strict=True)}, "positive": positive}


def _with_labels(splits: manifest.Splits, saved: dict[str, Any], run: Path) -> tuple[manifest.Splits, list[str]]:
    """The splits under the run's labels, and those labels that they do not have."""
    shared = [name for name in saved["labels"] if name in splits.card.labels]
    if not shared or splits.card.multi_label != saved["multi_label"]:
        raise UsageError(
            f"{splits.folder} cannot judge {run}: it was trained on {', '.join(saved['labels'][:6])}; the splits have "
            f"{', '.join(splits.card.labels[:6])}"
        )
    if not saved["multi_label"] and len(shared) < len(splits.card.labels):
        raise UsageError(
            f"{splits.folder} has classes that {run} does not know: "
            f"{', '.join(sorted(set(splits.card.labels) - set(shared)))}"
        )
    missing = [name for name in saved["labels"] if name not in shared]
    tables = {side: table.assign(**dict.fromkeys(missing, np.nan)) for side, table in splits.tables.items()}
    card = dataclasses.replace(splits.card, labels=tuple(saved["labels"]))
    return dataclasses.replace(splits, card=card, tables=tables if missing else splits.tables), missing
