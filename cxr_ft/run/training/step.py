"""One step of the optimizer on a batch, whatever the number of processes and the memory.

A batch is cut into parts that are run one after the other. Losses are summed and divided by all that counts in the
batch, so that loss and gradient are those of the whole batch however it was cut, but for the order of sums and for
dropout, which is drawn anew for each part and process.
"""

import math
import sys
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import nn

from cxr_ft.data.dataset import split_dataset
from cxr_ft.data.dataset.split_dataset import TrainIndex
from cxr_ft.model.assembly import ModelParts
from cxr_ft.model.methods import StepCallback
from cxr_ft.model.protocols import Batch, trainable
from cxr_ft.run.cost import memory
from cxr_ft.run.features.feature_store import FrozenFeatures
from cxr_ft.run.training import checkpoint, divergence, processes
from cxr_ft.run.training.divergence import TrainingError, out_of_memory


class LossModule(nn.Module):
    """Model and head as one module whose forward is the loss, so that autocast and FSDP see the whole step."""

    def __init__(self, parts: ModelParts) -> None:
        super().__init__()
        self.model, self.head = parts.model, parts.head

    def forward(self, batch: Batch) -> tuple[torch.Tensor, int]:
        """Sum of the losses, and how many things count."""
        loss: tuple[torch.Tensor, int] = self.head.loss(self.model, batch)
        return loss


