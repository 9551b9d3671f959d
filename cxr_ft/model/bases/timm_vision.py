"""Read image models of timm through transformers, as image-only baselines: DenseNet, ViT and ConvNeXt.

They write no text: a report head and zero_shot are refused. Batch norms keep the statistics they were loaded with, as
is usual with small batches: otherwise frozen layers would change with the data, and no adapter's file would hold the
change.

Upstream: timm (Wightman), and transformers/models/timm_wrapper.
"""

from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from cxr_ft.errors import UsageError
from cxr_ft.model.bases._pixels import CARD_IMPORTS, card_inputs, normalised
from cxr_ft.model.bases._trim import trimmed
from cxr_ft.model.peft_models import unwrapped
from cxr_ft.model.protocols import PIXELS, Batch, CardCode, Example, FrozenPrefix, Roles

if TYPE_CHECKING:
    from timm.models import VisionTransformer
    from torch import Tensor, nn
    from transformers import TimmWrapperConfig, TimmWrapperModel

MODEL_TYPES = ("timm_wrapper",)
#: Published weights, and the same shapes with weights drawn from a fixed seed, for a baseline without a network.
_SHAPES = {
    "densenet121": "ra_in1k",
    "vit_small_patch16_224": "augreg_in21k_ft_in1k",
    "convnext_tiny": "fb_in22k_ft_in1k",
}
RANDOM = "-random"
PUBLISHED: dict[str, dict[str, str]] = {
    **{f"timm/{shape}.{tag}": {"architecture": shape} for shape, tag in _SHAPES.items()},
    **{f"{shape}{RANDOM}": {"architecture": shape} for shape in _SHAPES},
}
#: Smallest side in pixels for which a DenseNet or ConvNeXt has anything left to pool.
SMALLEST = 32
#: In a batch: the states below the first trained block of a ViT, [B, prefix and patch tokens, D].
STATES = "image_states"
#: Modules that a ViT applies before its blocks.
STEM = ("patch_embed", "pos_drop", "patch_drop", "norm_pre")
_HOOKS = ("_forward_hooks", "_forward_pre_hooks")
#: Architectures whose module names the patterns below cover.
ARCHITECTURES = ("densenet", "vit_", "convnext")
_START = r"(?:timm_model\.)?"
#: Of a ConvNeXt, the number is the block's within its stage.
_BLOCK = _START + r"(?:stages\.\d+\.)?blocks\.(\d+)\."
TARGETS: Roles = {
    "vision": {
        # One matrix: each of q, k, v means all three.
        **dict.fromkeys(("q", "k", "v"), _BLOCK + r"attn\.qkv"),
        "o": _BLOCK + r"attn\.proj",
        "up": _BLOCK + r"mlp\.fc1",
        "down": _BLOCK + r"mlp\.fc2",
        # Not a ConvNeXt's depthwise ones, which are no product of two matrices.
        "conv": _START + r"(?:patch_embed\.proj|features\.(?:\w+\.)*conv\d*|stem\.0|stages\.\d+\.downsample\.1)",
    },
}


