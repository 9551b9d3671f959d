"""Classify by two layers: a hidden layer of the base's width before the scores."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

from cxr_ft.model.heads._scoring import Scorer, ScoringConfig
from cxr_ft.model.protocols import Base, Batch, Example, HeadOutput

if TYPE_CHECKING:
    from torch import Tensor, nn

OUTPUT = "scores"


@dataclass(frozen=True, kw_only=True)
class Config(ScoringConfig):
    """Options of the head, after those of every head that scores."""

    hidden: int = field(default=16, metadata={"help": "width of the hidden layer"})


class ClassifyDeep:
    """Two linear layers on the base's encoder; see `cxr_ft.model.protocols.Head`."""

    output: Literal["scores", "text"] = "scores"
    scored = True

    def __init__(self, base: Base, config: Config, labels: Sequence[str], multi_label: bool, trains: bool) -> None:
        from torch import nn

        self.base, self.trained = base, trains
        self.pool = next(iter(base.pools))
        self.prompt: tuple[int, ...] = ()
        self.scorer = Scorer(base, config, labels, multi_label)
        self.new_modules: tuple[str, ...] = ("classifier",) if trains else ()
        self.sentences = [] if trains else self.scorer.sentences()
        self.model = base.encoder(self.pool) if trains else base.lm
        if trains:
            hidden = nn.Linear(base.pools[self.pool], config.hidden)
            self.model.classifier = nn.Sequential(hidden, nn.GELU(), self.scorer.layer(config.hidden))

    def collate(self, examples: Sequence[Example]) -> Batch:
        """Return the base's inputs and the scorer's targets."""
        return {**self.base.inputs(examples), **self.scorer.collate(examples)}

    def count_cut(self, texts: Sequence[str]) -> int:
        """Return 0: no text is learnt."""
        return 0

    def loss(self, model: "nn.Module", batch: Batch) -> tuple["Tensor", int]:
        """Return the summed cross-entropy over unmasked labels or rows, and their number."""
        return self.scorer.loss(self._logits(model, batch), batch, weighted=True)

    def predict(self, model: "nn.Module", batch: Batch) -> HeadOutput:
        """Return scores [B, L] in [0, 1] and their unweighted loss."""
        logits = self._logits(model, batch)
        loss, count = self.scorer.loss(logits, batch, weighted=False)
        scores = self.scorer.scores(logits)
        return HeadOutput(scores, loss.item(), count, scores)

    def _logits(self, model: Any, batch: Batch) -> "Tensor":
        if not self.trained:
            return self.scorer.zero_shot_logits(model, batch, self.sentences)
        logits: Tensor = model.classifier(self.base.pooled(model, batch, self.pool)).float()
        return logits


def attach(base: Base, config: Config, labels: Sequence[str], multi_label: bool, trains: bool) -> ClassifyDeep:
    """Return the head for `labels` on `base`."""
    return ClassifyDeep(base, config, labels, multi_label, trains)
