"""Declare what a base, a head and a tuning method offer one another. Each is one file and depends on nothing else.

Shapes: B batch, S image side in pixels, V views (images of one study), T text tokens, N positions that count, W words
of the vocabulary, D hidden width, L labels, K sentences.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, Protocol, TypeAlias, TypedDict, TypeGuard, Unpack

if TYPE_CHECKING:
    import numpy as np
    import torch
    from numpy.typing import NDArray
    from torch import Tensor, nn
    from transformers import PreTrainedTokenizerBase

#: Tensors of some rows by name.
Batch: TypeAlias = "dict[str, Tensor]"
#: Tower -> role -> pattern of full module names.
Roles = Mapping[str, Mapping[str, str]]
#: Name of the images in a batch; the output of a `FrozenPrefix` replaces them.
PIXELS = "pixel_values"
#: Label of a token position that does not count in the loss, as everywhere in torch.
IGNORE = -100


class SearchOptions(TypedDict, total=False):
    """Options of text generation, as `cxr_ft.model.bases.git.beam_search.Search` explains them."""

    beams: int
    temperature: float
    top_k: int
    top_p: float
    length_penalty: float


class Example(Protocol):
    """One row as a head reads it; `cxr_ft.data.dataset.split_dataset.Example` is one."""

    @property
    def image(self) -> "NDArray[np.uint8]":
        """uint8 [S, S], 0 (air) to 255; [0, 0] for a row of text alone."""

    @property
    def given(self) -> str:
        """Input text, in addition to the image or instead of it; empty for a row of an image alone."""

    @property
    def pair(self) -> str:
        """Second input text of a row that is a pair of texts; else empty."""

    @property
    def further(self) -> "tuple[NDArray[np.uint8], ...]":
        """Further images of the study, each like `image`, for a base that reads several."""

    @property
    def targets(self) -> "NDArray[np.float64]":
        """float [L] in [0, 1], NaN where the label is masked."""

    @property
    def text(self) -> str:
        """Report to learn, or empty."""

    @property
    def weights(self) -> "NDArray[np.float64] | None":
        """float [L], weight of each label in the training loss; None: all 1."""


@dataclass(frozen=True, kw_only=True)
class CardCode:
    """Python lines for a model card: load and run a saved model of one family with transformers alone.

    The lines assume `import torch`. `pixels` [1, 3, S, S] or `tokens` and `mask` are the names that `Base.code` reads.

    Args:
        imports: import lines besides torch, PEFT and transformers.
        classes: names to import from transformers, the model's class first.
        inputs: lines that make the inputs of one example.
        generate: lines that make `logits` [1, W] of the next token and print a generated text; empty for a base that
            writes none, and for a head that scores.
    """

    imports: tuple[str, ...]
    classes: tuple[str, ...]
    inputs: tuple[str, ...]
    generate: tuple[str, ...] = ()


class Base(Protocol):
    """A loaded pretrained model of one family. The file of a family has besides:

    MODEL_TYPES: the `model_type`s of config.json that it reads.
    PUBLISHED: hub names whose shape is known without a network -> keyword arguments of the configuration.
    load(name, weights=True) -> Base: `weights=False` builds it on the meta device, without weights and tokenizer.
    restore(folder, name) -> Base: what `save` wrote.
    tiny() -> Base: the real architecture, tiny, random, offline; for tests.
    drawn_weights(name) -> str | None: optional, for a family with names that have random weights and no files: how they
        are drawn. Without it, weights are those of the files that transformers loads (`cxr_ft.model.base_weights`).

    The flags below say which of the wider protocols it fulfils. They are plain attributes, so that reading them
    runs no code of the base; `is_writer` and its like tell a type checker.
    """

    family: str
    name: str
    #: Tower -> role -> pattern of full module names with one group, the block's number.
    targets: Roles
    #: The whole model.
    lm: "nn.Module"
    #: It reads text and no image: a `TextReader`.
    reads_text: bool
    #: It generates text: a `Writer`.
    writes_text: bool
    #: It can read several images of a study: a `MultiView`.
    reads_views: bool
    #: It has settings for the preparation of images that are saved with a run's weights: a `HasProcessor`.
    has_processor: bool
    #: Its frozen part can be computed once for each image and stored: a `HasFrozenPrefix`.
    has_frozen_prefix: bool

    @property
    def image_size(self) -> int:
        """S, the side of the images it reads, in pixels; 0: it reads none."""

    def resize(self, size: int) -> None:
        """Read images of `size` pixels from now on, with interpolated position embeddings.

        Raises:
            UsageError: for a size that it cannot read.
        """

    @property
    def longest(self) -> int:
        """Number of text positions of the model; 0: it reads no text."""

    @property
    def pools(self) -> Mapping[str, int]:
        """Names of the ways to pool an example to one vector -> its width D; the base's default first."""

    @property
    def code(self) -> Mapping[str, str]:
        """Pool -> the expression by which transformers alone makes that vector of one example, for a model card.

        It may use `model`, and `pixels` and `start` (token ids that a text begins with), or `tokens` and their `mask`.
        """

    def card_code(self, *, writes: bool, prompt: Sequence[int]) -> CardCode:
        """Return the lines of a model card that load this family and make its inputs.

        Args:
            writes: True for a head that generates text, False for one that scores.
            prompt: token ids that a text begins with, the start token first; empty for a base that writes none.
        """

    def encoder(self, pool: str) -> "nn.Module":
        """Return the model without the modules that `pooled` by `pool` never reads, so that all of it can be trained.

        It is a module of its own that shares the other modules with `lm`: a layer added to it is not in `lm`, which
        stays whole, and the next call gets whatever it needs.
        """

    def inputs(self, examples: Sequence[Example]) -> Batch:
        """Return the model's inputs: pixel_values float32 [B, 3, S, S], normalised, or tokens of text."""

    def pooled(self, model: "nn.Module", batch: Batch, pool: str) -> "Tensor":
        """Return one vector for each example, [B, D], from `encoder(pool)` (adapted or not) and a batch of `inputs`."""

    def blocks(self, model: "nn.Module") -> list[str]:
        """Return the names of the transformer blocks in `model`, from input to output."""

    def save(self, folder: Path, model: "nn.Module | None") -> None:
        """Write processor and tokenizer into `folder`, and `model`, if any, as a transformers folder."""


