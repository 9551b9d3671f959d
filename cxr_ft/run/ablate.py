"""A grid to runs: finished ones are skipped, failed ones become a row with their reason, the others go on."""

import dataclasses
import itertools
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from cxr_ft import config, plugins
from cxr_ft.data import manifest
from cxr_ft.errors import UsageError, unknown
from cxr_ft.files import atomic, make_folder
from cxr_ft.progress import bar
from cxr_ft.run import evaluate, results, train
from cxr_ft.run.loop import TrainingError

#: Columns of ablation.csv after those of the grid.
METRICS = ("auroc", "ap", "f1", "precision", "recall", "accuracy")
TEXT_METRICS = ("bleu_1", "bleu_4", "rouge_l", "label_f1", "distinct")


def cells(raw: Mapping[str, Any], grid: Mapping[str, Sequence[Any]]) -> dict[str, config.RunConfig]:
    """The runs of a grid, by the name of their folder.

    Args:
        raw: what all runs share, nested as `config.resolve` takes it.
        grid: `method`, `seeds`, and options of methods (`targets`, `rank`, ...), each a list of values. A method is a
            name, or a mapping of `name` and options of its own. An option is varied for the methods that have it.

    Raises:
        UsageError: for an option that none of the methods has, an empty list, or a value no run can have.
    """
    if empty := [key for key, values in grid.items() if not values]:
        raise UsageError(f"grid: {empty[0]} has no values")
    methods = [_method(m) for m in grid["method"]] if "method" in grid else [(config.resolve(raw).tuning.name, {})]
    names = [name for name, _ in methods]
    seeds = grid["seeds"] if "seeds" in grid else [config.mapping(raw, "train").get("seed", 0)]
    fields = {m: [f.name for f in dataclasses.fields(plugins.load(plugins.TUNING, m).Config)] for m in names}
    axes = [key for key in grid if key not in ("method", "seeds")]
    for key in axes:
        if not any(key in own for own in fields.values()):
            raise unknown("grid key", key, {"method", "seeds", *itertools.chain(*fields.values())})
    out = {}
    for method, given in methods:
        own = [key for key in axes if key in fields[method] and key not in given]
        # What tells the cells of a method apart stands in their folders' names.
        varied = [*(given if names.count(method) > 1 else ()), *own]
        # What has no learning rate trains nothing: every seed would give the same.
        drawn = seeds if "lr" in fields[method] else seeds[:1]
        for values in itertools.product(*(grid[key] for key in own), drawn):
            chosen = dict(zip(own, values[:-1], strict=True))
            tuning = {**_shared(raw, method, fields), "name": method, **given, **chosen}
            one = config.merge(
                {k: v for k, v in raw.items() if k != "tuning"}, {"tuning": tuning, "train": {"seed": values[-1]}}
            )
            resolved = config.resolve(one, where="grid")
            out[_name(resolved, varied)] = resolved
    return out


def _method(item: Any) -> tuple[str, dict[str, Any]]:
    """A method of the grid: its name, and options of its own."""
    if not isinstance(item, Mapping):
        return str(item), {}
    given = dict(item)
    if "name" not in given:
        raise UsageError(f"grid: method {item!r} has no name; write lora, or {{name: lora, lr: 3e-3}}")
    return str(given.pop("name")), given


def run(cells: Mapping[str, config.RunConfig], out: Path) -> list[results.Result]:
    """Train every cell into `out/<name>`, verify all in one fresh process, write `ablation.csv`; the results in order.

    Raises:
        UsageError: for a cell that cannot be put together, before any is trained.
    """
    for cell in {c.fingerprint({}): c for c in cells.values()}.values():
        card = manifest.read(Path(cell.data.splits)).card
        train.plan(cell, card.labels, card.multi_label)
    make_folder(out)
    trained = []
    with bar("runs", len(cells)) as progress:
        for name, cell in cells.items():
            try:
                train.fit(cell, out / name, verify=False)
                trained.append(out / name)
            except TrainingError as error:
                print(f"failed, going on: {error}")
            progress.advance(note=name)
    evaluate.verify_all([folder for folder in trained if results.read(folder).status == "trained"])
    done = {name: results.read(out / name) for name in cells}
    write_csv(out / "ablation.csv", done)
    return list(done.values())


def write_csv(path: Path, done: Mapping[str, results.Result]) -> None:
    """One row a run: what was varied, status, metrics on val and test, cost; empty where there is no value."""
    import pandas as pd

    rows = []
    for name, result in done.items():
        tuning = result.config["tuning"]
        row: dict[str, Any] = {"run": name, "status": result.status, "task": result.task, "method": result.method}
        row |= {key: ",".join(v) if isinstance(v, list) else v for key, v in tuning.items() if key != "name"}
        row["seed"] = result.seed
        for side in ("train", "val", "test"):
            metrics = result.metrics.get(side) or {}
            row[f"{side}_loss"] = metrics.get("loss")
            if result.output == "scores":
                row |= {f"{side}_{key}": (metrics.get("macro") or {}).get(key) for key in METRICS}
            else:
                row |= {f"{side}_{key}": metrics.get(key) for key in TEXT_METRICS}
        row |= {f"{key}_parameters": value for key, value in result.cost.get("parameters", {}).items()}
        row["memory_bytes"] = sum(result.cost.get("memory", {}).values()) or None
        row |= {key: result.cost.get(key) for key in ("train_seconds", "samples_per_second", "artefact_bytes")}
        rows.append({**row, "error": result.error})
    with atomic(path) as temporary:
        pd.DataFrame(rows).to_csv(temporary, index=False, lineterminator="\n")


def _shared(raw: Mapping[str, Any], method: str, fields: Mapping[str, Sequence[str]]) -> dict[str, Any]:
    """The options of `raw` that are this method's: all, where `raw` names it; those it has, where `raw` names none."""
    own = dict(config.mapping(raw, "tuning"))
    if "name" in own:
        return own if own["name"] == method else {}
    return {
        key: value for key, value in own.items() if key in fields[method] or not any(key in f for f in fields.values())
    }


def _name(resolved: config.RunConfig, varied: Sequence[str]) -> str:
    tuning = resolved.tuning.to_json()
    words = [resolved.head.name, resolved.tuning.name]
    for key in varied:
        value = tuning[key]
        words.append(".".join(value).replace("[", "").replace("]", "") if isinstance(value, tuple) else f"{key}{value}")
    return "-".join([*words, f"s{resolved.train.seed}"])
