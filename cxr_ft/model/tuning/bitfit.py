"""BitFit (Ben Zaken et al., arXiv 2106.10199): train the biases of the base, and the head; every matrix is frozen."""

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from cxr_ft.errors import UsageError
from cxr_ft.model.protocols import Base
from cxr_ft.model.tuning import _merge
from cxr_ft.model.tuning._modules import names_of

if TYPE_CHECKING:
    from torch import nn

TRAINS = True
merge = _merge.unchanged


@dataclass(frozen=True, kw_only=True)
class Config:
    """Options of BitFit."""

    lr: float = field(default=1e-3, metadata={"help": "peak learning rate; the paper tried 1e-4 to 1e-3"})


def apply(model: "nn.Module", base: Base, config: Config, new: tuple[str, ...]) -> "nn.Module":
    """Return `model` that trains the biases, norms' included and keys' excluded, and the modules in `new`.

    Raises:
        UsageError: if the base has no biases.
    """
    inert = _inert(model, base)
    biases = [
        p for name, p in model.named_parameters() if name.rpartition(".")[2] == "bias" and not name.startswith(inert)
    ]
    # The head's biases do not count: with a base that has none, nothing but the head would be trained.
    head = {p for name in new for p in model.get_submodule(name).parameters()}
    if not set(biases) - head:
        raise UsageError(
            f"bitfit trains biases, and {base.name} ({base.family}) has none; use lora, ia3 or another method"
        )
    model.requires_grad_(False)
    for p in (*biases, *head):
        p.requires_grad_(True)
    return model


def _inert(model: "nn.Module", base: Base) -> tuple[str, ...]:
    """Return the name prefixes of the key layers, whose biases have no effect.

    A key's bias adds the same number to all scores of a query, which softmax cancels: its gradient is rounding noise,
    and an optimizer that normalises gradients would follow it.
    """
    # A matrix that is query, key and value together has one bias for all three, which does have an effect.
    if not any("k" in roles and roles["k"] != roles.get("q") for roles in base.targets.values()):
        return ()
    return tuple(f"{name}." for name in names_of(model, base, ("k",)))
