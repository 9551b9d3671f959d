"""Train the normalisation layers of the base, and the head; everything else is frozen."""

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from cxr_ft.model.protocols import Base
from cxr_ft.model.tuning import _merge

if TYPE_CHECKING:
    from torch import nn

TRAINS = True
merge = _merge.unchanged


@dataclass(frozen=True, kw_only=True)
class Config:
    """Options of norms."""

    lr: float = field(default=1e-3, metadata={"help": "peak learning rate"})


def apply(model: "nn.Module", base: Base, config: Config, new: tuple[str, ...]) -> "nn.Module":
    """Return `model` that trains its normalisation layers and the modules in `new`."""
    model.requires_grad_(False)
    for name, module in model.named_modules():
        if name in new or "norm" in type(module).__name__.lower():
            module.requires_grad_(True)
    return model
