"""Recognise a model in PEFT's wrapper, and return the model inside."""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from peft import PeftConfig, PeftModel
    from torch import nn


def is_peft(model: "nn.Module") -> bool:
    """Return True if `model` is in PEFT's wrapper."""
    # By attribute, so that a model without an adapter needs no import of PEFT.
    return hasattr(model, "peft_config")


def unwrapped(model: "nn.Module") -> "nn.Module":
    """Return the model inside PEFT's wrapper, adapters included; return any other model unchanged."""
    wrapped: PeftModel = model
    inner: nn.Module = wrapped.get_base_model() if is_peft(model) else model
    return inner


def learns_prompts(model: "nn.Module") -> bool:
    """Return True if PEFT adds learnt tokens in front of the text (prompt and prefix tuning)."""
    configs: dict[str, PeftConfig] = getattr(model, "peft_config", {})
    return any(config.is_prompt_learning for config in configs.values())
