"""The part of GIT that frozen weights make a constant of the image, so that it is computed once and stored.

A batch holds one of PIXELS, STATES and TOKENS; whoever stores the latter two puts them in place of the first.
"""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from torch import Tensor, nn

from cxr_ft.model.fast import vision, walk

PIXELS, STATES, TOKENS = "pixel_values", "image_states", "image_tokens"


class Prefix(NamedTuple):
    """What can be stored: its place in a batch; the function that computes it from `pixel_values`, [B, I, D] in float32
    or autocast's dtype; the parameters and buffers that determine it, by name, for the store's key.
    """

    key: str
    compute: Callable[[Tensor], Tensor]
    weights: dict[str, Tensor]


def prefix(model: Any) -> Prefix | None:
    """The longest stretch of `model`, from the image on, that training does not change.

    None where the vision tower is trained or drops out at random, or where transformers' own forward has to run.
    """
    if not walk.walkable(model):
        return None
    git = walk.git_of(model)
    tower, projection = {"image_encoder": git.image_encoder}, {"visual_projection": git.visual_projection}
    if hasattr(git, "img_temporal_embedding"):
        tower["img_temporal_embedding"] = git.img_temporal_embedding
    if not _constant(tower):
        return None
    if not _constant(projection):
        return Prefix(STATES, lambda pixels: vision.image_states(git, pixels), _weights(tower))
    return Prefix(TOKENS, lambda pixels: tokens_of(git, {PIXELS: pixels}), _weights(tower | projection))


def tokens_of(git: Any, batch: Mapping[str, Any]) -> Tensor:
    """Image tokens [B, I, D] from whatever the batch holds: tokens, the tower's states, or pixels."""
    if TOKENS in batch:
        tokens: Tensor = batch[TOKENS]
        return tokens
    states = batch[STATES] if STATES in batch else vision.image_states(git, batch[PIXELS])
    return vision.image_tokens(git, states)


def _constant(parts: dict[str, nn.Module]) -> bool:
    """No trained parameter, no dropout that is ever on."""
    modules = [module for part in parts.values() for module in part.modules()]
    # The tower's attention keeps its rate as a number.
    rates = [m.p if isinstance(m, nn.Dropout) else getattr(m, "dropout", 0.0) for m in modules]
    drops = any(isinstance(rate, float) and rate > 0 for rate in rates)
    return not drops and not any(p.requires_grad for part in parts.values() for p in part.parameters())


def _weights(parts: dict[str, nn.Module]) -> dict[str, Tensor]:
    return {f"{name}.{key}": value for name, part in parts.items() for key, value in part.state_dict().items()}
