"""The one loop that every method shares: epochs, steps, and the choice of the best epoch on val."""

import contextlib
import json
import math
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from cxr_ft.config import RunConfig
from cxr_ft.data.dataset import split_dataset
from cxr_ft.files import write_text
from cxr_ft.model import methods
from cxr_ft.model.assembly import ModelParts
from cxr_ft.model.peft_models import unwrapped
from cxr_ft.model.protocols import trainable
from cxr_ft.progress import Bar, bar
from cxr_ft.run.cost import memory
from cxr_ft.run.evaluation import evaluate
from cxr_ft.run.features import feature_store
from cxr_ft.run.training import checkpoint, processes, train_state
from cxr_ft.run.training.divergence import TrainingError, last_good
from cxr_ft.run.training.step import LossModule, Stepper
from cxr_ft.score.statistics.intervals import macro_auroc

__all__ = ["Loop", "TrainingError", "warmup_cosine"]


@dataclass(frozen=True, kw_only=True)
class Loop:
    """What a training needs; `out` takes checkpoint and history.jsonl, `fingerprint` says whose checkpoint it is.

    store: what is stored of the frozen part of the model.
    """

    config: RunConfig
    parts: ModelParts
    data: dict[str, split_dataset.SplitDataset]
    accelerator: Any
    store: feature_store.FeatureStore
    out: Path
    fingerprint: str

    def run(self) -> checkpoint.LoopState:
        """Train to the last epoch, from the last checkpoint if there is one.

        The state returned holds the weights of the epoch that was best on val.
        """
        train, rows = self.config.train, self.data["train"]
        steps = self._steps() * train.epochs
        clock = time.perf_counter()
        with self.accelerator.local_main_process_first():  # the others then find what the first one stored
            frozen = self.store.for_training(rows, train.precision, train.epochs)
            self.store.frozen(self.data["val"], reads=train.epochs + 1)  # each epoch, and once it is trained
        preparing = time.perf_counter() - clock
        trained = self._prepared(steps)
        found = checkpoint.read(self.out, self.fingerprint)
        share = -(-train.batch_size // self.accelerator.num_processes)
        state = checkpoint.LoopState(micro=min(train.micro_batch or share, share)) if found is None else found["state"]
        if found is not None:
            trained.put_back(found)
        state.cost["feature_seconds"] = state.cost.get("feature_seconds", 0.0) + preparing
        method = methods.load(self.config.tuning.name)
        stepper = Stepper(
            parts=self.parts,
            rows=rows,
            learner=trained.learner,
            optimizer=trained.optimizer,
            accelerator=self.accelerator,
            clip=train.clip,
            seed=train.seed,
            frozen=frozen,
            callback=method.callback(self.parts.model, steps) if method.callback else None,
        )
        with self._bar(f"training {self.config.tuning.name}", steps) as progress:
            progress.advance(state.step)
            while state.epoch < train.epochs:
                self._epoch(state, stepper, trained, progress)
                self._judge(state, trained)
                self._save(state, trained)
        seconds = max(state.cost["train_seconds"], 1e-9)
        state.cost["samples_per_second"] = round(len(rows) * train.epochs / seconds, 3)
        return state

    def _prepared(self, steps: int) -> train_state.TrainState:
        """Model, optimizer and schedule, as accelerate's configuration wants them."""
        model: Any = self.parts.model
        sharded = processes.is_sharded(self.accelerator)
        # As for evaluation, that is not wrapped in DistributedDataParallel: the step sums gradients itself.
        learner: nn.Module = self.accelerator.prepare_model(LossModule(self.parts), evaluation_mode=True)
        if sharded:
            inner = unwrapped(model)
            train_state.shard(learner, [inner.get_submodule(name) for name in self.parts.base.blocks(inner)])
        optimizer: Any = torch.optim.AdamW(self._groups(), fused=True)
        schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, warmup_cosine(steps, self.config.train.warmup))
        optimizer = self.accelerator.prepare_optimizer(optimizer)
        return train_state.TrainState(
            model=model,
            learner=learner,
            optimizer=optimizer,
            schedule=schedule,
            scaler=self.accelerator.scaler,
            sharded=sharded,
        )

    def _epoch(
        self, state: checkpoint.LoopState, stepper: Stepper, trained: train_state.TrainState, progress: Bar
    ) -> None:
        """The steps of the epoch that are not done yet, with a checkpoint now and then."""
        clock = saved = time.perf_counter()
        sampler, size = split_dataset.Shuffle(self.data["train"], self.config.train.seed), self.config.train.batch_size
        sampler.epoch = state.epoch
        order = list(sampler)
        trained.learner.train()
        for start in range((state.step - state.epoch * self._steps()) * size, len(order), size):
            loss = stepper.step(order[start : start + size], state)
            trained.schedule.step()
            progress.advance(note=f"loss {loss:.3f}")
            due = time.perf_counter() - saved > checkpoint.EVERY
            if processes.first_says(self.accelerator, due):
                state.cost["train_seconds"] += time.perf_counter() - clock
                self._save(state, trained)
                clock = saved = time.perf_counter()
        state.cost["train_seconds"] += time.perf_counter() - clock

    def _save(self, state: checkpoint.LoopState, trained: train_state.TrainState) -> None:
        taken = trained.take() if trained.sharded or self.accelerator.is_main_process else {}
        if self.accelerator.is_main_process:
            checkpoint.save(self.out, self.fingerprint, state, taken)
        state.saved = state.step

    def _judge(self, state: checkpoint.LoopState, trained: train_state.TrainState) -> None:
        """Judge the epoch on val, keep its weights if they are the best so far, and append to the history."""
        clock = time.perf_counter()
        rows = self.data["val"]
        state.epoch += 1
        val = self._answers(rows, state, trained)
        if not math.isfinite(val.loss):
            raise TrainingError(
                f"loss on val is {val.loss} after epoch {state.epoch}; {last_good(state)}; try a lower lr"
            )
        primary = float(macro_auroc(rows.targets, val.scores)) if val.scored else None
        # Undefined where no label of val has both classes.
        primary = None if primary is None or math.isnan(primary) else primary
        # Texts are chosen by their loss on val: to generate all of val each epoch would cost more than the training.
        score = -val.loss if primary is None else primary
        if not state.best or score > state.best_score:
            state.best_score, state.best = score, trained.weights()
        state.cost["eval_seconds"] += time.perf_counter() - clock
        row = {"epoch": state.epoch, "step": state.step, "seconds": round(state.cost["train_seconds"], 3)}
        train_loss = state.loss / max(state.counted, 1)
        state.history.append({**row, "train_loss": train_loss, "val_loss": val.loss, "val": primary})
        state.loss, state.counted = 0.0, 0
        if self.accelerator.is_main_process:
            write_text(self.out / "history.jsonl", "".join(json.dumps(line) + "\n" for line in state.history))

    def _answers(
        self, rows: split_dataset.SplitDataset, state: checkpoint.LoopState, trained: train_state.TrainState
    ) -> evaluate.Predictions:
        """The answers on `rows`, each process's share put together: scores and sums of losses travel, never logits."""
        world, rank = self.accelerator.num_processes, self.accelerator.process_index
        share = range(len(rows) * rank // world, len(rows) * (rank + 1) // world)
        what = f"epoch {state.epoch}, val" if rank == 0 else ""
        with train_state.whole(trained.learner) if trained.sharded else contextlib.nullcontext():
            mine = evaluate.run_inference(
                self.parts, rows, state.micro, what, texts=False, among=share, store=self.store
            )
        total, counted = processes.summed(self.accelerator, (mine.loss * mine.counted, mine.counted))
        scored = processes.gathered(self.accelerator, mine.scored)
        return evaluate.Predictions(scored=scored, loss=total / max(counted, 1), counted=int(counted))

    def _steps(self) -> int:
        """Steps of an epoch."""
        return -(-len(self.data["train"]) // self.config.train.batch_size)

    @contextlib.contextmanager
    def _bar(self, what: str, total: int) -> Iterator[Bar]:
        """The progress bar; on one process alone."""
        if self.accelerator.is_main_process:
            with bar(what, total) as progress:
                yield progress
        else:
            yield _Silent()

    def _groups(self) -> list[dict[str, Any]]:
        """The head's modules at their own rate; weight decay on matrices only, not on biases and norms, as is usual."""
        train, new = self.config.train, self.parts.head.new_modules
        groups: dict[tuple[bool, bool], list[nn.Parameter]] = {}
        for name, p in trainable(self.parts.model).items():
            groups.setdefault((memory.in_head(name, new), p.ndim > 1), []).append(p)
        return [
            {
                "params": parameters,
                "lr": train.head_lr if in_head else self.config.tuning.options.lr,
                "weight_decay": train.weight_decay if matrix else 0.0,
            }
            for (in_head, matrix), parameters in groups.items()
        ]


class _Silent:
    def advance(self, steps: int = 1, note: str = "") -> None:
        pass


def warmup_cosine(steps: int, warmup: float) -> Callable[[int], float]:
    """The factor on the learning rate at each step: a linear rise, then half a cosine to zero."""
    rise = max(1, round(steps * warmup))

    def factor(step: int) -> float:
        if step < rise:
            return (step + 1) / rise
        return 0.5 * (1 + math.cos(math.pi * (step - rise) / max(1, steps - rise)))

    return factor
