"""Writing a text: its rows of tokens, the loss and the options of every head that writes.

A row is [CLS] prompt context target [SEP], its context being what the example gives to be read (an indication, say);
position t predicts token t + 1. What predicts a token of prompt or context, or padding, does not count.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from cxr_ft.errors import UsageError
from cxr_ft.model.heads._reading import ReadingConfig, set_length
from cxr_ft.model.heads._scoring import writer_of
from cxr_ft.model.protocols import Base, Batch, Example, TextReader

if TYPE_CHECKING:
    from torch import Tensor, nn

#: Label of what does not count, as everywhere in torch.
IGNORE = -100


@dataclass(frozen=True, kw_only=True)
class WritingConfig(ReadingConfig):
    """Options of a head that writes.

    Args:
        text: the splits' text column; empty: the first there is.
        prompt: text before the report, given and never learnt.
        max_context: longest context in tokens, behind the prompt; longer ones are cut.
        max_tokens: longest target in tokens; longer ones are cut in training, and generation stops there.
        beams: beams kept in generation; 1: none.
        temperature: 0: the likeliest token is written; above: one drawn from softmax(logits / temperature), the same
            for the same batch each time.
        top_k: draw from the k likeliest tokens only; 0: from all.
        top_p: draw from the fewest tokens whose probabilities reach this sum.
        length_penalty: a beam's log-probability is divided by its length to this power.
    """

    writes = True

    text: str = field(default="", metadata={"help": "text column to learn (default: the first one)"})
    prompt: str = field(default="", metadata={"help": "text given before the report"})
    max_context: int = field(default=64, metadata={"help": "longest context (data.context) in tokens"})
    max_tokens: int = field(default=96, metadata={"help": "longest report in tokens"})
    beams: int = field(default=1, metadata={"help": "beams searched in generation"})
    temperature: float = field(default=0.0, metadata={"help": "of drawn tokens; 0: the likeliest one"})
    top_k: int = field(default=0, metadata={"help": "draw from so many tokens; 0: from all"})
    top_p: float = field(default=1.0, metadata={"help": "draw from the tokens that reach this probability"})
    length_penalty: float = field(default=1.0, metadata={"help": "power of the length a beam is divided by"})

    def __post_init__(self) -> None:
        super().__post_init__()
        for name, good, want in (
            ("max_context", self.max_context >= 1, "1 or more"),
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
        set_length(base, config)
        tokenizer = self.base.tokenizer
        if tokenizer is None:  # on the meta device
            return
        self.prompt = [self.base.start, *tokenizer(config.prompt, add_special_tokens=False).input_ids]
        #: Tokens of context that fit between prompt and report.
        self.room = min(config.max_context, self.base.longest - len(self.prompt) - config.max_tokens)
        if self.room < 0:
            raise UsageError(
                f"head.max_tokens: {config.max_tokens} and a prompt of {len(self.prompt)} tokens pass the "
                f"{self.base.longest} positions of {base.name}"
            )
        if isinstance(base, TextReader):
            base.leave_room(len(self.prompt) + config.max_tokens)

    def collate(self, examples: Sequence[Example]) -> Batch:
        """input_ids, attention_mask, labels int64 [B, T], padded on the right.

        `labels[t]` is the token that position t predicts, IGNORE where nothing counts: already shifted, once.
        """
        import torch

        tokenizer = self.base.tokenizer
        reads = isinstance(self.base, TextReader)  # what is given on its own, before the prompt
        texts, given = (
            tokenizer(list(words), add_special_tokens=False).input_ids
            for words in zip(*((e.text, "" if reads else e.given) for e in examples), strict=True)
        )
        prompts = [[*self.prompt, *context[: self.room]] for context in given]
        rows = [
            [*prompt, *text[: self.config.max_tokens - 1], self.base.end]
            for prompt, text in zip(prompts, texts, strict=True)
        ]
        longest = max(len(row) for row in rows) - 1
        ids = torch.full((len(rows), longest), int(tokenizer.pad_token_id))
        mask = torch.zeros((len(rows), longest), dtype=torch.int64)
        labels = torch.full((len(rows), longest), IGNORE)
        for i, (prompt, row) in enumerate(zip(prompts, rows, strict=True)):
            ids[i, : len(row) - 1] = torch.tensor(row[:-1])
            mask[i, : len(row) - 1] = 1
            labels[i, len(prompt) - 1 : len(row) - 1] = torch.tensor(row[len(prompt) :])
        return {"input_ids": ids, "attention_mask": mask, "labels": labels}

    def loss(self, logits: "Tensor", batch: Batch) -> tuple["Tensor", int]:
        """Cross-entropy of logits [N, V], at the N tokens that count, summed, and N."""
        from cxr_ft.model.heads._next_token_loss import cross_entropy_sum

        labels = batch["labels"][batch["labels"] != IGNORE]
        return cross_entropy_sum(logits, labels), len(labels)

    def written(self, model: "nn.Module", batch: Batch) -> list[str]:
        """One generated text a row, behind its own prompt and context."""
        import torch

        # What stands before the first token that counts.
        first = (batch["labels"] != IGNORE).int().argmax(1).tolist()
        prompts = [ids[: end + 1] for ids, end in zip(batch["input_ids"].tolist(), first, strict=True)]
        # A draw of its own, so that a reloaded model writes the same, and writing leaves training's draws alone.
        with torch.random.fork_rng(enabled=self.config.temperature > 0):
            if self.config.temperature > 0:
                torch.manual_seed(0)
            return self.base.generate(model, batch, prompts, self.config.max_tokens, **self.config.search)
