"""What a GIT answers by transformers' own forward and generation.

For models that change GIT's forward as a whole, and for the tests to hold `cxr_ft.model.fast` against.
"""

from typing import TYPE_CHECKING, Any

from cxr_ft.model.protocols import Batch

if TYPE_CHECKING:
    from torch import Tensor

    from cxr_ft.model.bases.git.beam_search import Search


def pooled(model: Any, batch: Batch, start: int) -> "Tensor":
    """The state at the start token behind the image, [B, D]."""
    import torch

    pixels = batch["pixel_values"]
    ids = torch.full((len(pixels), 1), start, device=pixels.device)
    states: Tensor = model(input_ids=ids, pixel_values=pixels).last_hidden_state  # [B, I + 1, D]
    return states[:, -1]


def pooled_of_lm(model: Any, batch: Batch) -> "Tensor":
    """`pooled` of a model with a vocabulary projection, [B, D], at each row's first token."""
    inputs = {name: batch[name] for name in ("input_ids", "attention_mask", "pixel_values")}
    states: Tensor = model(**inputs, logits_to_keep=1, output_hidden_states=True).hidden_states[-1]
    return states[:, -batch["input_ids"].shape[1]]


def logits(model: Any, batch: Batch, at: "Tensor | None" = None) -> "Tensor":
    """Logits at the text positions [B, T, V], or at those of `at` [N, V]; the image positions' are never computed."""
    inputs = {name: batch[name] for name in ("input_ids", "attention_mask", "pixel_values")}
    out: Tensor = model(**inputs, logits_to_keep=batch["input_ids"].shape[1]).logits
    return out if at is None else out[at]


def generate(model: Any, pixels: "Tensor", ids: "Tensor", mask: "Tensor", search: "Search") -> "Tensor":
    """The new token ids, [B, up to max_new_tokens]."""
    drawn = {"temperature": search.temperature, "top_k": search.top_k, "top_p": search.top_p}
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
        **(drawn if search.temperature > 0 else {}),
    )
    return out[:, ids.shape[1] :]


def likelihood(model: Any, pixels: "Tensor", start: int, sentences: "Tensor") -> "Tensor":
    """Log-probability [B, K] of sentences [K, T] (-1: padding) behind the start token: the image is read K times."""
    import torch

    b, k = len(pixels), len(sentences)
    ids = sentences.repeat(b, 1)
    given = torch.cat((torch.full((b * k, 1), start, device=ids.device), ids[:, :-1].clamp(min=0)), dim=1)
    out = model(input_ids=given, pixel_values=pixels.repeat_interleave(k, 0), logits_to_keep=ids.shape[1]).logits
    chosen = out.float().log_softmax(-1).gather(-1, ids.clamp(min=0)[..., None])[..., 0]
    scores: Tensor = (chosen * (ids >= 0)).sum(1).view(b, k)
    return scores
