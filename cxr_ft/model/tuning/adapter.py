"""Bottleneck adapters (Houlsby et al., arXiv 1902.00751): a small network after each block's attention and MLP.

`_bottleneck.py` implements them, since neither PEFT nor transformers does. The paper also trains the layer norms; here
all of the base is frozen.
"""

from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from cxr_ft.errors import UsageError
from cxr_ft.model.protocols import Base, trainable
from cxr_ft.model.tuning._modules import matrices_of, replace
from cxr_ft.model.tuning._options import at_least_one

if TYPE_CHECKING:
    from torch import nn

TRAINS = True
MERGE_OBSTACLE = "a bottleneck adapter is no linear function of its layer: it cannot be merged; lora can"
#: File of a saved model: the adapters and the head, by their names in the model.
FILE = "adapter.safetensors"


@dataclass(frozen=True, kw_only=True)
class Config:
    """Options of adapter.

    Args:
        targets: the modules that get an adapter after them, in the language of `cxr_ft.model.targets`.
        width: width of the bottleneck.
    """

    # The paper's two places in a block: after the last matrix of the attention and of the MLP.
    targets: tuple[str, ...] = field(default=("o", "down"), metadata={"help": "modules with an adapter after them"})
    width: int = field(default=32, metadata={"help": "width of the bottleneck"})
    lr: float = field(default=1e-3, metadata={"help": "peak learning rate; the paper tried 3e-5 to 3e-3"})

    def __post_init__(self) -> None:
        at_least_one("width", self.width)


def apply(model: "nn.Module", base: Base, config: Config, new: tuple[str, ...]) -> "nn.Module":
    """Return `model` with an adapter after each linear layer that the targets mean; its output is unchanged at first.

    Raises:
        UsageError: for a target that is unknown, hits nothing, or is no linear layer.
    """
    from cxr_ft.model.tuning._bottleneck import Bottleneck

    names = matrices_of(model, base, config.targets, "adapter")
    # Before the adapters are added, whose own parameters are trained.
    model.requires_grad_(False)
    for name in names:
        replace(model, name, lambda layer: Bottleneck(layer, config.width))
    for name in new:
        model.get_submodule(name).requires_grad_(True)
    return model


def save(model: "nn.Module", folder: Path, config: Config, new: tuple[str, ...]) -> None:
    """Write the adapters and the head."""
    from safetensors.torch import save_file

    # Of the trained parameters alone: the base's weights are where they were.
    weights = {name: p.detach().contiguous() for name, p in trainable(model).items()}
    save_file(weights, folder / FILE, metadata={"format": "pt"})


def reload(model: "nn.Module", base: Base, config: Config, new: tuple[str, ...], folder: Path) -> "nn.Module":
    """Return `model` with the adapters and the head that `save` wrote.

    Raises:
        UsageError: if the file does not fit the model.
    """
    from safetensors.torch import load_file

    model = apply(model, base, config, new)
    saved, expected = load_file(folder / FILE), trainable(model)
    # Compared here, since `strict=False` below passes over a missing adapter.
    shapes = ({name: tuple(t.shape) for name, t in tensors.items()} for tensors in (saved, expected))
    if next(shapes) != next(shapes):
        raise UsageError(f"{folder / FILE} does not fit {base.name} with these targets and this width")
    model.load_state_dict(saved, strict=False)
    return model
