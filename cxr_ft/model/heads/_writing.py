"""Generate text: rows of tokens, the loss and the options of every head that writes.

A row is [CLS] prompt context target [SEP]; the context is the input text of the example, an indication for example. A
target that is too long is cut and has no [SEP], or a model would learn to end in the middle of a sentence.
Position t predicts token t + 1. Positions that predict prompt, context or padding do not count in the loss.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from cxr_ft.errors import UsageError
from cxr_ft.model.heads._reading import ReadingConfig, set_length
from cxr_ft.model.heads._scoring import writer_of
from cxr_ft.model.protocols import IGNORE, Base, Batch, Example, SearchOptions, is_text_reader
from cxr_ft.progress import track

if TYPE_CHECKING:
    from torch import Tensor, nn


@dataclass(frozen=True, kw_only=True)
class WritingConfig(ReadingConfig):
    """Options of a head that writes.

    Args:
        text: text column of the splits; empty: the first one.
        prompt: text before the report; it is read and never learnt.
        max_context: longest context in tokens, after the prompt; longer ones are cut.
        max_tokens: longest target in tokens, its end token included; longer ones are cut in training and have none,
            and generation stops there.
        beams: number of beams in generation; 1: no beam search.
        temperature: 0: the most likely token; above 0: sampled from softmax(logits / temperature), the same for the
            same batch each time.
        top_k: sample from the k most likely tokens; 0: from all.
        top_p: sample from the smallest set of tokens whose probabilities reach this sum.
        length_penalty: a beam's log-probability is divided by its length to this power.
    """

    writes = True

    text: str = field(default="", metadata={"help": "text column to learn (default: the first one)"})
    prompt: str = field(default="", metadata={"help": "text before the report, never learnt"})
    max_context: int = field(default=64, metadata={"help": "longest context (data.context) in tokens"})
    max_tokens: int = field(default=96, metadata={"help": "longest report in tokens"})
    beams: int = field(default=1, metadata={"help": "number of beams in generation"})
    temperature: float = field(default=0.0, metadata={"help": "sampling temperature; 0: the most likely token"})
    top_k: int = field(default=0, metadata={"help": "sample from the k most likely tokens; 0: from all"})
    top_p: float = field(default=1.0, metadata={"help": "sample from the tokens that reach this probability"})
    length_penalty: float = field(default=1.0, metadata={"help": "power of the length that divides a beam's score"})

    def __post_init__(self) -> None:
        super().__post_init__()
        for name, value, valid, want in (
            ("max_context", self.max_context, self.max_context >= 1, "1 or more"),
            ("max_tokens", self.max_tokens, self.max_tokens >= 1, "1 or more"),
            ("beams", self.beams, self.beams >= 1, "1 or more"),
            ("temperature", self.temperature, self.temperature >= 0, "0 or more"),
            ("top_k", self.top_k, self.top_k >= 0, "0 (all tokens) or more"),
            ("top_p", self.top_p, 0 < self.top_p <= 1, "a number above 0, up to 1"),
        ):
            if not valid:
                raise UsageError(f"head.{name}: {value}; give {want}")
        sampled, searched = self.temperature > 0, self.beams > 1
        not_sampled = "nothing is sampled: give a temperature above 0"
        for name, value, used, need in (
            ("temperature", self.temperature, not (sampled and searched), "beam search does not sample: give beams 1"),
            ("top_k", self.top_k, self.top_k == 0 or sampled, not_sampled),
            ("top_p", self.top_p, self.top_p == 1 or sampled, not_sampled),
            (
                "length_penalty",
                self.length_penalty,
                self.length_penalty == 1 or searched,
                "there are no beams: give beams above 1",
            ),
        ):
            if not used:
                raise UsageError(f"head.{name}: {value} does nothing, since {need}")

    @property
    def search(self) -> SearchOptions:
        """Return the options that a base's `generate` takes."""
        return SearchOptions(
            beams=self.beams,
            temperature=self.temperature,
            top_k=self.top_k,
            top_p=self.top_p,
            length_penalty=self.length_penalty,
        )


