"""Load a tuning method by name, with everything it may declare as one record: nobody asks its module twice.

A method's file declares what it needs (see `cxr_ft.model.protocols.Tuning`); what it leaves out has the default here.
"""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from cxr_ft import plugins

if TYPE_CHECKING:
    from torch import nn


class StepCallback(Protocol):
    """What a method does around each step of the optimizer."""

    def on_before_step(self) -> None:
        """Run before the step, with its gradients at hand."""

    def on_after_step(self, step: int) -> None:
        """Run after the step; `step` counts from 1."""


@dataclass(frozen=True, kw_only=True)
class Method:
    """A tuning method, as its file declares it.

    Args:
        name: its name on the command line.
        config: its dataclass of options.
        apply: put the method on a model.
        trains: whether it trains anything; one that does not makes no head either (zero_shot).
        needs_text: whether what it learns is read as text is (prompt, prefix).
        save, reload: its own way to write and read what was trained; None: PEFT's or transformers' folder does.
        callback: makes its `StepCallback` for a model and a number of steps; None: it needs none.
    """

    name: str
    config: type
    apply: "Callable[..., nn.Module]"
    trains: bool
    needs_text: bool
    save: "Callable[[nn.Module, Path, Any, tuple[str, ...]], None] | None"
    reload: "Callable[..., nn.Module] | None"
    callback: "Callable[[nn.Module, int], StepCallback] | None"


def load(name: str) -> Method:
    """Return the method `name`.

    Raises:
        UsageError: for an unknown name, with the known ones.
    """
    module: Any = plugins.load(plugins.TUNING, name)
    return Method(
        name=name,
        config=module.Config,
        apply=module.apply,
        trains=module.TRAINS,
        needs_text=getattr(module, "NEEDS_TEXT", False),
        save=getattr(module, "save", None),
        reload=getattr(module, "reload", None),
        callback=getattr(module, "callback", None),
    )
