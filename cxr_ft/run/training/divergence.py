"""When training must stop: a loss that is no number, or one that left for good; and how memory's end is told."""

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch

from cxr_ft.run.training import checkpoint

if TYPE_CHECKING:
    import pandas as pd

#: The loss explodes where its running level passes this many times the first step's, plus one nat. The first step is
#: the untouched model's, so no run that learns comes near; one hard batch among good ones moves the level by a tenth.
FACTOR, MARGIN, DECAY = 10.0, 1.0, 0.9
#: So many ids of a batch are named.
NAMED = 4
#: How CPU allocators and CUDA's libraries say it, where they have no error of their own.
_NO_MEMORY = ("can't allocate memory", "not enough memory", "ALLOC_FAILED")


class TrainingError(Exception):
    """Training cannot go on: one line that says where and why. The run is recorded as failed."""


def out_of_memory(error: Exception) -> bool:
    """Whether memory ran out, on CUDA or on CPU."""
    plain = isinstance(error, (torch.OutOfMemoryError, MemoryError))
    return plain or any(words in str(error) for words in _NO_MEMORY)


def watch(loss: float, state: checkpoint.LoopState, ids: "pd.Series[str]") -> None:
    """Take note of a step's mean loss, in nats, before its update.

    Raises:
        TrainingError: for a loss that is not finite or explodes, naming the step, rows and the last good checkpoint.
    """
    if not math.isfinite(loss):
        raise TrainingError(f"loss is {loss} {where(state, ids)}; try a lower lr")
    if state.first_loss is None:
        state.first_loss = state.level = loss
    state.level = DECAY * state.level + (1 - DECAY) * loss
    if state.level > FACTOR * state.first_loss + MARGIN:
        raise TrainingError(
            f"loss explodes: it is {loss:.4g}, about {state.level:.4g} of late, and began at {state.first_loss:.4g}, "
            f"{where(state, ids)}; try a lower lr"
        )


def where(state: checkpoint.LoopState, ids: "pd.Series[str]") -> str:
    """The step under way, the first dicom_ids of its batch, and the checkpoint to go on from."""
    return f"at step {state.step + 1}, epoch {state.epoch + 1}, on dicom_id {named(list(ids))}; {last_good(state)}"


def last_good(state: checkpoint.LoopState) -> str:
    """Which checkpoint a further try would go on from."""
    if not state.saved:
        return "no checkpoint yet"
    return f"last good checkpoint: step {state.saved}, in {checkpoint.FILE}"


def named(ids: Sequence[str]) -> str:
    """A few ids, and how many more there are."""
    more = len(ids) - NAMED
    return ", ".join(map(str, ids[:NAMED])) + (f" and {more} more" if more > 0 else "")
