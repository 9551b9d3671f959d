"""Estimate the seconds of a forecast step on this machine: its work over the machine's measured rates.

Three kinds of work are counted: products, bytes that are read and written, and the operations themselves, each of which
takes time to start however small it is. It is an estimate: kernels differ, and so does the machine's other load.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache

import torch

from cxr_ft.run.cost.step_forecast import StepForecast
from cxr_ft.run.features.feature_store import AUTOCAST

#: Factors that bound the true time. Measured over estimated seconds of a step: 0.76 to 1.06, for GITs on phantoms and a
#: ViT-S, in fp32 and bf16, on one idle CPU core; the loop around the steps takes time besides.
RANGE = (0.5, 2.0)
#: Seconds of each probe.
_PROBE = 0.12


@dataclass(frozen=True, kw_only=True)
class MachineRates:
    """Rates of this machine: `flops` a second, bytes `moved` a second, seconds to `start` an operation."""

    flops: float
    moved: float
    start: float


@cache
def rates(precision: str) -> MachineRates:
    """Measure this machine, once a process, in half a second; "bf16" and "fp16" in their own dtype."""
    device = "cuda" if torch.cuda.is_available() else "cpu"
    dtype = AUTOCAST[precision] or torch.float32
    # Small enough to finish within one time slice; shapes of a block's linear layers and of its attention heads.
    tall, square = (torch.rand(rows, 256, device=device, dtype=dtype) for rows in (512, 256))
    heads = torch.rand(8, 196, 64, device=device, dtype=dtype)
    few, cached, fresh = (torch.rand(numbers, device=device) for numbers in (8, 2**19, 2**24))
    # Timed from operands to a result in memory: this rate covers the bytes of products, which `moved` leaves out.
    flops = 2 * tall.numel() * 256 + 2 * heads.numel() * 196
    return MachineRates(
        flops=flops / (_seconds(lambda: tall @ square) + _seconds(lambda: heads @ heads.transpose(1, 2))),
        # A step's tensors are short-lived: about half of the bytes lie in the cache, half in fresh memory.
        moved=2 / (_moving(cached) + _moving(fresh)),
        # Autograd doubles the overhead of a bare operation.
        start=2 * _seconds(lambda: few + 1.0),
    )


def _moving(x: torch.Tensor) -> float:
    """Return the seconds to read or write a byte."""
    return _seconds(lambda: x + 1.0) / (2 * x.nbytes)


def seconds(step: StepForecast, machine: MachineRates) -> float:
    """Return the seconds of one step of the optimizer, over all its micro-batches."""
    return step.flops / machine.flops + step.moved / machine.moved + step.operations * machine.start


def _seconds(work: Callable[[], torch.Tensor]) -> float:
    """Return the least seconds of one call; on CPU this thread's own time, which other processes do not lengthen."""
    cuda = torch.cuda.is_available()
    clock = time.perf_counter if cuda else time.thread_time
    least, until = float("inf"), time.perf_counter() + _PROBE
    while least == float("inf") or time.perf_counter() < until:
        # The least of many calls: whatever else the machine does can only make one longer.
        start = clock()
        work()
        if cuda:
            torch.cuda.synchronize()
        least = min(least, clock() - start)
    return least
