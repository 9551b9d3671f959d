"""Gradient checkpointing as transformers switches it on, always in the form that works under adapters."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint


def recomputed(layer: nn.Module, function: Callable[..., Tensor], *inputs: Any) -> Tensor:
    """function(*inputs); with gradient checkpointing on for `layer`, its activations are computed again in backward.

    The re-entrant form that transformers and PEFT may ask for gives no gradients where no input requires one, as below
    a frozen embedding; this one needs nothing of its inputs.
    """
    if getattr(layer, "gradient_checkpointing", False) and layer.training and torch.is_grad_enabled():
        out: Tensor = checkpoint(function, *inputs, use_reentrant=False)
        return out
    return function(*inputs)
