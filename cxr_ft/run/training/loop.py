"""Train by the one loop that every method shares: epochs, steps, and the choice of the best epoch on val."""

import contextlib
import json
import math
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, TypedDict

import torch
from torch import nn

from cxr_ft.config import RunConfig
from cxr_ft.data.dataset.split_dataset import Shuffle, SplitDataset
from cxr_ft.errors import TrainingError
from cxr_ft.files import write_text
from cxr_ft.model import methods
from cxr_ft.model.assembly import ModelParts
from cxr_ft.model.peft_models import unwrapped
from cxr_ft.model.protocols import trainable
from cxr_ft.progress import Bar, bar
from cxr_ft.run.cost import memory
from cxr_ft.run.evaluation.inference import Predictions, run_inference
from cxr_ft.run.features.feature_store import FeatureStore
from cxr_ft.run.training import checkpoint, divergence, processes
from cxr_ft.run.training.checkpoint import HistoryRow, LoopState, TrainState
from cxr_ft.run.training.step import ModelWithLoss, TrainingStep
from cxr_ft.score.metrics import registry

if TYPE_CHECKING:
    from accelerate import Accelerator


class ParameterGroup(TypedDict):
    """Parameters that the optimizer treats alike."""

    params: list[nn.Parameter]
    lr: float
    weight_decay: float


