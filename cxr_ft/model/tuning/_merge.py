"""Add what a method learnt to the base's own weights, so that transformers alone reads the model."""

from typing import TYPE_CHECKING

from cxr_ft.model.peft_models import unwrapped
from cxr_ft.model.tuning import _quantised
from cxr_ft.model.tuning._modules import is_transposed, replace

if TYPE_CHECKING:
    from peft import PeftModel
    from peft.tuners.lora import LoraLayer
    from torch import nn

    from cxr_ft.model.tuning._modules import Linear


def unchanged(model: "nn.Module") -> "nn.Module":
    """Return `model`: the method trained the base's own weights, so that there is nothing to add."""
    return model.eval()


def merge_peft(model: "nn.Module") -> "nn.Module":
    """Return the model inside PEFT's wrapper with each adapter's change added to its weight.

    A quantised base is merged in the precision that it computes in and is not rounded to four or eight bits again, so
    that the merged model is as large as the base was before quantisation.
    """
    import torch
    from peft.tuners.tuners_utils import BaseTunerLayer

    wrapper: PeftModel = model.eval()
    inner = unwrapped(model)
    with torch.no_grad():
        for name, module in list(inner.named_modules()):
            # Our own sum, since PEFT would round it to four or eight bits again.
            if isinstance(module, BaseTunerLayer) and _quantised.is_quantised(module.get_base_layer()):
                replace(inner, name, _merged_layer)
        # The layers without an adapter are quantised as well.
        for name, module in list(inner.named_modules()):
            if _quantised.is_quantised(module):
                replace(inner, name, _quantised.dequantised)
        # What is left has no quantised layer in it, which PEFT merges as it is.
        plain: nn.Module = wrapper.merge_and_unload()
        return plain


def _merged_layer(adapted: "LoraLayer") -> "nn.Module":
    layer: Linear = _quantised.dequantised(adapted.base_layer)
    for adapter in adapted.active_adapters:
        delta = adapted.get_delta_weight(adapter)
        # PEFT's delta has the shape of the quantised layer, [out, in]; a Conv1D's weight is [in, out].
        layer.weight += delta.T if is_transposed(layer) else delta
    plain: nn.Module = layer
    return plain
