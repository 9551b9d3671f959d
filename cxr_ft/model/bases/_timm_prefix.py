"""The blocks of a ViT that frozen weights make a constant of the image, and the rest of the model behind them."""

from typing import Any

import torch
from timm.layers import DropPath
from timm.models import VisionTransformer
from torch import Tensor, nn

from cxr_ft.model.protocols import FrozenPrefix

#: In a batch: the states below the first block that is trained, [B, prefix and patch tokens, D].
STATES = "image_states"
#: What a ViT does before its blocks.
STEM = ("patch_embed", "pos_drop", "patch_drop", "norm_pre")
_HOOKS = ("_forward_hooks", "_forward_pre_hooks")


def prefix(model: Any) -> FrozenPrefix | None:
    """A `TimmWrapperModel`'s blocks below the first trained one; None for other kinds than ViT, or where none is."""
    wrapper = _unwrapped(model)
    timm = wrapper.timm_model
    if type(timm) is not VisionTransformer or any(getattr(m, h) for m in (wrapper, timm) for h in _HOOKS):
        return None
    below = _frozen_blocks(timm)
    stem = {name: part for name, part in timm.named_children() if name in STEM}
    read = nn.ModuleDict({**stem, "blocks": timm.blocks[:below]})
    own = dict(timm.named_parameters(recurse=False))  # positions and class token
    trained = any(p.requires_grad for p in [*read.parameters(), *own.values()])
    if not below or trained or any(_random(m) for m in read.modules()):
        return None

    def compute(pixels: Tensor) -> Tensor:
        (found,) = timm.forward_intermediates(
            pixels,
            indices=[below - 1],
            return_prefix_tokens=True,
            stop_early=True,
            output_fmt="NLC",
            intermediates_only=True,
        )
        return torch.cat(found[::-1], dim=1) if isinstance(found, tuple) else found

    return FrozenPrefix(STATES, compute, {**dict(read.state_dict()), **own})


def rest(model: Any, states: Tensor) -> tuple[Tensor, Tensor]:
    """What the whole model makes of the pixels that `prefix` read: last states [B, T, D], and pooled [B, D]."""
    timm = _unwrapped(model).timm_model
    for block in timm.blocks[_frozen_blocks(timm) :]:
        states = block(states)
    last = timm.norm(states)
    return last, timm.forward_head(last)


def _frozen_blocks(timm: Any) -> int:
    trained = [i for i, block in enumerate(timm.blocks) if any(p.requires_grad for p in block.parameters())]
    return trained[0] if trained else len(timm.blocks)


def _random(module: nn.Module) -> bool:
    return (isinstance(module, nn.Dropout) and module.p > 0) or (
        isinstance(module, DropPath) and bool(module.drop_prob)
    )


def _unwrapped(model: Any) -> Any:
    return model.get_base_model() if hasattr(model, "peft_config") else model