class TextReader(Base, Protocol):
    """A base that reads `Example.given` and `Example.pair`, and no image."""

    @property
    def limit(self) -> int:
        """Tokens of a text that are read, special ones included; the rest is cut off."""

    def cut(self, tokens: int) -> None:
        """Read at most `tokens` tokens from now on.

        Raises:
            UsageError: if the model has fewer positions, or no text would be left.
        """

    def leave_room(self, tokens: int) -> None:
        """Keep `tokens` positions free for learnt or generated tokens from now on.

        Raises:
            UsageError: if no text would be left.
        """


class Writer(Base, Protocol):
    """A base that generates text: needed by a report head and by zero_shot."""

    #: Of transformers; None on the meta device.
    tokenizer: "PreTrainedTokenizerBase"
    #: Ids of the token that a generated text begins with, and of the one that ends it; -1 on the meta device.
    start: int
    end: int

    def logits(self, model: "nn.Module", batch: Batch, at: "Tensor | None" = None) -> "Tensor":
        """Return next-token logits of `lm` at all text positions, [B, T, W], or at some of them.

        Args:
            batch: `inputs`, and input_ids and attention_mask int64 [B, T].
            at: bool [B, T]; only where it is True: [N, W], in row order.
        """

    def logits_and_pooled(self, model: "nn.Module", batch: Batch, at: "Tensor") -> tuple["Tensor", "Tensor"]:
        """Return `logits` at `at` [N, W] and `pooled` by the default pool [B, D], from one forward pass."""

    def generate(
        self,
        model: "nn.Module",
        batch: Batch,
        prompt: Sequence[int] | Sequence[Sequence[int]],
        max_new_tokens: int,
        **search: Unpack[SearchOptions],
    ) -> list[str]:
        """Return B generated texts, without prompt and special tokens.

        Args:
            prompt: token ids, the same for all rows; or a list for each row.
            search: options of generation; greedy by default.
        """

    def likelihood(self, model: "nn.Module", batch: Batch, sentences: Sequence[Sequence[int]]) -> "Tensor":
        """Return the log-probability of each sentence (token ids after the start token) for each row, [B, K]."""


class HasProcessor(Base, Protocol):
    """A base of images whose preparation settings `save` writes with a run's weights, and a reloaded run uses."""

    def take_processor(self, folder: Path) -> None:
        """Prepare images from now on by the settings in `folder`."""


class MultiView(Base, Protocol):
    """A base that can read several images of a study: needed by data.views."""

    def read_several(self, views: int) -> None:
        """Read up to `views` images of a row from now on: `inputs` returns them, all other methods take them."""

    def new_modules(self, model: "nn.Module") -> tuple[str, ...]:
        """Return the names in `model` of the modules that `read_several` added; methods treat them like a head's."""


class FrozenPrefix(NamedTuple):
    """The first part of a model, from the image on, if its weights are frozen: its output can be computed once.

    key: name of its output in a batch, in place of PIXELS. compute: PIXELS [B, ...] -> that output [B, ...], each row
    independent of the others. weights: the parameters and buffers that determine it, by name.
    """

    key: str
    compute: "Callable[[Tensor], Tensor]"
    weights: "dict[str, Tensor]"


