"""Run the decoder on image tokens and text, and return its states at the text's positions."""

from typing import NamedTuple, TypeAlias

import torch
from torch import Tensor, nn
from transformers.models.git import modeling_git as upstream

from cxr_ft.model.bases.git.attention import Shape, attend, split_heads
from cxr_ft.model.bases.git.dropout import added, rate
from cxr_ft.model.bases.git.eligibility import is_unmodified
from cxr_ft.model.bases.git.fused_linear import apply_linears, to_autocast
from cxr_ft.model.bases.git.gradient_checkpointing import checkpointed

#: The last part of attention, or of the whole layer: both are projection, dropout, sum and norm.
_Output: TypeAlias = upstream.GitSelfOutput | upstream.GitOutput
#: Keys and values of each layer.
KeysAndValues = list[tuple[Tensor, Tensor]]


class _BlockInputs(NamedTuple):
    """Inputs of a block besides its states.

    n: number of image tokens. bias: of the text's queries, see `text_bias`. at: positions whose states are needed;
    None: all. keep: list that gets each layer's keys and values; None: they are not needed.
    """

    n: int
    bias: Tensor
    at: Tensor | None
    keep: KeysAndValues | None

    def store(self, attention: upstream.GitSelfAttention, k: Tensor, v: Tensor) -> None:
        """Add a layer's keys and values to `keep`, if there is one."""
        if self.keep is not None:
            width = attention.attention_head_size
            self.keep.append((split_heads(k, width), split_heads(v, width)))


def text_states(
    git: upstream.GitModel,
    tokens: Tensor,
    input_ids: Tensor,
    attention_mask: Tensor | None = None,
    *,
    at: Tensor | None = None,
    positions: Tensor | None = None,
    keep: KeysAndValues | None = None,
) -> Tensor:
    """Return the last layer's states [B, T, D] of text after image tokens [b, I, D], repeated if B is larger than b.

    Args:
        input_ids: int64 [B, T].
        attention_mask: [B, T], 0 for padding; None: there is none.
        at: bool [B, T], the positions whose states are needed; the result is then [N, D], in row order.
        positions: int64 [B, T]; None: 0 to T - 1 in each row, as in transformers' forward.
        keep: list that gets each layer's keys and values, [B, H, I + T, d]; not with gradient checkpointing.
    """
    text = embedded(git.embeddings, input_ids, positions)
    image = tokens.repeat(len(text) // len(tokens), 1, 1)
    n = image.shape[1]
    bias = text_bias(input_ids, attention_mask, n, to_autocast(text).dtype)
    hidden, block_inputs = torch.cat((image, text), dim=1), _BlockInputs(n, bias, at, keep)
    *layers, last = git.encoder.layer
    for layer in layers:
        hidden = checkpointed(layer, _block, layer, hidden, block_inputs)
    return checkpointed(last, _last_block, last, hidden, block_inputs)


def embedded(embeddings: upstream.GitEmbeddings, input_ids: Tensor, positions: Tensor | None) -> Tensor:
    """Return word and position embeddings, [B, T, D]; not in place, since the weights may be leaves of autograd."""
    if positions is None:
        positions = embeddings.position_ids[:, : input_ids.shape[1]]
    x = embeddings.word_embeddings(input_ids) + embeddings.position_embeddings(positions)
    out: Tensor = embeddings.dropout(embeddings.LayerNorm(x))
    return out


def text_bias(input_ids: Tensor, attention_mask: Tensor | None, n: int, dtype: torch.dtype) -> Tensor:
    """Return the bias of the text's scores on `n` image tokens and text: [1 or B, 1, T, n + T], 0 or the minimum."""
    t = input_ids.shape[1]
    # The image's columns stay 0: each token of the text sees the whole image, and earlier text.
    seen = torch.ones(t, t, dtype=torch.bool, device=input_ids.device).tril()[None]
    if attention_mask is not None:
        seen = seen & attention_mask.bool()[:, None]
    bias = torch.zeros(len(seen), 1, t, n + t, dtype=dtype, device=input_ids.device)
    bias[..., n:].masked_fill_(~seen[:, None], torch.finfo(dtype).min)
    return bias


def after_attention(layer: upstream.GitLayer, context: Tensor, residual: Tensor) -> Tensor:
    """Run the rest of a decoder block for each position: output projection and feed-forward part, each post-norm."""
    x = _project_and_add(layer.attention.output, upstream.GitSelfOutput, context, residual)
    return _project_and_add(layer.output, upstream.GitOutput, _expand(layer.intermediate, to_autocast(x)), x)


def _block(layer: upstream.GitLayer, hidden: Tensor, block_inputs: _BlockInputs) -> Tensor:
    """Run a decoder block, [B, n + T, D]: image attends to image, text to all. Image on text is not computed at all."""
    attention = layer.attention.self
    q, k, v = apply_linears((attention.query, attention.key, attention.value), to_autocast(hidden))
    block_inputs.store(attention, k, v)
    context = attend(q, k, v, _shape(attention, block_inputs.n), block_inputs.bias)
    return after_attention(layer, context, hidden)


def _last_block(layer: upstream.GitLayer, hidden: Tensor, block_inputs: _BlockInputs) -> Tensor:
    """Run the last block for the text alone, since nothing reads the image's states above it; then only `at`."""
    attention, low = layer.attention.self, to_autocast(hidden)
    k, v = apply_linears((attention.key, attention.value), low)
    block_inputs.store(attention, k, v)
    (q,) = apply_linears((attention.query,), low[:, block_inputs.n :])
    context = attend(q, k, v, _shape(attention, 0), block_inputs.bias)
    residual = hidden[:, block_inputs.n :]
    # No later operation mixes positions: what is not needed can be dropped here.
    if block_inputs.at is not None:
        context, residual = context[block_inputs.at], residual[block_inputs.at]
    return after_attention(layer, context, residual)


def _shape(attention: upstream.GitSelfAttention, image: int) -> Shape:
    return Shape(attention.attention_head_size, image, rate(attention.dropout))


def _expand(intermediate: upstream.GitIntermediate, x: Tensor) -> Tensor:
    """Return `intermediate(x)`: a linear layer and the activation."""
    # An adapter around the whole module, or a hook on it, must run.
    if not is_unmodified(intermediate, upstream.GitIntermediate):
        whole: Tensor = intermediate(x)
        return whole
    out: Tensor = intermediate.intermediate_act_fn(apply_linears((intermediate.dense,), x)[0])
    return out


def _project_and_add(
    output: upstream.GitSelfOutput | upstream.GitOutput,
    kind: type[upstream.GitSelfOutput] | type[upstream.GitOutput],
    x: Tensor,
    residual: Tensor,
) -> Tensor:
    """Return `output(x, residual)`: projection, dropout, sum, norm; by the module itself if it was changed."""
    if not (is_unmodified(output, kind) and is_unmodified(output.dropout, nn.Dropout)):
        whole: Tensor = output(x, residual)
        return whole
    (projected,) = apply_linears((output.dense,), x)
    out: Tensor = output.LayerNorm(added(residual, projected, rate(output.dropout)))
    return out
