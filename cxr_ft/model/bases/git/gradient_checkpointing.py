"""Run a layer under gradient checkpointing, in the form that works with adapters."""

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint


def checkpointed(layer: nn.Module, function: Callable[..., Tensor], *inputs: object) -> Tensor:
    """Return function(*inputs); with gradient checkpointing on `layer`, the backward pass recomputes activations.

    transformers sets `gradient_checkpointing` on its layers. The re-entrant form, which transformers and PEFT may ask
    for, gives no gradients if no input requires one, as above a frozen embedding; this form does not depend on that.
    """
    if getattr(layer, "gradient_checkpointing", False) and layer.training and torch.is_grad_enabled():
        out: Tensor = checkpoint(function, *inputs, use_reentrant=False)
        return out
    return function(*inputs)
