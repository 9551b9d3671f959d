"""Full fine-tuning: every parameter of the base and the head."""

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from cxr_ft.model.protocols import Base

if TYPE_CHECKING:
    from torch import nn

NEW_PARAMETERS = True


@dataclass(frozen=True, kw_only=True)
class Config:
    """Options of full fine-tuning."""

    lr: float = field(default=1e-4, metadata={"help": "peak learning rate"})


def apply(model: "nn.Module", base: Base, config: Config, new: tuple[str, ...]) -> "nn.Module":
    """Everything is trained."""
    return model.requires_grad_(True)
