"""Find the frozen first part of a GIT, whose output for an image is constant and can be stored.

A batch holds one of PIXELS, TOWER, STATES and TOKENS: a stored output replaces PIXELS.
"""

from collections.abc import Mapping

from torch import Tensor, nn
from transformers.models.git.modeling_git import GitModel

from cxr_ft.model.bases.git import eligibility, vision
from cxr_ft.model.protocols import PIXELS, FrozenPrefix

__all__ = ["PIXELS", "STATES", "TOKENS", "TOWER", "prefix", "tokens_of"]

#: States of the tower [B, I, Dv] or [B, F, I, Dv]; with view embeddings [B, F I, Dv]; projected, [B, F I, D].
TOWER, STATES, TOKENS = "tower_states", "image_states", "image_tokens"


def prefix(model: nn.Module) -> FrozenPrefix | None:
    """Return the longest first part of `model`, from the image on, that training does not change.

    None if the vision tower is trained or has dropout, or if transformers' own forward has to run.
    """
    if not eligibility.can_use_fused_path(model):
        return None
    git = eligibility.git_of(model)
    tower, projection = {"image_encoder": git.image_encoder}, {"visual_projection": git.visual_projection}
    # Layers above the tower need its output, so that without a constant tower no longer part is constant either.
    if not _constant(tower):
        return None
    if hasattr(git, "img_temporal_embedding"):
        view_embeddings = {"img_temporal_embedding": git.img_temporal_embedding}
        # The tower is frozen and the views' embeddings are trained: its states are stored before these are added.
        if not _constant(view_embeddings):
            return FrozenPrefix(TOWER, lambda pixels: vision.tower_states(git, pixels), _weights(tower))
        tower |= view_embeddings
    if not _constant(projection):
        return FrozenPrefix(STATES, lambda pixels: vision.image_states(git, pixels), _weights(tower))
    return FrozenPrefix(TOKENS, lambda pixels: tokens_of(git, {PIXELS: pixels}), _weights(tower | projection))


def tokens_of(git: GitModel, batch: Mapping[str, Tensor]) -> Tensor:
    """Return image tokens [B, F I, D] from the batch: tokens, states of the tower, or pixels."""
    if TOKENS in batch:
        tokens: Tensor = batch[TOKENS]
        return tokens
    if STATES in batch:
        states: Tensor = batch[STATES]
    else:
        without_views = batch[TOWER] if TOWER in batch else vision.tower_states(git, batch[PIXELS])
        states = vision.add_view_embeddings(git, without_views)
    return vision.image_tokens(git, states)


def _constant(parts: dict[str, nn.Module]) -> bool:
    """Return True if `parts` have no trained parameter and no dropout."""
    modules = [module for part in parts.values() for module in part.modules()]
    # The tower's attention has its dropout rate as a number, not as a module.
    rates = [m.p if isinstance(m, nn.Dropout) else getattr(m, "dropout", 0.0) for m in modules]
    drops = any(isinstance(rate, float) and rate > 0 for rate in rates)
    return not drops and not any(p.requires_grad for part in parts.values() for p in part.parameters())


def _weights(parts: dict[str, nn.Module]) -> dict[str, Tensor]:
    # Buffers as well as parameters: whatever the output depends on belongs in the hash of a stored file.
    return {f"{name}.{key}": value for name, part in parts.items() for key, value in part.state_dict().items()}
