"""Implement LoRA in plain torch, short enough to be read in a minute."""

import math
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from cxr_ft.model.tuning._modules import widths

if TYPE_CHECKING:
    from cxr_ft.model.tuning._modules import Linear


class LowRankLinear(nn.Module):
    """Compute y = W x + b + s B A x, where W [out, in] and b are frozen, and A [r, in] and B [out, r] are trained.

    B is zero at the start, so that the model begins unchanged; A is random, else neither would ever get a gradient.
    r (in + out) numbers are trained instead of in * out.

    Args:
        layer: the linear layer that holds W and b.
        rank: r.
        scale: s; with s = alpha / r, a learning rate has about the same effect for every r.
        dropout: rate on the input of A.
    """

    def __init__(self, layer: "Linear", rank: int, scale: float, dropout: float) -> None:
        super().__init__()
        inputs, outputs = widths(layer)
        device = layer.weight.device
        self.base_layer = layer
        self.lora_A = nn.Linear(inputs, rank, bias=False, device=device)
        self.lora_B = nn.Linear(rank, outputs, bias=False, device=device)
        self.dropout = nn.Dropout(dropout)
        self.scale = scale
        # The start of PEFT, so that both implementations learn alike.
        nn.init.kaiming_uniform_(self.lora_A.weight, a=math.sqrt(5))
        nn.init.zeros_(self.lora_B.weight)

    def forward(self, x: Tensor) -> Tensor:
        """Return [..., out] for [..., in]."""
        out: Tensor = self.base_layer(x) + self.scale * self.lora_B(self.lora_A(self.dropout(x)))
        return out

    @torch.no_grad()
    def merged(self) -> nn.Module:
        """Return the layer alone with the weight W + s B A: the same function, at the base's cost."""
        product = self.scale * self.lora_B.weight @ self.lora_A.weight
        layer: Linear = self.base_layer
        # The weight of GPT-2's Conv1D is [in, out].
        layer.weight += product if isinstance(layer, nn.Linear) else product.T
        merged: nn.Module = layer
        return merged
