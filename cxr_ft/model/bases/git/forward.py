"""What a GIT answers about images, by the fast walk, or by transformers' own forward where the walk may not go.

`views` is how many images a row may have; rows of each number are read apart (`_git_views`).
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from cxr_ft.model.bases.git import decoder, eligibility, frozen_prefix, generation, multi_view, plain, pooling
from cxr_ft.model.bases.git.fused_linear import linears, lowered
from cxr_ft.model.protocols import Batch

if TYPE_CHECKING:
    from cxr_ft.model.bases.git.beam_search import Search

#: In a batch, for the time of a call: the positions that are asked for; prompts, int64 [B, P], padded on the left where
#: their mask is 0.
_AT, _PROMPT, _MASK = "at", "prompt_ids", "prompt_mask"


def pooled(model: Any, batch: Batch, views: int, pool: str, start: int) -> Tensor:
    """See `Git.pooled`, [B, D]; `start` is the start token."""

    def answer(part: Batch) -> Tensor:
        if pool != "query":
            return pooling.image_vector(model, part, pool)
        if not eligibility.walkable(model):
            return plain.pooled(model, part, start)
        git = eligibility.git_of(model)
        tokens = frozen_prefix.tokens_of(git, part)
        ids = torch.full((len(tokens), 1), start, device=tokens.device)
        return decoder.text_states(git, tokens, ids)[:, 0]

    return multi_view.in_order(multi_view.by_count(model, batch, views, answer))


def logits(model: Any, batch: Batch, views: int, at: Tensor | None) -> Tensor:
    """See `Git.logits`, [B, T, V] or [N, V]."""

    def answer(part: Batch) -> Tensor:
        asked = part.get(_AT)
        if not eligibility.walkable(model):
            return plain.logits(model, part, asked)
        git = eligibility.git_of(model)
        tokens = frozen_prefix.tokens_of(git, part)
        states = decoder.text_states(git, tokens, part["input_ids"], part["attention_mask"], at=asked)
        return linears((eligibility.unwrapped(model).output,), lowered(states))[0]

    if at is None:
        return multi_view.in_order(multi_view.by_count(model, batch, views, answer))
    found = multi_view.by_count(model, {**batch, _AT: at}, views, answer)
    return multi_view.in_order(found, at.sum(1))


def logits_and_pooled(model: Any, batch: Batch, views: int, at: Tensor) -> tuple[Tensor, Tensor]:
    """See `Git.logits_and_pooled`, [N, V] and [B, D]."""

    def answer(part: Batch) -> tuple[Tensor, Tensor]:
        asked = part[_AT]
        if not eligibility.walkable(model):
            return plain.logits(model, part, asked), plain.pooled_of_lm(model, part)
        git, wanted = eligibility.git_of(model), asked.clone()
        wanted[:, 0] = True
        tokens = frozen_prefix.tokens_of(git, part)
        states = decoder.text_states(git, tokens, part["input_ids"], part["attention_mask"], at=wanted)
        starts = wanted.nonzero()[:, 1] == 0  # [N + those of B that `at` leaves out]
        written = linears((eligibility.unwrapped(model).output,), lowered(states[asked[wanted]]))[0]
        return written, states[starts]

    found = multi_view.by_count(model, {**batch, _AT: at}, views, answer)
    written, states = ([(rows, both[i]) for rows, both in found] for i in (0, 1))
    return multi_view.in_order(written, at.sum(1)), multi_view.in_order(states)


def generate(
    model: Any, batch: Batch, views: int, prompt: Sequence[int] | Sequence[Sequence[int]], search: "Search"
) -> Tensor:
    """The new token ids [B, max_new_tokens] behind a prompt of all rows, or one a row; `pad` behind a row's `end`."""

    def answer(part: Batch) -> Tensor:
        ids, mask = part[_PROMPT], part[_MASK]
        if eligibility.walkable(model):
            with torch.no_grad():
                tokens = frozen_prefix.tokens_of(eligibility.git_of(model), part)
            new = generation.generate(eligibility.unwrapped(model), tokens, ids, mask, search)
        else:
            new = _by_length(model, part[frozen_prefix.PIXELS], ids, mask, search)
        return torch.nn.functional.pad(new, (0, search.max_new_tokens - new.shape[1]), value=search.pad)

    asked = {**batch, **_padded(prompt, batch, search.pad)}
    return multi_view.in_order(multi_view.by_count(model, asked, views, answer))


def likelihood(model: Any, batch: Batch, views: int, start: int, sentences: Sequence[Sequence[int]]) -> Tensor:
    """See `Git.likelihood`, [B, K]."""
    ids = torch.nn.utils.rnn.pad_sequence([torch.tensor(s) for s in sentences], batch_first=True, padding_value=-1)

    def answer(part: Batch) -> Tensor:
        if not eligibility.walkable(model):
            pixels = part[frozen_prefix.PIXELS]
            return plain.likelihood(model, pixels, start, ids.to(pixels.device))
        with torch.no_grad():
            tokens = frozen_prefix.tokens_of(eligibility.git_of(model), part)
        return generation.log_probability(
            eligibility.unwrapped(model), tokens, start, ids.to(tokens.device)
        )  # ids [K, T]

    return multi_view.in_order(multi_view.by_count(model, batch, views, answer))


def _by_length(model: Any, pixels: Tensor, ids: Tensor, mask: Tensor, search: "Search") -> Tensor:
    """Prompts of one length at a time, without padding: PEFT drops the positions that learnt prompts would need."""
    lengths = mask.sum(1)
    out = torch.full((len(ids), search.max_new_tokens), search.pad, device=ids.device)
    for length in sorted(set(lengths.tolist())):
        rows = (lengths == length).nonzero()[:, 0]
        new = plain.generate(model, pixels[rows], ids[rows, -length:], mask[rows, -length:], search)
        out[rows, : new.shape[1]] = new
    return out


def _padded(prompt: Sequence[int] | Sequence[Sequence[int]], batch: Batch, pad: int) -> Batch:
    """_PROMPT and _MASK of token ids that all rows share, or of a list a row; on the device of `batch`."""
    images = next(
        batch[name]
        for name in (frozen_prefix.PIXELS, frozen_prefix.TOWER, frozen_prefix.STATES, frozen_prefix.TOKENS)
        if name in batch
    )
    rows = [[one] if isinstance(one, int) else list(one) for one in prompt]
    if isinstance(prompt[0], int):
        rows = [[token for one in rows for token in one]] * len(images)
    longest = max(map(len, rows))
    ids = torch.tensor([[pad] * (longest - len(row)) + row for row in rows])
    mask = torch.tensor([[0] * (longest - len(row)) + [1] * len(row) for row in rows])
    return {_PROMPT: ids.to(images.device), _MASK: mask.to(images.device)}
