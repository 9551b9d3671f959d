"""Run linear layers under autocast: frozen weights are cast once for all steps, LoRA is computed in its base's product.

In bfloat16 LoRA's part, often below a thousandth of its base's, is lost if both are rounded and then added. As columns
of one product, [x, x A'] [W, s B]', both are summed in float32 and rounded once.
"""

import contextlib
import platform
from collections.abc import Iterator, Sequence
from contextvars import ContextVar
from typing import Any, NamedTuple, TypeGuard
from weakref import WeakKeyDictionary

import torch
from peft.tuners.lora.layer import Linear as LoraLinear
from torch import Tensor, nn
from torch.nn import functional as F

from cxr_ft.model.bases.git.eligibility import is_unmodified


class _CastWeight(NamedTuple):
    """A weight [out, in + rank] and bias cast to a lower precision, the last `rank` columns free for LoRA's.

    of: identifies the numbers that were cast; see `_copy`.
    """

    of: tuple[object, ...]
    weight: Tensor
    bias: Tensor | None


#: Layer -> its cast weight. Autocast would cast each frozen weight again in every forward pass. It is kept outside of
#: the layer, so that no saved model has it. An entry is replaced when the layer's weight or the precision changes
#: (`_copy`), and removed with its layer, by the weak reference.
_copies: WeakKeyDictionary[nn.Module, _CastWeight] = WeakKeyDictionary()


class _Pack(NamedTuple):
    """A weight in the memory layout of oneDNN, and the bias."""

    weight: Tensor
    bias: Tensor | None


#: True for a processor for which oneDNN packs weights.
_HAS_ONEDNN = platform.machine() in ("x86_64", "AMD64") and hasattr(torch.ops.mkldnn, "_reorder_linear_weight")
#: Layer -> its packed weight, inside `packed`; None outside of it. A pack is as large as its weight and would be stale
#: after a step of the optimizer: all are dropped at the end of the block. A ContextVar: each thread has its own.
_packs: ContextVar[dict[nn.Module, _Pack] | None] = ContextVar("packs", default=None)


@contextlib.contextmanager
def packed() -> Iterator[None]:
    """Pack the weight of each ordinary layer for oneDNN at its first use in the block; drop the packs at its end.

    For many products of few rows, as in generation token by token: each reads its whole weight, and torch would
    reorder it each time (bfloat16), or read it more slowly (MKL's float32). Without gradients, on x86 CPUs.
    """
    # By a token: blocks may be nested, and the outer one keeps its packs.
    token = _packs.set({})
    try:
        yield
    finally:
        _packs.reset(token)


def to_autocast(x: Tensor) -> Tensor:
    """Cast `x` to autocast's dtype if autocast is on: once for all modules that read it, not once in each."""
    device = x.device.type
    return x.to(torch.get_autocast_dtype(device)) if torch.is_autocast_enabled(device) else x


def apply_linears(modules: Sequence[nn.Module], x: Tensor) -> list[Tensor]:
    """Return [module(x) for module in modules], faster under autocast or in `packed`; `x` comes from `to_autocast`."""
    if _packs.get() is not None and _can_pack(x):
        return [_packed_linear(module, x) for module in modules]
    if not torch.is_autocast_enabled(x.device.type):
        return [module(x) for module in modules]
    return [_linear(module, x) for module in modules]


def _linear(module: nn.Module, x: Tensor) -> Tensor:
    # On CPU alone: `_copy` reads numbers of the weight, for which a GPU would have to finish its work first.
    if _constant(module) and x.device.type == "cpu":
        copy = _copy(module, x.dtype, 0)
        return F.linear(x, copy.weight, copy.bias)
    adapter = _simple_adapter(module)
    if adapter is not None:
        return _adapted(module, adapter, x)
    out: Tensor = module(x)
    return out


def _can_pack(x: Tensor) -> bool:
    supported = _HAS_ONEDNN and x.device.type == "cpu" and x.dtype in (torch.float32, torch.bfloat16)
    return supported and not torch.is_grad_enabled()


def _packed_linear(module: nn.Module, x: Tensor) -> Tensor:
    """Return `module(x)`, by its pack if it is an ordinary layer with weights of the dtype that `x` needs."""
    # A weight of another dtype than the input's is packed only where autocast would cast it anyway.
    if not is_unmodified(module, nn.Linear) or not (torch.is_autocast_enabled("cpu") or module.weight.dtype == x.dtype):
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


