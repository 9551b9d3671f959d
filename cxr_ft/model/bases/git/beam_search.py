"""Options of generation, and the state of beam search.

It selects beams as `_beam_search` in transformers/generation/utils.py does with its defaults: one end token,
`early_stopping=False`, no processor of logits, one text returned.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from cxr_ft.errors import UsageError

#: Score of a beam that must not be chosen.
# The number of transformers. It is finite, since it is multiplied by masks, and -inf times 0 is NaN.
NEVER = -1.0e9


@dataclass(frozen=True, kw_only=True)
class Search:
    """Options of generation.

    Args:
        end, pad: token ids; a row stops after `end` and is filled with `pad`.
        max_new_tokens: longest text in tokens, its end token included.
        beams: number of beams; 1: no beam search.
        temperature: 0: the most likely token; above 0: sampled from softmax(logits / temperature).
        top_k: sample from the k most likely tokens; 0: from all.
        top_p: sample from the smallest set of tokens whose probabilities reach this sum, in (0, 1].
        length_penalty: a beam's log-probability is divided by its length to this power.
    """

    end: int
    pad: int
    max_new_tokens: int
    beams: int = 1
    temperature: float = 0.0
    top_k: int = 0
    top_p: float = 1.0
    length_penalty: float = 1.0

    def __post_init__(self) -> None:
        for name, value, good, want in (
            ("max_new_tokens", self.max_new_tokens, self.max_new_tokens >= 1, "1 or more"),
            ("beams", self.beams, self.beams >= 1, "1 or more"),
            ("temperature", self.temperature, self.temperature >= 0, "0 or more"),
            ("top_k", self.top_k, self.top_k >= 0, "0 (all tokens) or more"),
            ("top_p", self.top_p, 0 < self.top_p <= 1, "a number above 0, up to 1"),
        ):
            if not good:
                raise UsageError(f"generation.{name}: {value}; give {want}")
        if self.beams > 1 and self.temperature > 0:
            raise UsageError("generation: beam search does not sample; give beams 1 or temperature 0")


class Beams:
    """K running beams and the K best finished ones for each of B rows."""

    def __init__(self, rows: int, search: Search, device: torch.device) -> None:
        beams, longest = search.beams, search.max_new_tokens
        self.beams, self.longest, self.end, self.penalty = beams, longest, search.end, search.length_penalty
        self.length = 0
        self.done = False
        self.running = torch.full((rows, beams, longest), search.pad, device=device)
        # All beams are equal at first: only the first may be extended.
        self.scores = torch.full((rows, beams), NEVER, device=device)
        self.scores[:, 0] = 0
        self.finished = self.running.clone()
        self.finished_scores = torch.full((rows, beams), NEVER, device=device)
        self.is_finished = torch.zeros(rows, beams, dtype=torch.bool, device=device)
        self.improvable = torch.ones(rows, 1, dtype=torch.bool, device=device)

    def grow(self, log_probabilities: Tensor) -> tuple[Tensor, Tensor]:
        """Select new beams by the next token's log-probabilities [B, K, V]; return parents and tokens, both [B, K]."""
        vocabulary = log_probabilities.shape[-1]
        # Twice as many candidates as beams, since half of them may end.
        total, flat = (log_probabilities + self.scores[..., None]).flatten(1).topk(2 * self.beams)
        parents, tokens = flat // vocabulary, flat % vocabulary
        texts = _pick(self.running, parents)
        texts[:, :, self.length] = tokens
        self.length += 1
        # A text of full length is finished, with or without an end token.
        last = self.length == self.longest
        ended = (tokens == self.end) | last
        self._finish(texts, total, ended)
        # Ended candidates are in the list of finished texts now, and must not grow.
        self.scores, best = (total + ended * NEVER).topk(self.beams)
        self.running = _pick(texts, best)
        self._check_done(last or bool(ended.all()))
        return parents.gather(1, best), tokens.gather(1, best)

    def best(self) -> Tensor:
        """Return the best finished text of each row, [B, longest length]."""
        return self.finished[:, 0, : self.length]

    def _finish(self, texts: Tensor, total: Tensor, ended: Tensor) -> None:
        """Keep the best K of the finished beams and the candidates that just ended among the first K."""
        eligible = ended.clone()
        # As in transformers: a text that ends among the spare candidates is not kept.
        eligible[:, self.beams :] = False
        scores = total / self.length**self.penalty + (~eligible | ~self.improvable) * NEVER
        # Both lists together: an older text may still be better than a newly finished one.
        self.finished_scores, best = torch.cat((self.finished_scores, scores), 1).topk(self.beams)
        self.finished = _pick(torch.cat((self.finished, texts), 1), best)
        self.is_finished = torch.cat((self.is_finished, eligible), 1).gather(1, best)

    def _check_done(self, no_way_on: bool) -> None:
        """Update which rows can improve: a row is done if its best running beam cannot beat its worst finished one."""
        worst = self.finished_scores.min(1, keepdim=True).values.where(self.is_finished, NEVER)
        possible = (self.scores[:, :1] / self.length**self.penalty > worst).any(1, keepdim=True)
        self.improvable = self.improvable & possible
        self.done = no_way_on or not bool(self.improvable.any())


def _pick(x: Tensor, index: Tensor) -> Tensor:
    """Select beams [B, n, L] of x [B, m, L] by index [B, n]."""
    return x.gather(1, index[..., None].expand(-1, -1, x.shape[-1]))
