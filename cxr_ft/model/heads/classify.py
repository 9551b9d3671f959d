"""Classification: one score a label, from the base's pooled state by a linear layer.

Without a layer of its own (zero_shot) the score is how likely the base finds a sentence that states the finding against
one that denies it.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from cxr_ft.errors import UsageError
from cxr_ft.model.protocols import Base, Batch, Example, Predicted

if TYPE_CHECKING:
    from torch import Tensor, nn

OUTPUT = "scores"


@dataclass(frozen=True, kw_only=True)
class Config:
    """Options of the classification head.

    Args:
        present, absent: what zero_shot asks the base: a sentence that states a finding, one that denies it.
    """

    present: str = field(default="there is {label}.", metadata={"help": "sentence that states a finding (zero_shot)"})
    absent: str = field(default="there is no {label}.", metadata={"help": "sentence that denies it (zero_shot)"})

    def __post_init__(self) -> None:
        for name, sentence in (("present", self.present), ("absent", self.absent)):
            if "{label}" not in sentence or sentence.count("{") != 1 or sentence.count("}") != 1:
                raise UsageError(
                    f"head.{name}: {sentence!r} must name the finding as {{label}}, once, without other braces"
                )


class Classify:
    """See `cxr_ft.model.protocols.Head`. Multi-label: sigmoid and binary cross-entropy; single-label: softmax."""

    output: Literal["scores", "text"] = "scores"

    def __init__(
        self, base: Base, config: Config, labels: Sequence[str], multi_label: bool, new_parameters: bool
    ) -> None:
        from torch import nn

        self.base, self.config, self.multi_label, self.trained = base, config, multi_label, new_parameters
        self.new_modules: tuple[str, ...] = ("classifier",) if new_parameters else ()
        self.model = base.encoder() if new_parameters else base.lm
        if new_parameters:
            classifier = nn.Linear(base.width, len(labels))
            nn.init.normal_(classifier.weight, std=0.02)
            nn.init.zeros_(classifier.bias)
            self.model.classifier = classifier
        elif base.tokenizer is not None:
            texts = [text.format(label=label.lower()) for text in (config.present, config.absent) for label in labels]
            self.sentences = [base.tokenizer(text, add_special_tokens=False).input_ids for text in texts]

    def collate(self, examples: Sequence[Example]) -> Batch:
        """pixel_values float [B, 3, S, S]; targets float [B, L] in {0, 1, NaN}."""
        import torch

        images = np.stack([example.image for example in examples])
        targets = np.stack([example.targets for example in examples])
        return {"pixel_values": self.base.pixel_values(images), "targets": torch.from_numpy(targets).float()}

    def loss(self, model: "nn.Module", batch: Batch) -> tuple["Tensor", int]:
        """Cross-entropy summed over unmasked labels (multi-label) or examples (single-label), and their number."""
        return self._loss(self._logits(model, batch), batch["targets"])

    def predict(self, model: "nn.Module", batch: Batch) -> Predicted:
        """Scores [B, L] in [0, 1]: a sigmoid a label, or a softmax over the classes."""
        logits = self._logits(model, batch)
        loss, count = self._loss(logits, batch["targets"])
        logits = logits.detach().double()
        scores = logits.sigmoid() if self.multi_label else logits.softmax(-1)
        return Predicted(scores.cpu().numpy(), loss.item(), count)

    def _loss(self, logits: "Tensor", targets: "Tensor") -> tuple["Tensor", int]:
        import torch
        from torch.nn import functional as F

        if not self.multi_label:
            return F.cross_entropy(logits, targets.argmax(1), reduction="sum"), len(targets)
        known = ~torch.isnan(targets)
        losses = F.binary_cross_entropy_with_logits(logits, torch.nan_to_num(targets), reduction="none")
        return (losses * known).sum(), int(known.sum())

    def _logits(self, model: Any, batch: Batch) -> "Tensor":
        if self.trained:
            logits: Tensor = model.classifier(self.base.pooled(model, batch)).float()
            return logits
        present, absent = self.base.likelihood(model, batch["pixel_values"], self.sentences).chunk(2, dim=1)
        return present - absent


def attach(base: Base, config: Config, labels: Sequence[str], multi_label: bool, new_parameters: bool) -> Classify:
    """A classification head for `labels` on `base`."""
    return Classify(base, config, labels, multi_label, new_parameters)
