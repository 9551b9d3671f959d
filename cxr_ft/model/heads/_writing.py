"""Writing a text: its rows of tokens, the loss and the options of every head that writes.

A row is [CLS] prompt target [SEP]; position t predicts token t + 1. What predicts a prompt token or padding does not
count.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from cxr_ft.errors import UsageError
from cxr_ft.model.heads._scoring import writer_of
from cxr_ft.model.protocols import Base, Batch, Example

if TYPE_CHECKING:
    from torch import Tensor, nn

#: Label of what does not count, as everywhere in torch.
IGNORE = -100


@dataclass(frozen=True, kw_only=True)
class WritingConfig:
    """Options of a head that writes.

    Args:
        text: the splits' text column; empty: the first there is.
        prompt: text before the report, given and never learnt.
        max_tokens: longest target in tokens; longer ones are cut in training, and generation stops there.
        beams: beams kept in generation; 1: none.
        temperature: 0: the likeliest token is written; above: one drawn from softmax(logits / temperature), the same
            for the same batch each time.
        top_k: draw from the k likeliest tokens only; 0: from all.
        top_p: draw from the fewest tokens whose probabilities reach this sum.
        length_penalty: a beam's log-probability is divided by its length to this power.
    """

    text: str = field(default="", metadata={"help": "text column to learn (default: the first one)"})
    prompt: str = field(default="", metadata={"help": "text given before the report"})
    max_tokens: int = field(default=96, metadata={"help": "longest report in tokens"})
    beams: int = field(default=1, metadata={"help": "beams searched in generation"})
    temperature: float = field(default=0.0, metadata={"help": "of drawn tokens; 0: the likeliest one"})
    top_k: int = field(default=0, metadata={"help": "draw from so many tokens; 0: from all"})
    top_p: float = field(default=1.0, metadata={"help": "draw from the tokens that reach this probability"})
    length_penalty: float = field(default=1.0, metadata={"help": "power of the length a beam is divided by"})

    def __post_init__(self) -> None:
        for name, good, want in (
            ("max_tokens", self.max_tokens >= 1, "1 or more"),
            ("beams", self.beams >= 1, "1 or more"),
            ("temperature", self.temperature >= 0, "0 or more"),
            ("top_k", self.top_k >= 0, "0 (all tokens) or more"),
            ("top_p", 0 < self.top_p <= 1, "a number above 0, up to 1"),
        ):
            if not good:
                raise UsageError(f"head.{name}: {getattr(self, name)}; give {want}")
        for name, used, need in (
            ("temperature", self.temperature == 0 or self.beams == 1, "beams are searched, not drawn: give beams 1"),
            ("top_k", self.top_k == 0 or self.temperature > 0, "nothing is drawn: give a temperature above 0"),
            ("top_p", self.top_p == 1 or self.temperature > 0, "nothing is drawn: give a temperature above 0"),
            ("length_penalty", self.length_penalty == 1 or self.beams > 1, "there are no beams: give beams above 1"),
        ):
            if not used:
                raise UsageError(f"head.{name}: {getattr(self, name)} does nothing, since {need}")

    @property
    def search(self) -> dict[str, Any]:
        """The options that a base's `generate` takes."""
        names = ("beams", "temperature", "top_k", "top_p", "length_penalty")
        return {name: getattr(self, name) for name in names}


class Text:
    """Rows of tokens for a base that writes.

    Raises:
        UsageError: where the base writes no text, or has too few positions for prompt and report.
    """

    def __init__(self, base: Base, config: WritingConfig) -> None:
        self.base, self.config = writer_of(base, "the task is to write"), config
        tokenizer = self.base.tokenizer
        if tokenizer is None:  # on the meta device
            return
        self.prompt = [tokenizer.cls_token_id, *tokenizer(config.prompt, add_special_tokens=False).input_ids]
        if len(self.prompt) + config.max_tokens > self.base.longest:
            raise UsageError(
                f"head.max_tokens: {config.max_tokens} and a prompt of {len(self.prompt)} tokens pass the "
                f"{self.base.longest} positions of {base.name}"
            )

    def collate(self, examples: Sequence[Example]) -> Batch:
        """input_ids, attention_mask, labels int64 [B, T], padded on the right.

        `labels[t]` is the token that position t predicts, IGNORE where nothing counts: already shifted, once.
        """
        import torch

        tokenizer = self.base.tokenizer
        texts = tokenizer([e.text for e in examples], add_special_tokens=False).input_ids
        rows = [[*self.prompt, *text[: self.config.max_tokens - 1], tokenizer.sep_token_id] for text in texts]
        longest = max(len(row) for row in rows) - 1
        ids = torch.full((len(rows), longest), int(tokenizer.pad_token_id))
        mask = torch.zeros((len(rows), longest), dtype=torch.int64)
        labels = torch.full((len(rows), longest), IGNORE)
        for i, row in enumerate(rows):
            ids[i, : len(row) - 1] = torch.tensor(row[:-1])
            mask[i, : len(row) - 1] = 1
            labels[i, len(self.prompt) - 1 : len(row) - 1] = torch.tensor(row[len(self.prompt) :])
        return {"input_ids": ids, "attention_mask": mask, "labels": labels}

    def loss(self, logits: "Tensor", batch: Batch) -> tuple["Tensor", int]:
        """Cross-entropy of logits [N, V], at the N tokens that count, summed, and N."""
        from cxr_ft.model.fast.loss import cross_entropy_sum

        labels = batch["labels"][batch["labels"] != IGNORE]
        return cross_entropy_sum(logits, labels), len(labels)

    def written(self, model: "nn.Module", batch: Batch) -> list[str]:
        """One generated text an image."""
        import torch

        # A draw of its own, so that a reloaded model writes the same, and writing leaves training's draws alone.
        with torch.random.fork_rng(enabled=self.config.temperature > 0):
            if self.config.temperature > 0:
                torch.manual_seed(0)
            return self.base.generate(model, batch, self.prompt, self.config.max_tokens, **self.config.search)
