"""(IA)3 (Liu et al., arXiv 2205.05638) by PEFT: learnt factors on channels of keys, values and the MLP's inside."""

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from cxr_ft.model.protocols import Base
from cxr_ft.model.tuning import _merge
from cxr_ft.model.tuning._modules import adapted, names_of

if TYPE_CHECKING:
    from torch import nn

TRAINS = True
PEFT_FOLDER = True
merge = _merge.merge_peft


@dataclass(frozen=True, kw_only=True)
class Config:
    """Options of (IA)3.

    Args:
        targets: target modules, in the language of `cxr_ft.model.targets`. Those of `down` are scaled at their inputs,
            all others at their outputs.
    """

    # The paper's three places; the inside of an MLP is the input of its `down`.
    targets: tuple[str, ...] = field(default=("k", "v", "down"), metadata={"help": "target modules, as k,v,down"})
    lr: float = field(default=3e-3, metadata={"help": "peak learning rate; the paper's"})


def apply(model: "nn.Module", base: Base, config: Config, new: tuple[str, ...]) -> "nn.Module":
    """Return `model` with factors, all 1 at the start, on exactly the modules that the targets mean.

    Raises:
        UsageError: for a target that is unknown or hits nothing.
    """
    from peft import IA3Config

    names = names_of(model, base, config.targets)
    # PEFT cannot see from a full name which modules are scaled at their inputs.
    ends = set(names_of(model, base, ("down",))) if any("down" in roles for roles in base.targets.values()) else set()
    ia3 = IA3Config(
        target_modules=names,
        feedforward_modules=[name for name in names if name in ends],
        modules_to_save=list(new) or None,
    )
    return adapted(model, ia3, names)
