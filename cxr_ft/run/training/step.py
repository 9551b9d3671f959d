"""Take one step of the optimizer on a batch, whatever the number of processes and the memory.

A batch is cut into micro-batches that are run one after the other. Losses are summed and divided by all labels or
tokens that count in the whole batch, so that loss and gradient are those of the batch however it was cut, but for the
order of sums and for dropout, which is drawn anew for each micro-batch and process.
"""

import math
import sys
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import nn

from cxr_ft.data.dataset.split_dataset import SplitDataset, TrainIndex
from cxr_ft.errors import TrainingError
from cxr_ft.model.assembly import ModelParts
from cxr_ft.model.methods import StepCallback
from cxr_ft.model.protocols import Batch, trainable
from cxr_ft.run.cost import memory
from cxr_ft.run.evaluation.inference import is_out_of_memory
from cxr_ft.run.features.feature_store import FrozenFeatures
from cxr_ft.run.training import divergence, processes
from cxr_ft.run.training.checkpoint import LoopState

if TYPE_CHECKING:
    from accelerate import Accelerator
    from accelerate.optimizer import AcceleratedOptimizer


class ModelWithLoss(nn.Module):
    """Model and head as one module whose forward is the loss, so that autocast and FSDP see the whole step."""

    def __init__(self, parts: ModelParts) -> None:
        super().__init__()
        self.model, self.head = parts.model, parts.head

    def forward(self, batch: Batch) -> tuple[torch.Tensor, int]:
        """Return the sum of the losses, and over how many labels or tokens."""
        loss: tuple[torch.Tensor, int] = self.head.loss(self.model, batch)
        return loss


