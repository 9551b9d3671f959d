"""Judging a model: val while training; test once, after the saved artefact was reloaded in a fresh process.

    python -m cxr_ft.run.evaluate RUN...

is that process: it reloads each trained run, holds its val predictions against those of the trained model, and only
then touches test. One process serves a whole ablation.
"""

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
from cxr_ft.data import batches, manifest
from cxr_ft.data.augment import Augmentation
from cxr_ft.data.learning import Learning
from cxr_ft.errors import UsageError
from cxr_ft.model.find import Parts
from cxr_ft.progress import track
from cxr_ft.run import artefact, gallery, results
from cxr_ft.score.metrics import classification, text

if TYPE_CHECKING:
    import pandas as pd

#: Largest difference of a score between the trained model and its reloaded artefact.
TOLERANCE = 1e-5


@dataclass
class Answers:
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


def data_of(config: RunConfig, splits: manifest.Splits, size: int) -> dict[str, batches.Rows]:
    """All sides of the splits as data sets, for the task of `config`."""
    head = config.head.options
    column = batches.text_column(splits, head.text) if hasattr(head, "text") else None
    return {
        side: batches.rows(
            splits, side, size, config.data.root, column, learning=_learning(config) if side == "train" else None
        )
        for side in splits.tables
    }


def _learning(config: RunConfig) -> Learning:
    data, seed = config.data, config.train.seed
    changes = data.augment != "none" or data.flip
    return Learning(
        seed=seed,
        augmentation=Augmentation(mild=data.augment == "mild", flip=data.flip, seed=seed) if changes else None,
        uncertain=data.uncertain,
        balanced=getattr(config.head.options, "weights", "none") == "balanced",
        curriculum=data.curriculum,
    )


def answer(parts: Parts, rows: batches.Rows, batch_size: int, what: str, *, texts: bool = True) -> Answers:
    """The model's answers on `rows`, in order, in fp32; where `texts` is off a text head gives its loss alone.

    A progress bar says `what`; none where it is empty.
    """
    out, total, count = Answers(), 0.0, 0
    loader = batches.loader(rows, parts.head.collate, batch_size)
    device = next(parts.model.parameters()).device
    was_training = parts.model.training
    parts.model.eval()
    with torch.no_grad():
        for batch in track(loader, what, len(loader)) if what else loader:
            here = {key: value.to(device) for key, value in batch.items()}
            if parts.head.output == "text" and not texts:
                loss, n = parts.head.loss(parts.model, here)
                total, count = total + float(loss), count + n
                continue
            predicted = parts.head.predict(parts.model, here)
            out.values.extend(predicted.answers)
            out.scored.extend(() if predicted.scores is None else predicted.scores)
            total, count = total + predicted.loss, count + predicted.counted
    parts.model.train(was_training)
    out.loss, out.counted = total / max(count, 1), count
    return out


def judge(
    parts: Parts, rows: batches.Rows, answers: Answers, saved: dict[str, Any], train: Sequence[str] = ()
) -> dict[str, Any]:
    """The metrics of `answers`: of scores by label, of texts beside the best constant report of `train`; or of both."""
    metrics: dict[str, Any] = {"loss": answers.loss}
    if answers.scored:
        names, thresholds = saved["labels"], saved["thresholds"]
        metrics |= classification.evaluate(rows.targets, answers.scores, names, thresholds, saved["multi_label"])
    if parts.head.output == "text" and answers.values:
        undefined = metrics.get("undefined", {})
        metrics |= text.evaluate(rows.texts, answers.values, saved["labels"])
        metrics["undefined"] = undefined | metrics["undefined"]
        if train:
            metrics["floor"] = text.constant_floor(list(train), rows.texts, saved["labels"])
    return metrics


def table(parts: Parts, side: str, rows: batches.Rows, answers: Answers, saved: dict[str, Any]) -> "pd.DataFrame":
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


def verify(run: Path) -> results.Result:
    """Reload a trained run, hold it against its val predictions, then judge it on test: the one touch.

    Raises:
        RuntimeError: where the reloaded model answers otherwise than the trained one.
    """
    import pandas as pd

    result = results.read(run)
    start = time.perf_counter()
    parts, config, saved = artefact.load(run)
    splits = manifest.read(Path(config.data.splits))
    if splits.hashes != result.data["sha256"]:
        raise UsageError(f"{run}: the splits in {splits.folder} changed since it was trained")
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    parts.model.to(device)
    data = data_of(config, splits, parts.base.image_size)
    # So many rows at a time as fitted into memory while it was trained.
    size = result.cost.get("micro_batch") or config.train.batch_size
    again = table(parts, "val", data["val"], answer(parts, data["val"], size, "reloaded, val"), saved)
    _same(again, results.read_predictions(run))
    tables, metrics = [again], dict(result.metrics)
    for side in ("test", "test_natural"):
        answers = answer(parts, data[side], size, side)
        metrics[side] = judge(parts, data[side], answers, saved, data["train"].texts)
        tables.append(table(parts, side, data[side], answers, saved))
        if side == "test":
            gallery.write(run, data[side], answers.values, saved, parts.head.output)
    results.write_predictions(run, pd.concat(tables, ignore_index=True))
    cost = {**result.cost, "test_seconds": round(time.perf_counter() - start, 3)}
    result = result.replace(status="success", metrics=metrics, cost=cost)
    results.write(run, result)
    return result


def verify_all(runs: Sequence[Path]) -> list[results.Result]:
    """`verify` each run in one fresh process; a run that fails there is recorded as failed."""
    if runs:
        command = [sys.executable, "-m", "cxr_ft.run.evaluate", *map(str, runs)]
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
            verify(run)
        # Whatever goes wrong belongs in the run's record; the other runs go on.
        except Exception as error:  # noqa: BLE001
            failed = True
            results.write(run, results.read(run).replace(status="failed", error=f"after training: {error}"))
            print(f"{run}: {error}", file=sys.stderr)
    return int(failed)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
