"""Classify: one score for each label, by a linear layer on the base's pooled vector.

Without a layer (zero_shot) a score compares the base's likelihoods of a sentence that states the finding and one that
denies it.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal

from cxr_ft.errors import unknown
from cxr_ft.model.heads._scoring import Scorer, ScoringConfig, label_logits
from cxr_ft.model.protocols import Base, Batch, Example, HeadOutput

if TYPE_CHECKING:
    from torch import Tensor, nn

OUTPUT = "scores"


@dataclass(frozen=True, kw_only=True)
class Config(ScoringConfig):
    """Options of the classification head, after those of every head that scores.

    Args:
        pool: vector that the layer reads: "query", the state of the start token, which attends to the whole image;
            "mean" of the image tokens; "cls", the vision tower's class token; of a text "cls", its first token, "last",
            its last one, or "mean". Empty: the base's default.
    """

    pool: str = field(default="", metadata={"help": "pooled vector: query, mean, cls or last (default: the base's)"})


class Classify:
    """A linear layer on the base's encoder; see `cxr_ft.model.protocols.Head`."""

    output: Literal["scores", "text"] = "scores"
    scored = True

    def __init__(self, base: Base, config: Config, labels: Sequence[str], multi_label: bool, trains: bool) -> None:
        self.base, self.trained = base, trains
        self.pool = config.pool or next(iter(base.pools))
        if self.pool not in base.pools:
            raise unknown("pool", self.pool, base.pools, f"head.pool for {base.name} ({base.family})")
        self.prompt: tuple[int, ...] = ()
        self.scorer = Scorer(base, config, labels, multi_label)
        self.new_modules: tuple[str, ...] = ("classifier",) if trains else ()
        self.sentences = [] if trains else self.scorer.sentences()
        # Without what the pool never reads: it would count as trained and get no gradient. zero_shot needs the
        # vocabulary.
        self.model = base.encoder(self.pool) if trains else base.lm
        if trains:
            self.model.classifier = self.scorer.layer(base.pools[self.pool])

    def collate(self, examples: Sequence[Example]) -> Batch:
        """Return the base's inputs, and targets and weights of `Scorer.collate`."""
        return {**self.base.inputs(examples), **self.scorer.collate(examples)}

    def count_cut(self, texts: Sequence[str]) -> int:
        """Return 0: no text is learnt."""
        return 0

    def loss(self, model: "nn.Module", batch: Batch) -> tuple["Tensor", int]:
        """Return cross-entropy with class weights, summed over unmasked labels or rows, and their number."""
        return self.scorer.loss(self._logits(model, batch), batch, weighted=True)

    def predict(self, model: "nn.Module", batch: Batch) -> HeadOutput:
        """Return scores [B, L] in [0, 1] and their unweighted loss."""
        logits = self._logits(model, batch)
        loss, count = self.scorer.loss(logits, batch, weighted=False)
        scores = self.scorer.scores(logits)
        return HeadOutput(scores, loss.item(), count, scores)

    def _logits(self, model: "nn.Module", batch: Batch) -> "Tensor":
        if not self.trained:
            return self.scorer.zero_shot_logits(model, batch, self.sentences)
        return label_logits(model, self.base.pooled(model, batch, self.pool))


def attach(base: Base, config: Config, labels: Sequence[str], multi_label: bool, trains: bool) -> Classify:
    """Return a classification head for `labels` on `base`.

    Raises:
        UsageError: for a pool that the base does not have, or zero_shot on a base that writes no text.
    """
    return Classify(base, config, labels, multi_label, trains)
