"""Keep keys and values of the decoder: of image and prompt once for each row, of generated text for each beam."""

import math
from typing import NamedTuple

import torch
from torch import Tensor
from transformers.models.git.modeling_git import GitModel

from cxr_ft.model.bases.git.decoder import KeysAndValues, after_attention, embedded, text_states
from cxr_ft.model.bases.git.fused_linear import apply_linears, to_autocast


class PrefixCache(NamedTuple):
    """Keys and values of image and prompt, shared by all beams of a row.

    pairs: keys and values of each layer [B, H, P, d]. bias: [B, 1, 1, P], hides padding; None: there is none.
    position: of the next token, [B]. state: at the last prompt token, [B, D].
    """

    pairs: KeysAndValues
    bias: Tensor | None
    position: Tensor
    state: Tensor


class TextCache:
    """Keys and values of generated text: of each layer [B, H, K, t, d], with room for `room` tokens.

    In the memory layout that attention's matrix products take, so that no step copies earlier tokens.
    """

    def __init__(self, layers: int, room: int) -> None:
        self.room, self.length = room, 0
        self._pairs: list[tuple[Tensor, Tensor] | None] = [None] * layers

    def append(self, layer: int, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        """Add [B, H, K, T, d] to a layer and return all its keys and values; `length` grows with the last layer."""
        pair = self._pairs[layer]
        if pair is None:
            shape = (*k.shape[:3], self.room, k.shape[-1])
            # All the room at once: a cache that grows would copy all earlier tokens in each step.
            pair = self._pairs[layer] = k.new_empty(shape), v.new_empty(shape)
        end = self.length + k.shape[3]
        for buffer, new in zip(pair, (k, v), strict=True):
            buffer[..., self.length : end, :] = new
        # All layers of one step write at the same place: it moves on after the last one.
        if layer == len(self._pairs) - 1:
            self.length = end
        return pair[0][..., :end, :], pair[1][..., :end, :]

    def reorder(self, parents: Tensor) -> None:
        """Continue beam k of each row from beam parents[:, k]; parents int64 [B, K]."""
        b, k = parents.shape
        # Often every beam continues itself: then nothing has to be copied.
        if bool((parents == torch.arange(k, device=parents.device)).all()):
            return
        for pair in self._pairs:
            for buffer in pair or ():
                past = buffer.flatten(0, 2)[:, : self.length]  # [B H K, t, d]
                firsts = torch.arange(0, len(past), k, device=past.device).view(b, -1, 1)
                # index_select copies first, so that no beam is overwritten before it is read.
                past.copy_(past.index_select(0, (parents[:, None] + firsts).flatten()))


def read(git: GitModel, tokens: Tensor, input_ids: Tensor, attention_mask: Tensor | None) -> PrefixCache:
    """Run the decoder on image tokens [B, I, D] and prompts [B, T], padded on the left where the mask [B, T] is 0.

    Positions count from each prompt's first token, as in transformers' generation.
    """
    b, t = input_ids.shape
    if attention_mask is not None and not bool(attention_mask[:, -1].all()):
        raise ValueError("prompts are padded on the left: the last column must hold each prompt's last token")
    mask = torch.ones_like(input_ids) if attention_mask is None else attention_mask.long()
    positions = (mask.cumsum(1) - 1).clamp(min=0)
    pairs: KeysAndValues = []
    last = torch.arange(t, device=input_ids.device).expand(b, t) == t - 1
    state = text_states(git, tokens, input_ids, mask, at=last, positions=positions, keep=pairs)
    # Once, since each step of the generation reads them, and a product would copy them each time.
    whole = [(k.contiguous(), v.contiguous()) for k, v in pairs]
    bias = None
    if not bool(mask.all()):
        k = whole[0][0]
        bias = torch.zeros(b, 1, 1, k.shape[2], dtype=k.dtype, device=k.device)
        bias[..., -t:].masked_fill_(mask[:, None, None] == 0, torch.finfo(k.dtype).min)
    return PrefixCache(whole, bias, positions[:, -1] + 1, state)


def extend(git: GitModel, prefix: PrefixCache, text: TextCache, input_ids: Tensor) -> Tensor:
    """Run the decoder on new tokens [B, K, T] after prefix and earlier text; return their states [B, K, T, D]."""
    b, k, t = input_ids.shape
    place = torch.arange(text.length, text.length + t, device=input_ids.device)
    positions = (prefix.position[:, None, None] + place).expand(b, k, t)
    hidden = embedded(git.embeddings, input_ids.flatten(0, 1), positions.flatten(0, 1))  # [B K, T, D]
    # A single new token sees all earlier ones, and needs no mask.
    ahead = torch.arange(text.length + t, device=input_ids.device) > place[:, None] if t > 1 else None
    for i, layer in enumerate(git.encoder.layer):
        attention = layer.attention.self
        three = apply_linears((attention.query, attention.key, attention.value), to_autocast(hidden))
        q, key, value = (_by_head(x, b, attention.attention_head_size) for x in three)
        own = text.append(i, key, value)
        context = _attend(q, prefix.pairs[i], own, prefix.bias, ahead)  # [B, H, K, T, d]
        hidden = after_attention(layer, context.permute(0, 2, 3, 1, 4).reshape(b * k, t, -1), hidden)
    return _by_row(hidden, b)


def _by_row(x: Tensor, rows: int) -> Tensor:
    """Reshape [B K, ...] to [B, K, ...]."""
    return x.view(rows, -1, *x.shape[1:])


def _by_head(x: Tensor, rows: int, width: int) -> Tensor:
    """Reshape [B K, T, H d] to [B, H, K, T, d]."""
    return x.reshape(rows, -1, x.shape[1], x.shape[2] // width, width).permute(0, 3, 1, 2, 4)


def _attend(
    q: Tensor, prefix: tuple[Tensor, Tensor], own: tuple[Tensor, Tensor], bias: Tensor | None, ahead: Tensor | None
) -> Tensor:
    """Return attention of q [B, H, K, T, d] on the prefix, shared by all K, and on the own text of each beam."""
    q = q / math.sqrt(q.shape[-1])
    # All beams' queries are rows of one product, since they share the keys of image and prompt.
    shared = q.flatten(2, 3) @ prefix[0].transpose(-1, -2)  # [B, H, K T, P]
    if bias is not None:
        shared = shared + bias
    own_scores = q @ own[0].transpose(-1, -2)  # [B, H, K, T, t]
    if ahead is not None:
        own_scores = own_scores.masked_fill(ahead, torch.finfo(own_scores.dtype).min)
    # One softmax over both parts, since they are one sequence.
    probabilities = torch.cat((shared.view(*own_scores.shape[:4], -1), own_scores), dim=-1).softmax(-1)
    p, o = torch.split(probabilities, [shared.shape[-1], own_scores.shape[-1]], dim=-1)
    # The weighted sum over the whole sequence is the sum of the two parts' sums.
    return (p.flatten(2, 3) @ prefix[1]).view(q.shape) + o @ own[1]
