"""Given text and what is written behind it as rows of a causal language model.

Shapes: G given tokens, T written ones, M of both together in the longest row.
"""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from cxr_ft.model.protocols import Batch

if TYPE_CHECKING:
    from torch import Tensor


def read(model: Any, batch: Batch, at: "Tensor") -> tuple["Tensor", "Tensor"]:
    """Logits at the written positions `at` [B, T], [N, V] in row order, and the states [B, M, D] of the joined rows."""
    import torch

    ids, mask, order = _joined(batch)
    wanted = torch.cat((torch.zeros_like(batch["given_mask"], dtype=torch.bool), at), dim=1).gather(1, order)
    lm = model.get_base_model() if hasattr(model, "peft_config") else model
    if is_prompted(model):
        out = model(input_ids=ids, attention_mask=mask, output_hidden_states=True, use_cache=False)
        length = ids.shape[1]
        return out.logits[:, -length:][wanted], out.hidden_states[-1][:, -length:]
    # Below PEFT's wrapper, whose layers these are: the vocabulary's projection is large, and few positions need it.
    states = lm.base_model(input_ids=ids, attention_mask=mask, use_cache=False).last_hidden_state
    return lm.get_output_embeddings()(states[wanted]), states


def is_prompted(model: Any) -> bool:
    """Whether PEFT's wrapper puts learnt tokens in front of each row."""
    return hasattr(model, "peft_config") and model.active_peft_config.is_prompt_learning


def _joined(batch: Batch) -> tuple["Tensor", "Tensor", "Tensor"]:
    """Ids and mask [B, up to G + T], padding last, and from which of the G + T columns each came."""
    import torch

    ids = torch.cat((batch["given_ids"], batch["input_ids"]), dim=1)
    mask = torch.cat((batch["given_mask"], batch["attention_mask"]), dim=1)
    order = (1 - mask).argsort(dim=1, stable=True)[:, : int(mask.sum(1).max())]
    return ids.gather(1, order), mask.gather(1, order), order


def generate(
    model: Any, batch: Batch, prompts: Sequence[Sequence[int]], how: Mapping[str, Any], search: Mapping[str, Any]
) -> list["Tensor"]:
    """The new token ids of each row, behind what is given and its prompt."""
    import torch

    ids, mask = batch["given_ids"], batch["given_mask"].bool()
    rows = [torch.cat((ids[i][mask[i]], ids.new_tensor(prompt))) for i, prompt in enumerate(prompts)]
    lengths = [len(row) for row in rows]
    # transformers takes padding in front and counts no positions for it; PEFT, behind learnt tokens, would: so rows of
    # one length stand alone then.
    together = [[i for i in range(len(rows)) if lengths[i] == n] for n in sorted(set(lengths))]
    written: dict[int, Tensor] = {}
    for group in together if is_prompted(model) else [list(range(len(rows)))]:
        padded = torch.nn.utils.rnn.pad_sequence(
            [rows[i] for i in group], batch_first=True, padding_value=how["pad_token_id"], padding_side="left"
        )
        longest = padded.shape[1]
        seen = (
            torch.arange(longest, device=ids.device) >= longest - ids.new_tensor([lengths[i] for i in group])[:, None]
        )
        out = model.generate(input_ids=padded, attention_mask=seen.long(), **how, **_searched(search))
        written |= zip(group, out[:, longest:], strict=True)
    return [written[i] for i in range(len(rows))]


def _searched(search: Mapping[str, Any]) -> dict[str, Any]:
    """Our options of a search in transformers' words."""
    drawn = search.get("temperature", 0) > 0
    names = ("temperature", "top_k", "top_p") if drawn else ()
    return {
        "num_beams": search.get("beams", 1),
        "length_penalty": search.get("length_penalty", 1.0),
        "do_sample": drawn,
        **{name: search[name] for name in names if name in search},
    }


def likelihood(model: Any, batch: Batch, start: int, sentences: Sequence[Sequence[int]]) -> "Tensor":
    """Log-probability of each sentence behind the given text and `start`, [B, K]; keys and values are shared."""
    import torch
    from transformers import DynamicCache

    ids, mask = batch["given_ids"], batch["given_mask"]
    # Not of the model's making: one that forgets what lies far behind could not go back for the next sentence.
    cache = DynamicCache()
    lm = model.get_base_model() if hasattr(model, "peft_config") else model
    lm.base_model(input_ids=ids, attention_mask=mask, past_key_values=cache, use_cache=True)
    scores = []
    for sentence in sentences:
        if not sentence:
            scores.append(torch.zeros(len(ids), device=ids.device))
            continue
        asked = torch.tensor([start, *sentence], device=ids.device).expand(len(ids), -1)
        given = asked[:, :-1]
        out = lm(
            input_ids=given,
            attention_mask=torch.cat((mask, torch.ones_like(given)), dim=1),
            position_ids=mask.sum(1, keepdim=True) + torch.arange(given.shape[1], device=ids.device),
            past_key_values=cache,
            use_cache=True,
        )
        cache.crop(-given.shape[1])
        chosen = out.logits.float().log_softmax(-1).gather(-1, asked[:, 1:, None])
        scores.append(chosen.sum((1, 2)))
    return torch.stack(scores, dim=1)
