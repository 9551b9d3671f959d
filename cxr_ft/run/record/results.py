"""Write and read what a run leaves: `result.json`, `predictions.parquet` and its like. It needs no torch.

A run's folder holds `result.json`, `config.yaml`, `history.jsonl`, `predictions.parquet`, `baselines.parquet`,
`gallery/`, `model/`.
Only a run whose saved model was reloaded in a fresh process and evaluated on test has the status "success".
"""

import contextlib
import dataclasses
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from cxr_ft import json_values
from cxr_ft.config import mapping
from cxr_ft.errors import UsageError
from cxr_ft.files import atomic, make_folder, write_json
from cxr_ft.json_values import JsonObject
from cxr_ft.run.record.result_parts import (
    BaseRecord,
    Cost,
    DataSummary,
    Environment,
    EpochRecord,
    RateSearch,
    ResultPart,
    SplitMetrics,
    TrainingPlan,
)
from cxr_ft.score.metrics import registry

if TYPE_CHECKING:
    import pandas as pd

#: Load of the machine while a run was trained.
SYSTEM = "system.jsonl"

Status = Literal["running", "trained", "success", "failed", "cancelled"]


@dataclass(frozen=True, kw_only=True)
class Result:
    """One run's record. Everything a chart shows comes from here and from the predictions in the same folder.

    Args:
        status: "running" while training, "trained" once saved, "success" once verified and tested, else how it ended.
        config: the resolved configuration; `cxr-train --config result.json` runs it again.
        config_hash: SHA-256 of configuration, split hashes and weights of the base: equal hash, equal run.
        began: when its training began, or went on after an interruption: UTC, ISO 8601 to the second; None in records
            of older versions.
        environment, base, data, plan, cost: see `result_parts`.
        history: the epochs in order.
        metrics: by split: "train", "val", "test", "test_natural".
        search: of the learning rate, written by an ablation; empty where none was tried.
        error: one line, for a failed or cancelled run.
    """

    status: Status
    config: JsonObject
    config_hash: str
    began: str | None = None
    environment: Environment = field(default_factory=Environment)
    base: BaseRecord = field(default_factory=BaseRecord)
    data: DataSummary = field(default_factory=DataSummary)
    plan: TrainingPlan = field(default_factory=TrainingPlan)
    cost: Cost = field(default_factory=Cost)
    history: list[EpochRecord] = field(default_factory=list)
    metrics: Mapping[str, SplitMetrics] = field(default_factory=dict)
    search: RateSearch = field(default_factory=RateSearch)
    error: str | None = None

    def __post_init__(self) -> None:
        # The state of a training is plain dicts, so that a checkpoint needs no pickle: a part may be given as one.
        for name, kind in _PARTS.items():
            value = getattr(self, name)
            if not isinstance(value, kind):
                object.__setattr__(self, name, kind.from_json(value))
        rows = [row if isinstance(row, EpochRecord) else EpochRecord.from_json(row) for row in self.history]
        object.__setattr__(self, "history", rows)

    @classmethod
    def from_json(cls, raw: Mapping[str, Any]) -> "Result":
        """Return the result from its JSON form; keys of other versions are ignored.

        Raises:
            TypeError, KeyError, AttributeError: where it is not one of ours.
        """
        # Other programs write a result.json, too: those keys tell ours apart.
        if missing := {"head", "tuning", "train"} - raw["config"].keys():
            raise TypeError(f"its config has no {', '.join(sorted(missing))}")
        # Other versions may write further keys: their results stay readable.
        known = {f.name for f in dataclasses.fields(cls)}
        return cls(**{key: value for key, value in raw.items() if key in known})

    def to_json(self) -> dict[str, object]:
        """Return the JSON form, as it is written."""
        out: dict[str, object] = {f.name: getattr(self, f.name) for f in dataclasses.fields(self)}
        out |= {name: getattr(self, name).to_json() for name in _PARTS}
        return {**out, "history": [row.to_json() for row in self.history]}

    def replace(self, **changes: object) -> "Result":
        """Return a copy with some fields changed."""
        return dataclasses.replace(self, **changes)  # type: ignore[arg-type]

    @property
    def task(self) -> str:
        """Return the head's name."""
        return str(mapping(self.config, "head")["name"])

    @property
    def output(self) -> str:
        """Return the kind of the head's output, "scores" or "text"; it decides which metrics a run has."""
        return self.plan.output

    @property
    def imported(self) -> bool:
        """Return whether it was made of predictions in a file (`imported_runs`): its training is not known."""
        return "predictions" in self.config

    @property
    def seeded(self) -> bool:
        """Return whether the seed of training is known; a file of predictions may not name it."""
        return not self.imported or bool(mapping(self.config, "predictions").get("seeded"))

    @property
    def method(self) -> str:
        """Return the tuning method's name."""
        return str(self.tuning["name"])

    @property
    def seed(self) -> int:
        """Return the seed of training."""
        return int(str(mapping(self.config, "train")["seed"]))

    @property
    def variant(self) -> str:
        """Return the name of what is compared: the method and its distinguishing options, without the seed."""
        tuning = self.tuning
        rank = f"r{tuning['rank']}" if tuning.get("rank") else ""
        layers = f"n={tuning['layers']}" if tuning.get("layers") else ""
        return " ".join(part for part in (self.method, ",".join(self.targets), rank, layers) if part)

    @property
    def tuning(self) -> JsonObject:
        """Return the method's name and options, as they were recorded."""
        return mapping(self.config, "tuning")

    @property
    def targets(self) -> tuple[str, ...]:
        """Return the target modules; empty for a method that has none, or trains everything."""
        recorded = self.tuning.get("targets")
        return tuple(map(str, recorded)) if isinstance(recorded, Sequence) else ()

    @property
    def memory_bytes(self) -> int | None:
        """Return the bytes at the peak of a training step; None where none were measured."""
        return self.cost.memory.peak_bytes

    def primary(self, split: str) -> float | None:
        """Return the primary metric on `split`; None where it is undefined or missing."""
        return registry.primary(self.output).value(self.metrics.get(split) or {})


