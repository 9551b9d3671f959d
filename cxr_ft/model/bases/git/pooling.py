"""One vector an image from a GIT, other than by its query token: without any text.

By transformers' own forward of the towers, which nothing of `cxr_ft.model.fast` shortens.
"""

from typing import TYPE_CHECKING, Any

from cxr_ft.model.bases.git import eligibility, vision
from cxr_ft.model.protocols import Batch

if TYPE_CHECKING:
    from torch import Tensor, nn

#: What of a `GitModel` each pool never reads: it would be declared as trained and get no gradient.
UNREAD: dict[str, tuple[str, ...]] = {
    "query": (),
    "mean": ("embeddings",),
    "cls": ("embeddings", "encoder", "visual_projection", "img_temporal_embedding"),
}


def trimmed(git: Any, pool: str) -> "nn.Module":
    """`git` without the modules that `pool` never reads; names and the other modules stay as they are."""
    for name in UNREAD[pool]:
        if hasattr(git, name):
            delattr(git, name)
    out: nn.Module = git
    return out


def image_vector(model: Any, batch: Batch, pool: str) -> "Tensor":
    """ "mean": of all image tokens as the decoder leaves them [B, D]; "cls": the vision tower's class token [B, Dv].

    Of several images, pixels [B, V, 3, S, S], the mean of their class tokens.
    """
    git, pixels = eligibility.git_of(model), batch["pixel_values"]
    states: Tensor = git.image_encoder(pixels.flatten(0, -4)).last_hidden_state  # [B V, I, Dv]
    states = states.view(*pixels.shape[:-3], *states.shape[1:])
    if pool == "cls":
        return states[:, 0] if states.ndim == 3 else states[:, :, 0].mean(1)
    tokens: Tensor = git.encoder(git.visual_projection(vision.placed(git, states))).last_hidden_state
    return tokens.mean(1)
