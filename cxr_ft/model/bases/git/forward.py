"""Run a GIT by the fused path, or by transformers' own forward where `eligibility` refuses the fused path.

`views` is the largest number of images of a row; rows are grouped by their number of images (`multi_view`). The
`plain_` functions are the ones by transformers' own forward and generation; tests compare the fused path with them.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from cxr_ft.model.bases.git import decoder, eligibility, frozen_prefix, generation, multi_view
from cxr_ft.model.bases.git.fused_linear import apply_linears, to_autocast
from cxr_ft.model.bases.git.vision import image_vector
from cxr_ft.model.peft_models import unwrapped
from cxr_ft.model.protocols import PIXELS, Batch

if TYPE_CHECKING:
    from transformers import GenerationMixin

    from cxr_ft.model.bases.git.beam_search import Search

#: Added to a batch for the time of a call: positions whose logits are needed; prompts, int64 [B, P], padded on the left
#: where their mask is 0.
_AT, _PROMPT, _MASK = "at", "prompt_ids", "prompt_mask"


def pooled(model: nn.Module, batch: Batch, views: int, pool: str, start: int) -> Tensor:
    """Return `Git.pooled`, [B, D]; `start` is the id of the start token."""

    def run(part: Batch) -> Tensor:
        if pool != "query":
            return image_vector(model, part, pool)
        if not eligibility.can_use_fused_path(model):
            return plain_pooled(model, part, start)
        git = eligibility.git_of(model)
        tokens = frozen_prefix.tokens_of(git, part)
        ids = torch.full((len(tokens), 1), start, device=tokens.device)
        return decoder.text_states(git, tokens, ids)[:, 0]

    return multi_view.in_batch_order(multi_view.run_by_count(model, batch, views, run))


def logits(model: nn.Module, batch: Batch, views: int, at: Tensor | None) -> Tensor:
    """Return `Git.logits`, [B, T, V] or [N, V]."""

    def run(part: Batch) -> Tensor:
        positions = part.get(_AT)
        if not eligibility.can_use_fused_path(model):
            return plain_logits(model, part, positions)
        git = eligibility.git_of(model)
        tokens = frozen_prefix.tokens_of(git, part)
        states = decoder.text_states(git, tokens, part["input_ids"], part["attention_mask"], at=positions)
        return apply_linears((unwrapped(model).get_submodule("output"),), to_autocast(states))[0]

    if at is None:
        return multi_view.in_batch_order(multi_view.run_by_count(model, batch, views, run))
    results = multi_view.run_by_count(model, {**batch, _AT: at}, views, run)
    return multi_view.in_batch_order(results, at.sum(1))


def logits_and_pooled(model: nn.Module, batch: Batch, views: int, at: Tensor) -> tuple[Tensor, Tensor]:
    """Return `Git.logits_and_pooled`, [N, V] and [B, D]."""

    def run(part: Batch) -> tuple[Tensor, Tensor]:
        positions = part[_AT]
        if not eligibility.can_use_fused_path(model):
            return plain_logits(model, part, positions), plain_pooled_of_lm(model, part)
        git, needed = eligibility.git_of(model), positions.clone()
        # The pooled state is that of the start token, in column 0.
        needed[:, 0] = True
        tokens = frozen_prefix.tokens_of(git, part)
        states = decoder.text_states(git, tokens, part["input_ids"], part["attention_mask"], at=needed)
        starts = needed.nonzero()[:, 1] == 0  # [N + those of B that `at` leaves out]
        logits_at = apply_linears((unwrapped(model).get_submodule("output"),), to_autocast(states[positions[needed]]))[
            0
        ]
        return logits_at, states[starts]

    results = multi_view.run_by_count(model, {**batch, _AT: at}, views, run)
    logits_at, states = ([(rows, both[i]) for rows, both in results] for i in (0, 1))
    return multi_view.in_batch_order(logits_at, at.sum(1)), multi_view.in_batch_order(states)


def generate(
    model: nn.Module, batch: Batch, views: int, prompt: Sequence[int] | Sequence[Sequence[int]], search: "Search"
) -> Tensor:
    """Return new token ids [B, max_new_tokens] after one prompt of all rows, or one for each; `pad` after `end`."""

    def run(part: Batch) -> Tensor:
        ids, mask = part[_PROMPT], part[_MASK]
        if eligibility.can_use_fused_path(model):
            with torch.no_grad():
                tokens = frozen_prefix.tokens_of(eligibility.git_of(model), part)
            new = generation.generate(unwrapped(model), tokens, ids, mask, search)
        else:
            new = _by_length(model, part[PIXELS], ids, mask, search)
        # To one width, so that the results of all groups can be joined.
        return torch.nn.functional.pad(new, (0, search.max_new_tokens - new.shape[1]), value=search.pad)

    prompted = {**batch, **_padded(prompt, batch, search.pad)}
    return multi_view.in_batch_order(multi_view.run_by_count(model, prompted, views, run))


def likelihood(model: nn.Module, batch: Batch, views: int, start: int, sentences: Sequence[Sequence[int]]) -> Tensor:
    """Return `Git.likelihood`, [B, K]."""
    ids = torch.nn.utils.rnn.pad_sequence([torch.tensor(s) for s in sentences], batch_first=True, padding_value=-1)

    def run(part: Batch) -> Tensor:
        if not eligibility.can_use_fused_path(model):
            pixels = part[PIXELS]
            return plain_likelihood(model, pixels, start, ids.to(pixels.device))
        with torch.no_grad():
            tokens = frozen_prefix.tokens_of(eligibility.git_of(model), part)
        return generation.log_probability(unwrapped(model), tokens, start, ids.to(tokens.device))  # ids [K, T]

    return multi_view.in_batch_order(multi_view.run_by_count(model, batch, views, run))


def _by_length(model: nn.Module, pixels: Tensor, ids: Tensor, mask: Tensor, search: "Search") -> Tensor:
    """Generate for prompts of one length at a time, without padding: PEFT drops the positions of learnt prompts."""
    lengths = mask.sum(1)
    out = torch.full((len(ids), search.max_new_tokens), search.pad, device=ids.device)
    for length in sorted(set(lengths.tolist())):
        rows = (lengths == length).nonzero()[:, 0]
        new = plain_generate(model, pixels[rows], ids[rows, -length:], mask[rows, -length:], search)
        out[rows, : new.shape[1]] = new
    return out


def _padded(prompt: Sequence[int] | Sequence[Sequence[int]], batch: Batch, pad: int) -> Batch:
    """Return _PROMPT and _MASK of token ids that all rows share, or of a list for each row, on the batch's device."""
    images = next(
        batch[name]
        for name in (PIXELS, frozen_prefix.TOWER, frozen_prefix.STATES, frozen_prefix.TOKENS)
        if name in batch
    )
    rows = [[one] if isinstance(one, int) else list(one) for one in prompt]
    if isinstance(prompt[0], int):
        rows = [[token for one in rows for token in one]] * len(images)
    longest = max(map(len, rows))
    # On the left: generation continues each prompt from the last column.
    ids = torch.tensor([[pad] * (longest - len(row)) + row for row in rows])
    mask = torch.tensor([[0] * (longest - len(row)) + [1] * len(row) for row in rows])
    return {_PROMPT: ids.to(images.device), _MASK: mask.to(images.device)}


