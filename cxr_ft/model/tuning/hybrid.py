"""LoRA on the lower blocks, full training of the last n blocks and the head.

By PEFT alone, so that the saved model is one PEFT folder: fully trained modules are its `modules_to_save`.
"""

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from cxr_ft.errors import UsageError
from cxr_ft.model.protocols import Base
from cxr_ft.model.tuning import _merge
from cxr_ft.model.tuning._modules import adapted, check_rank, names_of
from cxr_ft.model.tuning._options import LowRankOptions

if TYPE_CHECKING:
    from torch import nn

TRAINS = True
PEFT_FOLDER = True
merge = _merge.merge_peft


@dataclass(frozen=True, kw_only=True)
class Config(LowRankOptions):
    """Options of hybrid, after those of every low-rank method.

    Args:
        layers: number of blocks, from the output on, that are trained fully; targets in them get no product.
    """

    layers: int = field(default=1, metadata={"help": "number of fully trained blocks, from the output on"})


def apply(model: "nn.Module", base: Base, config: Config, new: tuple[str, ...]) -> "nn.Module":
    """Return `model` with LoRA on the targets below the last blocks, and those blocks trained fully.

    Raises:
        UsageError: for a target that is unknown or hits nothing below the last blocks, or if there are fewer blocks.
    """
    from peft import LoraConfig

    blocks = base.blocks(model)
    if not 1 <= config.layers < len(blocks):
        raise UsageError(
            f"tuning.layers: {config.layers}; {base.name} has {len(blocks)} blocks: hybrid trains 1 to "
            f"{len(blocks) - 1} of them fully (for 0 use lora, for all full)"
        )
    # With the dot, so that block 1 is not taken for the beginning of block 10.
    above = tuple(f"{name}." for name in blocks[-config.layers :])
    names = [name for name in names_of(model, base, config.targets) if not name.startswith(above)]
    check_rank(model, names, config.rank)
    if not names:
        raise UsageError(f"tuning.targets: {','.join(config.targets)} lie only in the blocks that are trained fully")
    # The modules that own parameters, not the blocks: code that reads a block's attributes would meet PEFT's wrapper.
    fully = [n for n, module in model.named_modules() if n.startswith(above) and list(module.parameters(recurse=False))]
    lora = LoraConfig(
        r=config.rank,
        lora_alpha=config.numerator,
        lora_dropout=config.dropout,
        target_modules=names,
        modules_to_save=[*fully, *new],
    )
    return adapted(model, lora, names)
