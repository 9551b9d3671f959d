"""Linear layers under autocast: frozen weights cast once for all steps, an adapter added inside its base's one product.

In bfloat16 a LoRA's part, often below a thousandth of its base's, is lost when the two are rounded apart and added. As
columns of one product, [x, x A'] [W, s B]', both are summed in float32 and rounded once.
"""

import contextlib
import platform
from collections.abc import Iterator, Sequence
from contextvars import ContextVar
from typing import Any, NamedTuple
from weakref import WeakKeyDictionary

import torch
from peft.tuners.lora.layer import Linear as LoraLinear
from torch import Tensor, nn
from torch.nn import functional as F

from cxr_ft.model.bases.git.eligibility import untouched


class _Copy(NamedTuple):
    """A weight [out, in] and bias in a lower precision, with `rank` spare columns; `of` says of which numbers."""

    of: tuple[Any, ...]
    weight: Tensor
    bias: Tensor | None


#: One copy a layer; it goes when the layer goes.
_copies: WeakKeyDictionary[nn.Module, _Copy] = WeakKeyDictionary()


class _Pack(NamedTuple):
    """A weight in oneDNN's own layout, and the bias beside it."""

    weight: Tensor
    bias: Tensor | None


#: Whether the processor is one whose products oneDNN packs weights for.
_HAS_ONEDNN = platform.machine() in ("x86_64", "AMD64") and hasattr(torch.ops.mkldnn, "_reorder_linear_weight")
#: The packs of a stretch of work, by layer; None: nothing is packed.
_packs: ContextVar[dict[nn.Module, _Pack] | None] = ContextVar("packs", default=None)


@contextlib.contextmanager
def packed() -> Iterator[None]:
    """Let each ordinary layer be packed for oneDNN once, at its first use in the block, and forgotten behind it.

    For many products of few rows, as in writing a text token by token: each reads its whole weight, and torch would
    lay it out anew each time (bfloat16), or read it more slowly (MKL's float32). Without gradients, on x86 CPUs.
    """
    token = _packs.set({})
    try:
        yield
    finally:
        _packs.reset(token)


def lowered(x: Tensor) -> Tensor:
    """`x` in autocast's dtype where autocast is on: cast once for all that read it, not once by each."""
    device = x.device.type
    return x.to(torch.get_autocast_dtype(device)) if torch.is_autocast_enabled(device) else x


def linears(modules: Sequence[Any], x: Tensor) -> list[Tensor]:
    """[module(x) for module in modules]; `x` has been `lowered`. Without autocast or `packed` it is just that."""
    if _packs.get() is not None and _packable(x):
        return [_by_pack(module, x) for module in modules]
    if not torch.is_autocast_enabled(x.device.type):
        return [module(x) for module in modules]
    return [_linear(module, x) for module in modules]


def _linear(module: Any, x: Tensor) -> Tensor:
    if _constant(module) and x.device.type == "cpu":
        copy = _copy(module, x.dtype, 0)
        return F.linear(x, copy.weight, copy.bias)
    adapter = _plain_adapter(module)
    if adapter is not None:
        return _adapted(module, adapter, x)
    out: Tensor = module(x)
    return out


def _packable(x: Tensor) -> bool:
    known = _HAS_ONEDNN and x.device.type == "cpu" and x.dtype in (torch.float32, torch.bfloat16)
    return known and not torch.is_grad_enabled()


def _by_pack(module: Any, x: Tensor) -> Tensor:
    """`module(x)`, from its pack if it is an ordinary layer of numbers that `x` can be multiplied with."""
    if not untouched(module, nn.Linear) or not (torch.is_autocast_enabled("cpu") or module.weight.dtype == x.dtype):
        return _linear(module, x) if torch.is_autocast_enabled("cpu") else module(x)
    packs = _packs.get()
    assert packs is not None
    if module not in packs:
        weight, bias = module.weight.detach().to(x.dtype), module.bias
        # The way torch's own compiler packs frozen weights; which layout is taken hardly depends on the rows.
        pack = torch.ops.mkldnn._reorder_linear_weight(weight, x.shape[:-1].numel())
        packs[module] = _Pack(pack, None if bias is None else bias.detach().to(x.dtype))
    out: Tensor = torch.ops.mkldnn._linear_pointwise(x, *packs[module], "none", [], "")
    return out


