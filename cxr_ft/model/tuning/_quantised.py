"""Quantise linear layers to four or eight bits by bitsandbytes, on CPU and CUDA."""

import logging
from collections.abc import Iterable
from typing import TYPE_CHECKING

from cxr_ft.errors import UsageError
from cxr_ft.model.protocols import Base
from cxr_ft.model.tuning._modules import is_matrix, is_transposed, replace, widths

if TYPE_CHECKING:
    from bitsandbytes.nn import Linear4bit, Linear8bitLt
    from torch import Tensor, nn

    from cxr_ft.model.tuning._modules import Linear

#: NF4 with its scales quantised too (Dettmers et al., arXiv 2305.14314); LLM.int8() (arXiv 2208.07339).
KINDS = ("nf4", "int8")
#: Number of weights that share a scale in four bits.
BLOCK = 64
#: Larger activations are multiplied in 16 bits by int8 layers, as in the paper and in transformers.
OUTLIER = 6.0

#: Attribute of a quantised layer: True if the original weight was [in, out], as of GPT-2's Conv1D.
_TRANSPOSED = "cxr_ft_transposed"


def need_bitsandbytes(method: str) -> None:
    """Raise a UsageError that names `method` if bitsandbytes is not installed."""
    import importlib.util

    if importlib.util.find_spec("bitsandbytes") is None:
        raise UsageError(f"{method} needs bitsandbytes: pip install bitsandbytes; lora needs nothing besides")


def layers_of(model: "nn.Module", base: Base, kind: str) -> list[str]:
    """Return the names of the linear layers to quantise: those inside the blocks.

    Outside of the blocks are the head's layer, which has too few rows for some kernels and is trained, and embeddings
    and vocabulary projection, which lose most accuracy.
    """
    # With the dot, so that block 1 is not taken for the beginning of block 10.
    inside = tuple(f"{block}." for block in base.blocks(model))
    linear = [(name, module) for name, module in model.named_modules() if name.startswith(inside) and is_matrix(module)]
    # bitsandbytes 0.50.2 on CPU quantises blocks across rows but dequantises blocks within rows: a row that is no whole
    # number of blocks would come back with its neighbours' scales.
    return [name for name, module in linear if kind != "nf4" or widths(module)[0] % BLOCK == 0]


def quantise(model: "nn.Module", names: Iterable[str], kind: str) -> None:
    """Replace the linear layers `names` by quantised ones, of `kind`, frozen."""
    for name in names:
        replace(model, name, _nf4 if kind == "nf4" else _int8)
    # bitsandbytes warns at each product that inputs are rounded to 16 bits, which is intended.
    logging.getLogger("bitsandbytes.autograd._functions").setLevel(logging.ERROR)
    # PEFT detects a quantised model by these attributes.
    setattr(model, "is_loaded_in_4bit" if kind == "nf4" else "is_loaded_in_8bit", True)


def dequantised(layer: "Linear4bit | Linear8bitLt") -> "nn.Module":
    """Return an ordinary layer, of the class that was quantised, with the weights that `layer` computes with."""
    import bitsandbytes
    import torch
    from torch import nn

    weight = layer.weight
    if isinstance(layer, bitsandbytes.nn.Linear4bit):
        weights = bitsandbytes.functional.dequantize_4bit(weight.data, weight.quant_state)
    else:
        # The first product moves the scales from the weight to the layer's state.
        scales = layer.state.SCB if layer.state.SCB is not None else weight.SCB
        weights = bitsandbytes.functional.int8_vectorwise_dequant(weight.data, scales)
    weights = weights.to(torch.float32)
    if getattr(layer, _TRANSPOSED, False):
        from transformers.pytorch_utils import Conv1D

        plain: Linear = Conv1D(layer.out_features, layer.in_features)
        # The quantised copy was [out, in], as bitsandbytes needs it; Conv1D's own weight is [in, out].
        weights = weights.T.contiguous()
    else:
        plain = nn.Linear(layer.in_features, layer.out_features, bias=False, device="meta")
    plain.weight = nn.Parameter(weights, requires_grad=False)
    plain.bias = layer.bias
    module: nn.Module = plain
    return module


def is_quantised(layer: "nn.Module") -> bool:
    """Return True if `layer` is one of bitsandbytes'."""
    # By name, so that models without quantised layers never import bitsandbytes.
    return type(layer).__name__ in ("Linear4bit", "Linear8bitLt") and type(layer).__module__.startswith("bitsandbytes")


def _nf4(layer: "nn.Module") -> "nn.Module":
    import torch
    from bitsandbytes.nn import Linear4bit, Params4bit

    inputs, outputs = widths(layer)
    # Compute in float32 or, under autocast, its dtype; with another dtype the layer would cast its bias for good.
    # Made on the meta device: its own weight would be drawn at random and thrown away.
    new = Linear4bit(inputs, outputs, layer.bias is not None, torch.float32, True, "nf4", device="meta")
    weight = _weight(layer)
    new.weight = Params4bit(weight, compress_statistics=True, quant_type="nf4", module=new).to(weight.device)
    new.bias = layer.bias
    setattr(new, _TRANSPOSED, is_transposed(layer))
    # In evaluation it would pack its weight for a kernel without gradients, and keep it packed: later training would
    # get no gradients, without any error.
    new.support_avx512bf16_for_cpu = False
    frozen: nn.Module = new.requires_grad_(False)
    return frozen


def _int8(layer: "nn.Module") -> "nn.Module":
    from bitsandbytes.nn import Int8Params, Linear8bitLt

    inputs, outputs = widths(layer)
    new = Linear8bitLt(inputs, outputs, layer.bias is not None, False, OUTLIER, device="meta")
    weight = _weight(layer)
    new.weight = Int8Params(weight, requires_grad=False).to(weight.device)
    new.bias = layer.bias
    setattr(new, _TRANSPOSED, is_transposed(layer))
    new.register_forward_pre_hook(_in_float32)
    frozen: nn.Module = new.requires_grad_(False)
    return frozen


def _in_float32(_: "nn.Module", inputs: "tuple[Tensor, ...]") -> "tuple[Tensor, ...]":
    # An input of autocast's dtype would make the layer cast its bias for good.
    return tuple(x.float() for x in inputs)


def _weight(layer: "Linear") -> "Tensor":
    """Return a copy of the weight, [out, in]."""
    weight: Tensor = layer.weight.detach()
    # A contiguous copy: bitsandbytes' kernels take the numbers as they lie in memory.
    return (weight.T if is_transposed(layer) else weight).clone().contiguous()
