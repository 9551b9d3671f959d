"""Train one run, `fit(config, out) -> Result`, for every method, head and base, around the one loop of `loop`."""

import contextlib
import dataclasses
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from cxr_ft.config import RunConfig
from cxr_ft.data import manifest
from cxr_ft.data.card import DatasetCard
from cxr_ft.data.dataset import split_dataset
from cxr_ft.errors import UsageError
from cxr_ft.files import check_writable, write_text
from cxr_ft.model import assembly
from cxr_ft.model.protocols import owner, trainable
from cxr_ft.model.targets import fused
from cxr_ft.run import trackers
from cxr_ft.run.cost import energy_meter, memory
from cxr_ft.run.evaluation import evaluate
from cxr_ft.run.features import feature_store
from cxr_ft.run.record import results
from cxr_ft.run.record.environment import environment
from cxr_ft.run.record.result_parts import DataSummary, TrainingPlan
from cxr_ft.run.training import checkpoint, lock, processes
from cxr_ft.run.training.divergence import TrainingError
from cxr_ft.run.training.finish import Finish
from cxr_ft.run.training.loop import Loop


def plan(config: RunConfig, labels: tuple[str, ...], multi_label: bool) -> TrainingPlan:
    """What would be trained, from the configuration alone, without weights: modules and notes on them, parameters.

    Raises:
        UsageError: for whatever cannot be put together; so a run says it before anything is loaded.
    """
    parts = assembly.build(config, labels, multi_label, weights=False)
    asked = getattr(config.tuning.options, "targets", None) or ()
    return TrainingPlan(
        modules=tuple(dict.fromkeys(map(owner, trainable(parts.model)))),
        notes=tuple(fused(asked, parts.base.targets, parts.base.family)),
        parameters=memory.parameters(parts.model, parts.head.new_modules),
        image_size=parts.base.image_size,
        output=parts.head.output,
    )


def fit(
    config: RunConfig,
    out: Path,
    *,
    verify: bool = True,
    announce: Callable[[TrainingPlan], None] = lambda plan: None,
    tracking: trackers.Tracking = trackers.NOBODY,
) -> results.Result:
    """Train one run into the folder `out`; a finished identical run is returned as it is, an unfinished one goes on.

    Several processes that a launcher started (torchrun, accelerate) train it together; the first one writes.

    Args:
        verify: reload the saved model in a fresh process and evaluate it on test; an ablation does so for all at once.
        announce: told the plan before anything is loaded.
        tracking: who is told how it goes.

    Raises:
        UsageError: for what cannot be done, before anything is written; also where another process trains this run.
        TrainingError: where training failed; recorded in `out/result.json`.
    """
    splits = manifest.read(Path(config.data.splits))
    fingerprint = config.fingerprint(splits.hashes)
    done = _done(out, fingerprint)
    if done is not None and (done.status == "success" or not verify):
        return done
    check_writable(out)
    planned = plan(config, splits.card.labels, splits.card.multi_label)
    if done is None:
        announce(planned)
    accelerator = processes.start(config.train.precision)
    # One process decodes; the others read its cache. Before the lock, which leaves a file: bad input leaves nothing.
    with accelerator.local_main_process_first():
        data = evaluate.datasets_of(config, splits, planned.image_size or 0)
    with contextlib.ExitStack() as stack:

        def enter() -> results.Result | None:
            stack.enter_context(lock.held(out))
            checkpoint.sweep(out)
            return _done(out, fingerprint)

        done = processes.by_first(accelerator, enter)
        if done is None:
            if accelerator.is_main_process:
                stack.enter_context(trackers.following(out, config, splits.hashes, tracking))
            done = _fit(config, out, splits, planned, data=data, accelerator=accelerator, alone=verify)
        if verify and done.status == "trained":
            done = processes.by_first(accelerator, lambda: _verified(out))
    if verify and accelerator.is_main_process:
        trackers.summarise(out, tracking)
    return done


