"""Report generation: the prompt is a prefix, the loss is next-token cross-entropy on the target's own tokens alone."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from cxr_ft.model.heads._writing import IGNORE, Text, WritingConfig
from cxr_ft.model.protocols import Base, Batch, Example, HeadOutput

if TYPE_CHECKING:
    from torch import Tensor, nn

OUTPUT = "text"


@dataclass(frozen=True, kw_only=True)
class Config(WritingConfig):
    """Options of the report head: those of every head that writes."""


class Report:
    """See `cxr_ft.model.protocols.Head`. It adds no module: every method trains the base's own decoder."""

    output: Literal["scores", "text"] = "text"
    scored = False
    new_modules: tuple[str, ...] = ()

    def __init__(self, base: Base, config: Config) -> None:
        self.text = Text(base, config)
        self.base, self.model = self.text.base, base.lm

    def collate(self, examples: Sequence[Example]) -> Batch:
        """What the base reads; input_ids, attention_mask, labels as `Text.collate` has them."""
        return {**self.base.inputs(examples), **self.text.collate(examples)}

    def loss(self, model: "nn.Module", batch: Batch) -> tuple["Tensor", int]:
        """Cross-entropy summed over the target's tokens (its end token too), and their number."""
        return self.text.loss(self.base.logits(model, batch, batch["labels"] != IGNORE), batch)

    def predict(self, model: "nn.Module", batch: Batch) -> HeadOutput:
        """One generated report an image."""
        loss, count = self.loss(model, batch)
        return HeadOutput(self.text.written(model, batch), loss.item(), count)


def attach(base: Base, config: Config, labels: Sequence[str], multi_label: bool, new_parameters: bool) -> Report:
    """A report head on `base`; labels play no part.

    Raises:
        UsageError: where the base writes no text, or has too few positions.
    """
    return Report(base, config)