def _constant(module: nn.Module) -> TypeGuard[nn.Linear]:
    """Return True for an ordinary layer whose weights need no gradient now."""
    return is_unmodified(module, nn.Linear) and not (
        torch.is_grad_enabled() and any(p.requires_grad for p in module.parameters())
    )


def _simple_adapter(module: nn.Module) -> str | None:
    """Return the name of the only active LoRA, as in the paper, on an ordinary frozen layer; None for anything else."""
    if not is_unmodified(module, LoraLinear) or module.disable_adapters or module.merged or module.fan_in_fan_out:
        return None
    # A variant, as DoRA, is no sum of two products.
    active = [name for name in module.active_adapters if name in module.lora_A]
    if len(active) != 1 or active[0] in module.lora_variant or not _constant(module.base_layer):
        return None
    down, up = module.lora_A[active[0]], module.lora_B[active[0]]
    plain = is_unmodified(down, nn.Linear) and is_unmodified(up, nn.Linear) and up.bias is None
    return str(active[0]) if plain else None


def _adapted(module: LoraLinear, adapter: str, x: Tensor) -> Tensor:
    """Return the base's and the adapter's output by one product, with the adapter's own dropout."""
    up, dropout = module.lora_B[adapter].weight, module.lora_dropout[adapter]
    rank = up.shape[1]
    # Dropout is on the adapter's input alone, as in PEFT: the base reads all of x.
    low = F.linear(dropout(x), module.lora_A[adapter].weight)  # [..., r]
    if x.device.type == "cpu":
        copy = _copy(module.base_layer, x.dtype, rank)
    else:
        copy = _cast(module.base_layer, x.dtype, rank, ())
    out: Tensor = _FusedLowRank.apply(x, low, up, copy, module.scaling[adapter])
    return out


class _FusedLowRank(torch.autograd.Function):
    """Compute y = [x, low] [W, s U]' + b for a frozen W: x [..., in], low [..., r], U [out, r] -> [..., out]."""

    @staticmethod
    # autograd passes positions only, and each tensor must be an argument of its own to get a gradient.
    def forward(  # noqa: PLR0917
        ctx: Any, x: Tensor, low: Tensor, up: Tensor, copy: _CastWeight, scale: float
    ) -> Tensor:
        # Scaled before it is rounded, as the sum of the paper is: the columns hold s U, so that one product is enough.
        scaled = (up * scale).to(x.dtype)
        copy.weight[:, -up.shape[1] :] = scaled
        ctx.save_for_backward(low, scaled)
        # Not saved for backward: the next forward overwrites its last columns, and the first ones never change.
        ctx.weight, ctx.scale = copy.weight[:, : x.shape[-1]], scale
        return F.linear(torch.cat((x, low), dim=-1), copy.weight, copy.bias)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        low, scaled = ctx.saved_tensors
        grad = grads[0].to(low.dtype)
        # Above frozen embeddings nobody needs the gradient of x, which costs as much as the forward pass.
        x = grad @ ctx.weight if ctx.needs_input_grad[0] else None
        up = (grad.flatten(0, -2).T @ low.flatten(0, -2)).float() * ctx.scale if ctx.needs_input_grad[2] else None
        return x, grad @ scaled, up, None, None


def _copy(layer: nn.Linear, dtype: torch.dtype, rank: int) -> _CastWeight:
    """Return the cached cast weight of `layer`, cast again if the weight has changed since."""
    weight = layer.weight
    flat = weight.detach().view(-1)
    # Merging an adapter writes through `.data`, which `_version` does not count: compare seven numbers as well.
    sample = tuple(flat[:: max(1, len(flat) // 7)].tolist())
    of = (dtype, rank, weight.data_ptr(), weight._version, sample)
    cached = _copies.get(layer)
    if cached is None or cached.of != of:
        cached = _copies[layer] = _cast(layer, dtype, rank, of)
    return cached


def _cast(layer: nn.Linear, dtype: torch.dtype, rank: int, of: tuple[object, ...]) -> _CastWeight:
    # In the fused form [W, s U]: the last columns are written in each forward pass.
    weight = torch.empty(layer.out_features, layer.in_features + rank, dtype=dtype, device=layer.weight.device)
    weight[:, : layer.in_features] = layer.weight.detach()
    return _CastWeight(of, weight, None if layer.bias is None else layer.bias.detach().to(dtype))
