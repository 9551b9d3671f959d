"""Train the head and the last n transformer blocks; everything below is frozen (0 blocks: the head alone)."""

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from cxr_ft.errors import UsageError
from cxr_ft.model.protocols import Base
from cxr_ft.model.tuning import _merge

if TYPE_CHECKING:
    from torch import nn

TRAINS = True
merge = _merge.unchanged


@dataclass(frozen=True, kw_only=True)
class Config:
    """Options of last_layers.

    Args:
        layers: number of blocks, from the output on, that are trained besides the head.
    """

    layers: int = field(default=1, metadata={"help": "number of trained blocks, from the output on"})
    lr: float = field(default=1e-3, metadata={"help": "peak learning rate"})


def apply(model: "nn.Module", base: Base, config: Config, new: tuple[str, ...]) -> "nn.Module":
    """Return `model` that trains the modules in `new` and the last blocks.

    Raises:
        UsageError: if there are fewer blocks, or nothing would be trained.
    """
    blocks = base.blocks(model)
    if not 0 <= config.layers <= len(blocks):
        raise UsageError(f"tuning.layers: {config.layers}; {base.name} has {len(blocks)} blocks")
    # Not `[-layers:]`, which is all blocks for 0.
    chosen = (*blocks[len(blocks) - config.layers :], *new)
    if not chosen:
        raise UsageError("tuning.layers: 0 trains nothing, since this task adds no head; give 1 or more")
    model.requires_grad_(False)
    for name in chosen:
        model.get_submodule(name).requires_grad_(True)
    return model
