"""Replace bitsandbytes layers on fake tensors, which it cannot pack: the same bytes and the same operations."""

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from cxr_ft.config import RunConfig
from cxr_ft.model.assembly import ModelParts
from cxr_ft.model.peft_models import unwrapped
from cxr_ft.model.tuning import _quantised
from cxr_ft.model.tuning._modules import replace, widths

#: Scales under one second-level scale of double quantisation; bytes of its code books and offset.
_SECOND, _BOOKS = 256, 4 * (16 + 256 + 1)


def quantised(parts: ModelParts, config: RunConfig) -> None:
    """Replace the layers that a quantising method would quantise in the model of `parts`, which has no numbers."""
    kind = _kind(config)
    if kind is None:
        return
    inner = unwrapped(parts.model)
    for name in _quantised.layers_of(inner, parts.base, kind):
        # LoRA's own matrices are not quantised: they are trained.
        if ".lora_" not in name:
            replace(inner, name, lambda layer: _Packed(layer, kind))


def _kind(config: RunConfig) -> str | None:
    """Return the format of the quantised weights, "nf4" or "int8"; None where the method quantises nothing."""
    kind = config.tuning.option("quantise")
    return kind if isinstance(kind, str) else None


class _Packed(nn.Module):
    """A linear layer [..., in] -> [..., out] whose weight of `kind` is unpacked for each product."""

    def __init__(self, layer: nn.Linear, kind: str) -> None:
        super().__init__()
        self.in_features, self.out_features = widths(layer)
        size = self.in_features * self.out_features
        if kind == "nf4":
            scales = size // _quantised.BLOCK
            # Two weights a byte; a scale of one byte for each block; a float32 for each group of scales; the code
            # books.
            nbytes = size // 2 + scales + 4 * -(-scales // _SECOND) + _BOOKS
        else:
            # A byte for each weight, and a float32 scale for each row.
            nbytes = size + 4 * self.out_features
        self.keeps = kind != "nf4"
        self.weight = nn.Parameter(torch.empty(nbytes, dtype=torch.uint8, device=layer.weight.device), False)
        self.bias = layer.bias

    def forward(self, x: Tensor) -> Tensor:
        """Compute as bitsandbytes does on CPU: int8 keeps its input for the backward pass, four bits keep nothing."""
        # By a function of its own: autograd would save the unpacked weight, which the real layers unpack again instead.
        out: Tensor = _Product.apply(x.float() if self.keeps else x, self)
        return out


class _Product(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, layer: _Packed) -> Tensor:
        ctx.layer = layer
        if layer.keeps:
            ctx.save_for_backward(x)
        return F.linear(x, _unpacked(layer, x.dtype), None if layer.bias is None else layer.bias.to(x.dtype))

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None]:
        return grads[0] @ _unpacked(ctx.layer, grads[0].dtype), None


def _unpacked(layer: _Packed, dtype: torch.dtype) -> Tensor:
    return torch.empty(layer.out_features, layer.in_features, dtype=dtype, device=layer.weight.device)
