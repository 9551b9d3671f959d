"""No training at all: the base answers as it is, without a head of its own. What every method has to beat."""

from dataclasses import dataclass
from typing import TYPE_CHECKING

from cxr_ft.model.protocols import Base

if TYPE_CHECKING:
    from torch import nn

TRAINS = False


@dataclass(frozen=True, kw_only=True)
class Config:
    """zero_shot has no options."""


def apply(model: "nn.Module", base: Base, config: Config, new: tuple[str, ...]) -> "nn.Module":
    """Nothing is trained."""
    return model.requires_grad_(False)
