"""Train nothing: the base predicts as it is, without a head. A baseline for every method."""

from dataclasses import dataclass
from typing import TYPE_CHECKING

from cxr_ft.model.protocols import Base

if TYPE_CHECKING:
    from torch import nn

TRAINS = False
MERGE_OBSTACLE = "nothing is trained, so there is nothing to export: the base is the model"


@dataclass(frozen=True, kw_only=True)
class Config:
    """zero_shot has no options."""


def apply(model: "nn.Module", base: Base, config: Config, new: tuple[str, ...]) -> "nn.Module":
    """Return `model` with no gradients required."""
    return model.requires_grad_(False)
