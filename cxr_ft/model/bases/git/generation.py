"""Texts from one reading of image and prompt: greedy, sampled, and beam search, as transformers does them.

Image and prompt are read once an image; their keys and values are shared by all beams, or by all sentences that are to
be judged. transformers copies them to every beam, and to every step's new cache.
"""

from typing import Any

import torch
from torch import Tensor

from cxr_ft.errors import UsageError
from cxr_ft.model.bases.git.beam_search import Beams, Search
from cxr_ft.model.bases.git.fused_linear import linears, lowered, packed
from cxr_ft.model.bases.git.kv_cache import KVCache, Written, extend, read


@torch.no_grad()
def generate(lm: Any, tokens: Tensor, input_ids: Tensor, attention_mask: Tensor | None, search: Search) -> Tensor:
    """The new token ids [B, up to max_new_tokens] behind each prompt, `pad` behind a row's `end`.

    Args:
        lm: a `GitForCausalLM` in evaluation mode, its modules adapted or not.
        tokens: image tokens [B, I, D].
        input_ids: prompts int64 [B, T], shorter ones padded on the left.
        attention_mask: [B, T], 0 where padding stands; None: nowhere.
    """
    with packed():
        return _generated(lm, read(lm.git, tokens, input_ids, attention_mask), search)


def _generated(lm: Any, prefix: KVCache, search: Search) -> Tensor:
    longest = int(prefix.position.max()) + search.max_new_tokens
    if longest > lm.config.max_position_embeddings + 1:
        raise UsageError(
            f"generation.max_new_tokens: {search.max_new_tokens} and the prompt need {longest - 1} positions; the "
            f"model has {lm.config.max_position_embeddings}"
        )
    written = Written(len(lm.git.encoder.layer), search.max_new_tokens)
    return (_beams if search.beams > 1 else _one)(lm, prefix, written, search)


@torch.no_grad()
def log_probability(lm: Any, tokens: Tensor, start: int, sentences: Tensor) -> Tensor:
    """Log-probability [B, K] of each sentence behind image and start token.

    Args:
        tokens: image tokens [B, I, D].
        sentences: int64 [K, T], padded on the right with -1.
    """
    b, (k, t) = len(tokens), sentences.shape
    prefix = read(lm.git, tokens, torch.full((b, 1), start, device=tokens.device), None)
    states = prefix.state[:, None, None].expand(b, k, 1, -1)
    if t > 1:
        given = sentences[None, :, :-1].clamp(min=0).expand(b, k, t - 1)
        rest = extend(lm.git, prefix, Written(len(lm.git.encoder.layer), t - 1), given)
        states = torch.cat((states, rest), dim=2)  # [B, K, T, D]
    counts = (sentences >= 0).expand(b, k, t)
    chosen = _chosen(lm, states[counts], sentences.expand(b, k, t)[counts])
    return torch.zeros(b, k, t, device=tokens.device).masked_scatter_(counts, chosen).sum(2)


def _chosen(lm: Any, states: Tensor, ids: Tensor, rows: int = 512) -> Tensor:
    """Log-probability [N] of each id at its state; few rows at a time, since each has the vocabulary's width."""
    pairs = zip(torch.split(states, rows), torch.split(ids, rows), strict=True)
    return torch.cat([-torch.nn.functional.cross_entropy(_logits(lm, s), i, reduction="none") for s, i in pairs])


def _logits(lm: Any, states: Tensor) -> Tensor:
    return linears((lm.output,), lowered(states))[0].float()


def _one(lm: Any, prefix: KVCache, written: Written, search: Search) -> Tensor:
    """Greedy or sampled: one text a row, until the last row has ended."""
    state, out = prefix.state, []
    alive = torch.ones(len(state), dtype=torch.bool, device=state.device)
    while True:
        chosen = _next(_logits(lm, state), search)
        chosen = torch.where(alive, chosen, search.pad)
        out.append(chosen)
        alive = alive & (chosen != search.end)
        if len(out) == search.max_new_tokens or not bool(alive.any()):
            return torch.stack(out, dim=1)
        state = extend(lm.git, prefix, written, chosen[:, None, None])[:, 0, 0]


def _next(logits: Tensor, search: Search) -> Tensor:
    """The next token [B] from logits [B, V]."""
    if search.temperature == 0:
        return logits.argmax(-1)
    logits = logits / search.temperature
    if search.top_k:
        least = logits.topk(min(search.top_k, logits.shape[-1])).values[:, -1:]
        logits = logits.masked_fill(logits < least, -torch.inf)
    if search.top_p < 1:
        ascending, order = logits.sort(-1)
        tail = ascending.softmax(-1).cumsum(-1) <= 1 - search.top_p
        tail[:, -1] = False  # the likeliest token always stays
        logits = logits.masked_fill(tail.scatter(1, order, tail), -torch.inf)
    return torch.multinomial(logits.softmax(-1), 1)[:, 0]


def _beams(lm: Any, prefix: KVCache, written: Written, search: Search) -> Tensor:
    """Beam search: the best finished text of each row."""
    b, k = len(prefix.state), search.beams
    beams = Beams(b, search, prefix.state.device)
    states = prefix.state[:, None].expand(b, k, -1)
    while True:
        parents, chosen = beams.grow(_logits(lm, states.flatten(0, 1)).log_softmax(-1).view(b, k, -1))
        if beams.done:
            return beams.best()
        written.reorder(parents)
        states = extend(lm.git, prefix, written, chosen[..., None])[:, :, 0]
