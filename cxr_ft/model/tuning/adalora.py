"""AdaLoRA (Zhang et al., arXiv 2303.10512) by PEFT: products with singular values; the least important are taken away.

All targets begin with `start` products; when three tenths of the steps are left, there are `rank` a target on average,
more where they matter more.
"""

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from cxr_ft.errors import UsageError
from cxr_ft.model.protocols import Base
from cxr_ft.model.tuning._modules import adapted, matrices_of
from cxr_ft.model.tuning._options import LowRankOptions

if TYPE_CHECKING:
    from torch import nn

    from cxr_ft.model.tuning._allocation import Allocation

TRAINS = True


@dataclass(frozen=True, kw_only=True)
class Config(LowRankOptions):
    """Options of AdaLoRA, after those of every low-rank method, of which `rank` is the average at the end.

    Args:
        start: products of each target at the beginning; None: 1.5 * rank, as in the paper.
        orthogonal: weight of the penalty on vectors that are not orthogonal.
    """

    # Above LoRA's: three factors that are all small at first have to grow for their product to.
    lr: float = field(default=5e-3, metadata={"help": "peak learning rate; above LoRA's"})
    start: int | None = field(default=None, metadata={"help": "rank at the beginning (default: 1.5 * rank)"})
    orthogonal: float = field(default=0.1, metadata={"help": "weight of the penalty on vectors not orthogonal"})

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.first <= self.rank:
            raise UsageError(f"tuning.start: {self.first}; it must be above rank ({self.rank}), to which it goes down")
        if self.orthogonal < 0:
            raise UsageError(f"tuning.orthogonal: {self.orthogonal}; give 0 or more")

    @property
    def first(self) -> int:
        """Products of each target at the beginning."""
        return max(self.rank + 1, self.rank * 3 // 2) if self.start is None else self.start


def apply(model: "nn.Module", base: Base, config: Config, new: tuple[str, ...]) -> "nn.Module":
    """`model` with products beside exactly the linear layers the targets mean.

    Raises:
        UsageError: for a target that is unknown, hits nothing, or is no linear layer.
    """
    from peft import AdaLoraConfig

    from cxr_ft.model.tuning import _allocation

    names = matrices_of(model, base, config.targets, "adalora")
    adalora = AdaLoraConfig(
        init_r=config.first,
        target_r=config.rank,
        lora_alpha=config.numerator,
        lora_dropout=config.dropout,
        orth_reg_weight=config.orthogonal,
        total_step=1,  # `callback` knows it
        target_modules=names,
        modules_to_save=list(new) or None,
    )
    out = adapted(model, adalora, names)
    _allocation.remember(out)
    return out


def callback(model: "nn.Module", steps: int) -> "Allocation":
    """Return what a training of `steps` steps calls around each step of the optimizer."""
    from cxr_ft.model.tuning._allocation import Allocation

    return Allocation(model, steps)
