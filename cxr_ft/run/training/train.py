"""Train one run, `fit(config, out) -> Result`, for every method, head and base: from its configuration to its record.

plan      what would be trained, without weights
fit       lock the folder, train, verify
_train    build the model, run the loop (`loop`), take the best epoch
Finish    choose thresholds on val, save the model, record the run
"""

import contextlib
import dataclasses
import datetime
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from cxr_ft.config import RunConfig
from cxr_ft.data import manifest
from cxr_ft.data.card import DatasetCard
from cxr_ft.data.dataset.split_dataset import SplitDataset
from cxr_ft.errors import TrainingError, UsageError
from cxr_ft.files import check_writable, write_text
from cxr_ft.model import assembly
from cxr_ft.model.assembly import ModelParts
from cxr_ft.model.protocols import owner, trainable
from cxr_ft.model.targets import fused
from cxr_ft.run import trackers
from cxr_ft.run.cost import energy_meter, memory
from cxr_ft.run.evaluation.compute_metrics import compute_metrics, fit_calibration
from cxr_ft.run.evaluation.inference import Predictions, prediction_table, run_inference
from cxr_ft.run.evaluation.run_datasets import build_datasets
from cxr_ft.run.evaluation.verify import verify_all
from cxr_ft.run.features.feature_store import FeatureStore
from cxr_ft.run.record import base_record, export, failures, model_card, results, saved_model
from cxr_ft.run.record.environment import environment
from cxr_ft.run.record.result_parts import BaseRecord, Cost, DataSummary, TrainingPlan
from cxr_ft.run.record.saved_labels import SavedLabels
from cxr_ft.run.training import checkpoint, lock, processes
from cxr_ft.run.training.checkpoint import LoopState
from cxr_ft.run.training.loop import TrainingLoop
from cxr_ft.run.training.same_run import Before, RunIdentity
from cxr_ft.score.metrics.classification import best_thresholds

if TYPE_CHECKING:
    from accelerate import Accelerator


def default_out(config: RunConfig) -> Path:
    """Return `runs/<splits>-<task>-<method>-<targets>-s<seed>-<hash>`."""
    words = [
        Path(config.data.splits).name,
        config.head.name,
        config.tuning.name,
        ".".join(config.tuning.targets),
        f"s{config.train.seed}",
    ]
    return Path("runs") / "-".join([word for word in words if word] + [config.fingerprint({})[:8]])


def plan(config: RunConfig, labels: tuple[str, ...], multi_label: bool) -> TrainingPlan:
    """Return what a run of `config` would train, from the configuration alone, without weights.

    Args:
        config: of the run.
        labels: names of the labels.
        multi_label: True where labels are independent, False where each image has exactly one.

    Raises:
        UsageError: for whatever cannot be put together; so a run refuses it before anything is loaded.
    """
    parts = assembly.build(config, labels, multi_label, weights=False)
    return TrainingPlan(
        modules=tuple(dict.fromkeys(map(owner, trainable(parts.model)))),
        notes=tuple(fused(config.tuning.targets, parts.base.targets, parts.base.family)),
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
    other_base: bool = False,
    repeats: BaseRecord | None = None,
) -> results.Result:
    """Train one run into the folder `out`; return a finished identical run as it is, and resume an unfinished one.

    Several processes that a launcher started (torchrun, accelerate) train it together; the first one writes.

    Args:
        config, out: of the run, and its folder.
        verify: reload the saved model in a fresh process and test it; an ablation does so for all its runs at once.
        announce: called with the plan before anything is loaded, unless the run is finished.
        tracking: the tracker that follows the run.
        other_base: allow a base with other weights than those that `out/result.json`, or `repeats`, recorded.
        repeats: record of the base of the run that `config` repeats; None: it repeats none.

    Raises:
        UsageError: for bad input, before anything is written; also where another process trains this run, and where
            the base has other weights than those recorded.
        TrainingError: where training failed; recorded in `out/result.json`.
    """
    splits = manifest.read(Path(config.data.splits))
    identity = RunIdentity(config, splits, other_base, repeats or BaseRecord())
    before = identity.before(out)
    if before.result is not None and (before.result.status == "success" or not (verify or before.differs)):
        _print_note(before.note)
        return before.result
    # Before the data are decoded and the model is trained, which may take hours.
    check_writable(out)
    # Before any process group, lock or file: bad input leaves nothing behind.
    planned = plan(config, splits.card.labels, splits.card.multi_label)
    if before.result is None:
        announce(planned)
    accelerator = processes.start(config.train.precision)
    # One process decodes and hashes, the others read its caches; before the lock, so that bad input leaves no file.
    with accelerator.local_main_process_first():
        # The weights first: what is wrong with them is known before hours of decoding.
        base, (note, replaced) = identity.weights, identity.compare_repeated()
        datasets = build_datasets(config, splits, planned.image_size or 0)
    # A stack, because the lock is taken inside a function that runs on the first process alone, and held to the end.
    with contextlib.ExitStack() as stack:
        before = processes.run_on_first(accelerator, lambda: _lock(identity, out, stack, note))
        done = before.result
        if done is None:
            if accelerator.is_main_process:
                stack.enter_context(trackers.following(out, config, splits.hashes, tracking))
            record = base_record.record(base, tuple(dict.fromkeys((*replaced, *before.replaced))))
            run = _Run(identity, before, record, out, datasets, accelerator, alone=verify)
            done = _record_and_train(run, planned)
        if verify and done.status == "trained":
            done = processes.run_on_first(accelerator, lambda: _verify(out))
    if verify and accelerator.is_main_process:
        trackers.summarise(out, tracking)
    return done


