"""What a base, a head and a tuning method are to each other. Each is one file; nobody knows more than this.

Shapes: B batch, S image side in pixels, T text tokens, N positions asked for, V vocabulary, D hidden width, L labels,
K sentences.
"""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, Protocol, runtime_checkable

if TYPE_CHECKING:
    import numpy as np
    import torch
    from numpy.typing import NDArray
    from torch import Tensor, nn

Batch = dict[str, Any]
Roles = Mapping[str, Mapping[str, str]]
#: Where images stand in a batch, and what a stored `Prefix` takes the place of.
PIXELS = "pixel_values"


class Example(Protocol):
    """What a head is given for one row: `cxr_ft.data.dataset.split_dataset.Example`."""

    @property
    def image(self) -> "NDArray[np.uint8]":
        """uint8 [S, S]; [0, 0] where the row has text alone."""

    @property
    def given(self) -> str:
        """Text that is read, beside the image or instead of it; nothing where the image is all."""

    @property
    def pair(self) -> str:
        """The second text that is read, where rows are pairs of texts."""

    @property
    def further(self) -> "tuple[NDArray[np.uint8], ...]":
        """The study's other images, each like `image`, for a base that is told to read several."""

    @property
    def targets(self) -> "NDArray[np.float64]":
        """float [L] in [0, 1], NaN where masked."""

    @property
    def text(self) -> str:
        """The report, or nothing."""

    @property
    def weights(self) -> "NDArray[np.float64] | None":
        """float [L], the weight of each label's part of the loss; None: all 1."""


@runtime_checkable
class Base(Protocol):
    """A pretrained model of one family, loaded. A base's module has besides:

    MODEL_TYPES: the `model_type`s of config.json it reads.
    PUBLISHED: hub names whose shape is known without a network -> keyword arguments of the configuration.
    load(name, weights=True) -> Base: `weights=False` builds it on the meta device, without weights and tokenizer.
    restore(folder, name) -> Base: what `save` wrote.
    tiny() -> Base: the real architecture, tiny, random, offline; for tests.
    """

    family: str
    name: str
    #: Tower -> role -> pattern of full module names with one group, the block's number.
    targets: Roles
    lm: "nn.Module"

    @property
    def image_size(self) -> int:
        """S, the side of the images it reads, in pixels; 0: it reads none."""

    def resize(self, size: int) -> None:
        """Read images of `size` pixels from now on, positions interpolated.

        Raises:
            UsageError: for a size that it cannot read.
        """

    @property
    def pools(self) -> Mapping[str, int]:
        """The ways to make one vector of an example, the base's own first, each with its width D."""

    @property
    def code(self) -> Mapping[str, str]:
        """By pool the line by which transformers alone makes that vector of one example, for a model's card.

        It may use `model`, and `pixels` and `start` (the token ids a text begins with), or `tokens` and their `mask`.
        """

    def encoder(self, pool: str) -> "nn.Module":
        """The model without what `pooled` by `pool` never reads, so that all of it can be trained."""

    def inputs(self, examples: Sequence[Example]) -> Batch:
        """What the model reads of the examples: pixel_values float32 [B, 3, S, S], normalised, or tokens of text."""

    def pooled(self, model: "nn.Module", batch: Batch, pool: str) -> "Tensor":
        """One vector an example, [B, D], from `encoder(pool)` (adapted or not) on what `inputs` gave."""

    def blocks(self, model: "nn.Module") -> list[str]:
        """Names of the blocks in `model`, from input to output."""

    def save(self, folder: Path, model: "nn.Module | None") -> None:
        """Write processor and tokenizer into `folder`, and `model` as a transformers folder where one is given."""


@runtime_checkable
class TextReader(Base, Protocol):
    """A base that reads the text that is given, `Example.given` and `Example.pair`, and no image."""

    @property
    def limit(self) -> int:
        """How many tokens of a text are read, special ones counted; what follows is left out."""

    def cut(self, tokens: int) -> None:
        """Read at most `tokens` tokens from now on.

        Raises:
            UsageError: where the model has fewer positions, or no text would be left.
        """

    def leave_room(self, tokens: int) -> None:
        """Leave the positions of so many tokens to others, learnt or written, from now on.

        Raises:
            UsageError: where no text would be left.
        """


