"""LoRA below, full training above: low-rank products on the targets, and the last n blocks and the head trained fully.

By PEFT alone, so that the artefact is one PEFT folder: what is trained fully are its `modules_to_save`.
"""

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from cxr_ft.errors import UsageError
from cxr_ft.model.protocols import Base
from cxr_ft.model.tuning._modules import adapted, names_of
from cxr_ft.model.tuning._options import LowRankOptions

if TYPE_CHECKING:
    from torch import nn

TRAINS = True


@dataclass(frozen=True, kw_only=True)
class Config(LowRankOptions):
    """Options of hybrid, after those of every low-rank method.

    Args:
        layers: how many blocks from the output on are trained fully; targets in them get no product.
    """

    layers: int = field(default=1, metadata={"help": "blocks trained fully, from the output on"})


def apply(model: "nn.Module", base: Base, config: Config, new: tuple[str, ...]) -> "nn.Module":
    """`model` with LoRA on the targets below the last blocks, and those blocks trained.

    Raises:
        UsageError: for a target that is unknown or hits nothing below the last blocks, or where there are not so many.
    """
    from peft import LoraConfig

    blocks = base.blocks(model)
    if not 1 <= config.layers < len(blocks):
        raise UsageError(
            f"tuning.layers: {config.layers}; {base.name} has {len(blocks)} blocks: hybrid trains 1 to "
            f"{len(blocks) - 1} of them fully (for 0 use lora, for all full)"
        )
    above = tuple(f"{name}." for name in blocks[-config.layers :])
    names = [name for name in names_of(model, base, config.targets) if not name.startswith(above)]
    if not names:
        raise UsageError(f"tuning.targets: {','.join(config.targets)} lie in the blocks that are trained fully alone")
    # The modules that own parameters, not the blocks, since PEFT's wrapper would stand between a block and its reader.
    whole = [n for n, module in model.named_modules() if n.startswith(above) and list(module.parameters(recurse=False))]
    lora = LoraConfig(
        r=config.rank,
        lora_alpha=config.numerator,
        lora_dropout=config.dropout,
        target_modules=names,
        modules_to_save=[*whole, *new],
    )
    return adapted(model, lora, names)
