"""Let several processes train one run: each takes a share of every batch, the first one decides and writes.

Gradients are summed here, once a step, and not by DistributedDataParallel during backward: a process that runs out of
memory then leaves no other one waiting, and all can try the step again with smaller micro-batches.
"""

import os
from collections.abc import Callable, Iterable, Sequence
from datetime import timedelta
from typing import TYPE_CHECKING, TypeVar

import numpy as np
import torch
from torch import nn

from cxr_ft.errors import TrainingError, UsageError

if TYPE_CHECKING:
    from accelerate import Accelerator

T = TypeVar("T")
#: How long one process waits for another: the first one may decode, evaluate or save for hours. A launcher ends all
#: when one of them dies.
TIMEOUT = timedelta(days=2)


def start(precision: str) -> "Accelerator":
    """Return this process's accelerator; join the group of processes if a launcher started several.

    Args:
        precision: "no", "bf16" or "fp16".

    Raises:
        UsageError: for a way of distributing that the loop does not know, or one that would change the arithmetic.
    """
    from accelerate import Accelerator, InitProcessGroupKwargs

    accelerator = Accelerator(
        # By default accelerate takes CPU processes of torchrun for one process each of many runs.
        cpu="LOCAL_RANK" in os.environ and not torch.cuda.is_available(),
        mixed_precision=precision,
        kwargs_handlers=[InitProcessGroupKwargs(timeout=TIMEOUT)],
    )
    kind = accelerator.distributed_type.value
    if kind not in ("NO", "MULTI_CPU", "MULTI_GPU", "FSDP"):
        raise UsageError(f"accelerate's configuration asks for {kind}; launch with plain processes or FSDP 2")
    if is_sharded(accelerator):
        check_sharding(precision)
    if (steps := accelerator.gradient_accumulation_steps) != 1:
        raise UsageError(
            f"accelerate's configuration asks for gradient_accumulation_steps {steps}; "
            "leave it at 1: --set train.micro_batch=N accumulates, and keeps train.batch_size"
        )
    return accelerator


def is_sharded(accelerator: "Accelerator") -> bool:
    """Return whether accelerate was launched with FSDP, so that parameters are spread over the processes."""
    # By the variable that accelerate's launcher sets, since accelerate itself reports FSDP on accelerators alone, and
    # the loop shards on CPU, too.
    return accelerator.num_processes > 1 and os.environ.get("ACCELERATE_USE_FSDP", "").lower() == "true"


def check_sharding(precision: str) -> None:
    """Refuse a configuration of FSDP, as accelerate passes it on, that the loop does not support.

    Raises:
        UsageError: for FSDP 1, offloading to CPU, or fp16.
    """
    if os.environ.get("FSDP_VERSION", "").lower() != "2":
        raise UsageError("accelerate's configuration asks for FSDP 1; set fsdp_version: 2 (--fsdp_version 2)")
    if os.environ.get("FSDP_OFFLOAD_PARAMS", "").lower() == "true":
        raise UsageError("accelerate's configuration asks for fsdp_offload_params, which the loop lacks; set it false")
    if precision == "fp16":
        raise UsageError("train.precision: fp16's loss scale would differ between processes under FSDP; use bf16")


def micro_batches(batch: Sequence[T], world: int, rank: int, largest: int) -> list[list[T]]:
    """Return this process's share of a batch, cut into micro-batches of at most `largest` rows.

    Every process gets equally many, since under FSDP all must call the model equally often; some are empty where the
    rows do not divide evenly.

    Args:
        batch: the rows of the whole batch.
        world: the number of processes.
        rank: the number of this one, from 0.
        largest: rows that fit into memory.
    """
    shares = np.array_split(np.arange(len(batch)), world)
    count = -(-len(shares[0]) // largest)  # the first share is never smaller than another
    return [[batch[i] for i in part] for part in np.array_split(shares[rank], count)]


def sum_over_processes(accelerator: "Accelerator", values: Sequence[float]) -> list[float]:
    """Return each of the numbers summed over all processes, in double precision."""
    if accelerator.num_processes == 1:
        return list(values)
    # In float64: float32 holds whole numbers up to 2**24 only, and tokens may be more.
    total = torch.tensor(values, dtype=torch.float64, device=accelerator.device)
    torch.distributed.all_reduce(total)
    out: list[float] = total.tolist()
    return out


def sum_gradients(accelerator: "Accelerator", parameters: Iterable[nn.Parameter]) -> None:
    """Replace each gradient by its sum over all processes; FSDP has summed its own during backward."""
    if accelerator.num_processes == 1 or is_sharded(accelerator):
        return
    pending = []
    for p in parameters:
        if p.grad is None:
            # The other processes would wait for ever for a sum that this one does not join.
            raise RuntimeError("a trained parameter has no gradient to sum")
        # The collective operations take contiguous tensors alone.
        p.grad = p.grad.contiguous()
        # All sums are started before the first is awaited, so that they overlap.
        pending.append(torch.distributed.all_reduce(p.grad, async_op=True))
    # Gradients may be read only once their sum has arrived.
    for work in pending:
        work.wait()


def agree(accelerator: "Accelerator", flag: bool) -> bool:
    """Return the first process's `flag` under FSDP, where all save together; otherwise each process's own."""
    if not is_sharded(accelerator):
        return flag
    return sum_over_processes(accelerator, [flag and accelerator.is_main_process]) != [0]


def gather_lists(accelerator: "Accelerator", values: list[T]) -> list[T]:
    """Return the lists of all processes, one after the other in the order of their ranks."""
    if accelerator.num_processes == 1:
        return values
    lists: list[list[T] | None] = [None] * accelerator.num_processes
    torch.distributed.all_gather_object(lists, values)
    return [value for part in lists if part is not None for value in part]


def run_on_first(accelerator: "Accelerator", work: Callable[[], T]) -> T:
    """Run `work` on the first process; return its value, or raise its UsageError or TrainingError, on all of them."""
    if accelerator.num_processes == 1:
        return work()
    outcome: list[T | UsageError | TrainingError | None] = [None]
    if accelerator.is_main_process:
        try:
            outcome[0] = work()
        # Any other error ends this process, and the launcher then ends the others, which wait here.
        except (UsageError, TrainingError) as error:
            outcome[0] = error
    torch.distributed.broadcast_object_list(outcome)
    value = outcome[0]
    if isinstance(value, (UsageError, TrainingError)):
        raise value
    return value  # type: ignore[return-value]  # None only where `work` returns it