def _lock(identity: RunIdentity, out: Path, stack: contextlib.ExitStack, note: str) -> Before:
    """Lock the run's folder until `stack` ends, and return what it holds now that nobody else writes there."""
    stack.enter_context(lock.lock_folder(out))
    checkpoint.remove_leftovers(out)
    # Once more: another process may have finished the run in the meantime.
    before = identity.before(out)
    _print_note(note)
    _print_note(before.note)
    return dataclasses.replace(before, result=identity.adopt(out, before))


@dataclass(frozen=True)
class _Run:
    """The inputs of a run's training.

    Args:
        identity: configuration, splits and weights of the base.
        before: what the folder held when it was locked.
        base: record of the weights of the base.
        out, datasets, accelerator: of the run.
        alone: it is verified now, and not with the other runs of an ablation: no later run reads its features.
    """

    identity: RunIdentity
    before: Before
    base: BaseRecord
    out: Path
    datasets: dict[str, SplitDataset]
    accelerator: "Accelerator"
    alone: bool

    @property
    def config(self) -> RunConfig:
        """Return the configuration."""
        return self.identity.config

    @property
    def splits(self) -> manifest.Splits:
        """Return the splits."""
        return self.identity.splits


def _record_and_train(run: _Run, planned: TrainingPlan) -> results.Result:
    """Train, and keep the run's record of how it goes: running, then trained, failed or cancelled."""
    import yaml

    began = time.perf_counter()
    start = results.Result(
        status="running",
        config=run.config.to_json(),
        config_hash=run.identity.fingerprint,
        began=datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        environment=environment(run.config, run.accelerator.num_processes),
        base=run.base,
        data=_data_record(run.splits),
        plan=planned,
    )

    def record(result: results.Result) -> None:
        if run.accelerator.is_main_process:
            results.write(run.out, result)

    try:
        record(start)
        if run.accelerator.is_main_process:
            write_text(run.out / "config.yaml", yaml.safe_dump(start.config, sort_keys=False))
        finish = Finish(
            config=run.config, out=run.out, card=run.splits.card, datasets=run.datasets, start=start, began=began
        )
        return _train(run, finish)
    except KeyboardInterrupt:
        record(start.replace(status="cancelled", error="interrupted; run it again to go on"))
        raise
    # Whatever goes wrong belongs in the run's record, so that a grid goes on with the next run.
    except Exception as error:
        public = failures.record(run.out, error) if run.accelerator.is_main_process else ""
        record(start.replace(status="failed", error=public))
        line = next(iter(str(error).splitlines()), "") or type(error).__name__
        raise error if isinstance(error, UsageError) else TrainingError(f"{run.out}: {line}") from error


def _train(run: _Run, finish: "Finish") -> results.Result:
    """Build the model, train it if the method trains anything, and finish the run on the first process."""
    config, accelerator = run.config, run.accelerator
    if torch.cuda.is_available():
        torch.cuda.reset_peak_memory_stats()  # of a run before, in the same process
    parts, sharded = _build(config, run.splits.card, accelerator.device), processes.is_sharded(accelerator)
    if accelerator.is_main_process and trainable(parts.model):
        finish = dataclasses.replace(finish, start=_with_cut_texts(finish.start, parts, run.datasets["train"].texts))
    store = FeatureStore(
        parts,
        enabled=config.train.store_features == "auto",
        shared=not run.alone,
        verbose=accelerator.is_main_process,
        whole=not sharded,
    )
    # What a method that trains nothing (zero_shot) ends with.
    state = LoopState(
        micro_batch=config.train.micro_batch or config.train.batch_size,
        cost={"memory": memory.weights_alone(parts.model)},
    )
    if trainable(parts.model):
        loop = TrainingLoop(
            config=config,
            parts=parts,
            datasets=run.datasets,
            accelerator=accelerator,
            store=store,
            out=run.out,
            fingerprint=run.identity.fingerprint,
            earlier_fingerprints=run.before.fingerprints,
        )
        # The loop alone, as in `train_seconds` and `eval_seconds`: joules and seconds are then of the same work.
        with energy_meter.metered() as energy:
            state = loop.run()
        state.cost["energy"] = energy.to_json(state.cost["train_seconds"] + state.cost["eval_seconds"])

    def finish_whole() -> results.Result:
        if not sharded:
            return finish(parts, state, store)
        # The first process has a share of a sharded model: it builds a whole one, which takes the best weights.
        whole = _build(config, run.splits.card, accelerator.device)
        return finish(whole, state, dataclasses.replace(store, parts=whole, whole=True))

    return processes.run_on_first(accelerator, finish_whole)


