"""LoRA (Hu et al., arXiv 2106.09685) without PEFT, for people who want to learn it: see `_low_rank.py`.

Outputs and gradients are those of `lora`. It saves a PEFT folder too, which PEFT alone reads.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from cxr_ft.model.protocols import Base, trainable
from cxr_ft.model.tuning import _options
from cxr_ft.model.tuning._modules import check_rank, is_transposed, matrices_of, replace

if TYPE_CHECKING:
    from torch import nn

TRAINS = True
PEFT_FOLDER = True


@dataclass(frozen=True, kw_only=True)
class Config(_options.LowRankOptions):
    """Options of lora_scratch: those of every low-rank method."""


def apply(model: "nn.Module", base: Base, config: Config, new: tuple[str, ...]) -> "nn.Module":
    """Return `model` with a product added to each linear layer that the targets mean.

    Raises:
        UsageError: for a target that is unknown, hits nothing, or is no linear layer.
    """
    from cxr_ft.model.tuning._low_rank import LowRankLinear

    names = matrices_of(model, base, config.targets, "lora_scratch")
    check_rank(model, names, config.rank)
    model.requires_grad_(False)
    for name in names:
        replace(
            model, name, lambda layer: LowRankLinear(layer, config.rank, config.numerator / config.rank, config.dropout)
        )
    for name in new:
        model.get_submodule(name).requires_grad_(True)
    return model


def save(model: "nn.Module", folder: Path, config: Config, new: tuple[str, ...]) -> None:
    """Write the files of `lora`: adapter_config.json and adapter_model.safetensors."""
    from peft import LoraConfig
    from safetensors.torch import save_file

    from cxr_ft.model.tuning._low_rank import LowRankLinear

    products = {name: module for name, module in model.named_modules() if isinstance(module, LowRankLinear)}
    LoraConfig(
        r=config.rank,
        lora_alpha=config.numerator,
        lora_dropout=config.dropout,
        target_modules=list(products),
        fan_in_fan_out=all(is_transposed(product.base_layer) for product in products.values()),
        modules_to_save=list(new) or None,
        # As PEFT writes it: a saved adapter is loaded frozen, unless one asks to train it.
        inference_mode=True,
    ).save_pretrained(folder)
    # By the names of PEFT, whose wrapper puts this in front of each.
    weights = {f"base_model.model.{name}": p.detach().contiguous() for name, p in trainable(model).items()}
    save_file(weights, folder / "adapter_model.safetensors", metadata={"format": "pt"})


def merge(model: "nn.Module") -> "nn.Module":
    """Return `model` with each product added to its layer's weight."""
    from cxr_ft.model.tuning._low_rank import LowRankLinear

    model.eval()
    # A list first, since replacing modules changes what is iterated.
    for name, module in list(model.named_modules()):
        if isinstance(module, LowRankLinear):
            replace(model, name, LowRankLinear.merged)
    return model
