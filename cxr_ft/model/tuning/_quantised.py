"""Linear layers in four or eight bits, by bitsandbytes, on CPU as on CUDA."""

import logging
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from cxr_ft.errors import UsageError
from cxr_ft.model.protocols import Base
from cxr_ft.model.tuning._modules import is_matrix, replace, widths

if TYPE_CHECKING:
    from torch import Tensor, nn

#: NF4 with its scales quantised too (Dettmers et al., arXiv 2305.14314); LLM.int8() (arXiv 2208.07339).
KINDS = ("nf4", "int8")
#: Numbers that share a scale in four bits.
BLOCK = 64
#: Above it an activation of int8 is a product in 16 bits, as in the paper and in transformers.
OUTLIER = 6.0

#: Set on a quantised layer whose own weight is [in, out], as that of GPT-2's Conv1D.
_TURNED = "cxr_ft_turned"


def need_bitsandbytes(method: str) -> None:
    """Refuse `method` by name where bitsandbytes is not installed."""
    import importlib.util

    if importlib.util.find_spec("bitsandbytes") is None:
        raise UsageError(f"{method} needs bitsandbytes: pip install bitsandbytes; lora needs nothing besides")


def layers_of(model: "nn.Module", base: Base, kind: str) -> list[str]:
    """Names of the linear layers that are quantised: those inside the blocks.

    A head's layer has too few rows for some kernels and is trained, embeddings and what turns states into words lose
    most: all of them lie outside the blocks.
    """
    inside = tuple(f"{block}." for block in base.blocks(model))
    linear = [(name, module) for name, module in model.named_modules() if name.startswith(inside) and is_matrix(module)]
    # bitsandbytes 0.50.2 gives each row blocks of its own when it reads on CPU, but not when it writes: rows that are
    # no whole number of blocks come back with their neighbours' scales.
    return [name for name, module in linear if kind != "nf4" or widths(module)[0] % BLOCK == 0]


def quantise(model: Any, names: Iterable[str], kind: str) -> None:
    """Replace the linear layers `names` by quantised ones, of `kind`, frozen."""
    for name in names:
        replace(model, name, _nf4 if kind == "nf4" else _int8)
    # It warns at each product that inputs are rounded to 16 bits, which is the method.
    logging.getLogger("bitsandbytes.autograd._functions").setLevel(logging.ERROR)
    # It is by these that PEFT knows.
    setattr(model, "is_loaded_in_4bit" if kind == "nf4" else "is_loaded_in_8bit", True)


def dequantised(layer: Any) -> "nn.Module":
    """A quantised layer as an ordinary one, of the kind that was quantised, with the numbers it computes with."""
    import bitsandbytes
    import torch
    from torch import nn

    weight = layer.weight
    if isinstance(layer, bitsandbytes.nn.Linear4bit):
        numbers = bitsandbytes.functional.dequantize_4bit(weight.data, weight.quant_state)
    else:
        scales = layer.state.SCB if layer.state.SCB is not None else weight.SCB
        numbers = bitsandbytes.functional.int8_vectorwise_dequant(weight.data, scales)
    numbers = numbers.to(torch.float32)
    if getattr(layer, _TURNED, False):
        from transformers.pytorch_utils import Conv1D

        plain: Any = Conv1D(layer.out_features, layer.in_features)
        numbers = numbers.T.contiguous()
    else:
        plain = nn.Linear(layer.in_features, layer.out_features, bias=False, device="meta")
    plain.weight = nn.Parameter(numbers, requires_grad=False)
    plain.bias = layer.bias
    module: nn.Module = plain
    return module


def is_quantised(layer: "nn.Module") -> bool:
    """Whether `layer` is one that `quantise` made."""
    return type(layer).__name__ in ("Linear4bit", "Linear8bitLt") and type(layer).__module__.startswith("bitsandbytes")


def _nf4(layer: "nn.Module") -> "nn.Module":
    import torch
    from bitsandbytes.nn import Linear4bit, Params4bit

    inputs, outputs = widths(layer)
    # Computed in float32, or in autocast's type where that is on: in a type of its own it would cast its bias for good.
    new = Linear4bit(inputs, outputs, layer.bias is not None, torch.float32, True, "nf4", device="meta")
    weight = _weight(layer)
    new.weight = Params4bit(weight, compress_statistics=True, quant_type="nf4", module=new).to(weight.device)
    new.bias = layer.bias
    setattr(new, _TURNED, not hasattr(layer, "in_features"))
    # In evaluation it would pack its weight for a kernel without gradients, and keep it packed: training would go on
    # without them, and without an error.
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
    setattr(new, _TURNED, not hasattr(layer, "in_features"))
    new.register_forward_pre_hook(_in_float32)
    frozen: nn.Module = new.requires_grad_(False)
    return frozen


def _in_float32(_: Any, inputs: "tuple[Tensor, ...]") -> "tuple[Tensor, ...]":
    # Given autocast's type, the layer would cast its bias to it for good.
    return tuple(x.float() for x in inputs)


def _weight(layer: Any) -> "Tensor":
    """[out, in], a copy of its own."""
    weight: Tensor = layer.weight.detach()
    return (weight if hasattr(layer, "in_features") else weight.T).clone().contiguous()
