"""Image models of timm as image-only baselines: DenseNet, ViT and ConvNeXt, as transformers wraps them.

They write no text: a report head and zero_shot are refused by name. Batch norms keep the statistics they were loaded
with, as is usual where batches are small: else frozen layers would change with the data, and no adapter's file would
hold the change.

Upstream: timm (Wightman), and transformers/models/timm_wrapper.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from cxr_ft.errors import UsageError
from cxr_ft.model.protocols import Batch, Example, FrozenPrefix, Roles

if TYPE_CHECKING:
    from torch import Tensor, nn

MODEL_TYPES = ("timm_wrapper",)
#: Published weights, and the same shapes with weights drawn from a fixed seed, for a baseline without a network.
_SHAPES = {
    "densenet121": "ra_in1k",
    "vit_small_patch16_224": "augreg_in21k_ft_in1k",
    "convnext_tiny": "fb_in22k_ft_in1k",
}
RANDOM = "-random"
PUBLISHED: dict[str, dict[str, Any]] = {
    **{f"timm/{shape}.{tag}": {"architecture": shape} for shape, tag in _SHAPES.items()},
    **{f"{shape}{RANDOM}": {"architecture": shape} for shape in _SHAPES},
}
#: Pixels below which a DenseNet or ConvNeXt has nothing left to pool.
SMALLEST = 32
#: What the patterns below know.
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

    def __init__(self, model: Any, name: str) -> None:
        self.lm, self.name = model, name
        _keep_statistics(model)
        given = getattr(model.config, "pretrained_cfg", None) or model.timm_model.pretrained_cfg
        self.mean, self.std = given["mean"], given["std"]
        self._size = int((model.config.model_args or {}).get("img_size") or given["input_size"][-1])

    @property
    def image_size(self) -> int:
        """S, the side of its images in pixels."""
        return self._size

    def resize(self, size: int) -> None:
        """Read images of `size` pixels from now on; a ViT's positions are interpolated by timm."""
        if size == self.image_size:
            return
        timm, config = self.lm.timm_model, self.lm.config
        if not hasattr(timm, "patch_embed"):
            if size < SMALLEST:
                raise UsageError(
                    f"data.image_size: {size}; {self.name} halves images five times: give {SMALLEST} or more"
                )
            given = dict(getattr(config, "pretrained_cfg", None) or {"mean": self.mean, "std": self.std})
            config.pretrained_cfg = {**given, "input_size": [3, size, size]}
        else:
            patch = int(timm.patch_embed.patch_size[0])
            if size < patch or size % patch:
                below = max(size // patch, 1) * patch
                raise UsageError(f"data.image_size: {size} is no multiple of the patches' {patch} pixels; give {below}")
            timm.set_input_size(img_size=size)
            config.model_args = {**(config.model_args or {}), "img_size": size}
        self._size = size

    @property
    def pools(self) -> dict[str, int]:
        """The model's own way first; a ViT that answers by its class token has the mean of its patches besides."""
        timm = self.lm.timm_model
        own = {"token": "cls", "avg": "mean"}.get(str(getattr(timm, "global_pool", "")), "mean")
        return dict.fromkeys(dict.fromkeys((own, "mean")), int(timm.num_features))

    @property
    def code(self) -> dict[str, str]:
        """By pool, as `pooled` does it."""
        first = getattr(self.lm.timm_model, "num_prefix_tokens", 0)
        patches = f"model(pixel_values=pixels).last_hidden_state[:, {first}:].mean(1)"
        own = next(iter(self.pools))
        return {**dict.fromkeys(self.pools, patches), own: "model(pixel_values=pixels).pooler_output"}

    def encoder(self, pool: str) -> "nn.Module":
        """The whole model: no layer for ImageNet's classes is ever made."""
        encoder: nn.Module = self.lm
        return encoder

    def take_processor(self, folder: Path) -> None:
        """Prepare images from now on as the config.json says that `save` wrote into `folder`."""
        from transformers import TimmWrapperConfig

        given = TimmWrapperConfig.from_pretrained(folder).pretrained_cfg
        if given:
            self.mean, self.std = given["mean"], given["std"]

    def inputs(self, examples: Sequence[Example]) -> Batch:
        """pixel_values float32 [B, 3, S, S]."""
        return {"pixel_values": self.pixel_values(np.stack([example.image for example in examples]))}

    def pixel_values(self, images: NDArray[np.uint8]) -> "Tensor":
        """uint8 [B, S, S] -> float32 [B, 3, S, S] with the mean and deviation the weights were made with.

        Raises:
            ValueError: for images of another dtype or size.
        """
        from cxr_ft.model.bases._pixels import normalised

        return normalised(images, self.image_size, self.mean, self.std)

    def pooled(self, model: "nn.Module", batch: Batch, pool: str) -> "Tensor":
        """[B, D]: by the model's own pooling, or the mean of a ViT's patches, after its last norm."""
        from cxr_ft.model.bases import _timm_prefix

        own: Tensor
        if _timm_prefix.STATES in batch:
            last, own = _timm_prefix.rest(model, batch[_timm_prefix.STATES])
        else:
            out = model(pixel_values=batch["pixel_values"])
            last, own = out.last_hidden_state, out.pooler_output
        if pool == next(iter(self.pools)):
            return own
        patches: Tensor = last[:, self.lm.timm_model.num_prefix_tokens :]
        return patches.mean(1)

    def prefix(self, model: "nn.Module") -> FrozenPrefix | None:
        """A ViT's blocks below the first trained one: what they say of an image may be stored."""
        from cxr_ft.model.bases import _timm_prefix

        return _timm_prefix.prefix(model)

    def blocks(self, model: "nn.Module") -> list[str]:
        """A ViT's and a ConvNeXt's blocks, a DenseNet's dense layers."""
        import re

        end = _START + r"(?:(?:stages\.\d+\.)?blocks\.\d+|features\.denseblock\d+\.denselayer\d+)"
        return [name for name, _ in model.named_modules() if re.fullmatch(end, name.removeprefix("base_model.model."))]

    def save(self, folder: Path, model: Any) -> None:
        """A transformers folder: config.json, which says how pixels are normalised, and the model if one is given."""
        (self.lm.config if model is None else model).save_pretrained(folder)


def load(name: str, weights: bool = True) -> TimmVision:
    """An image model by folder, hub name (timm/...), or one of PUBLISHED that is drawn at random.

    Raises:
        UsageError: where there is no such model, no way to fetch it, or its family is none of ARCHITECTURES.
    """
    import torch
    from transformers import TimmWrapperConfig

    from cxr_ft.model.assembly import cannot_fetch, location
    from cxr_ft.model.bases._timm_model import ImageModel

    folder = location(name)
    where = str(folder or name)
    try:
        if name in PUBLISHED and (name.endswith(RANDOM) or not weights):
            config = _shaped(**PUBLISHED[name])
        else:
            config = TimmWrapperConfig.from_pretrained(where)
        if not config.architecture.startswith(ARCHITECTURES):
            raise UsageError(f"{name} is a {config.architecture}; timm_vision reads densenet*, vit_* and convnext*")
        if not weights:
            with torch.device("meta"):
                return TimmVision(ImageModel(config), name)
        if name in PUBLISHED and name.endswith(RANDOM):
            return TimmVision(_random(config), name)
        model = ImageModel.from_pretrained(where, use_safetensors=True, dtype=torch.float32)
        return TimmVision(model, name)
    except (OSError, ValueError) as error:
        if folder is None:
            raise cannot_fetch(name, error) from error
        raise UsageError(f"{folder} is no complete folder of a timm model: {str(error).splitlines()[0]}") from error


def restore(folder: Path, name: str) -> TimmVision:
    """The architecture that `save` wrote; the caller puts the weights in."""
    from transformers import TimmWrapperConfig

    return TimmVision(_random(TimmWrapperConfig.from_pretrained(folder)), name)


def tiny() -> TimmVision:
    """A ViT of two blocks of width 32 on 32 pixels; random, the same each time."""
    config = _shaped("vit_tiny_patch16_224", img_size=32, patch_size=16, embed_dim=32, depth=2, num_heads=4)
    return TimmVision(_random(config), "vit-tiny-test")


def _shaped(architecture: str, **arguments: Any) -> Any:
    """A configuration that holds all that `save` must write: transformers leaves out what timm knows by name."""
    from timm import get_pretrained_cfg
    from transformers import TimmWrapperConfig

    known = get_pretrained_cfg(architecture)
    given = {"mean": list(known.mean), "std": list(known.std), "input_size": list(known.input_size)}
    return TimmWrapperConfig(architecture=architecture, model_args=arguments or None, pretrained_cfg=given)


def _random(config: Any) -> Any:
    import torch

    from cxr_ft.model.bases._timm_model import ImageModel

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return ImageModel(config)


def _keep_statistics(model: "nn.Module") -> None:
    from torch.nn.modules.batchnorm import _BatchNorm

    for module in model.modules():
        if isinstance(module, _BatchNorm):
            module.register_forward_pre_hook(_in_evaluation)


def _in_evaluation(module: "nn.Module", _: Any) -> None:
    module.training = False
