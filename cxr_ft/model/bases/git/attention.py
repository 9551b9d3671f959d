"""Attention, with the kernel that is fastest where it runs; `tools/bench_git.py --kernels` measures the choice.

On CPU torch's fused kernel has no dropout, and in bfloat16 its gradient takes twice the time of batched products; where
no gradient is taken it wins. On CUDA the fused kernel (flash, or memory-efficient with a bias) is taken always.
"""

import math
from collections.abc import Iterator
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from cxr_ft.model.bases.git import dropout
from cxr_ft.model.bases.git.fused_linear import lowered


class Shape(NamedTuple):
    """How queries [B, T, H d] read keys [B, S, H d]: the first `image` queries as many keys, the others all."""

    width: int  # d
    image: int
    p: float  # dropout of the probabilities

    def parts(self, queries: int, keys: int) -> Iterator[tuple[slice, slice, bool]]:
        """(queries, keys, whether the bias is for them) of the image's part and of the text's, if there are any."""
        if self.image:
            yield slice(0, self.image), slice(0, self.image), False
        if queries > self.image:
            yield slice(self.image, queries), slice(0, keys), True


def attend(q: Tensor, k: Tensor, v: Tensor, shape: Shape, bias: Tensor | None = None) -> Tensor:
    """softmax(q k' / sqrt(d) + bias) v a head, with dropout on the probabilities, [B, T, H d].

    Args:
        bias: for the queries behind the image's, broadcast to [B, H, T - image, S]; its dtype is that of `q`.
    """
    # Some adapters answer in float32 whatever they are given.
    q, k, v = (lowered(x) for x in (q, k, v))
    graph = torch.is_grad_enabled() and (q.requires_grad or k.requires_grad or v.requires_grad)
    if q.device.type == "cpu" and (graph or shape.p):
        return products(q, k, v, shape, bias)
    return fused(q, k, v, shape, bias)


def products(q: Tensor, k: Tensor, v: Tensor, shape: Shape, bias: Tensor | None) -> Tensor:
    """`attend` by batched products, on CPU."""
    out: Tensor = _Products.apply(q, k, v, shape, bias)
    return out


def heads(x: Tensor, width: int) -> Tensor:
    """[B, T, H d] -> [B, H, T, d], on CPU laid out so, since each product would copy it otherwise."""
    split = x.reshape(*x.shape[:-1], -1, width).transpose(1, 2)
    return split.contiguous() if x.device.type == "cpu" else split


def joined(x: Tensor) -> Tensor:
    """[B, H, T, d] -> [B, T, H d]."""
    return x.transpose(1, 2).flatten(2)


def fused(q: Tensor, k: Tensor, v: Tensor, shape: Shape, bias: Tensor | None) -> Tensor:
    """`attend` by torch's own kernel."""
    q, k, v = (heads(x, shape.width) for x in (q, k, v))
    parts = [
        F.scaled_dot_product_attention(
            q[:, :, rows], k[:, :, keys], v[:, :, keys], attn_mask=bias if biased else None, dropout_p=shape.p
        )
        for rows, keys, biased in shape.parts(q.shape[2], k.shape[2])
    ]
    return joined(torch.cat(parts, dim=2))


class _Products(torch.autograd.Function):
    """Two batched products and a softmax a part, and their gradients in place of autograd's slices, zeros and sums."""

    @staticmethod
    def forward(ctx: Any, *inputs: Any) -> Tensor:
        q, k, v, shape, bias = inputs
        q, k, v = (heads(x, shape.width) for x in (q, k, v))
        saved, contexts = [], []
        for rows, keys, biased in shape.parts(q.shape[2], k.shape[2]):
            scores = (q[:, :, rows] / math.sqrt(shape.width)) @ k[:, :, keys].transpose(-1, -2)
            probabilities = (scores + bias if biased and bias is not None else scores).softmax(-1)
            drop = dropout.draw(probabilities, shape.p)
            contexts.append((drop.on(probabilities) @ v[:, :, keys]) * drop.scale)
            saved += [probabilities, drop.patterns]
        ctx.shape = shape
        ctx.drop = drop
        ctx.save_for_backward(q, k, v, *saved)
        return joined(contexts[0] if len(contexts) == 1 else torch.cat(contexts, dim=2))

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        q, k, v, *saved = ctx.saved_tensors
        grad = heads(grads[0] * ctx.drop.scale, ctx.shape.width)
        dq, dk, dv = torch.empty_like(q), torch.zeros_like(k), torch.zeros_like(v)
        for i, (rows, keys, _) in enumerate(ctx.shape.parts(q.shape[2], k.shape[2])):
            probabilities, drop = saved[2 * i], ctx.drop._replace(patterns=saved[2 * i + 1])
            part = grad[:, :, rows]
            dv[:, :, keys] += drop.on(probabilities).transpose(-1, -2) @ part
            d = drop.on(part @ v[:, :, keys].transpose(-1, -2))
            d = torch.ops.aten._softmax_backward_data(d, probabilities, -1, d.dtype) / math.sqrt(ctx.shape.width)
            dq[:, :, rows] = d @ k[:, :, keys]
            dk[:, :, keys] += d.transpose(-1, -2) @ q[:, :, rows]
        return joined(dq), joined(dk), joined(dv), None, None
