"""Score labels: the layer, the loss and the options of every head that scores."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import takewhile
from typing import TYPE_CHECKING

import numpy as np

from cxr_ft.errors import UsageError, unknown
from cxr_ft.model.heads._reading import ReadingConfig, set_length
from cxr_ft.model.protocols import Base, Batch, Example, Writer, is_text_reader, is_writer

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from torch import Tensor, nn

WEIGHTS = ("none", "balanced")


@dataclass(frozen=True, kw_only=True)
class ScoringConfig(ReadingConfig):
    """Options of a head that scores.

    Args:
        weights: "balanced" weighs each label's positives and negatives (single-label: each class) in the training loss
            so that both have the same total weight in train; reported losses are unweighted.
        present, absent: sentences that state and deny a finding; zero_shot compares their likelihoods.
        answer: line that names a label; zero_shot compares its likelihoods on a base of texts with exclusive labels.
    """

    weights: str = field(default="none", metadata={"help": f"class weights of the loss: {', '.join(WEIGHTS)}"})
    present: str = field(default="there is {label}.", metadata={"help": "sentence that states a finding (zero_shot)"})
    absent: str = field(default="there is no {label}.", metadata={"help": "sentence that denies it (zero_shot)"})
    answer: str = field(default="label: {label}.", metadata={"help": "line that names a text's label (zero_shot)"})

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.weights not in WEIGHTS:
            raise unknown("weights", self.weights, WEIGHTS, "head.weights")
        for name, sentence in (("present", self.present), ("absent", self.absent), ("answer", self.answer)):
            # Other braces would make str.format fail only when zero_shot makes its sentences.
            if "{label}" not in sentence or sentence.count("{") != 1 or sentence.count("}") != 1:
                raise UsageError(
                    f"head.{name}: {sentence!r} must name the finding as {{label}}, once, without other braces"
                )


class Scorer:
    """Scores and loss of labels. Targets may be soft.

    Multi-label: sigmoid and binary cross-entropy; single-label: softmax and cross-entropy.
    """

    def __init__(self, base: Base, config: ScoringConfig, labels: Sequence[str], multi_label: bool) -> None:
        self.base, self.config, self.labels, self.multi_label = base, config, labels, multi_label
        # Exclusive labels of a text: compare how it continues. Otherwise each finding is stated or denied.
        self.continues = is_text_reader(base) and not multi_label
        set_length(base, config)

    def layer(self, width: int) -> "nn.Linear":
        """Return a new linear layer, [B, width] -> [B, L]."""
        from torch import nn

        layer = nn.Linear(width, len(self.labels))
        # The deviation with which BERT and GIT begin their own layers.
        nn.init.normal_(layer.weight, std=0.02)
        nn.init.zeros_(layer.bias)
        return layer

    def sentences(self) -> list[list[int]]:
        """Return token ids of the L sentences that state a label, then of the L that deny it; or of the L answers.

        Raises:
            UsageError: if the base writes no text.
        """
        writer = writer_of(self.base, "zero_shot compares sentences")
        if writer.tokenizer is None:  # on the meta device
            return []
        templates = (self.config.answer,) if self.continues else (self.config.present, self.config.absent)
        texts = [text.format(label=label.lower()) for text in templates for label in self.labels]
        sentences = [writer.tokenizer(text, add_special_tokens=False).input_ids for text in texts]
        if is_text_reader(self.base):
            # One more position for the start token.
            self.base.leave_room(1 + max(map(len, sentences)))
        return sentences

    def zero_shot_logits(self, model: "nn.Module", batch: Batch, sentences: list[list[int]]) -> "Tensor":
        """Return logits [B, L] of zero_shot: log-probability of the stating sentence minus that of the denying one.

        Of answers: the mean log-probability of the tokens after the beginning that all of them share, so that long and
        short names are treated alike.
        """
        writer = writer_of(self.base, "zero_shot compares sentences")
        if self.continues:
            return _continued(writer, model, batch, sentences)
        # The difference, not the one likelihood: how probable a label's words are in any report cancels.
        present, absent = writer.likelihood(model, batch, sentences).chunk(2, dim=1)
        return present - absent

    def collate(self, examples: Sequence[Example]) -> Batch:
        """Return targets float [B, L] in [0, 1] or NaN, and weights float [B, L] if the examples have some."""
        import torch

        batch = {"targets": torch.from_numpy(np.stack([e.targets for e in examples])).float()}
        weights = [e.weights for e in examples if e.weights is not None]
        if weights:
            batch["weights"] = torch.from_numpy(np.stack(weights)).float()
        return batch

    def loss(self, logits: "Tensor", batch: Batch, *, weighted: bool) -> tuple["Tensor", int]:
        """Return the cross-entropy of logits [B, L], summed over unmasked labels or rows, and their number."""
        import torch
        from torch.nn import functional as F

        targets = batch["targets"]
        # NaN marks a masked label. It is replaced before the loss: a NaN times 0 is NaN, in the gradient too.
        unmasked = ~torch.isnan(targets)
        if self.multi_label:
            losses = F.binary_cross_entropy_with_logits(logits, torch.nan_to_num(targets), reduction="none")
        else:
            # Softmax couples the classes: a row with one masked class has no defined loss.
            unmasked = unmasked.all(1)
            losses = -torch.nan_to_num(targets) * logits.log_softmax(-1)
        if weighted and "weights" in batch:
            losses = losses * batch["weights"]
        losses = losses if self.multi_label else losses.sum(1)
        return losses[unmasked].sum(), int(unmasked.sum())

    def scores(self, logits: "Tensor") -> "NDArray[np.float64]":
        """Return scores [B, L] in [0, 1]: a sigmoid of each label, or a softmax over the classes."""
        # In double: float32 rounds scores near 1 to the same number, and ranks would become ties.
        logits = logits.detach().double()
        scores: NDArray[np.float64] = (logits.sigmoid() if self.multi_label else logits.softmax(-1)).cpu().numpy()
        return scores


def _continued(writer: Writer, model: "nn.Module", batch: Batch, answers: list[list[int]]) -> "Tensor":
    import torch

    # At most all but the last token are shared, so that each answer keeps a token of its own.
    same = takewhile(lambda tokens: len(set(tokens)) == 1, zip(*(answer[:-1] for answer in answers), strict=False))
    shared = [tokens[0] for tokens in same]
    # The shared beginning as a further sentence: its likelihood is subtracted from that of each answer.
    likelihoods = writer.likelihood(model, batch, [*answers, shared])  # [B, L + 1]
    lengths = torch.tensor([len(answer) - len(shared) for answer in answers], device=likelihoods.device)
    return (likelihoods[:, :-1] - likelihoods[:, -1:]) / lengths


def label_logits(model: "nn.Module", state: "Tensor") -> "Tensor":
    """Return float32 logits [B, L] of the head's layer in `model` for pooled vectors [B, D]."""
    # By name, since PEFT may have put the layer into a wrapper of its own.
    logits: Tensor = model.get_submodule("classifier")(state).float()
    return logits


def writer_of(base: Base, why: str) -> Writer:
    """Return `base` as one that writes.

    Raises:
        UsageError: if it writes no text.
    """
    if not is_writer(base):
        raise UsageError(
            f"{base.name} ({base.family}) writes no text, but {why}; use --task classify with a method that trains, or "
            f"{'a causal language model' if is_text_reader(base) else 'a GIT'}"
        )
    return base