def plain_pooled(model: nn.Module, batch: Batch, start: int) -> Tensor:
    """Return the state at the start token after the image, [B, D]."""
    pixels = batch[PIXELS]
    ids = torch.full((len(pixels), 1), start, device=pixels.device)
    states: Tensor = model(input_ids=ids, pixel_values=pixels).last_hidden_state  # [B, I + 1, D]
    return states[:, -1]


def plain_pooled_of_lm(model: nn.Module, batch: Batch) -> Tensor:
    """Return the state at each row's first token, [B, D], of a model with a vocabulary projection."""
    inputs = {name: batch[name] for name in ("input_ids", "attention_mask", PIXELS)}
    # One position's logits, since transformers cannot leave them all out.
    states: Tensor = model(**inputs, logits_to_keep=1, output_hidden_states=True).hidden_states[-1]
    return states[:, -batch["input_ids"].shape[1]]


def plain_logits(model: nn.Module, batch: Batch, at: Tensor | None = None) -> Tensor:
    """Return logits at text positions [B, T, V], or at those of `at` [N, V]; none are computed for image positions."""
    inputs = {name: batch[name] for name in ("input_ids", "attention_mask", PIXELS)}
    out: Tensor = model(**inputs, logits_to_keep=batch["input_ids"].shape[1]).logits
    return out if at is None else out[at]


def plain_generate(model: "GenerationMixin", pixels: Tensor, ids: Tensor, mask: Tensor, search: "Search") -> Tensor:
    """Return the new token ids, [B, up to max_new_tokens]."""
    sampling = {"temperature": search.temperature, "top_k": search.top_k, "top_p": search.top_p}
    out: Tensor = model.generate(
        pixel_values=pixels,
        input_ids=ids,
        attention_mask=mask,
        max_new_tokens=search.max_new_tokens,
        num_beams=search.beams,
        length_penalty=search.length_penalty,
        do_sample=search.temperature > 0,
        eos_token_id=search.end,
        pad_token_id=search.pad,
        **(sampling if search.temperature > 0 else {}),
    )
    return out[:, ids.shape[1] :]


def plain_likelihood(model: nn.Module, pixels: Tensor, start: int, sentences: Tensor) -> Tensor:
    """Return log-probabilities [B, K] of sentences [K, T] (-1: padding); the image is read K times."""
    b, k = len(pixels), len(sentences)
    ids = sentences.repeat(b, 1)
    # Padding (-1) is no token id: any id does there, since its score is left out below.
    shifted = torch.cat((torch.full((b * k, 1), start, device=ids.device), ids[:, :-1].clamp(min=0)), dim=1)
    out = model(input_ids=shifted, pixel_values=pixels.repeat_interleave(k, 0), logits_to_keep=ids.shape[1]).logits
    chosen = out.float().log_softmax(-1).gather(-1, ids.clamp(min=0)[..., None])[..., 0]
    scores: Tensor = (chosen * (ids >= 0)).sum(1).view(b, k)
    return scores
