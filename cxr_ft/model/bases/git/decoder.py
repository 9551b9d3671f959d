"""Image tokens and text -> the decoder's states at the text's positions."""

from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from transformers.models.git import modeling_git as upstream

from cxr_ft.model.bases.git.attention import Shape, attend, heads
from cxr_ft.model.bases.git.dropout import added, rate
from cxr_ft.model.bases.git.eligibility import untouched
from cxr_ft.model.bases.git.fused_linear import linears, lowered
from cxr_ft.model.bases.git.recompute import recomputed

Pairs = list[tuple[Tensor, Tensor]]


class _Around(NamedTuple):
    """What a block is told: the number of image tokens, the text's bias, the positions read, where keys go."""

    n: int
    bias: Tensor
    at: Tensor | None
    keep: Pairs | None

    def kept(self, attention: Any, k: Tensor, v: Tensor) -> None:
        """Keep a layer's keys and values, if somebody wants them."""
        if self.keep is not None:
            width = attention.attention_head_size
            self.keep.append((heads(k, width), heads(v, width)))


def text_states(
    git: Any,
    tokens: Tensor,
    input_ids: Tensor,
    attention_mask: Tensor | None = None,
    *,
    at: Tensor | None = None,
    positions: Tensor | None = None,
    keep: Pairs | None = None,
) -> Tensor:
    """The last layer's states [B, T, D] of the text behind the image `tokens` [b, I, D], repeated where B is more.

    Args:
        input_ids: int64 [B, T].
        attention_mask: [B, T], 0 where padding stands; None: nowhere.
        at: bool [B, T], the positions that somebody reads; the states are then [N, D], in row order.
        positions: int64 [B, T]; None: 0 to T - 1 in each row, as in transformers' forward.
        keep: is given each layer's keys and values, [B, H, I + T, d]; without gradient checkpointing only.
    """
    text = embedded(git.embeddings, input_ids, positions)
    image = tokens.repeat(len(text) // len(tokens), 1, 1)
    n = image.shape[1]
    bias = text_bias(input_ids, attention_mask, n, lowered(text).dtype)
    hidden, around = torch.cat((image, text), dim=1), _Around(n, bias, at, keep)
    *layers, last = git.encoder.layer
    for layer in layers:
        hidden = recomputed(layer, _block, layer, hidden, around)
    return recomputed(last, _last_block, last, hidden, around)


def embedded(embeddings: Any, input_ids: Tensor, positions: Tensor | None) -> Tensor:
    """Word and position embeddings, [B, T, D]; not in place, so that a leaf may stand below."""
    if positions is None:
        positions = embeddings.position_ids[:, : input_ids.shape[1]]
    x = embeddings.word_embeddings(input_ids) + embeddings.position_embeddings(positions)
    out: Tensor = embeddings.dropout(embeddings.LayerNorm(x))
    return out


def text_bias(input_ids: Tensor, attention_mask: Tensor | None, n: int, dtype: torch.dtype) -> Tensor:
    """What the scores of text on `n` image tokens and text get added: [1 or B, 1, T, n + T], 0 or the least number."""
    t = input_ids.shape[1]
    seen = torch.ones(t, t, dtype=torch.bool, device=input_ids.device).tril()[None]
    if attention_mask is not None:
        seen = seen & attention_mask.bool()[:, None]
    bias = torch.zeros(len(seen), 1, t, n + t, dtype=dtype, device=input_ids.device)
    bias[..., n:].masked_fill_(~seen[:, None], torch.finfo(dtype).min)
    return bias


def after_attention(layer: Any, context: Tensor, residual: Tensor) -> Tensor:
    """The rest of a decoder block, position by position: output projection and feed-forward part, each normed after."""
    x = _joined_back(layer.attention.output, upstream.GitSelfOutput, context, residual)
    return _joined_back(layer.output, upstream.GitOutput, _widened(layer.intermediate, lowered(x)), x)


def _block(layer: Any, hidden: Tensor, around: _Around) -> Tensor:
    """A decoder block, [B, n + T, D]: image on image, text on all; a masked square would be image on text besides."""
    attention = layer.attention.self
    q, k, v = linears((attention.query, attention.key, attention.value), lowered(hidden))
    around.kept(attention, k, v)
    context = attend(q, k, v, _shape(attention, around.n), around.bias)
    return after_attention(layer, context, hidden)


def _last_block(layer: Any, hidden: Tensor, around: _Around) -> Tensor:
    """The last block at the text alone, since nothing reads the image's states above it; after attention only `at`."""
    attention, low = layer.attention.self, lowered(hidden)
    k, v = linears((attention.key, attention.value), low)
    around.kept(attention, k, v)
    (q,) = linears((attention.query,), low[:, around.n :])
    context = attend(q, k, v, _shape(attention, 0), around.bias)
    residual = hidden[:, around.n :]
    if around.at is not None:
        context, residual = context[around.at], residual[around.at]
    return after_attention(layer, context, residual)


def _shape(attention: Any, image: int) -> Shape:
    return Shape(attention.attention_head_size, image, rate(attention.dropout))


def _widened(intermediate: Any, x: Tensor) -> Tensor:
    """`intermediate(x)`: a linear layer and the activation."""
    if not untouched(intermediate, upstream.GitIntermediate):
        whole: Tensor = intermediate(x)
        return whole
    out: Tensor = intermediate.intermediate_act_fn(linears((intermediate.dense,), x)[0])
    return out


def _joined_back(output: Any, kind: type[nn.Module], x: Tensor, residual: Tensor) -> Tensor:
    """`output(x, residual)`: projection, dropout, sum, norm; step by step unless somebody changed the module."""
    if not (untouched(output, kind) and untouched(output.dropout, nn.Dropout)):
        whole: Tensor = output(x, residual)
        return whole
    (projected,) = linears((output.dense,), x)
    out: Tensor = output.LayerNorm(added(residual, projected, rate(output.dropout)))
    return out
