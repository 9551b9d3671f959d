"""Load a tuning method by name, with everything that its file may declare as one record.

A method's file declares what it needs (see `cxr_ft.model.protocols.Tuning`); the defaults are here.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from cxr_ft import plugins

if TYPE_CHECKING:
    from torch import nn


class StepCallback(Protocol):
    """A method's actions around each step of the optimizer."""

    def on_before_step(self) -> None:
        """Act before the step, when gradients are complete."""

    def on_after_step(self, step: int) -> None:
        """Act after the step; `step` counts from 1."""


@dataclass(frozen=True, kw_only=True)
class Method:
    """A tuning method, as its file declares it.

    Args:
        name: its name on the command line.
        config: its dataclass of options.
        apply: put the method on a model.
        trains: False for a method that trains nothing, and so adds no head (zero_shot).
        needs_text: True if its learnt tokens are read like text (prompt, prefix).
        peft_folder: True if it saves a PEFT adapter's folder, which PEFT alone reads.
        merge: add what was learnt to the base's own weights, in place, and return the plain model, in evaluation mode
            (logits change by rounding alone); the model it is called with is of no use afterwards. None: impossible.
        merge_obstacle: why it is impossible, in one line; empty where it is possible.
        save, reload: its own way to write and read what was trained; None: PEFT's or transformers' folder.
        callback: returns its `StepCallback` for a model and a number of steps; None: it needs none.
    """

    name: str
    config: type
    apply: "Callable[..., nn.Module]"
    trains: bool
    needs_text: bool
    peft_folder: bool
    merge: "Callable[[nn.Module], nn.Module] | None"
    merge_obstacle: str
    save: "Callable[..., None] | None"
    reload: "Callable[..., nn.Module] | None"
    callback: "Callable[[nn.Module, int], StepCallback] | None"


def load(name: str) -> Method:
    """Return the method `name`.

    Raises:
        UsageError: for an unknown name, with the known ones.
    """
    module = plugins.load(plugins.TUNING, name)
    merge = getattr(module, "merge", None)
    return Method(
        name=name,
        config=module.Config,
        apply=module.apply,
        trains=module.TRAINS,
        needs_text=getattr(module, "NEEDS_TEXT", False),
        peft_folder=getattr(module, "PEFT_FOLDER", False),
        merge=merge,
        merge_obstacle="" if merge else getattr(module, "MERGE_OBSTACLE", f"{name} declares no way to merge"),
        save=getattr(module, "save", None),
        reload=getattr(module, "reload", None),
        callback=getattr(module, "callback", None),
    )
