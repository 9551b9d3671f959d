"""The CSVs of an ablation: one row a run.

ablation.csv     everything: what was varied, status, metrics on train, val and test, cost.
effects.csv      what each factor of the design does to the metric on test, and pairs of them (`score.effects`).
Three more under the names, and with the columns, of the study this project continues:
lora_target_modules_ablation_results.csv       LoRA and its kin: the runs that have a rank
ffttrain_target_modules_ablation_results.csv   full fine-tuning: training
fftTest_target_modules_ablation_results.csv    full fine-tuning: test
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from cxr_ft.files import atomic
from cxr_ft.model import targets
from cxr_ft.run.record import results
from cxr_ft.score.metrics import registry
from cxr_ft.score.statistics import factor_effects

Done = Mapping[str, results.Result]

_FIRST = ("experiment", "target_modules", "seed", "trainable_parameters")
_SPENT = ("memory_bytes", "train_seconds")


def write(out: Path, done: Done) -> None:
    """Write the CSVs of the runs `done`, by the name of their folder, into `out`."""
    rows = [_row(name, result) for name, result in done.items()]
    _csv(out / "ablation.csv", rows)
    _csv(out / "effects.csv", _effects(done), factor_effects.COLUMNS)
    output = "text" if any(result.output == "text" for result in done.values()) else "scores"
    tested = [f"test_{key}" for key in ("loss", *(known.name for known in registry.shown_in("csv", output)))]
    trained = ("train_loss", "val_loss", *_SPENT)
    ranked, full = [row for row in rows if row.get("rank")], [row for row in rows if row["method"] == "full"]
    for stem, chosen, columns in (
        ("lora", ranked, (*_FIRST, "rank", *trained, *tested, "error")),
        ("ffttrain", full, (*_FIRST, *trained, "error")),
        ("fftTest", full, (*_FIRST, *tested, "error")),
    ):
        mine = [_study_row(row, columns) for row in chosen]
        _csv(out / f"{stem}_target_modules_ablation_results.csv", mine, columns)


def _row(name: str, result: results.Result) -> dict[str, Any]:
    tuning = result.config["tuning"]
    row: dict[str, Any] = {"run": name, "status": result.status, "task": result.task, "method": result.method}
    row |= {key: ",".join(v) if isinstance(v, list) else v for key, v in tuning.items() if key != "name"}
    row["seed"] = result.seed
    row["rates_tried"] = len(result.search.get("rates", ())) or (1 if "lr" in tuning else None)
    for side in ("train", "val", "test"):
        metrics = result.metrics.get(side) or {}
        row[f"{side}_loss"] = metrics.get("loss")
        row |= {f"{side}_{known.name}": known.value(metrics) for known in registry.shown_in("csv", result.output)}
        if result.output == "scores" and metrics.get("accuracy") is not None:
            row[f"{side}_accuracy"] = metrics["accuracy"]  # of one label a row: the share of rows that are right
    row |= {f"{key}_parameters": value for key, value in result.cost.get("parameters", {}).items()}
    row["memory_bytes"] = result.memory_bytes
    row |= {key: result.cost.get(key) for key in ("train_seconds", "samples_per_second", "artefact_bytes")}
    return {**row, "error": result.error}


def _study_row(row: Mapping[str, Any], columns: tuple[str, ...]) -> dict[str, Any]:
    named = {**row, "experiment": row["run"], "target_modules": row.get("targets")}
    return {column: named.get(column) for column in columns}


def _effects(done: Done) -> list[dict[str, Any]]:
    """Of the runs that have targets: which module, tower, blocks and rank does what."""
    runs = [result for result in done.values() if result.status == "success" and result.config["tuning"].get("targets")]
    values = [(result, result.primary("test")) for result in runs]
    defined = [(result, value) for result, value in values if value is not None]
    factors = [_factors(result) for result, _ in defined]
    return [effect._asdict() for effect in factor_effects.estimate(factors, [value for _, value in defined])]


def _factors(result: results.Result) -> dict[str, Any]:
    """What the design varied in a run: its method and rank, and what its targets name: modules, towers, blocks."""
    tuning = result.config["tuning"]
    parts = [targets.parts(item) for item in tuning["targets"]]
    return {
        "method": result.method,
        "rank": tuning.get("rank") or "none",
        **{role: True for part in parts for role in part.roles},
        # A word without a tower means all of them; in a model of one the factor never varies, and is left out.
        **{tower: True for part in parts for tower in ((part.tower,) if part.tower else ("text", "vision"))},
        **{f"blocks {part.blocks}": True for part in parts if part.blocks},
    }


def _csv(path: Path, rows: list[dict[str, Any]], columns: tuple[str, ...] | None = None) -> None:
    import pandas as pd

    table = pd.DataFrame(rows) if columns is None else pd.DataFrame(rows, columns=list(columns))
    with atomic(path) as temporary:
        table.to_csv(temporary, index=False, lineterminator="\n")
