"""Find the modules that a method changes, and replace them."""

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, TypeAlias

from cxr_ft.errors import UsageError
from cxr_ft.model.protocols import Base
from cxr_ft.model.targets import resolve

if TYPE_CHECKING:
    from peft import PeftConfig, PeftModel
    from torch import nn
    from transformers.pytorch_utils import Conv1D

    #: A linear layer, torch's or GPT-2's.
    Linear: TypeAlias = nn.Linear | Conv1D


def names_of(model: "nn.Module", base: Base, targets: Sequence[str]) -> list[str]:
    """Return the full names of the modules that `targets` mean in `model`.

    Raises:
        UsageError: for a target that is unknown or hits nothing.
    """
    return resolve(targets, (name for name, _ in model.named_modules()), base.targets, base.family)


def matrices_of(model: "nn.Module", base: Base, targets: Sequence[str], method: str) -> list[str]:
    """Return `names_of`, all of them linear layers.

    Raises:
        UsageError: as `names_of`, and for a convolution, which `method` cannot change.
    """
    names = names_of(model, base, targets)
    for name in names:
        if not is_matrix(model.get_submodule(name)):
            kind = type(model.get_submodule(name)).__name__
            raise UsageError(
                f"{method} changes linear layers only, and target {name} of {base.name} is a {kind}; "
                "choose other targets, or lora, which takes convolutions too"
            )
    return names


def widths(layer: "Linear") -> tuple[int, int]:
    """Return the numbers of inputs and outputs of a linear layer, torch's or GPT-2's."""
    rows, columns = layer.weight.shape
    # By the weight's shape, since GPT-2's Conv1D has no `in_features`.
    return (rows, columns) if is_transposed(layer) else (columns, rows)


def check_rank(model: "nn.Module", names: Sequence[str], rank: int, option: str = "rank") -> None:
    """Refuse a rank that the product of two matrices cannot have in one of the linear layers `names`.

    Raises:
        UsageError: for a rank above the smaller of a layer's widths.
    """
    layers = {name: model.get_submodule(name) for name in names}
    # A convolution's weight is no matrix; PEFT gives it two convolutions.
    most = {name: min(widths(layer)) for name, layer in layers.items() if is_matrix(layer)}
    name = min(most, key=most.__getitem__, default=None)
    if name is not None and rank > most[name]:
        wide = " x ".join(map(str, widths(layers[name])))
        raise UsageError(
            f"tuning.{option}: {rank}; {name} is a matrix of {wide}, whose rank is {most[name]} at most: "
            f"give {most[name]} or less"
        )


def replace(model: "nn.Module", name: str, make: "Callable[..., nn.Module]") -> None:
    """Replace the module `name` by what `make` returns for it."""
    parent, _, child = name.rpartition(".")
    owner = model.get_submodule(parent)
    # Under the same name, so that the names in saved files and the patterns of targets still hold.
    setattr(owner, child, make(getattr(owner, child)))


def adapted(model: "nn.Module", config: "PeftConfig", names: Sequence[str]) -> "nn.Module":
    """Return `model` with the PEFT method of `config`, a `peft.PeftConfig`, on exactly the modules `names`."""
    from peft import get_peft_model

    # PEFT would set it itself, with a warning for each layer.
    if hasattr(config, "fan_in_fan_out"):  # not every PEFT method has it
        config.fan_in_fan_out = all(is_transposed(model.get_submodule(name)) for name in names)
    peft_model: PeftModel = get_peft_model(model, config)
    # PEFT passes over a name that it does not find: what it adapted is compared with what was meant.
    targeted = sorted(peft_model.base_model.targeted_module_names)
    # PEFT matches names by suffix: a full name matches itself alone, unless it is the end of another one.
    if targeted != sorted(names):
        raise RuntimeError(
            f"PEFT adapted {len(targeted)} modules where {len(names)} were meant: {set(targeted) ^ set(names)}"
        )
    out: nn.Module = peft_model
    return out


def is_transposed(layer: "nn.Module") -> bool:
    """Return True if the layer's weight is [in, out], as of GPT-2's Conv1D."""
    from transformers.pytorch_utils import Conv1D

    return isinstance(layer, Conv1D)


def is_matrix(layer: "nn.Module") -> bool:
    """Return True for a linear layer, torch's or GPT-2's, and False for a convolution."""
    from torch import nn
    from transformers.pytorch_utils import Conv1D

    return isinstance(layer, (nn.Linear, Conv1D))


def has_values(model: "nn.Module") -> bool:
    """Return whether the model's weights have values; those of a plan are on the meta device and have shapes alone."""
    return not next(model.parameters()).is_meta
