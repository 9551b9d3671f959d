"""LoRA (Hu et al., arXiv 2106.09685) by PEFT: a low-rank product beside each target; the head is trained fully."""

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from cxr_ft.errors import UsageError
from cxr_ft.model.protocols import Base
from cxr_ft.model.targets import resolve

if TYPE_CHECKING:
    from torch import nn

NEW_PARAMETERS = True


@dataclass(frozen=True, kw_only=True)
class Config:
    """Options of LoRA.

    Args:
        targets: target modules, in the language of `cxr_ft.model.targets`.
        rank: r, the width of the product.
        alpha: the product is scaled by alpha / rank; None: 2 * rank.
        dropout: on the product's input, in [0, 1).
    """

    targets: tuple[str, ...] = field(default=("q", "v"), metadata={"help": "target modules, as q,v or vision.attn"})
    rank: int = field(default=8, metadata={"help": "rank of the product"})
    alpha: float | None = field(default=None, metadata={"help": "scale times rank (default: 2 * rank)"})
    dropout: float = field(default=0.0, metadata={"help": "dropout on the product's input"})
    lr: float = field(default=1e-3, metadata={"help": "peak learning rate"})

    def __post_init__(self) -> None:
        if self.rank < 1:
            raise UsageError(f"tuning.rank: {self.rank}; a rank is 1 or more")
        if not 0 <= self.dropout < 1:
            raise UsageError(f"tuning.dropout: {self.dropout}; give a number from 0 to below 1")


def apply(model: "nn.Module", base: Base, config: Config, new: tuple[str, ...]) -> "nn.Module":
    """`model` with LoRA on exactly the modules the targets mean.

    Raises:
        UsageError: for a target that is unknown or hits nothing.
    """
    from peft import LoraConfig, get_peft_model

    names = resolve(config.targets, (name for name, _ in model.named_modules()), base.targets, base.family)
    lora = LoraConfig(
        r=config.rank,
        lora_alpha=2 * config.rank if config.alpha is None else config.alpha,
        lora_dropout=config.dropout,
        target_modules=names,
        modules_to_save=list(new) or None,
    )
    peft_model: Any = get_peft_model(model, lora)
    hit = sorted(peft_model.base_model.targeted_module_names)
    # PEFT matches by suffix; full names match themselves alone, unless a model nests one in another.
    if hit != sorted(names):
        raise RuntimeError(f"PEFT adapted {len(hit)} modules where {len(names)} were meant: {set(hit) ^ set(names)}")
    out: nn.Module = peft_model
    return out
