"""VeRA (Kopiczko et al., arXiv 2310.11454) by PEFT: shared random matrices, and two learnt vectors for each target."""

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from cxr_ft.model.protocols import Base
from cxr_ft.model.tuning import _merge
from cxr_ft.model.tuning._modules import adapted, matrices_of
from cxr_ft.model.tuning._options import at_least_one, probability

if TYPE_CHECKING:
    from torch import nn

TRAINS = True
PEFT_FOLDER = True
merge = _merge.merge_peft


@dataclass(frozen=True, kw_only=True)
class Config:
    """Options of VeRA.

    Args:
        targets: target modules, in the language of `cxr_ft.model.targets`.
        rank: of the shared matrices; higher than LoRA's, since it costs one trained number for each target.
        dropout: rate on the product's input, in [0, 1).
    """

    targets: tuple[str, ...] = field(default=("q", "v"), metadata={"help": "target modules, as q,v or vision.attn"})
    rank: int = field(default=256, metadata={"help": "rank of the shared matrices"})
    dropout: float = field(default=0.0, metadata={"help": "dropout rate on the product's input"})
    lr: float = field(default=5e-3, metadata={"help": "peak learning rate; above LoRA's, as in the paper"})

    def __post_init__(self) -> None:
        at_least_one("rank", self.rank)
        probability("dropout", self.dropout)


def apply(model: "nn.Module", base: Base, config: Config, new: tuple[str, ...]) -> "nn.Module":
    """Return `model` with VeRA on exactly the modules that the targets mean; the shared matrices are saved too.

    Raises:
        UsageError: for a target that is unknown, hits nothing, or is no linear layer.
    """
    from peft import VeraConfig

    names = matrices_of(model, base, config.targets, "vera")
    # PEFT saves the shared matrices by default. Drawn again from their seed they could differ on another machine.
    vera = VeraConfig(
        r=config.rank, vera_dropout=config.dropout, target_modules=names, modules_to_save=list(new) or None
    )
    return adapted(model, vera, names)
