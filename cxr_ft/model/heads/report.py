"""Generate reports: next-token cross-entropy on the report's tokens alone, after a fixed prompt."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from cxr_ft.model.heads._writing import Text, WritingConfig
from cxr_ft.model.protocols import IGNORE, Base, Batch, Example, HeadOutput

if TYPE_CHECKING:
    from torch import Tensor, nn

OUTPUT = "text"


@dataclass(frozen=True, kw_only=True)
class Config(WritingConfig):
    """Options of the report head: those of every head that writes."""


class Report:
    """The base's own decoder, without a new module; see `cxr_ft.model.protocols.Head`."""

    output: Literal["scores", "text"] = "text"
    scored = False
    new_modules: tuple[str, ...] = ()

    def __init__(self, base: Base, config: Config) -> None:
        self.text = Text(base, config)
        self.base, self.model = self.text.base, base.lm
        self.pool, self.prompt = next(iter(base.pools)), self.text.prompt

    def collate(self, examples: Sequence[Example]) -> Batch:
        """Return the base's inputs, and input_ids, attention_mask, labels of `Text.collate`."""
        return {**self.base.inputs(examples), **self.text.collate(examples)}

    def count_cut(self, texts: Sequence[str]) -> int:
        """Return how many reports are cut by `max_tokens`."""
        return self.text.count_cut(texts)

    def loss(self, model: "nn.Module", batch: Batch) -> tuple["Tensor", int]:
        """Return cross-entropy summed over the report's tokens, its end token included, and their number."""
        # Only at the positions that count: logits are as wide as the vocabulary.
        return self.text.loss(self.base.logits(model, batch, batch["labels"] != IGNORE), batch)

    def predict(self, model: "nn.Module", batch: Batch) -> HeadOutput:
        """Return a generated report for each row, and the loss."""
        loss, count = self.loss(model, batch)
        return HeadOutput(self.text.generate(model, batch), loss.item(), count)


def attach(base: Base, config: Config, labels: Sequence[str], multi_label: bool, trains: bool) -> Report:
    """Return a report head on `base`; labels are not used.

    Raises:
        UsageError: if the base writes no text, or has too few positions.
    """
    return Report(base, config)
