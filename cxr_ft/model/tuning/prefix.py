"""Prefix tuning (Li and Liang, arXiv 2101.00190) by PEFT: learnt keys and values in front of the text, in each layer.

Without the paper's reparametrisation; they begin at zero.
"""

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from cxr_ft.model.protocols import Base
from cxr_ft.model.tuning._prompts import check_tokens, prompted

if TYPE_CHECKING:
    from torch import nn

NEW_PARAMETERS = True
NEEDS_TEXT = True


@dataclass(frozen=True, kw_only=True)
class Config:
    """Options of prefix tuning.

    Args:
        tokens: for how many tokens keys and values are learnt.
    """

    tokens: int = field(default=16, metadata={"help": "learnt tokens in front of the text"})
    lr: float = field(default=1e-2, metadata={"help": "peak learning rate; that of PEFT's examples"})

    def __post_init__(self) -> None:
        check_tokens(self.tokens)


def apply(model: "nn.Module", base: Base, config: Config, new: tuple[str, ...]) -> "nn.Module":
    """`model` with learnt keys and values in the text tower's layers; the head is trained too.

    Raises:
        UsageError: where the model reads no text.
    """
    from peft import PrefixTuningConfig

    return prompted(
        model, base, PrefixTuningConfig(num_virtual_tokens=config.tokens, init_weights="zero"), new, "prefix"
    )
