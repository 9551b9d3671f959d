"""Write a report and score labels in one run: the report's loss plus `weight` times the labels', from one forward pass.

As in GIT-CXR (Sirbu et al., arXiv 2501.02598). The layer reads the state of the start token, which attends to the whole
image and to nothing of the report. The texts' metrics come first, then the scores'.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal

from cxr_ft.errors import UsageError
from cxr_ft.model.heads._scoring import Scorer, ScoringConfig, label_logits
from cxr_ft.model.heads._writing import Text, WritingConfig
from cxr_ft.model.protocols import IGNORE, Base, Batch, Example, HeadOutput

if TYPE_CHECKING:
    from torch import Tensor, nn

OUTPUT = "text"


@dataclass(frozen=True, kw_only=True)
class Config(WritingConfig, ScoringConfig):
    """Options of both heads.

    Args:
        weight: of the labels' mean loss, relative to the tokens' mean loss.
    """

    weight: float = field(default=1.0, metadata={"help": "weight of the labels' loss, relative to the report's"})

    def __post_init__(self) -> None:
        WritingConfig.__post_init__(self)
        ScoringConfig.__post_init__(self)
        if self.weight <= 0:
            raise UsageError(f"head.weight: {self.weight}; give a number above 0, or use --task report")


class Both:
    """Both heads on one model; see `cxr_ft.model.protocols.Head`."""

    output: Literal["scores", "text"] = "text"
    scored = True

    def __init__(self, base: Base, config: Config, labels: Sequence[str], multi_label: bool, trains: bool) -> None:
        self.text, self.scorer = Text(base, config), Scorer(base, config, labels, multi_label)
        self.base, self.weight, self.trained = self.text.base, config.weight, trains
        self.new_modules: tuple[str, ...] = ("classifier",) if trains else ()
        self.sentences = [] if trains else self.scorer.sentences()
        self.pool, self.prompt = next(iter(base.pools)), self.text.prompt
        self.model = base.lm
        if trains:
            self.model.classifier = self.scorer.layer(base.pools[self.pool])

    def collate(self, examples: Sequence[Example]) -> Batch:
        """Return the base's inputs, and the tensors of `Text.collate` and `Scorer.collate`."""
        return {**self.base.inputs(examples), **self.text.collate(examples), **self.scorer.collate(examples)}

    def count_cut(self, texts: Sequence[str]) -> int:
        """Return how many reports are cut by `max_tokens`."""
        return self.text.count_cut(texts)

    def loss(self, model: "nn.Module", batch: Batch) -> tuple["Tensor", int]:
        """Return n * (tokens' mean loss + `weight` * labels' mean loss) [] and n, the number of tokens that count."""
        return self._loss(*self._logits(model, batch), batch, weighted=True)

    def predict(self, model: "nn.Module", batch: Batch) -> HeadOutput:
        """Return a generated report for each row, and scores [B, L] in [0, 1]."""
        tokens, labels = self._logits(model, batch)
        loss, count = self._loss(tokens, labels, batch, weighted=False)
        return HeadOutput(self.text.generate(model, batch), loss.item(), count, self.scorer.scores(labels))

    def _logits(self, model: "nn.Module", batch: Batch) -> tuple["Tensor", "Tensor"]:
        """Return logits at the tokens that count [N, W], and of the labels [B, L]."""
        counts = batch["labels"] != IGNORE
        if not self.trained:
            return self.base.logits(model, batch, counts), self.scorer.zero_shot_logits(model, batch, self.sentences)
        # From one pass: image and prompt are read once for both tasks.
        tokens, state = self.base.logits_and_pooled(model, batch, counts)
        return tokens, label_logits(model, state)

    def _loss(self, tokens: "Tensor", labels: "Tensor", batch: Batch, *, weighted: bool) -> tuple["Tensor", int]:
        report_loss, n = self.text.loss(tokens, batch)
        label_loss, unmasked = self.scorer.loss(labels, batch, weighted=weighted)
        # Both as sums over n, since the caller divides by n: the labels' mean loss then has `weight` whatever n is.
        return report_loss + self.weight * label_loss * (n / max(unmasked, 1)), n


def attach(base: Base, config: Config, labels: Sequence[str], multi_label: bool, trains: bool) -> Both:
    """Return a report head and a classification head for `labels` on `base`.

    Raises:
        UsageError: if the base writes no text, or has too few positions.
    """
    return Both(base, config, labels, multi_label, trains)
