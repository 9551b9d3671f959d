"""Report generation: the prompt is a prefix, the loss is next-token cross-entropy on the target's own tokens alone.

A row is [CLS] prompt target [SEP]; position t predicts token t + 1. What predicts a prompt token or padding does not
count.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal

import numpy as np

from cxr_ft.errors import UsageError
from cxr_ft.model.protocols import Base, Batch, Example, Predicted

if TYPE_CHECKING:
    from torch import Tensor, nn

OUTPUT = "text"
#: Label of what does not count, as everywhere in torch.
IGNORE = -100


@dataclass(frozen=True, kw_only=True)
class Config:
    """Options of the report head.

    Args:
        text: the splits' text column; empty: the first there is.
        prompt: text before the report, given and never learnt.
        max_tokens: longest target in tokens; longer ones are cut in training, and generation stops there.
    """

    text: str = field(default="", metadata={"help": "text column to learn (default: the first one)"})
    prompt: str = field(default="", metadata={"help": "text given before the report"})
    max_tokens: int = field(default=96, metadata={"help": "longest report in tokens"})

    def __post_init__(self) -> None:
        if self.max_tokens < 1:
            raise UsageError(f"head.max_tokens: {self.max_tokens} is no length; give 1 or more")


class Report:
    """See `cxr_ft.model.protocols.Head`. It adds no module: every method trains the base's own decoder."""

    output: Literal["scores", "text"] = "text"
    new_modules: tuple[str, ...] = ()

    def __init__(self, base: Base, config: Config) -> None:
        self.base, self.config, self.model = base, config, base.lm
        if base.tokenizer is None:
            return
        self.prompt = [base.tokenizer.cls_token_id, *base.tokenizer(config.prompt, add_special_tokens=False).input_ids]
        longest = base.longest
        if len(self.prompt) + config.max_tokens > longest:
            raise UsageError(
                f"head.max_tokens: {config.max_tokens} and a prompt of {len(self.prompt)} tokens pass the {longest} "
                f"positions of {base.name}"
            )

    def collate(self, examples: Sequence[Example]) -> Batch:
        """pixel_values [B, 3, S, S]; input_ids, attention_mask, labels int64 [B, T], padded on the right.

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
        images = self.base.pixel_values(np.stack([e.image for e in examples]))
        return {"pixel_values": images, "input_ids": ids, "attention_mask": mask, "labels": labels}

    def loss(self, model: "nn.Module", batch: Batch) -> tuple["Tensor", int]:
        """Cross-entropy summed over the target's tokens (its end token too), and their number."""
        from torch.nn import functional as F

        labels = batch["labels"]
        counts = labels != IGNORE
        logits = self.base.logits(model, batch)[counts]  # [tokens that count, V]
        return F.cross_entropy(logits.float(), labels[counts], reduction="sum"), int(counts.sum())

    def predict(self, model: "nn.Module", batch: Batch) -> Predicted:
        """One generated report an image."""
        loss, count = self.loss(model, batch)
        texts = self.base.generate(model, batch["pixel_values"], self.prompt, self.config.max_tokens)
        return Predicted(texts, loss.item(), count)


def attach(base: Base, config: Config, labels: Sequence[str], multi_label: bool, new_parameters: bool) -> Report:
    """A report head on `base`; labels play no part."""
    return Report(base, config)
