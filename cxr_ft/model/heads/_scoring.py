"""One score a label: the layer, the loss and the options of every head that scores."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import takewhile
from typing import TYPE_CHECKING, Any

import numpy as np

from cxr_ft.errors import UsageError, unknown
from cxr_ft.model.heads._reading import ReadingConfig, set_length
from cxr_ft.model.protocols import Base, Batch, Example, TextReader, Writer

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from torch import Tensor, nn

WEIGHTS = ("none", "balanced")


@dataclass(frozen=True, kw_only=True)
class ScoringConfig(ReadingConfig):
    """Options of a head that scores.

    Args:
        weights: "balanced" weighs each label's positives and negatives (single-label: each class) in the training loss
            so that both count alike, by their numbers in train; the losses that are reported stay unweighted.
        present, absent: what zero_shot asks the base: a sentence that states a finding, one that denies it.
        answer: what it asks a base of texts whose labels exclude each other: how the text goes on for each of them.
    """

    weights: str = field(default="none", metadata={"help": f"of classes in the loss: {', '.join(WEIGHTS)}"})
    present: str = field(default="there is {label}.", metadata={"help": "sentence that states a finding (zero_shot)"})
    absent: str = field(default="there is no {label}.", metadata={"help": "sentence that denies it (zero_shot)"})
    answer: str = field(default="label: {label}.", metadata={"help": "line that names a text's label (zero_shot)"})

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.weights not in WEIGHTS:
            raise unknown("weights", self.weights, WEIGHTS, "head.weights")
        for name, sentence in (("present", self.present), ("absent", self.absent), ("answer", self.answer)):
            if "{label}" not in sentence or sentence.count("{") != 1 or sentence.count("}") != 1:
                raise UsageError(
                    f"head.{name}: {sentence!r} must name the finding as {{label}}, once, without other braces"
                )


class Scorer:
    """Multi-label: sigmoid and binary cross-entropy; single-label: softmax and cross-entropy. Targets may be soft."""

    def __init__(self, base: Base, config: ScoringConfig, labels: Sequence[str], multi_label: bool) -> None:
        self.base, self.config, self.labels, self.multi_label = base, config, labels, multi_label
        # A text goes on with one label; of several findings, and of an image, each is stated or denied.
        self.continues = isinstance(base, TextReader) and not multi_label
        set_length(base, config)

    def layer(self, width: int) -> "nn.Linear":
        """A new linear layer, [B, width] -> [B, L]."""
        from torch import nn

        layer = nn.Linear(width, len(self.labels))
        nn.init.normal_(layer.weight, std=0.02)
        nn.init.zeros_(layer.bias)
        return layer

    def sentences(self) -> list[list[int]]:
        """Token ids of the L sentences that state a label, then of the L that deny it; or of the L answers.

        Raises:
            UsageError: where the base writes no text.
        """
        writer = writer_of(self.base, "zero_shot asks for sentences")
        if writer.tokenizer is None:  # on the meta device
            return []
        asked = (self.config.answer,) if self.continues else (self.config.present, self.config.absent)
        texts = [text.format(label=label.lower()) for text in asked for label in self.labels]
        sentences = [writer.tokenizer(text, add_special_tokens=False).input_ids for text in texts]
        if isinstance(self.base, TextReader):
            self.base.leave_room(1 + max(map(len, sentences)))
        return sentences

    def asked(self, model: Any, batch: Batch, sentences: list[list[int]]) -> "Tensor":
        """Logits [B, L] of zero_shot: how much likelier the stating sentence is than the denying one.

        Of answers: the mean log-probability of the tokens that follow what all of them begin with, so that a long name
        is as good as a short one.
        """
        writer = writer_of(self.base, "zero_shot asks for sentences")
        if self.continues:
            return _continued(writer, model, batch, sentences)
        present, absent = writer.likelihood(model, batch, sentences).chunk(2, dim=1)
        return present - absent

    def collate(self, examples: Sequence[Example]) -> Batch:
        """targets float [B, L] in [0, 1] or NaN; weights float [B, L] where the examples have some."""
        import torch

        batch = {"targets": torch.from_numpy(np.stack([e.targets for e in examples])).float()}
        weights = [e.weights for e in examples if e.weights is not None]
        if weights:
            batch["weights"] = torch.from_numpy(np.stack(weights)).float()
        return batch

    def loss(self, logits: "Tensor", batch: Batch, *, weighted: bool) -> tuple["Tensor", int]:
        """Cross-entropy of logits [B, L] summed over unmasked labels (multi-label) or rows, and their number."""
        import torch
        from torch.nn import functional as F

        targets = batch["targets"]
        known = ~torch.isnan(targets)
        if self.multi_label:
            losses = F.binary_cross_entropy_with_logits(logits, torch.nan_to_num(targets), reduction="none")
        else:
            known = known.all(1)
            losses = -torch.nan_to_num(targets) * logits.log_softmax(-1)
        if weighted and "weights" in batch:
            losses = losses * batch["weights"]
        losses = losses if self.multi_label else losses.sum(1)
        return losses[known].sum(), int(known.sum())

    def scores(self, logits: "Tensor") -> "NDArray[np.float64]":
        """[B, L] in [0, 1]: a sigmoid a label, or a softmax over the classes."""
        logits = logits.detach().double()
        scores: NDArray[np.float64] = (logits.sigmoid() if self.multi_label else logits.softmax(-1)).cpu().numpy()
        return scores


def _continued(writer: Writer, model: Any, batch: Batch, answers: list[list[int]]) -> "Tensor":
    import torch

    # All but the last token at most, so that of each answer some are its own.
    alike = takewhile(lambda tokens: len(set(tokens)) == 1, zip(*(answer[:-1] for answer in answers), strict=False))
    shared = [tokens[0] for tokens in alike]
    likelihoods = writer.likelihood(model, batch, [*answers, shared])  # [B, L + 1]
    lengths = torch.tensor([len(answer) - len(shared) for answer in answers], device=likelihoods.device)
    return (likelihoods[:, :-1] - likelihoods[:, -1:]) / lengths


def writer_of(base: Base, why: str) -> Writer:
    """`base` as one that writes.

    Raises:
        UsageError: where it writes no text.
    """
    if not isinstance(base, Writer):
        raise UsageError(
            f"{base.name} ({base.family}) writes no text, but {why}; use --task classify with a method that trains, or "
            f"{'a causal language model' if isinstance(base, TextReader) else 'a GIT'}"
        )
    return base
