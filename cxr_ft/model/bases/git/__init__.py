"""Microsoft GIT (Wang et al., arXiv 2205.14100) of transformers, with a faster forward pass of the same model.

A CLIP vision tower, and a text decoder that reads image tokens and text tokens in one sequence: text attends to all
image tokens and to earlier text, image tokens never to text.

The files of this folder compute what transformers computes, without what nobody reads (the fused path). They call the
modules of a transformers model in transformers' order, so that names, adapters and `save_pretrained` stay as they are:

    eligibility    which models the fused path may run; for all others transformers' own forward runs
    forward        pooled vectors, logits, generation, likelihoods: by the fused path or by transformers' own forward
    vision         images -> image tokens, the part that is constant if the vision tower is frozen; other image sizes
    frozen_prefix  which part is frozen, so that its output can be stored
    decoder        image tokens and text -> states at the positions that are needed
    multi_view     several images of a study before one text
    generation     greedy, sampled and beam search, and sentence scores, from one pass over image and prompt
    beam_search, kv_cache    options and state of generation
    attention, dropout, fused_linear, gradient_checkpointing    the kernels, and how layers are run

Shapes in all of them: B batch, F images of a row, I image tokens, T text tokens, D width (Dv of the vision tower), H
heads, d width of a head, V vocabulary, N positions that count, K beams or sentences, P tokens of a prefix.

Upstream: transformers/models/git/modeling_git.py. From 4.49 to 5.14.1 its loss shifted labels twice; the head
computes ours, so that no version's loss is used.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Unpack

import numpy as np
from numpy.typing import NDArray

from cxr_ft.errors import UsageError
from cxr_ft.json_values import JsonObject
from cxr_ft.model.assembly import SEED_KEY
from cxr_ft.model.bases._pixels import CARD_IMPORTS, card_inputs, normalised
from cxr_ft.model.bases._trim import trimmed
from cxr_ft.model.protocols import PIXELS, Batch, CardCode, Example, Roles, SearchOptions

if TYPE_CHECKING:
    from torch import Tensor, nn
    from transformers import GitConfig, GitForCausalLM, GitProcessor, PreTrainedModel, PreTrainedTokenizerBase

    from cxr_ft.model.protocols import FrozenPrefix

MODEL_TYPES = ("git",)
#: transformers' GitConfig() is microsoft/git-base.
PUBLISHED: dict[str, JsonObject] = {"microsoft/git-base": {}}
_TEXT = r"(?:git\.)?encoder\.layer\.(\d+)\."
_VISION = r"(?:git\.)?image_encoder\.vision_model\.encoder\.layers\.(\d+)\."
TARGETS: Roles = {
    "text": {
        "q": _TEXT + r"attention\.self\.query",
        "k": _TEXT + r"attention\.self\.key",
        "v": _TEXT + r"attention\.self\.value",
        "o": _TEXT + r"attention\.output\.dense",
        "up": _TEXT + r"intermediate\.dense",
        "down": _TEXT + r"output\.dense",
        "proj": r"(?:git\.)?visual_projection\.visual_projection\.0",
    },
    "vision": {
        "q": _VISION + r"self_attn\.q_proj",
        "k": _VISION + r"self_attn\.k_proj",
        "v": _VISION + r"self_attn\.v_proj",
        "o": _VISION + r"self_attn\.out_proj",
        "up": _VISION + r"mlp\.fc1",
        "down": _VISION + r"mlp\.fc2",
    },
}

#: Children of a `GitModel` that a pool never reads: they would count as trained and get no gradient.
UNREAD: dict[str, tuple[str, ...]] = {
    "query": (),
    "mean": ("embeddings",),
    "cls": ("embeddings", "encoder", "visual_projection", "img_temporal_embedding"),
}


class Git:
    """A `GitForCausalLM` with its processor; see `cxr_ft.model.protocols.Base`."""

    family = "git"
    targets = TARGETS
    reads_text = False
    writes_text = reads_views = has_processor = has_frozen_prefix = True

    def __init__(
        self, lm: "GitForCausalLM", processor: "GitProcessor | None", name: str, view_embeddings: "Tensor | None" = None
    ) -> None:
        self.lm, self.name = lm, name
        self.processor: GitProcessor = processor
        self.tokenizer: PreTrainedTokenizerBase = processor.tokenizer if processor is not None else None
        #: Ids of [CLS], which each text begins with, and [SEP]; -1 on the meta device, which has no tokenizer.
        self.start, self.end = (-1, -1)
        if self.tokenizer is not None:
            self.start, self.end = int(self.tokenizer.cls_token_id), int(self.tokenizer.sep_token_id)
        #: Largest number of images of a row, and the view embeddings [F, Dv] that came with the weights.
        self.views, self.view_embeddings = 1, view_embeddings

    @property
    def image_size(self) -> int:
        """Return S, the side of its images in pixels."""
        return int(self.lm.config.vision_config.image_size)

    def resize(self, size: int) -> None:
        """Read images of `size` pixels from now on."""
        from cxr_ft.model.bases.git import vision

        # The size of pretraining needs no interpolation, and keeps its position embeddings bit for bit.
        if size != self.image_size:
            vision.resize(self.lm, size)

    def encoder(self, pool: str = "query") -> "nn.Module":
        """Return a `GitModel` without the vocabulary projection, and without what `pool` never reads."""
        return trimmed(self.lm.git, UNREAD[pool])

    @property
    def pools(self) -> dict[str, int]:
        """Return the widths of the query token, which GIT itself uses, the mean image token, and the class token."""
        width = int(self.lm.config.hidden_size)
        return {"query": width, "mean": width, "cls": int(self.lm.config.vision_config.hidden_size)}

    @property
    def code(self) -> dict[str, str]:
        """Return the expression of each pool, as `pooled` computes it."""
        image = "model.image_encoder(pixels).last_hidden_state"
        return {
            "query": "model(input_ids=start, pixel_values=pixels).last_hidden_state[:, -1]",
            "mean": f"model.encoder(model.visual_projection({image})).last_hidden_state.mean(1)",
            "cls": f"{image}[:, 0]",
        }

    def card_code(self, *, writes: bool, prompt: Sequence[int]) -> CardCode:
        """Return the lines of a model card: image and prompt are read together, whether it writes or scores."""
        settings = self.processor.image_processor
        inputs = (
            *card_inputs(self.image_size, settings.image_mean, settings.image_std),
            f"start = torch.tensor([{list(prompt)}])  # what a text begins with",
        )
        if not writes:
            return CardCode(imports=CARD_IMPORTS, classes=("AutoModel",), inputs=inputs)
        generate = (
            "with torch.no_grad():",
            "    logits = model(input_ids=start, pixel_values=pixels).logits[:, -1]",
            "    ids = model.generate(input_ids=start, pixel_values=pixels, max_new_tokens=64, do_sample=False)",
            'print(AutoTokenizer.from_pretrained(".").batch_decode(ids, skip_special_tokens=True))',
        )
        classes = ("AutoModelForCausalLM", "AutoTokenizer")
        return CardCode(imports=CARD_IMPORTS, classes=classes, inputs=inputs, generate=generate)

    @property
    def longest(self) -> int:
        """Return the number of text positions of the decoder."""
        return int(self.lm.config.max_position_embeddings)

    def read_several(self, views: int) -> None:
        """Read up to `views` images of a row from now on, each with the embedding of its view."""
        from cxr_ft.model.bases.git import multi_view

        multi_view.read_several(self.lm, views, self.view_embeddings)
        self.views = views

    def new_modules(self, model: "nn.Module") -> tuple[str, ...]:
        """Return the names in `model` of the modules that `read_several` added."""
        from cxr_ft.model.bases.git import multi_view

        return multi_view.new_modules(model)

    def inputs(self, examples: Sequence[Example]) -> Batch:
        """Return pixel_values float32 [B, 3, S, S]; for several images [B, V, 3, S, S] and their numbers, views [B]."""
        if self.views == 1:
            return {PIXELS: self.pixel_values(np.stack([example.image for example in examples]))}
        import torch

        images = [(e.image, *e.further)[: self.views] for e in examples]
        counts = torch.tensor([len(row) for row in images])
        pixels = self.pixel_values(np.stack([image for row in images for image in row]))
        # Absent images are zeros, which `multi_view` cuts off before the model reads them.
        out = pixels.new_zeros(len(images), self.views, *pixels.shape[1:])
        out[torch.arange(self.views) < counts[:, None]] = pixels
        return {PIXELS: out, "views": counts}

    def pixel_values(self, images: NDArray[np.uint8]) -> "Tensor":
        """Return float32 [..., 3, S, S] for uint8 [..., S, S], by the processor's mean and deviation of each channel.

        Raises:
            ValueError: for images of another dtype or size.
        """
        settings = self.processor.image_processor
        return normalised(
            images, self.image_size, settings.image_mean, settings.image_std, float(settings.rescale_factor)
        )

    def take_processor(self, folder: Path) -> None:
        """Prepare images and texts from now on by the processor that `save` wrote into `folder`."""
        from transformers import GitProcessor

        self.processor = GitProcessor.from_pretrained(folder)
        self.tokenizer = self.processor.tokenizer

    def prefix(self, model: "nn.Module") -> "FrozenPrefix | None":
        """Return the frozen first part of `model`, if there is one; see `frozen_prefix`."""
        from cxr_ft.model.bases.git import frozen_prefix

        return frozen_prefix.prefix(model)

    def pooled(self, model: "nn.Module", batch: Batch, pool: str = "query") -> "Tensor":
        """Return [B, D]: the decoder's state at the start token, which reads the image, or `vision.image_vector`."""
        from cxr_ft.model.bases.git import forward

        return forward.pooled(model, batch, self.views, pool, self.start)

    def logits(self, model: "nn.Module", batch: Batch, at: "Tensor | None" = None) -> "Tensor":
        """Return logits [B, T, V] at text positions; with `at`, bool [B, T], where it is True: [N, V], in row order."""
        from cxr_ft.model.bases.git import forward

        return forward.logits(model, batch, self.views, at)

    def logits_and_pooled(self, model: "nn.Module", batch: Batch, at: "Tensor") -> tuple["Tensor", "Tensor"]:
        """Return `logits` at `at`, and states [B, D] at each row's start token, which reads the image and no text."""
        from cxr_ft.model.bases.git import forward

        return forward.logits_and_pooled(model, batch, self.views, at)

    def generate(
        self,
        model: "nn.Module",
        batch: Batch,
        prompt: Sequence[int] | Sequence[Sequence[int]],
        max_new_tokens: int,
        **search: Unpack[SearchOptions],
    ) -> list[str]:
        """Return the text after each row's prompt, up to [SEP].

        Args:
            prompt: token ids, the same for all rows; or a list for each row.
            search: beams, temperature, top_k, top_p, length_penalty of `cxr_ft.model.bases.git.beam_search.Search`.
        """
        from cxr_ft.model.bases.git import forward
        from cxr_ft.model.bases.git.beam_search import Search

        options = Search(end=self.end, pad=self.tokenizer.pad_token_id, max_new_tokens=max_new_tokens, **search)
        ids = forward.generate(model, batch, self.views, prompt, options)
        texts: list[str] = self.tokenizer.batch_decode(ids, skip_special_tokens=True)
        return texts

    def likelihood(self, model: "nn.Module", batch: Batch, sentences: Sequence[Sequence[int]]) -> "Tensor":
        """Return [B, K]; the K sentences share the keys and values of one pass over the image."""
        from cxr_ft.model.bases.git import forward

        return forward.likelihood(model, batch, self.views, self.start, sentences)

    def blocks(self, model: "nn.Module") -> list[str]:
        """Return the names of vision blocks, then text blocks."""
        import re

        ends = (_VISION[:-2], _TEXT[:-2])
        return [name for end in ends for name, _ in model.named_modules() if re.fullmatch(end, name)]

    def save(self, folder: Path, model: "PreTrainedModel | None") -> None:
        """Write a transformers folder: processor and tokenizer, and the model if there is one."""
        settings, size = self.processor.image_processor, self.image_size
        # The file must have the size after `resize`: other programs prepare images by it.
        settings.size, settings.crop_size = {"shortest_edge": size}, {"height": size, "width": size}
        self.processor.save_pretrained(folder)
        if model is not None:
            from cxr_ft.model.bases.git import multi_view

            # By transformers' own names, so that a program without this package reads the folder.
            model.save_pretrained(folder, state_dict=multi_view.transformers_state_dict(model), safe_serialization=True)


