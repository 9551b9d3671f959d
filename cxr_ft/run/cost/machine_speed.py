"""How long a predicted step takes on this machine: what it does, over how fast the machine does such things.

Three kinds of work are told apart: products, numbers that are only read and written, and the operations themselves,
whose start costs time however small they are. It is an estimate: kernels differ, and so does what else the
machine does.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache

import torch

from cxr_ft.run.cost.step_forecast import StepForecast
from cxr_ft.run.features.feature_store import AUTOCAST

#: What a step took over the estimate lay in this range for GITs on phantoms and a ViT-S, in fp32 and bf16, on one CPU
#: core left alone: 0.76 to 1.06 times it, and the loop around the steps takes time too.
RANGE = (0.5, 2.0)
#: Seconds each probe takes.
_PROBE = 0.12


@dataclass(frozen=True, kw_only=True)
class MachineRates:
    """Of this machine: products' operations a second, bytes a second, seconds an operation."""

    flops: float
    moved: float
    start: float


@cache
def rates(precision: str) -> MachineRates:
    """Measured in half a second, once a process; "bf16" and "fp16" in their own dtype."""
    device = "cuda" if torch.cuda.is_available() else "cpu"
    dtype = AUTOCAST[precision] or torch.float32
    # Short enough to be done between two turns of whatever else runs; shapes as a block has them, large and in heads.
    tall, square = (torch.rand(rows, 256, device=device, dtype=dtype) for rows in (512, 256))
    heads = torch.rand(8, 196, 64, device=device, dtype=dtype)
    few, cached, fresh = (torch.rand(numbers, device=device) for numbers in (8, 2**19, 2**24))
    flops = 2 * tall.numel() * 256 + 2 * heads.numel() * 196
    return MachineRates(
        flops=flops / (_seconds(lambda: tall @ square) + _seconds(lambda: heads @ heads.transpose(1, 2))),
        # A step's tensors come and go: about half of what it moves lies in the cache, half in memory that is new.
        moved=2 / (_moving(cached) + _moving(fresh)),
        # With a gradient to come, as in training: twice the bookkeeping of a bare operation.
        start=2 * _seconds(lambda: few + 1.0),
    )


def _moving(x: torch.Tensor) -> float:
    """Seconds to read or write a byte."""
    return _seconds(lambda: x + 1.0) / (2 * x.nbytes)


def seconds(prediction: StepForecast, machine: MachineRates) -> float:
    """Of one step of the optimizer, all its parts together."""
    return prediction.flops / machine.flops + prediction.moved / machine.moved + prediction.operations * machine.start


def _seconds(work: Callable[[], torch.Tensor]) -> float:
    """The least time of one call; on CPU this thread's own time, which others on the machine do not lengthen."""
    cuda = torch.cuda.is_available()
    clock = time.perf_counter if cuda else time.thread_time
    least, until = float("inf"), time.perf_counter() + _PROBE
    while least == float("inf") or time.perf_counter() < until:
        start = clock()
        work()
        if cuda:
            torch.cuda.synchronize()
        least = min(least, clock() - start)
    return least
