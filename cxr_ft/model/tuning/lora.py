"""LoRA (Hu et al., arXiv 2106.09685) by PEFT: a low-rank product added to each target; the head is trained fully.

With options: DoRA (Liu et al., arXiv 2402.09353), rsLoRA (Kalajdzievski, arXiv 2312.03732), PiSSA (Meng et al.,
arXiv 2404.02948).
"""

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from cxr_ft.model.protocols import Base
from cxr_ft.model.tuning import _merge
from cxr_ft.model.tuning._modules import adapted, check_rank, has_values, matrices_of, names_of
from cxr_ft.model.tuning._options import LowRankOptions

if TYPE_CHECKING:
    from torch import nn

TRAINS = True
PEFT_FOLDER = True
merge = _merge.merge_peft


@dataclass(frozen=True, kw_only=True)
class Config(LowRankOptions):
    """Options of LoRA, after those of every low-rank method; the last three may be combined.

    Args:
        dora: also train the norm of each output row of the weight, separately from its direction.
        rslora: scale by alpha / sqrt(rank), so that a high rank learns as fast as a low one.
        pissa: start from the weight's largest singular vectors, and freeze the rest of the weight.
    """

    dora: bool = field(default=False, metadata={"help": "train magnitudes separately from directions (true or false)"})
    rslora: bool = field(default=False, metadata={"help": "scale by alpha / sqrt(rank) (true or false)"})
    pissa: bool = field(default=False, metadata={"help": "start from the largest singular vectors (true or false)"})


def apply(model: "nn.Module", base: Base, config: Config, new: tuple[str, ...]) -> "nn.Module":
    """Return `model` with LoRA on exactly the modules that the targets mean.

    Raises:
        UsageError: for a target that is unknown or hits nothing, a rank above a matrix's, and PiSSA on a convolution.
    """
    from peft import LoraConfig

    # The weight of a convolution is no matrix and has no singular vectors. A plan has shapes alone, without singular
    # vectors too: for it LoRA's own start has the same shapes.
    if config.pissa:
        names = matrices_of(model, base, config.targets, "lora with pissa")
    else:
        names = names_of(model, base, config.targets)
    check_rank(model, names, config.rank)
    lora = LoraConfig(
        r=config.rank,
        lora_alpha=config.numerator,
        lora_dropout=config.dropout,
        use_dora=config.dora,
        use_rslora=config.rslora,
        init_lora_weights="pissa" if config.pissa and has_values(model) else True,
        target_modules=names,
        modules_to_save=list(new) or None,
    )
    return adapted(model, lora, names)
