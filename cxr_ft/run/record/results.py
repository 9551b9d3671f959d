"""What a run leaves: `result.json` and `predictions.parquet`. The one writer and the one reader; no torch.

A run's folder holds `result.json`, `config.yaml`, `history.jsonl`, `predictions.parquet`, `gallery/`, `model/`.
Only a run whose saved artefact was reloaded in a fresh process and judged on test has the status "success".
"""

import contextlib
import dataclasses
import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from cxr_ft.errors import UsageError
from cxr_ft.files import atomic, write_json
from cxr_ft.score.metrics import registry

if TYPE_CHECKING:
    import pandas as pd

#: What the machine did while a run was trained.
SYSTEM = "system.jsonl"

Status = Literal["running", "trained", "success", "failed", "cancelled"]


@dataclass(frozen=True, kw_only=True)
class Result:
    """One run's record. Everything a chart shows comes from here and from the predictions beside it.

    Args:
        status: "running" while training, "trained" once saved, "success" once verified and tested, else how it ended.
        config: the resolved configuration; `cxr-train --config result.json` runs it again.
        config_hash: SHA-256 of configuration and split hashes: equal hash, equal run.
        environment: versions, commit, device, threads.
        data: the splits' folder, files' SHA-256, rows a split, the dataset's card.
        plan: what is trained: names of modules, parameters of adapter and head; `output` of the head.
        cost: seconds, samples a second, parameters, bytes by kind, artefact bytes.
        history: one dict an epoch: epoch, step, seconds, train_loss, val_loss, val (the primary metric).
        metrics: by split: "train", "val", "test", "test_natural".
        search: of an ablation that tried learning rates: `tries`, `rates`, what each reached on `val`, the one
            `chosen`, and the cell it was tried `on`; empty where none were.
        error: one line, for a failed or cancelled run.
    """

    status: Status
    config: dict[str, Any]
    config_hash: str
    environment: dict[str, Any] = field(default_factory=dict)
    data: dict[str, Any] = field(default_factory=dict)
    plan: dict[str, Any] = field(default_factory=dict)
    cost: dict[str, Any] = field(default_factory=dict)
    history: list[dict[str, Any]] = field(default_factory=list)
    metrics: dict[str, Any] = field(default_factory=dict)
    search: dict[str, Any] = field(default_factory=dict)
    error: str | None = None

    def replace(self, **changes: Any) -> "Result":
        """A copy with some fields changed."""
        return dataclasses.replace(self, **changes)

    @property
    def task(self) -> str:
        """The head's name."""
        return str(self.config["head"]["name"])

    @property
    def output(self) -> str:
        """What its head puts out, "scores" or "text": by this runs are judged, whatever the task is called."""
        return str(self.plan.get("output", "scores"))

    @property
    def method(self) -> str:
        """The tuning method's name."""
        return str(self.config["tuning"]["name"])

    @property
    def seed(self) -> int:
        """The seed of training."""
        return int(self.config["train"]["seed"])

    @property
    def variant(self) -> str:
        """What is compared: the method and those of its options that distinguish it, without the seed."""
        tuning = self.config["tuning"]
        targets = ",".join(tuning["targets"]) if tuning.get("targets") else ""
        rank = f"r{tuning['rank']}" if tuning.get("rank") else ""
        layers = f"n={tuning['layers']}" if tuning.get("layers") else ""
        return " ".join(part for part in (self.method, targets, rank, layers) if part)

    @property
    def memory_bytes(self) -> int | None:
        """The sum of what `cost.memory` tells apart, or None."""
        return sum(value for value in self.cost.get("memory", {}).values() if value) or None

    def primary(self, split: str) -> float | None:
        """The primary metric on `split`, or None where it is undefined or missing."""
        return registry.primary(self.output).value(self.metrics.get(split) or {})


def write(folder: Path, result: Result) -> None:
    """Write `folder/result.json`, atomically."""
    write_json(folder / "result.json", dataclasses.asdict(result))


def read(folder: Path) -> Result:
    """The result in a run's folder (or the JSON file itself).

    Raises:
        UsageError: where there is none, or it is not one of ours.
    """
    path = folder if folder.is_file() else folder / "result.json"
    try:
        raw = json.loads(path.read_text(encoding="utf-8"))
        if missing := {"head", "tuning", "train"} - raw["config"].keys():
            raise TypeError(f"its config has no {', '.join(sorted(missing))}")
        known = {f.name for f in dataclasses.fields(Result)}
        return Result(**{key: value for key, value in raw.items() if key in known})
    except FileNotFoundError:
        raise UsageError(f"{path} does not exist: {folder} is no run's folder (cxr-train makes one)") from None
    except (json.JSONDecodeError, UnicodeDecodeError, TypeError, AttributeError, KeyError) as error:
        raise UsageError(f"{path} is no result of cxr-train: {error}") from None


def find(paths: Iterable[Path]) -> Iterator[Path]:
    """The run folders among `paths` and below them, sorted, each once.

    Raises:
        UsageError: where a path holds none.
    """
    seen: set[Path] = set()
    for path in paths:
        if not path.exists():
            raise UsageError(f"{path} does not exist: give the folder of a run, or a folder of runs")
        found = sorted(file.parent for file in path.rglob("result.json"))
        if not found:
            raise UsageError(f"{path} holds no result.json: give the folder of a run, or a folder of runs")
        for folder in found:
            if folder.resolve() not in seen:
                seen.add(folder.resolve())
                yield folder


def read_system(folder: Path) -> list[dict[str, float]]:
    """Return the whole lines of a run's `system.jsonl` (keys: `run.cost.machine_load`).

    A killed run may leave half a line, which is left out.
    """
    path, lines = folder / SYSTEM, []
    for text in path.read_text(encoding="utf-8").splitlines() if path.exists() else ():
        with contextlib.suppress(json.JSONDecodeError):
            line = json.loads(text)
            if isinstance(line, dict) and "seconds" in line:
                lines.append(line)
    return lines


def write_predictions(folder: Path, table: "pd.DataFrame") -> None:
    """Write `predictions.parquet`, atomically. Columns: split, subject_id, study_id, dicom_id, then label, truth,
    score (classify: one row an image and label; truth and score in [0, 1]), or reference, generated (report).
    """
    with atomic(folder / "predictions.parquet") as temporary:
        table.to_parquet(temporary, index=False)


def read_predictions(folder: Path) -> "pd.DataFrame":
    """The predictions of a run, as `write_predictions` says."""
    import pandas as pd

    return pd.read_parquet(folder / "predictions.parquet")
