"""Stop a training whose loss is no number or explodes, with the step, the rows and the last good checkpoint named.

The message is kept in the run's record, so it names rows by their numbers; their ids go to the run's log.
"""

import math
from collections.abc import Callable, Sequence

from cxr_ft.data.dataset.split_dataset import SplitDataset
from cxr_ft.data.manifest import FILES
from cxr_ft.errors import TrainingError
from cxr_ft.run.training import checkpoint

#: The loss explodes where its running mean passes FACTOR times the first step's loss, plus MARGIN nats. The first step
#: is that of the untouched model, so no run that learns comes near; MARGIN is for a first loss near zero. With DECAY
#: one hard batch among good ones moves the running mean by a tenth, and does not stop a run.
FACTOR, MARGIN, DECAY = 10.0, 1.0, 0.9
#: How many row numbers of a batch a message shows.
SHOWN_ROWS = 4


def check_loss(loss: float, state: checkpoint.LoopState, rows: Sequence[int], details: Callable[[], str] = str) -> None:
    """Update the running mean of `state` with a step's mean loss, in nats; called before the step changes a weight.

    Args:
        loss: of the batch.
        state: of the training.
        rows: the numbers of the batch's rows, see `SplitDataset.row_numbers`.
        details: returns what the run's log gets of the batch, see `describe_batch`.

    Raises:
        TrainingError: for a loss that is not finite or explodes, with step, rows and the last good checkpoint.
    """
    if not math.isfinite(loss):
        raise TrainingError(f"loss is {loss} {describe_step(state, rows)}; try a lower lr", details())
    # In the state, and so in the checkpoint: a resumed run is compared with its true first step, not with the step at
    # which it resumed.
    if state.first_loss is None:
        state.first_loss = state.recent_loss = loss
    state.recent_loss = DECAY * state.recent_loss + (1 - DECAY) * loss
    if state.recent_loss > FACTOR * state.first_loss + MARGIN:
        raise TrainingError(
            f"loss explodes: it is {loss:.4g}, about {state.recent_loss:.4g} of late, and began at "
            f"{state.first_loss:.4g}, {describe_step(state, rows)}; try a lower lr",
            details(),
        )


def describe_step(state: checkpoint.LoopState, rows: Sequence[int]) -> str:
    """Return the number of the step under way, the first rows of its batch, and the last good checkpoint."""
    word = "row" if len(rows) == 1 else "rows"
    place = f"at step {state.step + 1}, epoch {state.epoch + 1}, on {word} {shorten_rows(rows)} of {FILES['train']}"
    return f"{place}; {last_good_checkpoint(state)}"


def describe_batch(dataset: SplitDataset, places: Sequence[int]) -> str:
    """Return a line for each row of a batch, with its number and ids: for the run's own log."""
    ids = dataset.ids.iloc[list(places)].astype(str).to_dict("records")
    numbers = [dataset.row_numbers[place] for place in places]
    return "\n".join(
        f"row {number}: {', '.join(f'{name} {value}' for name, value in row.items())}"
        for number, row in zip(numbers, ids, strict=True)
    )


def last_good_checkpoint(state: checkpoint.LoopState) -> str:
    """Return the words for the checkpoint from which a further attempt would resume."""
    if not state.checkpoint_step:
        return "no checkpoint yet"
    return f"last good checkpoint: step {state.checkpoint_step}, in {checkpoint.FILE}"


def shorten_rows(rows: Sequence[int]) -> str:
    """Return the first SHOWN_ROWS numbers, and how many more there are."""
    more = len(rows) - SHOWN_ROWS
    return ", ".join(map(str, rows[:SHOWN_ROWS])) + (f" and {more} more" if more > 0 else "")
