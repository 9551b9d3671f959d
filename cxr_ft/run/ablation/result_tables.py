"""Write the CSVs of an ablation: one row a run.

ablation.csv     everything: what was varied, status, metrics on train, val and test, cost.
effects.csv      the effect of each factor of the design, and of pairs of them, on the primary metric on test.
tries.csv        where learning rates were searched: one row a try.
Three more under the names, and with the columns, of the study this project continues:
lora_target_modules_ablation_results.csv       LoRA and its kin: the runs that have a rank
ffttrain_target_modules_ablation_results.csv   full fine-tuning: training
fftTest_target_modules_ablation_results.csv    full fine-tuning: test
"""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from cxr_ft import csv_cells
from cxr_ft.files import atomic
from cxr_ft.model import methods, targets
from cxr_ft.run.record import results
from cxr_ft.run.record.result_parts import RateSearch
from cxr_ft.score.metrics import registry
from cxr_ft.score.statistics import factor_effects

#: Finished runs by the name of their folder.
Finished = Mapping[str, results.Result]

_FIRST = ("experiment", "target_modules", "seed", "trainable_parameters")
#: In effects.csv: of the runs of the estimate, since an effect is also one of the rates that its runs were given.
_EFFECT_RATES = ("lr", "rates_tried", "rate_from")
_COST = ("memory_bytes", "train_seconds")


def write(out: Path, finished: Finished) -> None:
    """Write the CSVs of the runs `finished` into `out`."""
    rows = [_row(name, result) for name, result in finished.items()]
    _csv(out / "ablation.csv", rows)
    _csv(out / "effects.csv", _effects(finished), (*factor_effects.COLUMNS, *_EFFECT_RATES))
    output = "text" if any(result.output == "text" for result in finished.values()) else "scores"
    tested = [f"test_{key}" for key in ("loss", *(metric.name for metric in registry.shown_in("csv", output)))]
    trained = ("train_loss", "val_loss", *_COST)
    ranked, full = [row for row in rows if row.get("rank")], [row for row in rows if row["method"] == "full"]
    for stem, chosen, columns in (
        ("lora", ranked, (*_FIRST, "rank", *trained, *tested, "error")),
        ("ffttrain", full, (*_FIRST, *trained, "error")),
        ("fftTest", full, (*_FIRST, *tested, "error")),
    ):
        study_rows = [_study_row(row, columns) for row in chosen]
        _csv(out / f"{stem}_target_modules_ablation_results.csv", study_rows, columns)


def _row(name: str, result: results.Result) -> dict[str, object]:
    row: dict[str, object] = {"run": name, "status": result.status, "task": result.task, "method": result.method}
    options = {key: value for key, value in result.tuning.items() if key != "name"}
    row |= {key: ",".join(map(str, v)) if isinstance(v, list) else v for key, v in options.items()}
    row["seed"] = result.seed
    # So that a reader sees whether variants were tuned with equal effort.
    row |= _rate_columns(result)
    for split in ("train", "val", "test"):
        metrics = result.metrics.get(split) or {}
        row[f"{split}_loss"] = metrics.get("loss")
        row |= {f"{split}_{metric.name}": metric.value(metrics) for metric in registry.shown_in("csv", result.output)}
        if result.output == "scores" and metrics.get("accuracy") is not None:
            row[f"{split}_accuracy"] = metrics["accuracy"]  # where a row has one label: the share of correct rows
    row |= {f"{key}_parameters": value for key, value in result.cost.parameters.items()}
    row["memory_bytes"] = result.memory_bytes
    row |= {key: getattr(result.cost, key) for key in ("train_seconds", "samples_per_second", "saved_model_bytes")}
    return {**row, "base_weights": result.base.digest, "error": result.error}


def _rate_columns(result: results.Result) -> dict[str, object]:
    """Return where a run's rate is from, how many were tried for it, how many tries finished, and their seconds."""
    search = result.search
    if not methods.load(result.method).trains:
        return dict.fromkeys(("rate_from", "rates_tried", "rates_finished", "search_seconds"))
    searched = bool(search.rates)
    return {
        "rate_from": f"inherited from {search.on}" if search.origin == "inherited" else search.origin,
        "rates_tried": len(search.rates) or 1,
        "rates_finished": len(search.finished) if searched else None,
        "search_seconds": round(search.total_seconds, 3) if searched else None,
    }