def load(name: str, weights: bool = True) -> Git:
    """Return a GIT by shipped name, folder or hub name.

    Raises:
        UsageError: if there is no such model, or no way to fetch it.
    """
    import torch
    from transformers import GitConfig, GitForCausalLM, GitProcessor

    from cxr_ft.model.assembly import cannot_fetch, location

    folder = location(name)
    where = str(folder or name)
    try:
        if not weights and folder is None and name in PUBLISHED:
            config = GitConfig(**PUBLISHED[name])
        else:
            config = GitConfig.from_pretrained(where)
        if not weights:
            # On the meta device a model of any size takes no memory.
            with torch.device("meta"):
                return _without_views(GitForCausalLM(config), None, name)
        processor = GitProcessor.from_pretrained(where)
        # The config.json of a fine-tuned model still has the seed; its weights file then counts, not the seed.
        seed = getattr(config, SEED_KEY, None)
        if seed is not None and not (folder is not None and (folder / "model.safetensors").exists()):
            return _without_views(_random(config, int(seed)), processor, name)
        # From safetensors alone: reading a pickle runs the code in it.
        model = GitForCausalLM.from_pretrained(
            where, use_safetensors=True, dtype=torch.float32, trust_remote_code=False
        )
        return _without_views(model, processor, name)
    except (OSError, ValueError) as error:
        if folder is None:
            raise cannot_fetch(name, error) from error
        raise UsageError(f"{folder} is no complete GIT folder: {str(error).strip().splitlines()[0]}") from error


