"""Implement Houlsby's adapter in plain torch."""

from typing import TYPE_CHECKING

from torch import Tensor, nn
from torch.nn import functional as F

from cxr_ft.model.tuning._modules import widths

if TYPE_CHECKING:
    from cxr_ft.model.tuning._modules import Linear


class Bottleneck(nn.Module):
    """Compute z = y + U g(D y + d) + u after a frozen layer y = f(x): trained D [w, out] and U [out, w], g a GELU.

    U and u are zero at the start, so that z equals y exactly. The change is not linear in y: it cannot be merged into
    the layer's weight.

    Args:
        layer: the linear layer f.
        width: w, the width of the bottleneck.
    """

    def __init__(self, layer: "Linear", width: int) -> None:
        super().__init__()
        _, outputs = widths(layer)
        device = layer.weight.device
        self.base_layer = layer
        self.adapter_down = nn.Linear(outputs, width, device=device)
        self.adapter_up = nn.Linear(width, outputs, device=device)
        # Only the upper matrix: with both at zero neither matrix would ever get a gradient.
        nn.init.zeros_(self.adapter_up.weight)
        nn.init.zeros_(self.adapter_up.bias)

    def forward(self, x: Tensor) -> Tensor:
        """Return [..., out] for [..., in]."""
        y: Tensor = self.base_layer(x)
        z: Tensor = y + self.adapter_up(F.gelu(self.adapter_down(y)))
        return z