class Text:
    """Rows of tokens for a base that writes, their loss and generated texts.

    Raises:
        UsageError: if the base writes no text, or has too few positions for prompt and report.
    """

    def __init__(self, base: Base, config: WritingConfig) -> None:
        self.base, self.config = writer_of(base, "the task is to write"), config
        set_length(base, config)
        #: Token ids that each text begins with; without a tokenizer (on the meta device) they are not known.
        self.prompt: list[int] = []
        tokenizer = self.base.tokenizer
        if tokenizer is None:
            return
        self.prompt = [self.base.start, *tokenizer(config.prompt, add_special_tokens=False).input_ids]
        #: Number of context tokens that fit between prompt and report.
        self.room = min(config.max_context, self.base.longest - len(self.prompt) - config.max_tokens)
        if self.room < 0:
            raise UsageError(
                f"head.max_tokens: {config.max_tokens} and a prompt of {len(self.prompt)} tokens pass the "
                f"{self.base.longest} positions of {base.name}"
            )
        if is_text_reader(base):
            base.leave_room(len(self.prompt) + config.max_tokens)

    def collate(self, examples: Sequence[Example]) -> Batch:
        """Return input_ids, attention_mask, labels int64 [B, T], padded on the right.

        `labels[t]` is the token that position t predicts, IGNORE if it does not count: shifted here, and nowhere else.
        """
        import torch

        tokenizer = self.base.tokenizer
        # A base of texts reads the input text as a row of its own, in front of the prompt (`Base.inputs`).
        separate = is_text_reader(self.base)
        texts, contexts = (
            tokenizer(list(words), add_special_tokens=False).input_ids
            for words in zip(*((e.text, "" if separate else e.given) for e in examples), strict=True)
        )
        prompts = [[*self.prompt, *context[: self.room]] for context in contexts]
        # The end token is one of max_tokens; of a text that is cut it is the one that does not fit.
        rows = [
            [*prompt, *[*text, self.base.end][: self.config.max_tokens]]
            for prompt, text in zip(prompts, texts, strict=True)
        ]
        # One less, since the last token of a row is predicted and never read.
        longest = max(len(row) for row in rows) - 1
        # The mask hides padding from the model; its id only has to be one of the vocabulary.
        ids = torch.full((len(rows), longest), int(tokenizer.pad_token_id))
        mask = torch.zeros((len(rows), longest), dtype=torch.int64)
        labels = torch.full((len(rows), longest), IGNORE)
        for i, (prompt, row) in enumerate(zip(prompts, rows, strict=True)):
            ids[i, : len(row) - 1] = torch.tensor(row[:-1])
            mask[i, : len(row) - 1] = 1
            # The last position of the prompt predicts the first token of the report.
            labels[i, len(prompt) - 1 : len(row) - 1] = torch.tensor(row[len(prompt) :])
        return {"input_ids": ids, "attention_mask": mask, "labels": labels}

    def count_cut(self, texts: Sequence[str]) -> int:
        """Return how many targets are cut, so that their end is not learnt; shows progress."""
        # Of so many texts at a time the tokenizer's answer is small, and a bar moves.
        chunks = [texts[i : i + 1000] for i in range(0, len(texts), 1000)]
        return sum(
            len(ids) >= self.config.max_tokens
            for chunk in track(chunks, "counting tokens of reports", len(chunks))
            for ids in self.base.tokenizer(list(chunk), add_special_tokens=False).input_ids
        )

    def loss(self, logits: "Tensor", batch: Batch) -> tuple["Tensor", int]:
        """Return the summed cross-entropy of logits [N, W] at the N tokens that count, and N."""
        from cxr_ft.model.heads._next_token_loss import cross_entropy_sum

        labels = batch["labels"][batch["labels"] != IGNORE]
        return cross_entropy_sum(logits, labels), len(labels)

    def generate(self, model: "nn.Module", batch: Batch) -> list[str]:
        """Return one generated text for each row, after its prompt and context."""
        import torch

        # The prompt of a row ends before the first token that counts.
        first = (batch["labels"] != IGNORE).int().argmax(1).tolist()
        prompts = [ids[: end + 1] for ids, end in zip(batch["input_ids"].tolist(), first, strict=True)]
        # A random state of its own: a reloaded model writes the same, and training's random numbers do not change.
        with torch.random.fork_rng(enabled=self.config.temperature > 0):
            if self.config.temperature > 0:
                torch.manual_seed(0)
            return self.base.generate(model, batch, prompts, self.config.max_tokens, **self.config.search)
