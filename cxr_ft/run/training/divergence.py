"""Stop a training whose loss is no number or explodes, with the step, the rows and the last good checkpoint named."""

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

from cxr_ft.errors import TrainingError
from cxr_ft.run.training import checkpoint

if TYPE_CHECKING:
    import pandas as pd

#: The loss explodes where its running mean passes FACTOR times the first step's loss, plus MARGIN nats. The first step
#: is that of the untouched model, so no run that learns comes near; MARGIN is for a first loss near zero. With DECAY
#: one hard batch among good ones moves the running mean by a tenth, and does not stop a run.
FACTOR, MARGIN, DECAY = 10.0, 1.0, 0.9
#: How many ids of a batch a message shows.
SHOWN_IDS = 4


def check_loss(loss: float, state: checkpoint.LoopState, ids: "pd.Series[str]") -> None:
    """Update the running mean of `state` with a step's mean loss, in nats; called before the step changes a weight.

    Raises:
        TrainingError: for a loss that is not finite or explodes, with step, dicom_ids and the last good checkpoint.
    """
    if not math.isfinite(loss):
        raise TrainingError(f"loss is {loss} {describe_step(state, ids)}; try a lower lr")
    # In the state, and so in the checkpoint: a resumed run is compared with its true first step, not with the step at
    # which it resumed.
    if state.first_loss is None:
        state.first_loss = state.recent_loss = loss
    state.recent_loss = DECAY * state.recent_loss + (1 - DECAY) * loss
    if state.recent_loss > FACTOR * state.first_loss + MARGIN:
        raise TrainingError(
            f"loss explodes: it is {loss:.4g}, about {state.recent_loss:.4g} of late, and began at "
            f"{state.first_loss:.4g}, {describe_step(state, ids)}; try a lower lr"
        )


def describe_step(state: checkpoint.LoopState, ids: "pd.Series[str]") -> str:
    """Return the number of the step under way, the first dicom_ids of its batch, and the last good checkpoint."""
    place = f"at step {state.step + 1}, epoch {state.epoch + 1}, on dicom_id {shorten_ids(list(ids))}"
    return f"{place}; {last_good_checkpoint(state)}"


def last_good_checkpoint(state: checkpoint.LoopState) -> str:
    """Return the words for the checkpoint from which a further attempt would resume."""
    if not state.checkpoint_step:
        return "no checkpoint yet"
    return f"last good checkpoint: step {state.checkpoint_step}, in {checkpoint.FILE}"


def shorten_ids(ids: Sequence[str]) -> str:
    """Return the first SHOWN_IDS ids, and how many more there are."""
    more = len(ids) - SHOWN_IDS
    return ", ".join(map(str, ids[:SHOWN_IDS])) + (f" and {more} more" if more > 0 else "")