@dataclass(frozen=True, kw_only=True)
class Stepper:
    """What a step needs; `clip` is the largest norm of the gradient, `seed` that of dropout.

    frozen: how the frozen part of the rows gets into a batch; None: the model computes it, if there is one.
    callback: what the method itself does before and after each step of the optimizer; None: nothing.
    """

    parts: ModelParts
    rows: split_dataset.SplitDataset
    learner: nn.Module
    optimizer: Any
    accelerator: Any
    clip: float
    seed: int
    frozen: FrozenFeatures | None = None
    callback: StepCallback | None = None

    def step(self, chosen: Sequence[TrainIndex], state: checkpoint.LoopState) -> float:
        """One step on the rows `chosen`; returns its mean loss. The first step is checked.

        Raises:
            TrainingError: for a loss or gradient that is no number, an explosion, or too little memory for one row.
        """
        first, model = state.step == 0, self.parts.model
        loss, counted = self._gradients(chosen, state)
        mean = loss / max(counted, 1)
        ids = self.rows.ids["dicom_id"].iloc[[draw.row for draw in chosen]]
        if counted or not math.isfinite(loss):
            divergence.watch(mean, state, ids)
        if first:
            check_gradients(model)
        self._average(len(chosen), counted)
        norm = float(self.accelerator.clip_grad_norm_(self.learner.parameters(), self.clip))
        if not math.isfinite(norm) and not self._scale_too_large():
            raise TrainingError(f"the gradient's norm is {norm} {divergence.where(state, ids)}; try a lower lr")
        # fp16's scaler leaves out the step where the norm is not finite, and so does the method.
        callback = self.callback if math.isfinite(norm) else None
        if callback is not None:
            callback.on_before_step()
        self.optimizer.step()
        if callback is not None:
            callback.on_after_step(state.step + 1)
        if first and self._meter is not None:
            self._meter.stepped(state.cost)
        self.optimizer.zero_grad()
        state.step, state.loss, state.counted = state.step + 1, state.loss + loss, state.counted + counted
        return mean

    def _gradients(self, chosen: Sequence[TrainIndex], state: checkpoint.LoopState) -> tuple[float, int]:
        """The batch's gradient over the number of its rows: sum of losses, and what counts.

        Out of memory, it is begun again with half the rows at a time.
        """
        world, rank = self.accelerator.num_processes, self.accelerator.process_index
        while True:
            # By the step alone: a run that goes on, and a step that is begun again, draw what they would have drawn.
            torch.manual_seed(
                int(np.random.SeedSequence([self.seed, state.step, rank]).generate_state(1, np.uint64)[0])
            )
            parts = processes.parts(chosen, world, rank, state.micro)
            loss, counted, failed = self._accumulate(parts, chosen, state)
            loss, number, failures = processes.summed(self.accelerator, (loss, counted, failed))
            if not failures:
                return loss, int(number)
            self.optimizer.zero_grad()
            if torch.cuda.is_available():
                torch.cuda.empty_cache()
            self._halve(state, largest=-(-len(chosen) // world))

    def _accumulate(
        self, parts: Sequence[Sequence[TrainIndex]], chosen: Sequence[TrainIndex], state: checkpoint.LoopState
    ) -> tuple[float, int, bool]:
        """Forward and backward of each part: sum of losses, what counts, and whether memory ran out on the way."""
        total, counted = 0.0, 0
        try:
            for part in parts:
                # All processes run equally often, as FSDP needs it: one without rows of its own weighs its row 0.
                batch = self._batch(part or chosen[:1])
                with self._meter.part(batch, state.cost) if self._meter else nullcontext() as meter:
                    loss, n = self.learner(batch)
                    if meter is not None:
                        meter.forward_done()
                    self.accelerator.backward(loss * (bool(part) / len(chosen)))
                    if part:
                        total, counted = total + loss.item(), counted + n
                    del loss  # and what hangs on it, before memory is counted for the next part
        except (RuntimeError, MemoryError) as error:
            # Under FSDP the others already wait for this one within the step.
            if not out_of_memory(error) or processes.is_sharded(self.accelerator):
                raise
            return 0.0, 0, True
        return total, counted, False

    def _batch(self, part: Sequence[TrainIndex]) -> Batch:
        batch = self.parts.head.collate([self.rows[draw] for draw in part])
        if self.frozen is not None:
            return self.frozen.put(batch, [draw.row for draw in part], self.accelerator.device)
        return {key: value.to(self.accelerator.device) for key, value in batch.items()}

    def _average(self, rows: int, counted: int) -> None:
        """From gradients over the number of rows to those over all that counts, in all processes."""
        trained = list(trainable(self.parts.model).values())
        processes.sum_gradients(self.accelerator, trained)
        factor = rows / max(counted, 1)
        if processes.is_sharded(self.accelerator):
            factor *= self.accelerator.num_processes  # FSDP gives the mean over processes, where the sum is meant
        gradients = [p.grad for p in trained if p.grad is not None]
        torch._foreach_mul_(gradients, factor)

    def _halve(self, state: checkpoint.LoopState, largest: int) -> None:
        before = min(state.micro, largest)
        if before == 1:
            raise TrainingError(
                f"out of memory at step {state.step + 1} with one row at a time; take a smaller model, "
                "train.precision=bf16, or a method that trains less"
            )
        state.micro = -(-before // 2)
        if self.accelerator.is_main_process:
            print(
                f"out of memory at step {state.step + 1} with {before} rows at a time: going on with {state.micro}; "
                "the batch that counts stays as it is",
                file=sys.stderr,
            )

    @property
    def _meter(self) -> memory.Meter | None:
        """What counts the bytes of a step; none under FSDP, where no process has all of them."""
        sharded = processes.is_sharded(self.accelerator)
        return None if sharded else memory.Meter(self.parts.model, self.optimizer)

    def _scale_too_large(self) -> bool:
        """Whether fp16's loss scale may be to blame, which the scaler then lowers, leaving out the step."""
        scaler = self.accelerator.scaler
        return scaler is not None and scaler.get_scale() >= 1


def check_gradients(model: nn.Module) -> None:
    """Exactly the declared parameters received a gradient.

    Raises:
        TrainingError: naming those that did not, or did though frozen.
    """
    silent = [name for name, p in model.named_parameters() if p.requires_grad and p.grad is None]
    loud = [name for name, p in model.named_parameters() if not p.requires_grad and p.grad is not None]
    if silent or loud:
        names = ", ".join([*silent, *loud][:5])
        raise TrainingError(f"{len(silent)} declared parameters got no gradient, {len(loud)} frozen ones did: {names}")