class TimmVision:
    """A `TimmWrapperModel`; see `cxr_ft.model.protocols.Base`."""

    family = "timm_vision"
    targets = TARGETS
    reads_text = writes_text = reads_views = False
    has_processor = has_frozen_prefix = True
    longest = 0

    def __init__(self, model: "TimmWrapperModel", name: str) -> None:
        self.lm, self.name = model, name
        _keep_statistics(model)
        # A folder that we saved has it in its config.json; a model fresh from timm has its own.
        pretrained = getattr(model.config, "pretrained_cfg", None) or model.timm_model.pretrained_cfg
        self.mean, self.std = pretrained["mean"], pretrained["std"]
        self._size = int((model.config.model_args or {}).get("img_size") or pretrained["input_size"][-1])

    @property
    def image_size(self) -> int:
        """Return S, the side of its images in pixels."""
        return self._size

    def resize(self, size: int) -> None:
        """Read images of `size` pixels from now on; a ViT's positions are interpolated by timm."""
        if size == self.image_size:
            return
        timm, config = self.lm.timm_model, self.lm.config
        # Convolutions read images of any size that is not halved to nothing.
        if not hasattr(timm, "patch_embed"):
            if size < SMALLEST:
                raise UsageError(
                    f"data.image_size: {size}; {self.name} halves images five times: give {SMALLEST} or more"
                )
            pretrained = dict(getattr(config, "pretrained_cfg", None) or {"mean": self.mean, "std": self.std})
            config.pretrained_cfg = {**pretrained, "input_size": [3, size, size]}
        else:
            patch = int(timm.patch_embed.patch_size[0])
            if size < patch or size % patch:
                below = max(size // patch, 1) * patch
                raise UsageError(f"data.image_size: {size} is no multiple of the patches' {patch} pixels; give {below}")
            timm.set_input_size(img_size=size)
            # Saved with the configuration: a reloaded run has to make position embeddings for this size.
            config.model_args = {**(config.model_args or {}), "img_size": size}
        self._size = size

    @property
    def pools(self) -> dict[str, int]:
        """Return the width of the model's own pool, and of the mean patch for a ViT that pools by its class token."""
        timm = self.lm.timm_model
        own = {"token": "cls", "avg": "mean"}.get(str(getattr(timm, "global_pool", "")), "mean")
        return dict.fromkeys(dict.fromkeys((own, "mean")), int(timm.num_features))

    @property
    def code(self) -> dict[str, str]:
        """Return the expression of each pool, as `pooled` computes it."""
        first = getattr(self.lm.timm_model, "num_prefix_tokens", 0)
        patches = f"model(pixel_values=pixels).last_hidden_state[:, {first}:].mean(1)"
        own = next(iter(self.pools))
        return {**dict.fromkeys(self.pools, patches), own: "model(pixel_values=pixels).pooler_output"}

    def encoder(self, pool: str) -> "nn.Module":
        """Return the whole model for any pool: no layer for ImageNet's classes is ever made."""
        return trimmed(self.lm)

    def card_code(self, *, writes: bool, prompt: Sequence[int]) -> CardCode:
        """Return the lines of a model card that load an image model of timm through transformers."""
        return CardCode(
            imports=CARD_IMPORTS, classes=("AutoModel",), inputs=card_inputs(self.image_size, self.mean, self.std)
        )

    def take_processor(self, folder: Path) -> None:
        """Normalise images from now on by the config.json that `save` wrote into `folder`."""
        from transformers import TimmWrapperConfig

        pretrained = TimmWrapperConfig.from_pretrained(folder).pretrained_cfg
        if pretrained:
            self.mean, self.std = pretrained["mean"], pretrained["std"]

    def inputs(self, examples: Sequence[Example]) -> Batch:
        """Return pixel_values float32 [B, 3, S, S]."""
        return {PIXELS: self.pixel_values(np.stack([example.image for example in examples]))}

    def pixel_values(self, images: NDArray[np.uint8]) -> "Tensor":
        """Return float32 [B, 3, S, S] for uint8 [B, S, S], by the mean and deviation of pretraining.

        Raises:
            ValueError: for images of another dtype or size.
        """
        return normalised(images, self.image_size, self.mean, self.std)

    def pooled(self, model: "nn.Module", batch: Batch, pool: str) -> "Tensor":
        """Return [B, D]: by the model's own pooling, or the mean of a ViT's patches, after its last norm."""
        own: Tensor
        if STATES in batch:
            last, own = _later_blocks(model, batch[STATES])
        else:
            out = model(pixel_values=batch[PIXELS])
            last, own = out.last_hidden_state, out.pooler_output
        if pool == next(iter(self.pools)):
            return own
        patches: Tensor = last[:, self.lm.timm_model.num_prefix_tokens :]
        return patches.mean(1)

    def prefix(self, model: "nn.Module") -> FrozenPrefix | None:
        """Return a ViT's blocks below the first trained one, whose output can be stored."""
        return _frozen_prefix(model)

    def blocks(self, model: "nn.Module") -> list[str]:
        """Return the names of a ViT's and a ConvNeXt's blocks, or a DenseNet's dense layers."""
        import re

        end = _START + r"(?:(?:stages\.\d+\.)?blocks\.\d+|features\.denseblock\d+\.denselayer\d+)"
        return [name for name, _ in model.named_modules() if re.fullmatch(end, name.removeprefix("base_model.model."))]

    def save(self, folder: Path, model: "TimmWrapperModel | None") -> None:
        """Write a transformers folder: config.json, with mean and deviation, and the model if there is one."""
        (self.lm.config if model is None else model).save_pretrained(folder)


def load(name: str, weights: bool = True) -> TimmVision:
    """Return an image model by folder, hub name (timm/...), or name in PUBLISHED with random weights.

    Raises:
        UsageError: if there is no such model, no way to fetch it, or its family is none of ARCHITECTURES.
    """
    import torch
    from transformers import TimmWrapperConfig

    from cxr_ft.model.assembly import cannot_fetch, location

    folder, image_model = location(name), _image_model()
    where = str(folder or name)
    try:
        # Neither random weights nor a shape alone needs a file of the hub.
        if name in PUBLISHED and (name.endswith(RANDOM) or not weights):
            config = _shaped(PUBLISHED[name]["architecture"])
        else:
            config = TimmWrapperConfig.from_pretrained(where)
        # Others would load, but the patterns of target modules were written for these.
        if not config.architecture.startswith(ARCHITECTURES):
            raise UsageError(f"{name} is a {config.architecture}; timm_vision reads densenet*, vit_* and convnext*")
        if not weights:
            with torch.device("meta"):
                return TimmVision(image_model(config), name)
        if name in PUBLISHED and name.endswith(RANDOM):
            return TimmVision(_random(config), name)
        model = image_model.from_pretrained(where, use_safetensors=True, dtype=torch.float32)
        return TimmVision(model, name)
    except (OSError, ValueError) as error:
        if folder is None:
            raise cannot_fetch(name, error) from error
        raise UsageError(f"{folder} is no complete folder of a timm model: {str(error).splitlines()[0]}") from error


def restore(folder: Path, name: str) -> TimmVision:
    """Return the architecture that `save` wrote; the caller loads the weights."""
    from transformers import TimmWrapperConfig

    return TimmVision(_random(TimmWrapperConfig.from_pretrained(folder)), name)


def tiny() -> TimmVision:
    """Return a ViT of two blocks of width 32, for 32 pixels; random, the same each time."""
    config = _shaped("vit_tiny_patch16_224", img_size=32, patch_size=16, embed_dim=32, depth=2, num_heads=4)
    return TimmVision(_random(config), "vit-tiny-test")


def _shaped(architecture: str, **arguments: int) -> "TimmWrapperConfig":
    """Return a configuration with all that `save` must write: transformers leaves out what timm knows by name."""
    from timm import get_pretrained_cfg
    from transformers import TimmWrapperConfig

    published = get_pretrained_cfg(architecture)
    pretrained = {"mean": list(published.mean), "std": list(published.std), "input_size": list(published.input_size)}
    return TimmWrapperConfig(architecture=architecture, model_args=arguments or None, pretrained_cfg=pretrained)


def _random(config: "TimmWrapperConfig") -> "TimmWrapperModel":
    import torch

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return _image_model()(config)


def _keep_statistics(model: "nn.Module") -> None:
    from torch.nn.modules.batchnorm import _BatchNorm

    for module in model.modules():
        if isinstance(module, _BatchNorm):
            # A hook, not one call of eval(): each model.train() would switch the statistics of the batch on again.
            module.register_forward_pre_hook(_in_evaluation)


def _in_evaluation(module: "nn.Module", _: object) -> None:
    module.training = False


@cache
def _image_model() -> "type[TimmWrapperModel]":
    """Return a `TimmWrapperModel` whose state is loaded as it was saved.

    transformers' own puts `timm_model.` before every name that lacks it, even a head's next to the model. The class is
    made on first use, since transformers is slow to import.
    """
    from torch import Tensor, nn
    from transformers import TimmWrapperModel

    class ImageModel(TimmWrapperModel):  # type: ignore[misc]
        def load_state_dict(
            self, state_dict: Mapping[str, Tensor], strict: bool = True, assign: bool = False
        ) -> object:
            return nn.Module.load_state_dict(self, state_dict, strict, assign)

    ImageModel.__name__ = TimmWrapperModel.__name__  # config.json names the class, for readers without this package
    return ImageModel


def _frozen_prefix(model: "nn.Module") -> FrozenPrefix | None:
    """Return a ViT's blocks below the first trained one; None for other architectures, or if there is no such block."""
    import torch
    from timm.models import VisionTransformer
    from torch import nn

    wrapper: TimmWrapperModel = unwrapped(model)
    timm = wrapper.timm_model
    # A hook on either of the two would no longer run.
    if type(timm) is not VisionTransformer or any(getattr(m, hooks) for m in (wrapper, timm) for hooks in _HOOKS):
        return None
    below = _frozen_blocks(timm)
    stem = {name: part for name, part in timm.named_children() if name in STEM}
    read = nn.ModuleDict({**stem, "blocks": timm.blocks[:below]})
    own = dict(timm.named_parameters(recurse=False))  # position embeddings and class token
    trained = any(p.requires_grad for p in [*read.parameters(), *own.values()])
    # A random module gives another output each time: a stored one would repeat a single draw.
    if not below or trained or any(_is_random(m) for m in read.modules()):
        return None

    def compute(pixels: "Tensor") -> "Tensor":
        (states,) = timm.forward_intermediates(
            pixels,
            indices=[below - 1],
            return_prefix_tokens=True,
            stop_early=True,
            output_fmt="NLC",
            intermediates_only=True,
        )
        # timm returns patches and then the prefix tokens (class token), which come first in the sequence.
        return torch.cat(states[::-1], dim=1) if isinstance(states, tuple) else states

    return FrozenPrefix(STATES, compute, {**dict(read.state_dict()), **own})


def _later_blocks(model: "nn.Module", states: "Tensor") -> tuple["Tensor", "Tensor"]:
    """Return last states [B, T, D] and pooled vector [B, D] from the output of the frozen prefix [B, T, D]."""
    wrapper: TimmWrapperModel = unwrapped(model)
    timm = wrapper.timm_model
    for block in timm.blocks[_frozen_blocks(timm) :]:
        states = block(states)
    # timm's own order after the blocks: the last norm, then the pooling.
    last = timm.norm(states)
    return last, timm.forward_head(last)


def _frozen_blocks(timm: "VisionTransformer") -> int:
    trained = [i for i, block in enumerate(timm.blocks) if any(p.requires_grad for p in block.parameters())]
    # A frozen block above a trained one has no constant output: its input changes.
    return trained[0] if trained else len(timm.blocks)


def _is_random(module: "nn.Module") -> bool:
    from timm.layers import DropPath
    from torch import nn

    return (isinstance(module, nn.Dropout) and module.p > 0) or (
        isinstance(module, DropPath) and bool(module.drop_prob)
    )