@dataclass(frozen=True, kw_only=True)
class TrainingLoop:
    """The training of one run, with all it needs.

    Args:
        config: of the run.
        parts: the model, on its device.
        datasets: at least train and val.
        accelerator: of this process.
        store: where features of the model's frozen part are stored.
        out: the run's folder, which takes checkpoint.pt and history.jsonl.
        fingerprint: of the run; a checkpoint of another one is refused.
    """

    config: RunConfig
    parts: ModelParts
    datasets: dict[str, SplitDataset]
    accelerator: "Accelerator"
    store: FeatureStore
    out: Path
    fingerprint: str

    def run(self) -> LoopState:
        """Train to the last epoch, from the last checkpoint if there is one.

        Returns:
            The state at the end, with the weights of the epoch that was best on val.

        Raises:
            TrainingError: for a loss or gradient that is no number, an explosion, or too little memory for one row.
        """
        train, dataset = self.config.train, self.datasets["train"]
        steps = self._steps_per_epoch() * train.epochs
        began = time.perf_counter()
        # One process of each machine computes the features; the others then read its files.
        with self.accelerator.local_main_process_first():
            features = self.store.for_training(dataset, train.precision, train.epochs)
            self.store.frozen_features(self.datasets["val"], reads=train.epochs + 1)  # each epoch, and at the end
        feature_seconds = time.perf_counter() - began
        training = self._prepare(steps)
        state = self._resume(training)
        # Over all attempts: a resumed run adds what it had to read or compute again.
        state.cost["feature_seconds"] = state.cost.get("feature_seconds", 0.0) + feature_seconds
        method = methods.load(self.config.tuning.name)
        step = TrainingStep(
            parts=self.parts,
            dataset=dataset,
            model_with_loss=training.model_with_loss,
            optimizer=training.optimizer,
            accelerator=self.accelerator,
            clip=train.clip,
            seed=train.seed,
            features=features,
            callback=method.callback(self.parts.model, steps) if method.callback else None,
        )
        with self._progress_bar(f"training {self.config.tuning.name}", steps) as progress:
            # A resumed run's bar begins where the run was stopped.
            progress.advance(state.step)
            # Saved only after the evaluation: a checkpoint between epochs then holds the epoch's row of history and, if
            # it was the best, its weights, and a resumed run evaluates no epoch twice.
            while state.epoch < train.epochs:
                self._train_epoch(state, step, training, progress)
                self._evaluate_epoch(state, training)
                self._save(state, training)
        seconds = max(state.cost["train_seconds"], 1e-9)
        state.cost["samples_per_second"] = round(len(dataset) * train.epochs / seconds, 3)
        return state

    def _prepare(self, steps: int) -> TrainState:
        """Return model, optimizer and schedule, wrapped as accelerate's configuration says."""
        sharded = processes.is_sharded(self.accelerator)
        # `evaluation_mode` keeps accelerate from wrapping it in DistributedDataParallel: the step sums the gradients.
        model_with_loss: nn.Module = self.accelerator.prepare_model(ModelWithLoss(self.parts), evaluation_mode=True)
        if sharded:
            inner = unwrapped(self.parts.model)
            checkpoint.shard(model_with_loss, [inner.get_submodule(name) for name in self.parts.base.blocks(inner)])
        # After sharding, which replaces the parameters: an optimizer made before would step on the old ones.
        optimizer = torch.optim.AdamW([dict(group) for group in self._parameter_groups()], fused=True)
        # Not prepared by accelerate, whose schedules move on once for each process and not at all where fp16 skips a
        # step: the rate must depend on the step's number alone.
        schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, warmup_cosine(steps, self.config.train.warmup))
        return TrainState(
            model=self.parts.model,
            model_with_loss=model_with_loss,
            optimizer=self.accelerator.prepare_optimizer(optimizer),
            schedule=schedule,
            scaler=self.accelerator.scaler,
            sharded=sharded,
        )

    def _resume(self, training: TrainState) -> LoopState:
        """Return the state of the last checkpoint, loaded into `training`; a new one where there is none."""
        last = checkpoint.read(self.out, self.fingerprint)
        if last is not None:
            training.load_state_dict(last.train)
            return last.loop
        train = self.config.train
        # The largest share of a batch: more rows than it never run at a time.
        share = -(-train.batch_size // self.accelerator.num_processes)
        return LoopState(micro_batch=min(train.micro_batch or share, share))

    def _train_epoch(self, state: LoopState, step: TrainingStep, training: TrainState, progress: Bar) -> None:
        """Take the steps of the epoch that are not done yet, with a checkpoint now and then."""
        began = saved = time.perf_counter()
        batch_size = self.config.train.batch_size
        sampler = Shuffle(self.datasets["train"], self.config.train.seed)
        sampler.epoch = state.epoch
        # The order depends on seed and epoch alone, so a resumed run skips the rows that it has seen.
        order = list(sampler)
        done = (state.step - state.epoch * self._steps_per_epoch()) * batch_size
        # transformers loads models in evaluation mode, where dropout is off.
        training.model_with_loss.train()
        for start in range(done, len(order), batch_size):
            loss = step.run(order[start : start + batch_size], state)
            # Also after a step that fp16's scaler skipped, so that a resumed run finds the same rate at the same step.
            training.schedule.step()
            progress.advance(note=f"loss {loss:.3f}")
            due = time.perf_counter() - saved > checkpoint.INTERVAL
            # Under FSDP saving is collective: clocks differ, so the first process decides for all.
            if processes.agree(self.accelerator, due):
                state.cost["train_seconds"] += time.perf_counter() - began
                self._save(state, training)
                began = saved = time.perf_counter()  # saving does not count as training
        state.cost["train_seconds"] += time.perf_counter() - began

    def _save(self, state: LoopState, training: TrainState) -> None:
        # Under FSDP every process must take part in gathering what the first one writes.
        main = self.accelerator.is_main_process
        states = training.state_dict() if training.sharded or main else None
        if main and states is not None:
            checkpoint.save(self.out, self.fingerprint, state, states)
        # On all processes: each of them may have to name the last good checkpoint in a message.
        state.checkpoint_step = state.step

    def _evaluate_epoch(self, state: LoopState, training: TrainState) -> None:
        """Evaluate the epoch on val, keep its weights if they are the best so far, and append to the history."""
        began = time.perf_counter()
        dataset = self.datasets["val"]
        state.epoch += 1
        val = self._predict(dataset, state, training)
        # NaN is neither better nor worse than the best score: without this check a diverged epoch would pass in
        # silence.
        if not math.isfinite(val.loss):
            raise TrainingError(
                f"loss on val is {val.loss} after epoch {state.epoch}; {divergence.last_good_checkpoint(state)}; "
                "try a lower lr"
            )
        # A head that also writes texts is chosen by its scores: they cost no generation.
        metric = registry.primary("scores")
        primary = float(metric.over_rows(dataset.targets, val.scores)) if val.score_rows else None
        # Undefined where no label of val has both classes.
        primary = None if primary is None or math.isnan(primary) else primary
        # Texts are chosen by their loss on val: to generate all of val each epoch would cost more than the training.
        score = -val.loss if primary is None else primary if metric.higher_is_better else -primary
        # Loss and scores are those of all processes, which therefore agree here: `weights` is collective under FSDP.
        # Strictly better: among equal epochs the first one is kept, which has moved the weights least.
        if not state.best_weights or score > state.best_score:
            state.best_score, state.best_weights = score, training.weights()
        state.cost["eval_seconds"] += time.perf_counter() - began
        row: HistoryRow = {
            "epoch": state.epoch,
            "step": state.step,
            "seconds": round(state.cost["train_seconds"], 3),
            "train_loss": state.loss_sum / max(state.loss_count, 1),
            "val_loss": val.loss,
            "val": primary,
        }
        state.history.append(row)
        state.loss_sum, state.loss_count = 0.0, 0
        # The whole file, not one more line: a run that was killed between this write and its checkpoint repeats the
        # epoch, and would write its line twice.
        if self.accelerator.is_main_process:
            write_text(self.out / "history.jsonl", "".join(json.dumps(line) + "\n" for line in state.history))

    def _predict(self, dataset: SplitDataset, state: LoopState, training: TrainState) -> Predictions:
        """Return the predictions on `dataset`, each process's share put together in order."""
        world, rank = self.accelerator.num_processes, self.accelerator.process_index
        # One stretch of rows for each process: in the order of the ranks they are in the order of the data set again.
        share = range(len(dataset) * rank // world, len(dataset) * (rank + 1) // world)
        title = f"epoch {state.epoch}, val" if rank == 0 else ""
        with checkpoint.gathered(training.model_with_loss) if training.sharded else contextlib.nullcontext():
            part = run_inference(
                self.parts, dataset, state.micro_batch, title, generate=False, indices=share, store=self.store
            )
        # Scores and sums travel between processes, never logits; the mean over all is of sums, not of means.
        loss_sum, counted = processes.sum_over_processes(self.accelerator, (part.loss * part.counted, part.counted))
        score_rows = processes.gather_lists(self.accelerator, part.score_rows)
        return Predictions(score_rows=score_rows, loss=loss_sum / max(counted, 1), counted=int(counted))

    def _steps_per_epoch(self) -> int:
        return -(-len(self.datasets["train"]) // self.config.train.batch_size)

    @contextlib.contextmanager
    def _progress_bar(self, title: str, total: int) -> Iterator[Bar]:
        """Show the progress bar, on one process alone."""
        if self.accelerator.is_main_process:
            with bar(title, total) as progress:
                yield progress
        else:
            yield _SilentBar()

    def _parameter_groups(self) -> list[ParameterGroup]:
        """Return the optimizer's groups: the head at its own rate; weight decay on matrices, not on biases or norms."""
        train, new_modules = self.config.train, self.parts.head.new_modules
        # In the model's order: an optimizer's state names parameters by their place in these groups, and a resumed run
        # must find the same places.
        groups: dict[tuple[bool, bool], list[nn.Parameter]] = {}
        for name, p in trainable(self.parts.model).items():
            groups.setdefault((memory.in_head(name, new_modules), p.ndim > 1), []).append(p)
        return [
            {
                "params": parameters,
                "lr": train.head_lr if in_head else self.config.tuning.options.lr,
                "weight_decay": train.weight_decay if is_matrix else 0.0,
            }
            for (in_head, is_matrix), parameters in groups.items()
        ]


class _SilentBar:
    def advance(self, steps: int = 1, note: str = "") -> None:
        pass


def warmup_cosine(steps: int, warmup: float) -> Callable[[int], float]:
    """Return the factor on the learning rate at each step: a linear rise, then half a cosine to zero.

    Args:
        steps: of the whole training.
        warmup: the share of them over which the factor rises, from 0 to below 1.
    """
    rise = max(1, round(steps * warmup))

    def factor(step: int) -> float:
        if step < rise:
            return (step + 1) / rise  # and not `step / rise`: the first step would be none
        return 0.5 * (1 + math.cos(math.pi * (step - rise) / max(1, steps - rise)))

    return factor
