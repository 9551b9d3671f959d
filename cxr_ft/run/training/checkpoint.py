"""Atomic checkpoints at the ends of epochs and every ten minutes within them, and exact resume.

Order of rows, learning rate and dropout depend on seed and step alone: going on from any step gives the weights of an
unbroken run to the bit, wherever and however often the run was stopped.
"""

import math
import shutil
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import nn

from cxr_ft.errors import UsageError
from cxr_ft.files import atomic
from cxr_ft.model.protocols import trainable

FILE = "checkpoint.pt"
#: Seconds between checkpoints within an epoch: what a kill can cost at most.
EVERY = 600.0
#: Of what is in the file; another version's file is not guessed at.
FORMAT = 2
#: What a run writes under a temporary name first.
_WRITTEN = (FILE, "result.json", "config.yaml", "history.jsonl", "predictions.parquet", "model")


def _nothing_spent() -> dict[str, Any]:
    return {"train_seconds": 0.0, "eval_seconds": 0.0, "memory": {}}


@dataclass
class LoopState:
    """Where training stands.

    Args:
        epoch: epochs trained and judged.
        step: steps of the optimizer.
        loss, counted: of the epoch under way: sum of the losses, and how many things counted.
        micro: rows a forward; fewer than asked once memory ran out.
        first_loss, level: the first step's mean loss, and where it is of late.
        saved: the step of the last checkpoint; 0 for none.
        history: one dict an epoch.
        best, best_score: weights of the epoch that was best on val.
        cost: so far.
    """

    epoch: int = 0
    step: int = 0
    loss: float = 0.0
    counted: int = 0
    micro: int = 0
    first_loss: float | None = None
    level: float = 0.0
    saved: int = 0
    history: list[dict[str, Any]] = field(default_factory=list)
    best: dict[str, torch.Tensor] = field(default_factory=dict)
    best_score: float = -math.inf
    cost: dict[str, Any] = field(default_factory=_nothing_spent)


def changing(model: nn.Module) -> dict[str, torch.Tensor]:
    """What training changes, by name: trained parameters, and buffers such as running means."""
    return {**trainable(model), **dict(model.named_buffers())}


def save(folder: Path, fingerprint: str, state: LoopState, trained: dict[str, Any]) -> None:
    """Write the checkpoint; `trained` holds the states of weights, optimizer, schedule and scaler."""
    state.saved = state.step
    with atomic(folder / FILE) as temporary:
        torch.save({"format": FORMAT, "fingerprint": fingerprint, "state": vars(state), **trained}, temporary)


def read(folder: Path, fingerprint: str) -> dict[str, Any] | None:
    """The last checkpoint of this very run, on CPU, as `save` took it, its state a `State`; None where there is none.

    Raises:
        UsageError: for the checkpoint of another run or another version.
    """
    path = folder / FILE
    if not path.exists():
        return None
    content: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
    if content.get("format") != FORMAT:
        raise UsageError(f"{path} was written by another version of cxr_ft; remove it to train from the start")
    if content["fingerprint"] != fingerprint:
        raise UsageError(f"{path} belongs to another run; choose another --out, or remove it")
    content["state"] = LoopState(**content["state"])
    return content


def sweep(folder: Path) -> None:
    """Remove what killed processes left half-written. Only whoever holds the folder's lock may call it."""
    for name in _WRITTEN:
        for path in folder.glob(f".{name}.*"):
            if path.is_dir():
                shutil.rmtree(path)
            else:
                path.unlink()


def remove(folder: Path) -> None:
    """A finished run needs no checkpoint."""
    (folder / FILE).unlink(missing_ok=True)
