"""Report and classification in one run: the report's loss plus `weight` times the labels', on one reading of the image.

As in GIT-CXR (Sirbu et al., arXiv 2501.02598). The layer reads the state of the token that the text starts with, which
attends to the whole image and to nothing of the report. Texts are what a run is judged by first; the scores are judged
beside them.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

from cxr_ft.errors import UsageError
from cxr_ft.model.heads._scoring import Scorer, ScoringConfig
from cxr_ft.model.heads._writing import IGNORE, Text, WritingConfig
from cxr_ft.model.protocols import Base, Batch, Example, HeadOutput

if TYPE_CHECKING:
    from torch import Tensor, nn

OUTPUT = "text"


@dataclass(frozen=True, kw_only=True)
class Config(WritingConfig, ScoringConfig):
    """Options of both heads.

    Args:
        weight: of the labels' mean loss beside the tokens' mean loss.
    """

    weight: float = field(default=1.0, metadata={"help": "of the labels' loss beside the report's"})

    def __post_init__(self) -> None:
        WritingConfig.__post_init__(self)
        ScoringConfig.__post_init__(self)
        if self.weight <= 0:
            raise UsageError(f"head.weight: {self.weight}; give a number above 0, or use --task report")


class Both:
    """See `cxr_ft.model.protocols.Head`."""

    output: Literal["scores", "text"] = "text"
    scored = True

    def __init__(
        self, base: Base, config: Config, labels: Sequence[str], multi_label: bool, new_parameters: bool
    ) -> None:
        self.text, self.scorer = Text(base, config), Scorer(base, config, labels, multi_label)
        self.base, self.weight, self.trained = self.text.base, config.weight, new_parameters
        self.new_modules: tuple[str, ...] = ("classifier",) if new_parameters else ()
        self.sentences = [] if new_parameters else self.scorer.sentences()
        self.model = base.lm
        if new_parameters:
            self.model.classifier = self.scorer.layer(next(iter(base.pools.values())))

    def collate(self, examples: Sequence[Example]) -> Batch:
        """What the base reads; the rest as `Text.collate` and `Scorer.collate` have it."""
        return {**self.base.inputs(examples), **self.text.collate(examples), **self.scorer.collate(examples)}

    def loss(self, model: "nn.Module", batch: Batch) -> tuple["Tensor", int]:
        """The number of tokens that count, and that many times (tokens' mean loss + `weight` * labels' mean loss)."""
        return self._loss(*self._logits(model, batch), batch, weighted=True)

    def predict(self, model: "nn.Module", batch: Batch) -> HeadOutput:
        """One generated report an image, and scores [B, L] in [0, 1]."""
        written, asked = self._logits(model, batch)
        loss, count = self._loss(written, asked, batch, weighted=False)
        return HeadOutput(self.text.written(model, batch), loss.item(), count, self.scorer.scores(asked))

    def _logits(self, model: Any, batch: Batch) -> tuple["Tensor", "Tensor"]:
        """Logits at the tokens that count [N, V], and of the labels [B, L]."""
        counts = batch["labels"] != IGNORE
        if not self.trained:
            return self.base.logits(model, batch, counts), self.scorer.asked(model, batch, self.sentences)
        written, state = self.base.logits_and_pooled(model, batch, counts)
        return written, model.classifier(state).float()

    def _loss(self, written: "Tensor", asked: "Tensor", batch: Batch, *, weighted: bool) -> tuple["Tensor", int]:
        tokens, n = self.text.loss(written, batch)
        labels, known = self.scorer.loss(asked, batch, weighted=weighted)
        return tokens + self.weight * labels * (n / max(known, 1)), n


def attach(base: Base, config: Config, labels: Sequence[str], multi_label: bool, new_parameters: bool) -> Both:
    """A report head and a classification head for `labels` on `base`.

    Raises:
        UsageError: where the base writes no text, or has too few positions.
    """
    return Both(base, config, labels, multi_label, new_parameters)
