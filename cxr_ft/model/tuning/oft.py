"""OFT (Qiu et al., arXiv 2306.07280) by PEFT: each target's input is rotated, block by block, by a learnt rotation."""

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from cxr_ft.errors import UsageError
from cxr_ft.model.protocols import Base
from cxr_ft.model.tuning import _merge
from cxr_ft.model.tuning._modules import adapted, is_transposed, matrices_of, widths
from cxr_ft.model.tuning._options import at_least_one

if TYPE_CHECKING:
    from torch import nn

TRAINS = True
PEFT_FOLDER = True
merge = _merge.merge_peft


@dataclass(frozen=True, kw_only=True)
class Config:
    """Options of OFT.

    Args:
        targets: target modules, in the language of `cxr_ft.model.targets`.
        block: number of channels that are rotated together; it must divide each target's number of inputs.
    """

    targets: tuple[str, ...] = field(default=("q", "v"), metadata={"help": "target modules, as q,v or vision.attn"})
    block: int = field(default=32, metadata={"help": "number of channels that are rotated together"})
    lr: float = field(default=1e-3, metadata={"help": "peak learning rate; LoRA's"})

    def __post_init__(self) -> None:
        # Two or more: the only rotation of a single channel is the identity.
        at_least_one("block", self.block - 1)


def apply(model: "nn.Module", base: Base, config: Config, new: tuple[str, ...]) -> "nn.Module":
    """Return `model` with rotations, by Cayley's exact formula, on exactly the modules that the targets mean.

    Raises:
        UsageError: for a target that is unknown, hits nothing, is no linear layer, or has another number of inputs.
    """
    from peft import OFTConfig

    names = matrices_of(model, base, config.targets, "oft")
    for name in names:
        layer = model.get_submodule(name)
        if is_transposed(layer):
            kind = type(layer).__name__
            raise UsageError(f"oft cannot rotate {name} of {base.name}, a {kind}; use lora, vera or adapter")
        inputs, _ = widths(layer)
        # PEFT would choose another block size by itself, and the run would not be the configured one.
        if inputs % config.block:
            raise UsageError(f"tuning.block: {config.block} does not divide the {inputs} inputs of {name}")
    oft = OFTConfig(
        oft_block_size=config.block,
        # PEFT's truncated series would give only an approximate rotation.
        use_cayley_neumann=False,
        target_modules=names,
        modules_to_save=list(new) or None,
    )
    return adapted(model, oft, names)