class HasFrozenPrefix(Base, Protocol):
    """A base whose frozen part can be computed separately. Any other base reads pixels in every step."""

    def prefix(self, model: "nn.Module") -> FrozenPrefix | None:
        """Return the longest first part of `model` that training does not change; None if there is none.

        All other methods of the base accept a batch with `FrozenPrefix.key` in place of PIXELS.
        """


def is_text_reader(base: Base) -> TypeGuard[TextReader]:
    """Return True if `base` reads text and no image."""
    return base.reads_text


def is_writer(base: Base) -> TypeGuard[Writer]:
    """Return True if `base` generates text."""
    return base.writes_text


def is_multi_view(base: Base) -> TypeGuard[MultiView]:
    """Return True if `base` can read several images of a study."""
    return base.reads_views


def has_processor(base: Base) -> TypeGuard[HasProcessor]:
    """Return True if `base` has image settings that are saved with a run's weights."""
    return base.has_processor


def has_frozen_prefix(base: Base) -> TypeGuard[HasFrozenPrefix]:
    """Return True if a frozen part of `base` can be computed separately."""
    return base.has_frozen_prefix


class HeadOutput(NamedTuple):
    """Predictions for B rows and their loss.

    answers: scores float [B, L] in [0, 1], or B texts. loss: unweighted sum over the `counted` labels or tokens.
    scores: float [B, L] of a head that scores, in addition to its texts or as its answers.
    """

    answers: "NDArray[np.float64] | list[str]"
    loss: float
    counted: int
    scores: "NDArray[np.float64] | None" = None


class Head(Protocol):
    """A task on a base. The file of a head has besides: `Config`, and OUTPUT, "scores" or "text".

    attach(base, config, labels, multi_label, trains) -> Head. With `trains` off (zero_shot) it adds no module and
    answers by what the base can do already.
    """

    #: The model to tune: the base's encoder with a new layer, or the whole model.
    model: "nn.Module"
    #: Names in `model` of the head's own modules.
    new_modules: tuple[str, ...]
    #: The predictions whose metrics come first.
    output: Literal["scores", "text"]
    #: `predict` returns scores, perhaps in addition to texts.
    scored: bool
    #: The pooled state that its scores read, one of `Base.pools`; the base's own where nothing does.
    pool: str
    #: Token ids that a text begins with, the start token first; empty for a head that writes none.
    prompt: Sequence[int]

    def collate(self, examples: Sequence[Example]) -> Batch:
        """Return rows as tensors: the base's inputs and the head's targets."""

    def count_cut(self, texts: Sequence[str]) -> int:
        """Return how many of the texts to learn are cut by the head's longest; 0 of a head that writes none."""

    def loss(self, model: "nn.Module", batch: Batch) -> tuple["Tensor", int]:
        """Return the sum of the losses [] over unmasked labels or target tokens, and their number."""

    def predict(self, model: "nn.Module", batch: Batch) -> HeadOutput:
        """Return predictions and loss for a batch."""


class Tuning(Protocol):
    """The file of a fine-tuning method: a module with `Config` (frozen dataclass, keyword-only, with `lr`) and

    TRAINS: False for a method that trains nothing, and so adds no head (zero_shot).
    NEEDS_TEXT: True for a method whose learnt tokens are read like text; default False.
    PEFT_FOLDER: True if what it saves is a PEFT adapter's folder; default False.
    merge(model) -> model: add what was learnt to the base's own weights, in place, and return the plain model; or
    MERGE_OBSTACLE: one line that says why no weight of the base can hold it.

    A method whose model is neither PEFT's nor all transformers' own has besides, the second only if neither `apply`
    by PEFT nor the saved transformers folder would do:

    save(model, folder, config, new): write what was trained.
    reload(model, base, config, new, folder) -> model: apply the method with what `save` or PEFT wrote.

    One that must act within training has `callback(model, steps)`, which returns a `cxr_ft.model.methods.StepCallback`.
    `cxr_ft.model.methods.load` reads all of these into one `Method`.
    """

    Config: type

    def apply(self, model: "nn.Module", base: Base, config: Any, new: tuple[str, ...]) -> "nn.Module":
        """Return `model` with gradients required for exactly what the method trains.

        It is called on the meta device first, so that a refusal comes before any weights are loaded.

        Args:
            new: names in `model` of the head's own modules.

        Raises:
            UsageError: for what the method cannot do on this base.
        """


def trainable(model: "nn.Module") -> "dict[str, torch.nn.Parameter]":
    """Return the parameters that require gradients, by name."""
    return {name: p for name, p in model.named_parameters() if p.requires_grad}


def owner(parameter: str) -> str:
    """Return the name of the module that owns a parameter, without PEFT's wrapping: an adapter's is the adapted one."""
    plain = parameter.removeprefix("base_model.model.").replace(".modules_to_save.default", "")
    return plain.split(".lora_")[0] if ".lora_" in plain else plain.rpartition(".")[0]
