"""Prompt tuning (Lester et al., arXiv 2104.08691) by PEFT: learnt word vectors in front of the text."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from cxr_ft.model.protocols import Base
from cxr_ft.model.tuning._prompts import NOT_IN_WEIGHTS, VirtualTokenOptions, prompted, reloaded

if TYPE_CHECKING:
    from torch import nn

TRAINS = True
NEEDS_TEXT = True
PEFT_FOLDER = True
MERGE_OBSTACLE = NOT_IN_WEIGHTS


@dataclass(frozen=True, kw_only=True)
class Config(VirtualTokenOptions):
    """Options of prompt tuning: `tokens` word vectors are learnt, which begin as words of the vocabulary."""

    lr: float = field(default=3e-2, metadata={"help": "peak learning rate; that of PEFT's examples"})


def apply(model: "nn.Module", base: Base, config: Config, new: tuple[str, ...]) -> "nn.Module":
    """Return `model` with learnt tokens; the head is trained too.

    Raises:
        UsageError: if the model reads no text.
    """
    from peft import PromptTuningConfig

    return prompted(
        model,
        base,
        # Words of the vocabulary are vectors that the model can read; random ones need not be.
        PromptTuningConfig(num_virtual_tokens=config.tokens, prompt_tuning_init="SAMPLE_VOCAB"),
        new,
        "prompt",
    )


def reload(model: "nn.Module", base: Base, config: Config, new: tuple[str, ...], folder: Path) -> "nn.Module":
    """Return `model` with what PEFT wrote."""
    return reloaded(model, base, config.tokens, folder)
