"""Compute next-token cross-entropy with one copy of the logits, in their own precision."""

from typing import Any

import torch
from torch import Tensor

#: Rows at a time on CPU, so that their float32 copy stays in the processor's cache; on CUDA all at once.
ROWS = 16


def cross_entropy_sum(logits: Tensor, targets: Tensor) -> Tensor:
    """Return the sum of -log softmax(logits)[target] in float32: logits [N, W], targets int64 [N] -> []. N may be 0."""
    total: Tensor = _CrossEntropy.apply(logits, targets)
    return total


class _CrossEntropy(torch.autograd.Function):
    """Autograd would keep a float32 copy of the logits for the backward pass; the normalisers [N] are enough."""

    @staticmethod
    def forward(ctx: Any, logits: Tensor, targets: Tensor) -> Tensor:
        rows = ROWS if logits.device.type == "cpu" else max(len(logits), 1)
        normalisers = torch.cat([part.float().logsumexp(-1) for part in torch.split(logits, rows)])
        ctx.save_for_backward(logits, targets, normalisers)
        # The backward pass takes the same slices, so that its float32 copy fits into the cache too.
        ctx.rows = rows
        return (normalisers - logits.gather(1, targets[:, None])[:, 0].float()).sum()

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None]:
        logits, targets, normalisers = ctx.saved_tensors
        grad = torch.empty_like(logits)
        for start in range(0, len(logits), ctx.rows):
            part = slice(start, start + ctx.rows)
            # float32, since the normalisers are: bfloat16 would round small probabilities away.
            p = (logits[part] - normalisers[part, None]).exp_()
            # The gradient of -log softmax(logits)[target] is the softmax minus 1 at the target.
            p.scatter_add_(1, targets[part, None], torch.full_like(p[:, :1], -1.0))
            # In place: one more array as wide as the vocabulary would be the largest of the step.
            torch.mul(p, grads[0], out=p)
            grad[part] = p
        return grad, None