def _constant(module: Any) -> bool:
    """Whether it is an ordinary layer whose weights no gradient is taken of now."""
    return untouched(module, nn.Linear) and not (
        torch.is_grad_enabled() and any(p.requires_grad for p in module.parameters())
    )


def _plain_adapter(module: Any) -> str | None:
    """The name of the one active LoRA, as in the paper, on an ordinary frozen layer; None for anything else."""
    if not untouched(module, LoraLinear) or module.disable_adapters or module.merged or module.fan_in_fan_out:
        return None
    active = [name for name in module.active_adapters if name in module.lora_A]
    if len(active) != 1 or active[0] in module.lora_variant or not _constant(module.base_layer):
        return None
    down, up = module.lora_A[active[0]], module.lora_B[active[0]]
    plain = untouched(down, nn.Linear) and untouched(up, nn.Linear) and up.bias is None
    return str(active[0]) if plain else None


def _adapted(module: Any, adapter: str, x: Tensor) -> Tensor:
    """The base's and the adapter's part in one product, with the adapter's own dropout."""
    up, dropout = module.lora_B[adapter].weight, module.lora_dropout[adapter]
    rank = up.shape[1]
    low = F.linear(dropout(x), module.lora_A[adapter].weight)  # [..., r]
    if x.device.type == "cpu":
        copy = _copy(module.base_layer, x.dtype, rank)
    else:
        copy = _fresh(module.base_layer, x.dtype, rank, ())
    out: Tensor = _Joint.apply(x, low, up, copy, module.scaling[adapter])
    return out


class _Joint(torch.autograd.Function):
    """y = [x, low] [W, s U]' + b for a frozen W: x [..., in], low [..., r], U [out, r] -> [..., out]."""

    @staticmethod
    def forward(ctx: Any, *inputs: Any) -> Tensor:
        x, low, up, copy, scale = inputs
        scaled = (up * scale).to(x.dtype)
        copy.weight[:, -up.shape[1] :] = scaled
        ctx.save_for_backward(low, scaled)
        # Not saved: its last columns are written anew by the next forward, the others never change.
        ctx.weight, ctx.scale = copy.weight[:, : x.shape[-1]], scale
        return F.linear(torch.cat((x, low), dim=-1), copy.weight, copy.bias)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        low, scaled = ctx.saved_tensors
        grad = grads[0].to(low.dtype)
        x = grad @ ctx.weight if ctx.needs_input_grad[0] else None
        up = (grad.flatten(0, -2).T @ low.flatten(0, -2)).float() * ctx.scale if ctx.needs_input_grad[2] else None
        return x, grad @ scaled, up, None, None


def _copy(layer: Any, dtype: torch.dtype, rank: int) -> _Copy:
    """The layer's kept copy, made anew where its weights are not those it was made of."""
    weight = layer.weight
    flat = weight.detach().view(-1)
    # Merging an adapter writes through `.data`, which no version counter sees: some numbers are compared too.
    sample = tuple(flat[:: max(1, len(flat) // 7)].tolist())
    of = (dtype, rank, weight.data_ptr(), weight._version, sample)
    kept = _copies.get(layer)
    if kept is None or kept.of != of:
        kept = _copies[layer] = _fresh(layer, dtype, rank, of)
    return kept


def _fresh(layer: Any, dtype: torch.dtype, rank: int, of: tuple[Any, ...]) -> _Copy:
    weight = torch.empty(layer.out_features, layer.in_features + rank, dtype=dtype, device=layer.weight.device)
    weight[:, : layer.in_features] = layer.weight.detach()
    return _Copy(of, weight, None if layer.bias is None else layer.bias.detach().to(dtype))
