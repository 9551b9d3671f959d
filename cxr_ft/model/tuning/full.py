"""Full fine-tuning: every parameter of the base and the head, or of chosen targets and the head."""

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from cxr_ft.model.protocols import Base
from cxr_ft.model.tuning import _merge
from cxr_ft.model.tuning._modules import names_of

if TYPE_CHECKING:
    from torch import nn

TRAINS = True
merge = _merge.unchanged


@dataclass(frozen=True, kw_only=True)
class Config:
    """Options of full fine-tuning.

    Args:
        targets: modules to train besides the head, in the language of `cxr_ft.model.targets`; None: everything.
    """

    targets: tuple[str, ...] | None = field(
        default=None, metadata={"help": "modules to train, as q,v or vision.attn (default: everything)"}
    )
    # A tenth of LoRA's: at rates that suit a product which begins at zero, the base's own weights lose what they know.
    lr: float = field(default=1e-4, metadata={"help": "peak learning rate"})


def apply(model: "nn.Module", base: Base, config: Config, new: tuple[str, ...]) -> "nn.Module":
    """Return `model` that trains everything, or the targets and the modules in `new`.

    Raises:
        UsageError: for a target that is unknown or hits nothing.
    """
    if config.targets is None:
        return model.requires_grad_(True)
    names = names_of(model, base, config.targets)
    model.requires_grad_(False)
    for name in (*names, *new):
        model.get_submodule(name).requires_grad_(True)
    return model
