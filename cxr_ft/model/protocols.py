"""What a base, a head and a tuning method are to each other. Each is one file; nobody knows more than this.

Shapes: B batch, S image side in pixels, T text tokens, V vocabulary, D hidden width, L labels, K sentences.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, Protocol, runtime_checkable

if TYPE_CHECKING:
    import numpy as np
    import torch
    from numpy.typing import NDArray
    from torch import Tensor, nn

Batch = dict[str, Any]
Roles = Mapping[str, Mapping[str, str]]


class Example(Protocol):
    """What a head is given for one row: `cxr_ft.data.batches.Example`."""

    @property
    def image(self) -> "NDArray[np.uint8]":
        """uint8 [S, S]."""

    @property
    def targets(self) -> "NDArray[np.float64]":
        """float [L] in {0, 1, NaN}."""

    @property
    def text(self) -> str:
        """The report, or nothing."""


@runtime_checkable
class Base(Protocol):
    """A pretrained model of one family, loaded. A base's module has besides:

    MODEL_TYPES: the `model_type`s of config.json it reads.
    PUBLISHED: hub names whose shape is known without a network -> keyword arguments of the configuration.
    TARGETS: tower -> role -> pattern of full module names with one group, the block's number.
    load(name, weights=True) -> Base: `weights=False` builds it on the meta device, without weights and tokenizer.
    restore(folder, name) -> Base: what `save` wrote.
    tiny() -> Base: the real architecture, tiny, random, offline; for tests.
    """

    family: str
    name: str
    image_size: int
    targets: Roles
    lm: "nn.Module"
    tokenizer: Any

    def encoder(self) -> "nn.Module":
        """The model without its vocabulary projection, for heads that never read it."""

    @property
    def width(self) -> int:
        """D, the width of `pooled`."""

    @property
    def longest(self) -> int:
        """How many text tokens the model has positions for."""

    def pixel_values(self, images: "NDArray[np.uint8]") -> "Tensor":
        """Images uint8 [B, S, S] as the model wants them: float32 [B, 3, S, S], normalised."""

    def pooled(self, model: "nn.Module", batch: Batch) -> "Tensor":
        """One vector an example, [B, D], from `encoder()` (adapted or not) on pixel_values."""

    def logits(self, model: "nn.Module", batch: Batch) -> "Tensor":
        """Next-token logits at each text position, [B, T, V], from `lm` on pixel_values and input_ids."""

    def generate(
        self, model: "nn.Module", pixel_values: "Tensor", prompt: Sequence[int], max_new_tokens: int
    ) -> list[str]:
        """Text that follows `prompt` for each image, greedily, without special tokens."""

    def likelihood(self, model: "nn.Module", pixel_values: "Tensor", sentences: Sequence[Sequence[int]]) -> "Tensor":
        """Log-probability of each sentence (token ids after the start token) given each image, [B, K]."""

    def blocks(self, model: "nn.Module") -> list[str]:
        """Names of the transformer blocks in `model`, from input to output."""

    def save(self, folder: Path, model: "nn.Module | None") -> None:
        """Write processor and tokenizer into `folder`, and `model` as a transformers folder where one is given."""


class Predicted(NamedTuple):
    """Answers (scores float [B, L] in [0, 1], or B texts), and the sum of the losses over what counts, `counted`."""

    answers: "NDArray[np.float64] | list[str]"
    loss: float
    counted: int


class Head(Protocol):
    """A task on a base. A head's module has besides: `Config`, and OUTPUT, "scores" or "text".

    attach(base, config, labels, multi_label, new_parameters) -> Head. Without `new_parameters` it makes none and
    answers with what the base can do already (zero_shot).
    """

    model: "nn.Module"
    new_modules: tuple[str, ...]
    output: Literal["scores", "text"]

    def collate(self, examples: Sequence[Example]) -> Batch:
        """Some rows as tensors."""

    def loss(self, model: "nn.Module", batch: Batch) -> tuple["Tensor", int]:
        """Sum of the losses over what counts (unmasked labels, target tokens), and how many count."""

    def predict(self, model: "nn.Module", batch: Batch) -> Predicted:
        """The answers for a batch, and its loss on the way."""


class Tuning(Protocol):
    """A way of fine-tuning: a module with `Config` (frozen dataclass, keyword-only, with `lr`) and

    NEW_PARAMETERS: False where the method may not add a head (zero_shot).
    """

    Config: type

    def apply(self, model: "nn.Module", base: Base, config: Any, new: tuple[str, ...]) -> "nn.Module":
        """`model` with exactly what the method trains requiring gradients; `new` names the head's own modules.

        Called on the meta device first, so that what cannot be done is said before anything is loaded.

        Raises:
            UsageError: for what the method cannot do on this base.
        """


def trainable(model: "nn.Module") -> "dict[str, torch.nn.Parameter]":
    """The parameters that are trained, by name."""
    return {name: p for name, p in model.named_parameters() if p.requires_grad}
