"""Prefix tuning (Li and Liang, arXiv 2101.00190) by PEFT: learnt keys and values in front of the text, in each layer.

Without the paper's reparametrisation; keys and values begin at zero.
"""

from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from cxr_ft.errors import UsageError
from cxr_ft.model.protocols import Base, is_text_reader
from cxr_ft.model.tuning._prompts import NOT_IN_WEIGHTS, VirtualTokenOptions, prompted, reloaded

if TYPE_CHECKING:
    from torch import nn

TRAINS = True
NEEDS_TEXT = True
PEFT_FOLDER = True
MERGE_OBSTACLE = NOT_IN_WEIGHTS


@dataclass(frozen=True, kw_only=True)
class Config(VirtualTokenOptions):
    """Options of prefix tuning: keys and values are learnt for `tokens` tokens."""

    lr: float = field(default=1e-2, metadata={"help": "peak learning rate; that of PEFT's examples"})


def apply(model: "nn.Module", base: Base, config: Config, new: tuple[str, ...]) -> "nn.Module":
    """Return `model` with learnt keys and values in the text tower's layers; the head is trained too.

    Raises:
        UsageError: if the model reads no text, or takes no keys and values as input.
    """
    import inspect

    from peft import PrefixTuningConfig

    # PEFT passes the learnt keys and values as a cache: a model without that argument would fail in its first step.
    if "past_key_values" not in inspect.signature(model.forward).parameters and is_text_reader(base):
        kind = type(model).__name__
        raise UsageError(f"prefix: a {kind} ({base.name}) takes no learnt keys and values; use prompt, lora or adapter")

    return prompted(
        model, base, PrefixTuningConfig(num_virtual_tokens=config.tokens, init_weights="zero"), new, "prefix"
    )


def reload(model: "nn.Module", base: Base, config: Config, new: tuple[str, ...], folder: Path) -> "nn.Module":
    """Return `model` with what PEFT wrote."""
    return reloaded(model, base, config.tokens, folder)
