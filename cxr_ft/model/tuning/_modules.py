"""Which modules a method is put on, and putting it there."""

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from cxr_ft.errors import UsageError
from cxr_ft.model.protocols import Base
from cxr_ft.model.targets import resolve

if TYPE_CHECKING:
    from torch import nn


def names_of(model: "nn.Module", base: Base, targets: Sequence[str]) -> list[str]:
    """Full names of the modules that `targets` mean in `model`.

    Raises:
        UsageError: for a target that is unknown or hits nothing.
    """
    return resolve(targets, (name for name, _ in model.named_modules()), base.targets, base.family)


def matrices_of(model: "nn.Module", base: Base, targets: Sequence[str], method: str) -> list[str]:
    """`names_of`, each of which is a product with a matrix.

    Raises:
        UsageError: besides, for a convolution, which `method` cannot change.
    """
    names = names_of(model, base, targets)
    for name in names:
        if not is_matrix(model.get_submodule(name)):
            kind = type(model.get_submodule(name)).__name__
            raise UsageError(
                f"{method} changes linear layers alone, and target {name} of {base.name} is a {kind}; "
                "choose other targets, or lora, which takes convolutions too"
            )
    return names


def widths(layer: Any) -> tuple[int, int]:
    """Inputs and outputs of a linear layer, be it torch's or GPT-2's, whose matrix is stored the other way round."""
    rows, columns = layer.weight.shape
    return (columns, rows) if hasattr(layer, "in_features") else (rows, columns)


def replace(model: "nn.Module", name: str, make: Callable[[Any], "nn.Module"]) -> None:
    """Put what `make` makes of the module `name` in its place."""
    parent, _, child = name.rpartition(".")
    owner = model.get_submodule(parent)
    setattr(owner, child, make(getattr(owner, child)))


def adapted(model: "nn.Module", config: Any, names: Sequence[str]) -> "nn.Module":
    """`model` with the PEFT method of `config`, a `peft.PeftConfig` for the modules `names`, on exactly these."""
    from peft import get_peft_model

    if hasattr(config, "fan_in_fan_out"):
        config.fan_in_fan_out = all(is_transposed(model.get_submodule(name)) for name in names)
    peft_model: Any = get_peft_model(model, config)
    hit = sorted(peft_model.base_model.targeted_module_names)
    # PEFT matches by suffix; full names match themselves alone, unless a model nests one in another.
    if hit != sorted(names):
        raise RuntimeError(f"PEFT adapted {len(hit)} modules where {len(names)} were meant: {set(hit) ^ set(names)}")
    out: nn.Module = peft_model
    return out


def is_transposed(layer: "nn.Module") -> bool:
    """Whether its matrix is stored the other way round, as GPT-2's are."""
    from transformers.pytorch_utils import Conv1D

    return isinstance(layer, Conv1D)


def is_matrix(layer: "nn.Module") -> bool:
    """Whether it is a product with a matrix and a sum with a bias, and no convolution."""
    from torch import nn
    from transformers.pytorch_utils import Conv1D

    return isinstance(layer, (nn.Linear, Conv1D))
