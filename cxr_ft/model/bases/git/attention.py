"""Compute attention by the kernel that is fastest on the device; `tools/bench_git.py --kernels` measures the choice.

On CPU torch's fused kernel has no dropout, and in bfloat16 its gradient takes twice the time of batched products;
without a gradient it is the faster one. On CUDA the fused kernel (flash, or memory-efficient with a bias) always runs.
"""

import math
from collections.abc import Iterator
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from cxr_ft.model.bases.git import dropout
from cxr_ft.model.bases.git.fused_linear import to_autocast


class Shape(NamedTuple):
    """Mask and sizes of attention of queries [B, T, H d] on keys [B, S, H d].

    width: d, of a head. image: the first `image` queries see only the first `image` keys; the others see all keys.
    p: dropout rate of the probabilities.
    """

    width: int
    image: int
    p: float

    def parts(self, queries: int, keys: int) -> Iterator[tuple[slice, slice, bool]]:
        """Yield (queries, keys, True if the bias applies) for the image's queries, then for the text's, if any."""
        if self.image:
            yield slice(0, self.image), slice(0, self.image), False
        if queries > self.image:
            yield slice(self.image, queries), slice(0, keys), True


def attend(q: Tensor, k: Tensor, v: Tensor, shape: Shape, bias: Tensor | None = None) -> Tensor:
    """Return softmax(q k' / sqrt(d) + bias) v of each head, with dropout on the probabilities, [B, T, H d].

    Args:
        bias: for the queries behind the image's, broadcast to [B, H, T - image, S]; its dtype is that of `q`.
    """
    # Some adapters return float32 for any input.
    q, k, v = (to_autocast(x) for x in (q, k, v))
    graph = torch.is_grad_enabled() and (q.requires_grad or k.requires_grad or v.requires_grad)
    if q.device.type == "cpu" and (graph or shape.p):
        return products(q, k, v, shape, bias)
    return fused(q, k, v, shape, bias)


def products(q: Tensor, k: Tensor, v: Tensor, shape: Shape, bias: Tensor | None) -> Tensor:
    """Return `attend` by batched products, on CPU."""
    out: Tensor = _Products.apply(q, k, v, shape, bias)
    return out


def split_heads(x: Tensor, width: int) -> Tensor:
    """Reshape [B, T, H d] to [B, H, T, d]; on CPU contiguous, since each product would copy it otherwise."""
    split = x.reshape(*x.shape[:-1], -1, width).transpose(1, 2)
    return split.contiguous() if x.device.type == "cpu" else split


def merge_heads(x: Tensor) -> Tensor:
    """Reshape [B, H, T, d] to [B, T, H d]."""
    return x.transpose(1, 2).flatten(2)


def fused(q: Tensor, k: Tensor, v: Tensor, shape: Shape, bias: Tensor | None) -> Tensor:
    """Return `attend` by torch's own kernel."""
    q, k, v = (split_heads(x, shape.width) for x in (q, k, v))
    parts = [
        F.scaled_dot_product_attention(
            q[:, :, rows], k[:, :, keys], v[:, :, keys], attn_mask=bias if biased else None, dropout_p=shape.p
        )
        for rows, keys, biased in shape.parts(q.shape[2], k.shape[2])
    ]
    return merge_heads(torch.cat(parts, dim=2))


class _Products(torch.autograd.Function):
    """Run two batched products and a softmax for each part; gradients by hand, without autograd's slices and sums."""

    @staticmethod
    # autograd passes positions only, and each tensor must be an argument of its own to get a gradient.
    def forward(  # noqa: PLR0917
        ctx: Any, q: Tensor, k: Tensor, v: Tensor, shape: Shape, bias: Tensor | None
    ) -> Tensor:
        q, k, v = (split_heads(x, shape.width) for x in (q, k, v))
        saved, contexts = [], []
        for rows, keys, biased in shape.parts(q.shape[2], k.shape[2]):
            # Divided before the product: the queries are a smaller tensor than the scores.
            scores = (q[:, :, rows] / math.sqrt(shape.width)) @ k[:, :, keys].transpose(-1, -2)
            probabilities = (scores + bias if biased and bias is not None else scores).softmax(-1)
            drop = dropout.draw(probabilities, shape.p)
            # The scale of dropout is applied to the product, which is smaller than the probabilities.
            contexts.append((drop.on(probabilities) @ v[:, :, keys]) * drop.scale)
            saved += [probabilities, drop.patterns]
        ctx.shape = shape
        ctx.drop = drop
        # The probabilities are kept, and the scores are not: softmax's gradient needs its result alone.
        ctx.save_for_backward(q, k, v, *saved)
        return merge_heads(contexts[0] if len(contexts) == 1 else torch.cat(contexts, dim=2))

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        q, k, v, *saved = ctx.saved_tensors
        # The scale of dropout once, on the smallest tensor, instead of on each product.
        grad = split_heads(grads[0] * ctx.drop.scale, ctx.shape.width)
        # Each query is in one part; keys and values of the image are in both, so that their gradients are sums.
        dq, dk, dv = torch.empty_like(q), torch.zeros_like(k), torch.zeros_like(v)
        for i, (rows, keys, _) in enumerate(ctx.shape.parts(q.shape[2], k.shape[2])):
            probabilities, drop = saved[2 * i], ctx.drop._replace(patterns=saved[2 * i + 1])
            part = grad[:, :, rows]
            dv[:, :, keys] += drop.on(probabilities).transpose(-1, -2) @ part
            d = drop.on(part @ v[:, :, keys].transpose(-1, -2))
            # The kernel of torch needs one pass and no temporary array, where the formula needs several.
            d = torch.ops.aten._softmax_backward_data(d, probabilities, -1, d.dtype) / math.sqrt(ctx.shape.width)
            dq[:, :, rows] = d @ k[:, :, keys]
            dk[:, :, keys] += d.transpose(-1, -2) @ q[:, :, rows]
        return merge_heads(dq), merge_heads(dk), merge_heads(dv), None, None