#: The parts of a result by the name of their field.
_PARTS: dict[str, type[ResultPart]] = {
    "environment": Environment,
    "base": BaseRecord,
    "data": DataSummary,
    "plan": TrainingPlan,
    "cost": Cost,
    "search": RateSearch,
}


def write(folder: Path, result: Result) -> None:
    """Write `folder/result.json`, atomically; the folder, which gets predictions too, is private where it is made."""
    make_folder(folder, private=True)
    write_json(folder / "result.json", result.to_json())


def read(folder: Path) -> Result:
    """Return the result in a run's folder (or of the JSON file itself).

    Raises:
        UsageError: where there is none, or it is not one of ours.
    """
    path = folder if folder.is_file() else folder / "result.json"
    try:
        return Result.from_json(json_values.loads(path.read_text(encoding="utf-8")))
    except FileNotFoundError:
        raise UsageError(f"{path} does not exist: {folder} is no run's folder (cxr-train makes one)") from None
    except (ValueError, UnicodeDecodeError, TypeError, AttributeError, KeyError) as error:
        raise UsageError(f"{path} is no result of cxr-train: {error}") from None


def find(paths: Iterable[Path]) -> Iterator[Path]:
    """Yield the run folders among `paths` and below them, sorted, each once.

    Raises:
        UsageError: where a path holds none.
    """
    seen: set[Path] = set()
    for path in paths:
        if not path.exists():
            raise UsageError(f"{path} does not exist: give the folder of a run, or a folder of runs")
        folders = sorted(file.parent for file in path.rglob("result.json"))
        if not folders:
            raise UsageError(f"{path} holds no result.json: give the folder of a run, or a folder of runs")
        for folder in folders:
            # Two paths may name one run, by a link or as a folder and its parent: it must count once in a comparison.
            if folder.resolve() not in seen:
                seen.add(folder.resolve())
                yield folder


def read_system(folder: Path) -> list[dict[str, float]]:
    """Return the whole lines of a run's `system.jsonl` (keys: `run.cost.machine_load`).

    A killed run may leave half a line, which is left out.
    """
    path, lines = folder / SYSTEM, []
    for text in path.read_text(encoding="utf-8").splitlines() if path.exists() else ():
        with contextlib.suppress(ValueError):
            line = json_values.loads(text)
            if isinstance(line, dict) and "seconds" in line:
                lines.append(line)
    return lines


def write_predictions(folder: Path, table: "pd.DataFrame") -> None:
    """Write `predictions.parquet`, atomically. Columns: split, subject_id, study_id, dicom_id, then label, truth,
    score (classify: one row an image and label; truth and score in [0, 1]), or reference, generated (report).
    """
    with atomic(folder / "predictions.parquet", private=True) as temporary:
        table.to_parquet(temporary, index=False)


def read_predictions(folder: Path) -> "pd.DataFrame":
    """Return the predictions of a run; `write_predictions` names the columns."""
    import pandas as pd

    return pd.read_parquet(folder / "predictions.parquet")


def write_baselines(folder: Path, table: "pd.DataFrame") -> None:
    """Write `baselines.parquet`, atomically. Columns: split, subject_id, study_id, dicom_id, label, truth, then the
    scores of each baseline under its name, in [0, 1].
    """
    with atomic(folder / "baselines.parquet", private=True) as temporary:
        table.to_parquet(temporary, index=False)


def read_baselines(folder: Path) -> "pd.DataFrame | None":
    """Return the scores of a run's baselines; `write_baselines` names the columns. None where there are none."""
    import pandas as pd

    return pd.read_parquet(folder / "baselines.parquet") if has_baselines(folder) else None


def has_baselines(folder: Path) -> bool:
    """Return whether the scores of a run's baselines were kept."""
    return (folder / "baselines.parquet").exists()
