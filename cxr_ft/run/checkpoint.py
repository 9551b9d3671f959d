"""Atomic checkpoints at the ends of epochs, and exact resume.

Order of rows, learning rate and dropout depend on seed and step alone, so going on from the last whole epoch gives the
weights of an unbroken run, wherever the run was stopped.
"""

import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import nn

from cxr_ft.files import atomic
from cxr_ft.model.protocols import trainable

FILE = "checkpoint.pt"


def _nothing_spent() -> dict[str, Any]:
    return {"train_seconds": 0.0, "eval_seconds": 0.0, "memory": {}}


@dataclass
class State:
    """Where training stands: epochs and steps done, history and cost so far, and the best epoch's weights."""

    epoch: int = 0
    step: int = 0
    history: list[dict[str, Any]] = field(default_factory=list)
    best: dict[str, torch.Tensor] = field(default_factory=dict)
    best_score: float = -math.inf
    cost: dict[str, Any] = field(default_factory=_nothing_spent)


def save(folder: Path, fingerprint: str, state: State, *, model: nn.Module, optimizer: Any, schedule: Any) -> None:
    """Write the checkpoint of a whole epoch: only what is trained, the optimizer, the random state and `state`."""
    content = {
        "fingerprint": fingerprint,
        "state": vars(state),
        "weights": {name: p.detach().cpu() for name, p in trainable(model).items()},
        "optimizer": optimizer.state_dict(),
        "schedule": schedule.state_dict(),
        "rng": torch.get_rng_state(),
        "cuda_rng": torch.cuda.get_rng_state_all() if torch.cuda.is_available() else [],
    }
    with atomic(folder / FILE) as temporary:
        torch.save(content, temporary)


def restore(folder: Path, fingerprint: str, *, model: nn.Module, optimizer: Any, schedule: Any) -> State | None:
    """Put back the last whole epoch of the same run, if there is one."""
    path = folder / FILE
    if not path.exists():
        return None
    content = torch.load(path, map_location="cpu", weights_only=True)
    if content["fingerprint"] != fingerprint:
        return None
    with torch.no_grad():
        for name, p in trainable(model).items():
            p.copy_(content["weights"][name])
    optimizer.load_state_dict(content["optimizer"])
    schedule.load_state_dict(content["schedule"])
    torch.set_rng_state(content["rng"])
    if content["cuda_rng"]:
        torch.cuda.set_rng_state_all(content["cuda_rng"])
    return State(**content["state"])


def remove(folder: Path) -> None:
    """A finished run needs no checkpoint."""
    (folder / FILE).unlink(missing_ok=True)