def _build(config: RunConfig, card: DatasetCard, device: torch.device) -> ModelParts:
    # Seeded before head and adapter draw their first weights: every process, and every seed's run, starts from its own.
    torch.manual_seed(config.train.seed)
    parts = assembly.build(config, card.labels, card.multi_label)
    parts.model.to(device)
    return parts


@dataclass(frozen=True, kw_only=True)
class Finish:
    """The end of a training, on one process.

    Args:
        config, out, card, datasets: of the run.
        start: its record at the start.
        began: the time of `time.perf_counter` at which it began.
    """

    config: RunConfig
    out: Path
    card: DatasetCard
    datasets: dict[str, SplitDataset]
    start: results.Result
    began: float

    def __call__(self, parts: ModelParts, state: LoopState, store: FeatureStore) -> results.Result:
        """Take the best epoch's weights, evaluate train and val, save the model, and record the run as trained."""
        # Trained parameters are leaves of autograd, which must not be written to in place otherwise.
        with torch.no_grad():
            for name, tensor in checkpoint.changing(parts.model).items():
                # A method that trains nothing has none, and keeps the base's.
                if name in state.best_weights:
                    tensor.copy_(state.best_weights[name])
        train_set, val_set = self.datasets["train"], self.datasets["val"]
        val = run_inference(parts, val_set, state.micro_batch, "val", store=store)
        # Before train is evaluated: its metrics use the thresholds that val has chosen.
        saved = self._labels(parts, val)
        train = run_inference(parts, train_set, state.micro_batch, "train", generate=False, store=store)
        text_column = self.config.head.options.text
        metrics = {
            "train": compute_metrics(parts, train_set, train, saved),
            "val": compute_metrics(parts, val_set, val, saved, train_set.texts, text_column=text_column),
        }
        # A copy of the record with the metrics so far; those on test are not known before the verification.
        card = model_card.text(self.start.replace(metrics=metrics), parts, saved, export.kind(parts, self.config))
        nbytes = saved_model.save(self.out, parts, saved, card)
        # Of val: the reloaded model has to reproduce them, see `verify`.
        results.write_predictions(self.out, prediction_table(parts, "val", val_set, val, saved))
        done = self.start.replace(
            status="trained",
            cost=self._cost(state, nbytes),
            history=[dict(row) for row in state.history],
            metrics=metrics,
        )
        # The record comes last but for the checkpoint: killed before, the run resumes; killed between, it is finished.
        results.write(self.out, done)
        checkpoint.remove(self.out)
        return done

    def _labels(self, parts: ModelParts, val: Predictions) -> SavedLabels:
        """Return labels.json's content, with thresholds and temperature chosen on val, never on test."""
        labels = SavedLabels(
            task=self.config.head.name,
            labels=tuple(self.card.labels),
            multi_label=self.card.multi_label,
            image_size=parts.base.image_size,
        )
        if not parts.head.scored:
            return labels
        val_set = self.datasets["val"]
        return dataclasses.replace(
            labels,
            thresholds=tuple(best_thresholds(val_set.targets, val.scores)),
            calibration=fit_calibration(
                parts.tuning.name, self.datasets["train"], val_set, val.scores, self.card.multi_label
            ),
        )

    def _cost(self, state: LoopState, saved_bytes: int) -> Cost:
        raw: dict[str, object] = {
            **state.cost,
            "micro_batch": state.micro_batch,
            "parameters": self.start.plan["parameters"],
            "saved_model_bytes": saved_bytes,
            "cuda_memory": memory.cuda_memory(),
            "wall_seconds": round(time.perf_counter() - self.began, 3),
        }
        return Cost.from_json(raw)


def _verify(out: Path) -> results.Result:
    (result,) = verify_all([out])
    if result.status != "success":
        raise TrainingError(f"{out}: {result.error}")
    return result


def _print_note(note: str) -> None:
    if note:
        print(f"note: {note}", file=sys.stderr)


def _with_cut_texts(start: results.Result, parts: ModelParts, texts: Sequence[str]) -> results.Result:
    """Return the record with the number of train texts that are cut, and print it."""
    cut = parts.head.count_cut(texts)
    if cut:
        _print_note(f"{cut:,} of {len(texts):,} train reports are longer than head.max_tokens: their end is not learnt")
    return start.replace(data=dataclasses.replace(start.data, cut_texts=cut))


def _data_record(splits: manifest.Splits) -> DataSummary:
    confounds = splits.manifest.get("confounds")
    return DataSummary(
        splits=str(splits.folder),
        sha256=splits.hashes,
        rows={name: len(table) for name, table in splits.tables.items()},
        subjects={name: int(table["subject_id"].nunique()) for name, table in splits.tables.items()},
        card=splits.card,
        leaks=splits.manifest.get("leaks"),
        confounds=None if confounds is None else tuple(confounds["labels"]),
        notes=tuple(splits.manifest.get("notes", ())),
    )