@runtime_checkable
class Writer(Base, Protocol):
    """A base that writes text too. What a report head, and zero_shot, need."""

    tokenizer: Any

    #: Ids of the token that what is written begins with, and of the one that ends it; -1 on the meta device.
    start: int
    end: int

    @property
    def longest(self) -> int:
        """How many text tokens the model has positions for."""

    def logits(self, model: "nn.Module", batch: Batch, at: "Tensor | None" = None) -> "Tensor":
        """Next-token logits at each text position, [B, T, V], from `lm` on pixel_values and input_ids; with `at`, bool
        [B, T], only where it is true: [N, V], in row order.
        """

    def logits_and_pooled(self, model: "nn.Module", batch: Batch, at: "Tensor") -> tuple["Tensor", "Tensor"]:
        """`logits` at `at` [N, V] and `pooled` by the base's own way [B, D], from one reading."""

    def generate(
        self,
        model: "nn.Module",
        batch: Batch,
        prompt: Sequence[int] | Sequence[Sequence[int]],
        max_new_tokens: int,
        **search: Any,
    ) -> list[str]:
        """Text that follows the prompt of each row of `batch`, without special tokens.

        Args:
            prompt: token ids, the same for all rows; or a list a row.
            search: beams, temperature (0: no chance), top_k, top_p, length_penalty; greedy where none is given.
        """

    def likelihood(self, model: "nn.Module", batch: Batch, sentences: Sequence[Sequence[int]]) -> "Tensor":
        """Log-probability of each sentence (token ids after the start token) given each row, [B, K]."""


@runtime_checkable
class HasProcessor(Base, Protocol):
    """A base of images whose settings `save` writes beside a run's weights: reloaded, the run goes by its own."""

    def take_processor(self, folder: Path) -> None:
        """Prepare images from now on as `folder` says."""


@runtime_checkable
class MultiView(Base, Protocol):
    """A base that can read several images of a study. What data.views needs."""

    def read_several(self, views: int) -> None:
        """Read up to `views` images a row from now on: `inputs` gives them, and everything else takes what it gives."""

    def new_modules(self, model: "nn.Module") -> tuple[str, ...]:
        """Names in `model` of the modules that reading several has added; methods train and save them as a head."""


class FrozenPrefix(NamedTuple):
    """The part of a model that frozen weights make a constant of the image, so that it is computed once and stored.

    key: the place of its output in a batch, where it stands instead of PIXELS. compute: that output [B, ...] for
    PIXELS, whatever the other rows are. weights: parameters and buffers that determine it, by name.
    """

    key: str
    compute: "Callable[[Tensor], Tensor]"
    weights: "dict[str, Tensor]"


@runtime_checkable
class HasFrozenPrefix(Protocol):
    """A base whose frozen part can be computed apart. One without reads pixels in every step."""

    def prefix(self, model: "nn.Module") -> FrozenPrefix | None:
        """The longest stretch of `model`, from the image on, that training does not change; None where there is none,
        or where it is random. Everything else of the base takes `Prefix.key` in a batch for PIXELS.
        """


class HeadOutput(NamedTuple):
    """Answers for B rows and their loss.

    answers: scores float [B, L] in [0, 1], or B texts; loss: the sum over what counts, `counted`, unweighted; scores:
    those of a head that scores, beside its texts or as its answers.
    """

    answers: "NDArray[np.float64] | list[str]"
    loss: float
    counted: int
    scores: "NDArray[np.float64] | None" = None


class Head(Protocol):
    """A task on a base. A head's module has besides: `Config`, and OUTPUT, "scores" or "text".

    attach(base, config, labels, multi_label, new_parameters) -> Head. Without `new_parameters` it makes none and
    answers with what the base can do already (zero_shot).

    output: what its runs are judged by first. scored: whether `predict` gives scores, be it beside texts.
    """

    model: "nn.Module"
    new_modules: tuple[str, ...]
    output: Literal["scores", "text"]
    scored: bool

    def collate(self, examples: Sequence[Example]) -> Batch:
        """Some rows as tensors."""

    def loss(self, model: "nn.Module", batch: Batch) -> tuple["Tensor", int]:
        """Sum of the losses over what counts (unmasked labels, target tokens), and how many count."""

    def predict(self, model: "nn.Module", batch: Batch) -> HeadOutput:
        """The answers for a batch, and its loss on the way."""


class Tuning(Protocol):
    """A way of fine-tuning: a module with `Config` (frozen dataclass, keyword-only, with `lr`) and

    TRAINS: False where the method trains nothing, and so makes no head (zero_shot).
    NEEDS_TEXT: True where what it learns is read as text is; it is missing elsewhere.

    A method whose model is neither PEFT's nor all transformers' own has besides, the second only where `apply` by PEFT
    or the saved transformers folder would not do:

    save(model, folder, config, new): write what was trained.
    reload(model, base, config, new, folder) -> model: apply the method with what `save` or PEFT wrote.

    One that must act within the training has `callback(model, steps)`, which gives a
    `cxr_ft.model.methods.StepCallback`.
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


def owner(parameter: str) -> str:
    """The module that a parameter belongs to, by name, without PEFT's wrapping: an adapter's is the adapted one."""
    plain = parameter.removeprefix("base_model.model.").replace(".modules_to_save.default", "")
    return plain.split(".lora_")[0] if ".lora_" in plain else plain.rpartition(".")[0]
