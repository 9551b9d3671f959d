"""One vector an image from a GIT, other than by its query token: without any text.

By transformers' own forward of the towers, which nothing of `cxr_ft.model.fast` shortens.
"""

from typing import TYPE_CHECKING, Any

from cxr_ft.model.fast import walk
from cxr_ft.model.protocols import Batch

if TYPE_CHECKING:
    from torch import Tensor, nn

#: What of a `GitModel` each pool never reads: it would be declared as trained and get no gradient.
UNREAD: dict[str, tuple[str, ...]] = {
    "query": (),
    "mean": ("embeddings",),
    "cls": ("embeddings", "encoder", "visual_projection"),
}


def trimmed(git: Any, pool: str) -> "nn.Module":
    """`git` without the modules that `pool` never reads; names and the other modules stay as they are."""
    for name in UNREAD[pool]:
        delattr(git, name)
    out: nn.Module = git
    return out


def image_vector(model: Any, batch: Batch, pool: str) -> "Tensor":
    """ "mean": of all image tokens as the decoder leaves them [B, D]; "cls": the vision tower's class token [B, Dv]."""
    git = walk.git_of(model)
    states: Tensor = git.image_encoder(batch["pixel_values"]).last_hidden_state  # [B, I, Dv]
    if pool == "cls":
        return states[:, 0]
    tokens: Tensor = git.encoder(git.visual_projection(states)).last_hidden_state
    return tokens.mean(1)
