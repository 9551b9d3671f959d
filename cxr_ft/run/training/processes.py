"""What the processes of one run do together: each takes a share of every batch, the first one decides and writes.

Gradients are summed here, once a step, and not by DistributedDataParallel during backward: a process that runs out of
memory then leaves no other one waiting, and all can try the step again with fewer rows at a time.
"""

import os
from collections.abc import Callable, Iterable, Sequence
from datetime import timedelta
from typing import Any, TypeVar

import numpy as np
import torch
from torch import nn

from cxr_ft.errors import UsageError
from cxr_ft.run.training.divergence import TrainingError

T = TypeVar("T")
#: How long one process waits for another: the first one may decode, judge or save for hours. A launcher ends all when
#: one of them dies.
PATIENCE = timedelta(days=2)


def start(precision: str) -> Any:
    """The `accelerate.Accelerator` of this process, and the group of processes if a launcher started several.

    Raises:
        UsageError: for a way of distributing that the loop does not know, or one that would change the arithmetic.
    """
    from accelerate import Accelerator, InitProcessGroupKwargs

    accelerator = Accelerator(
        # Without being told, accelerate takes CPU processes of torchrun for one each of many runs.
        cpu="LOCAL_RANK" in os.environ and not torch.cuda.is_available(),
        mixed_precision=precision,
        kwargs_handlers=[InitProcessGroupKwargs(timeout=PATIENCE)],
    )
    kind = accelerator.distributed_type.value
    if kind not in ("NO", "MULTI_CPU", "MULTI_GPU", "FSDP"):
        raise UsageError(f"accelerate's configuration asks for {kind}; launch with plain processes or FSDP 2")
    if is_sharded(accelerator):
        check_sharding(precision)
    if (asked := accelerator.gradient_accumulation_steps) != 1:
        raise UsageError(
            f"accelerate's configuration asks for gradient_accumulation_steps {asked}; "
            "leave it at 1: --set train.micro_batch=N accumulates, and keeps train.batch_size"
        )
    return accelerator


def is_sharded(accelerator: Any) -> bool:
    """Whether the model's parameters are to be spread over the processes: accelerate was launched with FSDP."""
    return accelerator.num_processes > 1 and os.environ.get("ACCELERATE_USE_FSDP", "").lower() == "true"


def check_sharding(precision: str) -> None:
    """Refuse what of FSDP's configuration, as accelerate hands it on, the loop cannot do.

    Raises:
        UsageError: for FSDP 1, offloading to CPU, or fp16.
    """
    asked = {name: os.environ.get(f"FSDP_{name}", "false").lower() for name in ("OFFLOAD_PARAMS", "VERSION")}
    if asked["VERSION"] != "2":
        raise UsageError("accelerate's configuration asks for FSDP 1; set fsdp_version: 2 (--fsdp_version 2)")
    if asked["OFFLOAD_PARAMS"] == "true":
        raise UsageError("accelerate's configuration asks for fsdp_offload_params, which the loop lacks; set it false")
    if precision == "fp16":
        raise UsageError("train.precision: fp16's loss scale is not kept alike under FSDP; use bf16")


def parts(chosen: Sequence[T], world: int, rank: int, most: int) -> list[list[T]]:
    """This process's share of a batch, in parts of at most `most` rows, equally many on every process.

    Some are empty where the rows do not go round.
    """
    shares = np.array_split(np.arange(len(chosen)), world)
    count = -(-len(shares[0]) // most)  # the first share is never smaller than another
    return [[chosen[i] for i in part] for part in np.array_split(shares[rank], count)]


def summed(accelerator: Any, values: Sequence[float]) -> list[float]:
    """Numbers summed over all processes, in double precision."""
    if accelerator.num_processes == 1:
        return list(values)
    total = torch.tensor(values, dtype=torch.float64, device=accelerator.device)
    torch.distributed.all_reduce(total)
    out: list[float] = total.tolist()
    return out


def sum_gradients(accelerator: Any, trained: Iterable[nn.Parameter]) -> None:
    """Give every process the sum of all processes' gradients; FSDP has summed its own."""
    if accelerator.num_processes == 1 or is_sharded(accelerator):
        return
    waiting = []
    for p in trained:
        if p.grad is None:
            raise RuntimeError("a trained parameter has no gradient to sum")
        p.grad = p.grad.contiguous()
        waiting.append(torch.distributed.all_reduce(p.grad, async_op=True))
    for work in waiting:
        work.wait()


def first_says(accelerator: Any, what: bool) -> bool:
    """Under FSDP the first process's `what`, for all: they save together. Otherwise each one's own."""
    if not is_sharded(accelerator):
        return what
    return summed(accelerator, [what and accelerator.is_main_process]) != [0]


def gathered(accelerator: Any, mine: list[T]) -> list[T]:
    """The lists of all processes behind each other."""
    if accelerator.num_processes == 1:
        return mine
    lists: list[list[T] | None] = [None] * accelerator.num_processes
    torch.distributed.all_gather_object(lists, mine)
    return [item for one in lists if one is not None for item in one]


def by_first(accelerator: Any, work: Callable[[], T]) -> T:
    """What `work` gives on the first process, for all of them; its UsageError or TrainingError too."""
    if accelerator.num_processes == 1:
        return work()
    outcome: list[Any] = [None, None]
    if accelerator.is_main_process:
        try:
            outcome[0] = work()
        except (UsageError, TrainingError) as error:
            outcome[1] = error
    torch.distributed.broadcast_object_list(outcome)
    if outcome[1] is not None:
        raise outcome[1]
    value: T = outcome[0]
    return value