def tiny() -> Git:
    """Return a GIT of two vision and two text blocks of width 32, for 32 pixels; random, the same each time."""
    from transformers import GitConfig, GitProcessor

    from cxr_ft.model.assembly import SHIPPED

    folder = SHIPPED / "git-tiny-random"
    small = {"hidden_size": 32, "intermediate_size": 64, "num_attention_heads": 4, "num_hidden_layers": 2}
    vision = {**small, "image_size": 32, "patch_size": 16}
    shape = GitConfig.from_pretrained(folder).to_dict()
    config = GitConfig(**{**shape, **small, "vision_config": {**shape["vision_config"], **vision}})
    return Git(_random(config, seed=0), GitProcessor.from_pretrained(folder), "git-tiny-test")


def _without_views(lm: "GitForCausalLM", processor: "GitProcessor | None", name: str) -> Git:
    from cxr_ft.model.bases.git import multi_view

    return Git(lm, processor, name, view_embeddings=multi_view.pop_view_embeddings(lm))


def _random(config: "GitConfig", seed: int) -> "GitForCausalLM":
    import torch
    from transformers import GitForCausalLM

    # The caller's random numbers stay as they are: a head's first weights must depend on the run's seed alone.
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return GitForCausalLM(config)


def restore(folder: Path, name: str) -> Git:
    """Return the architecture and processor that `save` wrote; the caller loads the weights."""
    from transformers import GitConfig, GitProcessor

    return Git(_random(GitConfig.from_pretrained(folder), seed=0), GitProcessor.from_pretrained(folder), name)