def _fit(
    config: RunConfig,
    out: Path,
    splits: manifest.Splits,
    planned: TrainingPlan,
    *,
    data: dict[str, split_dataset.SplitDataset],
    accelerator: Any,
    alone: bool,
) -> results.Result:
    """Train, and keep the run's record of how it went."""
    import yaml

    start = results.Result(
        status="running",
        config=config.to_json(),
        config_hash=config.fingerprint(splits.hashes),
        environment=environment(config, accelerator.num_processes),
        data=_data(splits),
        plan=planned,
    )

    def record(**how: Any) -> None:
        if accelerator.is_main_process:
            results.write(out, start.replace(**how))

    try:
        record()
        if accelerator.is_main_process:
            write_text(out / "config.yaml", yaml.safe_dump(start.config, sort_keys=False))
        finish = Finish(config=config, out=out, card=splits.card, data=data, start=start, began=time.perf_counter())
        return _train(finish, accelerator, alone)
    except KeyboardInterrupt:
        record(status="cancelled", error="interrupted; run it again to go on")
        raise
    # Whatever goes wrong belongs in the run's record, so that a grid goes on with the next run.
    except Exception as error:
        line = next(iter(str(error).splitlines()), "") or type(error).__name__
        record(status="failed", error=line)
        raise error if isinstance(error, UsageError) else TrainingError(f"{out}: {line}") from error


def _verified(out: Path) -> results.Result:
    (done,) = evaluate.verify_all([out])
    if done.status != "success":
        raise TrainingError(f"{out}: {done.error}")
    return done


def _train(finish: Finish, accelerator: Any, alone: bool) -> results.Result:
    config, card = finish.config, finish.card
    if torch.cuda.is_available():
        torch.cuda.reset_peak_memory_stats()  # of a run before, in the same process
    parts, sharded = _built(config, card, accelerator.device), processes.is_sharded(accelerator)
    store = feature_store.FeatureStore(
        parts,
        keep=config.train.store_features == "auto",
        shared=not alone,
        says=accelerator.is_main_process,
        whole=not sharded,
    )
    spent = {"memory": memory.weights_alone(parts.model)}
    state = checkpoint.LoopState(micro=config.train.micro_batch or config.train.batch_size, cost=spent)
    if trainable(parts.model):
        loop = Loop(
            config=config,
            parts=parts,
            data=finish.data,
            accelerator=accelerator,
            store=store,
            out=finish.out,
            fingerprint=finish.start.config_hash,
        )
        with energy_meter.metered() as energy:
            state = loop.run()
        state.cost["energy"] = energy.to_json(state.cost["train_seconds"] + state.cost["eval_seconds"])

    def finished() -> results.Result:
        # What FSDP spread over the processes is built anew, whole, for the one that saves it.
        if not sharded:
            return finish(parts, state, store)
        whole = _built(config, card, accelerator.device)
        return finish(whole, state, dataclasses.replace(store, parts=whole, whole=True))

    return processes.by_first(accelerator, finished)


def _built(config: RunConfig, card: DatasetCard, device: torch.device) -> assembly.ModelParts:
    # Seeded before head and adapter draw their first weights.
    torch.manual_seed(config.train.seed)
    parts = assembly.build(config, card.labels, card.multi_label)
    parts.model.to(device)
    return parts


def _done(out: Path, fingerprint: str) -> results.Result | None:
    """The result in `out` if that very run is finished there; None where there is none, or it can go on."""
    if not (out / "result.json").exists():
        return None
    before = results.read(out)
    if before.config_hash != fingerprint:
        raise UsageError(f"{out} holds another run ({before.variant}, seed {before.seed}); choose another --out")
    return before if before.status in ("trained", "success") else None


def _data(splits: manifest.Splits) -> DataSummary:
    return DataSummary(
        splits=str(splits.folder),
        sha256=splits.hashes,
        rows={name: len(table) for name, table in splits.tables.items()},
        subjects={name: int(table["subject_id"].nunique()) for name, table in splits.tables.items()},
        card=splits.card,
        notes=tuple(splits.manifest.get("notes", ())),
    )
