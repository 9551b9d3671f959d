"""Build a base with a head and a tuning method as one torch module."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from cxr_ft.api.options import resolved

if TYPE_CHECKING:
    from cxr_ft.model.assembly import ModelParts
    from cxr_ft.model.protocols import Batch, Example, HeadOutput


class FineTunedModel(nn.Module):
    """A base with a task's head, its tuning method applied: exactly the method's parameters require gradients.

    `collate` makes a batch of a data set's examples, `forward` gives its mean loss, `predict` its scores or texts; so a
    plain torch loop trains it. `model` is the transformers or PEFT model inside.
    """

    def __init__(self, parts: "ModelParts") -> None:
        super().__init__()
        self._parts = parts
        self.model: nn.Module = parts.model

    @property
    def image_size(self) -> int:
        """Return the side in pixels of the square images it reads; 0: it reads texts."""
        return int(self._parts.base.image_size)

    @property
    def trained(self) -> dict[str, int]:
        """Return the numbers of parameters: trainable, total, and the trainable ones of the adapter and of the head."""
        from cxr_ft.run.cost.memory import parameters

        counts = parameters(self.model, self._parts.head.new_modules)
        return {name: counts[name] for name in ("trainable", "total", "adapter", "head")}

    def collate(self, examples: "Sequence[Example]") -> "Batch":
        """Return a batch of what the model reads, with its targets, of `load_splits(...).dataset(...)`'s examples."""
        batch: Batch = self._parts.head.collate(examples)
        return batch

    def forward(self, batch: "Batch") -> Tensor:
        """Return the mean loss over what counts: unmasked labels, or the target texts' tokens."""
        total, count = self._parts.head.loss(self.model, batch)
        # A batch in which every label is masked has a sum of 0 over 0 cells: its loss is 0, not NaN.
        loss: Tensor = total / max(count, 1)
        return loss

    @torch.no_grad()
    def predict(self, batch: "Batch") -> "HeadOutput":
        """Return the predictions of a batch: `answers` are scores [B, L] in [0, 1], or B texts."""
        # Without dropout; the caller's mode is restored, since a training loop may predict in between.
        training = self.model.training
        self.model.eval()
        output: HeadOutput = self._parts.head.predict(self.model, batch)
        self.model.train(training)
        return output


def create_model(
    name: str = "git-phantom-tiny",
    *,
    task: str = "classify",
    method: str = "lora",
    labels: Sequence[str] | None = None,
    multi_label: bool = True,
    targets: str | Sequence[str] | None = None,
    seed: int = 0,
    config: Mapping[str, object] | None = None,
    **options: object,
) -> FineTunedModel:
    """Return a base with a head for `task`, ready to be trained by `method`.

    Args:
        name: one of `list_bases()`, a folder in transformers' format, or a hub name.
        task: one of `list_heads()`.
        method: one of `list_methods()`.
        labels: their names; None: the 14 of CheXpert.
        multi_label: whether an image may have several labels.
        targets: target modules, as "q,v" or ["text.q", "vision.mlp"]; None: the method's own.
        seed: of the head's and the adapter's first weights.
        config: nested options, as in a YAML file.
        **options: options of the method (rank=8, lr=1e-3) or of training.

    Raises:
        UsageError: for an unknown name or option, and for what cannot be put together.

    Example:
        >>> import cxr_ft
        >>> model = cxr_ft.create_model("git-tiny-random", method="lora", targets="q,v", rank=4, labels=["Edema"])
        >>> model.trained["head"]  # 192 weights and a bias
        193
    """
    from cxr_ft.data.labels import CHEXPERT_14
    from cxr_ft.model import assembly

    named = {} if targets is None else {"targets": targets}
    run = resolved(config, model=name, task=task, method=method, seed=seed, options={**named, **options})
    # Before the head and the adapter draw their first weights.
    torch.manual_seed(seed)
    return FineTunedModel(assembly.build(run, tuple(labels or CHEXPERT_14), multi_label))