def write_tries(out: Path, searches: Mapping[str, tuple[RateSearch, Sequence[results.Result]]]) -> None:
    """Write `tries.csv`: one row for each rate that was tried, failed ones too.

    Args:
        out: the ablation's folder.
        searches: by the cell they are for, the record of a search and the results of its tries in the same order.
    """
    rows: list[dict[str, object]] = []
    for name, (search, tried) in searches.items():
        for rate, value, seconds, result in zip(search.rates, search.val, search.seconds, tried, strict=True):
            reached = None if value is None else abs(value)  # a loss is negated in the record
            line: dict[str, object] = {"tried_for": name, "variant": search.variant, "seed": search.seed, "lr": rate}
            line |= {"status": result.status, "metric": search.metric, "val": reached, "seconds": seconds}
            rows.append({**line, "chosen": value is not None and rate == search.chosen, "error": result.error})
    _csv(out / "tries.csv", rows)


def _study_row(row: Mapping[str, object], columns: tuple[str, ...]) -> dict[str, object]:
    named = {**row, "experiment": row["run"], "target_modules": row.get("targets")}
    return {column: named.get(column) for column in columns}


def _effects(finished: Finished) -> list[dict[str, object]]:
    """Return the effects of modules, towers, blocks and ranks, over the successful runs that have targets."""
    runs = [result for result in finished.values() if result.status == "success" and result.targets]
    values = [(result, result.primary("test")) for result in runs]
    defined = [(result, value) for result, value in values if value is not None]
    factors = [_factors(result) for result, _ in defined]
    effects = factor_effects.estimate(factors, [value for _, value in defined])
    levels = [[*_levels(effect, factors)] for effect in effects]
    return [
        {**effect._asdict(), **_rates_of([result for (result, _), at in zip(defined, there, strict=True) if at])}
        for effect, there in zip(effects, levels, strict=True)
    ]


def _levels(effect: factor_effects.Effect, factors: Sequence[Mapping[str, factor_effects.Level]]) -> Iterator[bool]:
    """Yield for each run whether it is at the level of an effect; of a pair, all runs."""
    for levels in factors:
        pair = " x " in effect.factor
        yield pair or str(levels.get(effect.factor, False)) == effect.level


def _rates_of(runs: Sequence[results.Result]) -> dict[str, str]:
    """Return the distinct learning rates of runs, how many were tried for them, and where they are from."""
    columns = [{"lr": run.tuning.get("lr"), **_rate_columns(run)} for run in runs]
    return {
        key: "; ".join(dict.fromkeys(_text(row[key]) for row in columns if row[key] is not None))
        for key in _EFFECT_RATES
    }


def _text(value: object) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value)


def _factors(result: results.Result) -> dict[str, factor_effects.Level]:
    """Return the levels of a run's factors: method, rank, and the modules, towers and blocks of its targets."""
    parts, rank = [targets.parts(item) for item in result.targets], result.tuning.get("rank")
    return {
        "method": result.method,
        "rank": rank if isinstance(rank, int) and rank else "none",
        **{role: True for part in parts for role in part.roles},
        # A target without a tower means all towers; in a base with one tower the factor never varies and is dropped.
        **{tower: True for part in parts for tower in ((part.tower,) if part.tower else ("text", "vision"))},
        **{f"blocks {part.blocks}": True for part in parts if part.blocks},
    }


def _csv(path: Path, rows: list[dict[str, object]], columns: tuple[str, ...] | None = None) -> None:
    import pandas as pd

    # With the columns of the study even where it has no rows: programs that read it find them.
    table = pd.DataFrame(rows) if columns is None else pd.DataFrame(rows, columns=list(columns))
    with atomic(path) as temporary:
        csv_cells.escape_table(table).to_csv(temporary, index=False, lineterminator="\n")
