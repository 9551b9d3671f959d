"""fit(config, out) -> Result: one run, for every method, head and base, around the one loop of `cxr_ft.run.loop`."""

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from cxr_ft.config import RunConfig
from cxr_ft.data import batches, manifest
from cxr_ft.data.card import DatasetCard
from cxr_ft.errors import UsageError
from cxr_ft.files import check_writable, write_text
from cxr_ft.model import find
from cxr_ft.model.protocols import trainable
from cxr_ft.run import artefact, checkpoint, cost, evaluate, results
from cxr_ft.run.environment import environment
from cxr_ft.run.loop import Loop, TrainingError
from cxr_ft.score.metrics.classification import best_thresholds


def plan(config: RunConfig, labels: tuple[str, ...], multi_label: bool) -> dict[str, Any]:
    """What would be trained, from the configuration alone, without weights: modules, parameters, image size.

    Raises:
        UsageError: for whatever cannot be put together; so a run says it before anything is loaded.
    """
    parts = find.build(config, labels, multi_label, weights=False)
    return {
        "modules": _modules(list(trainable(parts.model))),
        "parameters": cost.parameters(parts.model, parts.head.new_modules),
        "image_size": parts.base.image_size,
        "output": parts.head.output,
    }


def _modules(names: list[str]) -> list[str]:
    """Names of the modules that own some parameters, without PEFT's wrapping, in the model's order."""
    plain = (name.removeprefix("base_model.model.").replace(".modules_to_save.default", "") for name in names)
    return list(
        dict.fromkeys(name.split(".lora_")[0] if ".lora_" in name else name.rpartition(".")[0] for name in plain)
    )


def fit(
    config: RunConfig, out: Path, *, verify: bool = True, announce: Callable[[dict[str, Any]], None] = lambda plan: None
) -> results.Result:
    """Train one run into the folder `out`; a finished identical run is returned as it is, an unfinished one goes on.

    Args:
        verify: reload the artefact in a fresh process and judge it on test; an ablation does so for all runs at once.
        announce: told the plan before anything is loaded.

    Raises:
        UsageError: for what cannot be done, before anything is written.
        TrainingError: where training failed; recorded in `out/result.json`.
    """
    splits = manifest.read(Path(config.data.splits))
    fingerprint = config.fingerprint(splits.hashes)
    done = _done(out, fingerprint)
    if done is None:
        check_writable(out)
        planned = plan(config, splits.card.labels, splits.card.multi_label)
        announce(planned)
        data = evaluate.data_of(config, splits, planned["image_size"])
        start = results.Result(
            status="running",
            config=config.to_json(),
            config_hash=fingerprint,
            environment=environment(config),
            data=_data(splits),
            plan=planned,
        )
        results.write(out, start)
        try:
            done = _train(config, out, splits.card, data, start)
        except KeyboardInterrupt:
            results.write(out, start.replace(status="cancelled", error="interrupted; run it again to go on"))
            raise
        # Whatever goes wrong belongs in the run's record, so that a grid goes on with the next run.
        except Exception as error:
            line = next(iter(str(error).splitlines()), "") or type(error).__name__
            results.write(out, start.replace(status="failed", error=line))
            raise error if isinstance(error, UsageError) else TrainingError(f"{out}: {line}") from error
    if verify and done.status == "trained":
        (done,) = evaluate.verify_all([out])
        if done.status != "success":
            raise TrainingError(f"{out}: {done.error}")
    return done


def _train(
    config: RunConfig, out: Path, card: DatasetCard, data: dict[str, batches.Rows], start: results.Result
) -> results.Result:
    import yaml
    from accelerate import Accelerator

    clock = time.perf_counter()
    write_text(out / "config.yaml", yaml.safe_dump(config.to_json(), sort_keys=False))
    # Seeded before head and adapter draw their first weights.
    torch.manual_seed(config.train.seed)
    parts = find.build(config, card.labels, card.multi_label)
    accelerator = Accelerator(mixed_precision=config.train.precision)
    parts.model.to(accelerator.device)
    state = checkpoint.State(cost={"memory": cost.memory(parts.model, None, 0)})
    if trainable(parts.model):
        fingerprint = start.config_hash
        loop = Loop(config=config, parts=parts, data=data, accelerator=accelerator, out=out, fingerprint=fingerprint)
        state = loop.run()
        with torch.no_grad():
            for name, p in trainable(parts.model).items():
                p.copy_(state.best[name])
    val = evaluate.answer(parts, data["val"], config.train.batch_size, "val")
    saved: dict[str, Any] = {
        "task": config.head.name,
        "labels": list(card.labels),
        "multi_label": card.multi_label,
        "image_size": parts.base.image_size,
        "thresholds": best_thresholds(data["val"].targets, val.scores) if parts.head.output == "scores" else [],
    }
    train = evaluate.answer(parts, data["train"], config.train.batch_size, "train", texts=False)
    metrics = {
        "train": evaluate.judge(parts, data["train"], train, saved),
        "val": evaluate.judge(parts, data["val"], val, saved, data["train"].texts),
    }
    size = artefact.save(out, parts, saved)
    results.write_predictions(out, evaluate.table(parts, "val", data["val"], val, saved))
    whole = {
        **state.cost,
        "parameters": start.plan["parameters"],
        "artefact_bytes": size,
        "cuda_memory": cost.cuda_memory(),
        "wall_seconds": round(time.perf_counter() - clock, 3),
    }
    done = start.replace(status="trained", cost=whole, history=state.history, metrics=metrics)
    results.write(out, done)
    checkpoint.remove(out)
    return done


def _done(out: Path, fingerprint: str) -> results.Result | None:
    """The result in `out` if that very run is finished there; None where there is none, or it can go on."""
    if not (out / "result.json").exists():
        return None
    before = results.read(out)
    if before.config_hash != fingerprint:
        raise UsageError(f"{out} holds another run ({before.variant}, seed {before.seed}); choose another --out")
    return before if before.status in ("trained", "success") else None


def _data(splits: manifest.Splits) -> dict[str, Any]:
    return {
        "splits": str(splits.folder),
        "sha256": splits.hashes,
        "rows": {name: len(table) for name, table in splits.tables.items()},
        "subjects": {name: int(table["subject_id"].nunique()) for name, table in splits.tables.items()},
        "card": splits.card.to_json(),
        "notes": splits.manifest.get("notes", []),
    }
