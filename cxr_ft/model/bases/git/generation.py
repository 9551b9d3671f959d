"""Generate text as transformers does, greedily, by sampling or by beam search, and score sentences.

The decoder runs on image and prompt once for each row; all beams, or all sentences to be scored, share the keys and
values. transformers copies them to every beam, and to the new cache of every step.
"""

import torch
from torch import Tensor
from transformers.models.git.modeling_git import GitForCausalLM

from cxr_ft.errors import UsageError
from cxr_ft.model.bases.git.beam_search import Beams, Search
from cxr_ft.model.bases.git.fused_linear import apply_linears, packed, to_autocast
from cxr_ft.model.bases.git.kv_cache import PrefixCache, TextCache, extend, read


@torch.no_grad()
def generate(
    lm: GitForCausalLM, tokens: Tensor, input_ids: Tensor, attention_mask: Tensor | None, search: Search
) -> Tensor:
    """Return the new token ids [B, up to max_new_tokens] after each prompt, `pad` after a row's `end`.

    Args:
        lm: a `GitForCausalLM` in evaluation mode, its modules adapted or not.
        tokens: image tokens [B, I, D].
        input_ids: prompts int64 [B, T], shorter ones padded on the left.
        attention_mask: [B, T], 0 for padding; None: there is none.
    """
    with packed():
        return _search_prefix(lm, read(lm.git, tokens, input_ids, attention_mask), search)


def _search_prefix(lm: GitForCausalLM, prefix: PrefixCache, search: Search) -> Tensor:
    longest = int(prefix.position.max()) + search.max_new_tokens
    # The last new token is never read, so that it needs no position.
    if longest > lm.config.max_position_embeddings + 1:
        raise UsageError(
            f"generation.max_new_tokens: {search.max_new_tokens} and the prompt need {longest - 1} positions; the "
            f"model has {lm.config.max_position_embeddings}"
        )
    text = TextCache(len(lm.git.encoder.layer), search.max_new_tokens)
    return (_beams if search.beams > 1 else _single)(lm, prefix, text, search)


@torch.no_grad()
def log_probability(lm: GitForCausalLM, tokens: Tensor, start: int, sentences: Tensor) -> Tensor:
    """Return the log-probability [B, K] of each sentence after image and start token.

    Args:
        tokens: image tokens [B, I, D].
        sentences: int64 [K, T], padded on the right with -1.
    """
    b, (k, t) = len(tokens), sentences.shape
    prefix = read(lm.git, tokens, torch.full((b, 1), start, device=tokens.device), None)
    # The state of the start token predicts the first token of every sentence.
    states = prefix.state[:, None, None].expand(b, k, 1, -1)
    if t > 1:
        shifted = sentences[None, :, :-1].clamp(min=0).expand(b, k, t - 1)
        rest = extend(lm.git, prefix, TextCache(len(lm.git.encoder.layer), t - 1), shifted)
        states = torch.cat((states, rest), dim=2)  # [B, K, T, D]
    # Logits are computed only where a sentence has a token: they are as wide as the vocabulary.
    counts = (sentences >= 0).expand(b, k, t)
    chosen = _token_log_probabilities(lm, states[counts], sentences.expand(b, k, t)[counts])
    return torch.zeros(b, k, t, device=tokens.device).masked_scatter_(counts, chosen).sum(2)


def _token_log_probabilities(lm: GitForCausalLM, states: Tensor, ids: Tensor, rows: int = 512) -> Tensor:
    """Return the log-probability [N] of each id at its state; few rows at a time, since logits are wide."""
    pairs = zip(torch.split(states, rows), torch.split(ids, rows), strict=True)
    return torch.cat([-torch.nn.functional.cross_entropy(_logits(lm, s), i, reduction="none") for s, i in pairs])


def _logits(lm: GitForCausalLM, states: Tensor) -> Tensor:
    # In float32: sums of many bfloat16 logarithms would make beams equal that are not.
    return apply_linears((lm.output,), to_autocast(states))[0].float()


def _single(lm: GitForCausalLM, prefix: PrefixCache, text: TextCache, search: Search) -> Tensor:
    """Generate one text for each row, greedily or by sampling, until the last row has ended."""
    state, out = prefix.state, []
    alive = torch.ones(len(state), dtype=torch.bool, device=state.device)
    while True:
        chosen = _next(_logits(lm, state), search)
        # A row that has ended is filled up while others go on.
        chosen = torch.where(alive, chosen, search.pad)
        out.append(chosen)
        alive = alive & (chosen != search.end)
        # Before the decoder runs again: the state after the last token is never read.
        if len(out) == search.max_new_tokens or not bool(alive.any()):
            return torch.stack(out, dim=1)
        state = extend(lm.git, prefix, text, chosen[:, None, None])[:, 0, 0]


def _next(logits: Tensor, search: Search) -> Tensor:
    """Return the next token [B] from logits [B, V]."""
    if search.temperature == 0:
        return logits.argmax(-1)
    logits = logits / search.temperature
    if search.top_k:
        # Tokens as likely as the k-th one stay, too, as in transformers.
        least = logits.topk(min(search.top_k, logits.shape[-1])).values[:, -1:]
        logits = logits.masked_fill(logits < least, -torch.inf)
    if search.top_p < 1:
        # From the least likely up: what is removed is the longest tail whose sum is at most 1 - top_p.
        ascending, order = logits.sort(-1)
        tail = ascending.softmax(-1).cumsum(-1) <= 1 - search.top_p
        tail[:, -1] = False  # the most likely token always stays
        logits = logits.masked_fill(tail.scatter(1, order, tail), -torch.inf)
    return torch.multinomial(logits.softmax(-1), 1)[:, 0]


def _beams(lm: GitForCausalLM, prefix: PrefixCache, text: TextCache, search: Search) -> Tensor:
    """Return the best finished text of each row by beam search."""
    b, k = len(prefix.state), search.beams
    beams = Beams(b, search, prefix.state.device)
    # All beams begin at the same state; `Beams` lets only the first one grow.
    states = prefix.state[:, None].expand(b, k, -1)
    while True:
        parents, chosen = beams.grow(_logits(lm, states.flatten(0, 1)).log_softmax(-1).view(b, k, -1))
        if beams.done:
            return beams.best()
        # Before the new tokens are read: they belong behind the text of their own parents.
        text.reorder(parents)
        states = extend(lm.git, prefix, text, chosen[..., None])[:, :, 0]