@dataclass(frozen=True, kw_only=True)
class TrainingStep:
    """A step of the optimizer, with all it needs.

    Args:
        parts: the model.
        dataset: train.
        model_with_loss: the model as it is called, wrapped by accelerate or FSDP.
        optimizer: of the trained parameters.
        accelerator: of this process.
        clip: the largest norm of the gradient.
        seed: of dropout.
        features: how the frozen part's output gets into a batch; None: the model computes it, if there is such a part.
        callback: what the tuning method does before and after each step; None: nothing.
    """

    parts: ModelParts
    dataset: SplitDataset
    model_with_loss: nn.Module
    optimizer: "AcceleratedOptimizer"
    accelerator: "Accelerator"
    clip: float
    seed: int
    features: FrozenFeatures | None = None
    callback: StepCallback | None = None

    def run(self, batch: Sequence[TrainIndex], state: LoopState) -> float:
        """Step on the rows of `batch`, update `state`, and return the batch's mean loss, in nats.

        Raises:
            TrainingError: for a loss or gradient that is no number, an explosion, too little memory for one row, and,
                on the first step, for gradients of other parameters than those declared.
        """
        first = state.step == 0
        loss_sum, count = self._compute_gradients(batch, state)
        mean = loss_sum / max(count, 1)
        places = [index.row for index in batch]
        rows = [self.dataset.row_numbers[place] for place in places]
        # A batch whose labels are all masked has no loss to check.
        if count or not math.isfinite(loss_sum):
            divergence.check_loss(mean, state, rows, partial(divergence.describe_batch, self.dataset, places))
        # Once: all steps have the same trained parameters. Before the sums over processes, which cannot name a
        # parameter that has no gradient to sum.
        if first:
            check_gradients(self.parts.model)
        # The order matters: the norm that is clipped must be that of the mean loss, over all processes.
        self._divide_gradients(len(batch), count)
        # By accelerate, which divides fp16's gradients by the loss scale first: the norm is that of the true gradient.
        norm = float(self.accelerator.clip_grad_norm_(self.model_with_loss.parameters(), self.clip))
        if not math.isfinite(norm) and not self._loss_scale_may_be_too_large():
            raise TrainingError(
                f"the gradient's norm is {norm} {divergence.describe_step(state, rows)}; try a lower lr",
                divergence.describe_batch(self.dataset, places),
            )
        # fp16's scaler skips the step where the norm is not finite, and so does the method.
        callback = self.callback if math.isfinite(norm) else None
        if callback is not None:
            callback.on_before_step()
        self.optimizer.step()
        if callback is not None:
            callback.on_after_step(state.step + 1)
        # After the optimizer's first step, which creates its moments, and before the gradients are freed.
        if first and self._meter is not None:
            self._meter.stepped(state.cost)
        self.optimizer.zero_grad()
        state.step += 1
        state.loss_sum, state.loss_count = state.loss_sum + loss_sum, state.loss_count + count
        return mean

    def _compute_gradients(self, batch: Sequence[TrainIndex], state: LoopState) -> tuple[float, int]:
        """Leave in `.grad` the gradient of the sum of losses divided by the batch's rows; return sum and count.

        Where memory runs out, on any process, all begin the batch again with micro-batches of half the rows.
        """
        world, rank = self.accelerator.num_processes, self.accelerator.process_index
        while True:
            # Dropout is seeded by the step, not by what was drawn before: a resumed run, and a batch that is begun
            # again, then draw what an unbroken run would have drawn.
            seed = np.random.SeedSequence([self.seed, state.step, rank]).generate_state(1, np.uint64)[0]
            torch.manual_seed(int(seed))
            # Cut anew in each attempt: `state.micro_batch` has been halved since the last one.
            micro_batches = processes.micro_batches(batch, world, rank, state.micro_batch)
            loss_sum, count, failed = self._accumulate(micro_batches, batch, state)
            # Together with the sums travels who failed, so that all processes decide alike.
            loss_sum, total, failures = processes.sum_over_processes(self.accelerator, (loss_sum, count, failed))
            if not failures:
                return loss_sum, int(total)
            self.optimizer.zero_grad()
            # The allocator holds free blocks of the old sizes: given back, their memory fits tensors of any size.
            if torch.cuda.is_available():
                torch.cuda.empty_cache()
            self._halve_micro_batch(state, largest=-(-len(batch) // world))

    def _accumulate(
        self, micro_batches: Sequence[Sequence[TrainIndex]], batch: Sequence[TrainIndex], state: LoopState
    ) -> tuple[float, int, bool]:
        """Run forward and backward on each micro-batch; return sum of losses, count, and whether memory ran out."""
        loss_sum, count = 0.0, 0
        try:
            for rows in micro_batches:
                # Under FSDP all processes must call the model equally often: one without rows of its own runs the
                # batch's first row, with weight 0.
                tensors = self._tensors(rows or batch[:1])
                with self._meter.part(tensors, state.cost) if self._meter else nullcontext() as meter:
                    loss, n = self.model_with_loss(tensors)
                    if meter is not None:
                        meter.forward_done()
                    # Divided by the rows for now: the count of the whole batch is known only after its last part, and
                    # an undivided sum could overflow in fp16.
                    self.accelerator.backward(loss * (bool(rows) / len(batch)))
                    if rows:
                        loss_sum, count = loss_sum + loss.item(), count + n
                    del loss  # and the graph it holds, before memory is measured for the next micro-batch
        except (RuntimeError, MemoryError) as error:
            # Under FSDP the other processes already wait for this one within the step: there is no second attempt.
            if not is_out_of_memory(error) or processes.is_sharded(self.accelerator):
                raise
            # Nothing of the attempt counts: the batch begins again with its first row.
            return 0.0, 0, True
        return loss_sum, count, False

    def _tensors(self, rows: Sequence[TrainIndex]) -> Batch:
        batch = self.parts.head.collate([self.dataset[index] for index in rows])
        if self.features is not None:
            return self.features.replace_pixels(batch, [index.row for index in rows], self.accelerator.device)
        return {key: value.to(self.accelerator.device) for key, value in batch.items()}

    def _divide_gradients(self, rows: int, count: int) -> None:
        """Turn gradients over the number of rows into those over all that counts, summed over all processes."""
        parameters = list(trainable(self.parts.model).values())
        processes.sum_gradients(self.accelerator, parameters)
        factor = rows / max(count, 1)
        if processes.is_sharded(self.accelerator):
            factor *= self.accelerator.num_processes  # FSDP has taken the mean over processes, where we need the sum
        # One call for all: an adapter has hundreds of small gradients, and the start of a kernel for each would take
        # longer than the product.
        torch._foreach_mul_([p.grad for p in parameters if p.grad is not None], factor)

    def _halve_micro_batch(self, state: LoopState, largest: int) -> None:
        # A share may be smaller than `micro_batch`: half of a number that no share reaches would change nothing.
        before = min(state.micro_batch, largest)
        if before == 1:
            raise TrainingError(
                f"out of memory at step {state.step + 1} with one row at a time; take a smaller model, "
                "train.precision=bf16, or a method that trains less"
            )
        state.micro_batch = -(-before // 2)
        if self.accelerator.is_main_process:
            print(
                f"out of memory at step {state.step + 1} with {before} rows at a time: going on with "
                f"{state.micro_batch}; the batch of the optimizer stays as it is",
                file=sys.stderr,
            )

    @property
    def _meter(self) -> memory.Meter | None:
        """Return what counts the bytes of a step; None under FSDP, where no process has all of them."""
        sharded = processes.is_sharded(self.accelerator)
        return None if sharded else memory.Meter(self.parts.model, self.optimizer)

    def _loss_scale_may_be_too_large(self) -> bool:
        """Return whether fp16's loss scale may explain an infinite norm; the scaler then lowers it, without a step."""
        scaler = self.accelerator.scaler
        return scaler is not None and scaler.get_scale() >= 1


def check_gradients(model: nn.Module) -> None:
    """Check that exactly the declared parameters received a gradient.

    Raises:
        TrainingError: naming those that did not, or did though frozen.
    """
    missing = [name for name, p in model.named_parameters() if p.requires_grad and p.grad is None]
    unexpected = [name for name, p in model.named_parameters() if not p.requires_grad and p.grad is not None]
    if missing or unexpected:
        names = ", ".join([*missing, *unexpected][:5])
        raise TrainingError(
            f"{len(missing)} declared parameters got no gradient, {len(unexpected)} frozen ones did: {names}"
        )
