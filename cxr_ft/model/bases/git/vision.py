"""Compute image tokens from images: the part of GIT that reads no text and is constant if its weights are frozen."""

import torch
from torch import Tensor, nn
from transformers.models.git import modeling_git as upstream

from cxr_ft.errors import UsageError
from cxr_ft.model.bases.git.attention import Shape, attend
from cxr_ft.model.bases.git.eligibility import git_of, is_unmodified
from cxr_ft.model.bases.git.fused_linear import apply_linears, to_autocast
from cxr_ft.model.bases.git.gradient_checkpointing import checkpointed
from cxr_ft.model.protocols import PIXELS, Batch


def image_states(git: upstream.GitModel, pixel_values: Tensor) -> Tensor:
    """Return tower states with view embeddings: pixels [B, 3, S, S] or [B, F, 3, S, S] -> [B, F I, Dv]."""
    return add_view_embeddings(git, tower_states(git, pixel_values))


def tower_states(git: upstream.GitModel, pixel_values: Tensor) -> Tensor:
    """Return states of each image: pixels [B, 3, S, S] or [B, F, 3, S, S] -> [B, I, Dv] or [B, F, I, Dv]."""
    tower = git.image_encoder.vision_model
    # All images of all rows at once: the tower sees each image by itself.
    states: Tensor = tower.pre_layrnorm(tower.embeddings(pixel_values.flatten(0, -4)))  # [B F, I, Dv]
    for layer in tower.encoder.layers:
        states = checkpointed(layer, _block, layer, states)
    # Also over the image tokens, not only over the class token as in CLIP: GIT's decoder reads all of them.
    states = tower.post_layernorm(states)
    return states.view(*pixel_values.shape[:-3], *states.shape[1:])


def add_view_embeddings(git: upstream.GitModel, states: Tensor) -> Tensor:
    """Add to the states [B, F, I, Dv] of each view its own embedding: [B, F I, Dv]; states of one image stay as is."""
    if states.ndim == 3:
        return states
    views = torch.cat([git.img_temporal_embedding[i] for i in range(states.shape[1])], dim=1)  # [1, F, Dv]
    return (states + views[..., None, :]).flatten(1, 2)


def image_tokens(git: upstream.GitModel, states: Tensor) -> Tensor:
    """Project `image_states` to the decoder's width: the tokens in front of the text, [B, I, D]."""
    tokens: Tensor = git.visual_projection(states)
    return tokens


def _block(layer: upstream.GitVisionEncoderLayer, x: Tensor) -> Tensor:
    """Run a vision block, [B, I, Dv]: pre-norm attention over all tokens, then the feed-forward part."""
    attention = layer.self_attn
    q, k, v = apply_linears((attention.q_proj, attention.k_proj, attention.v_proj), to_autocast(layer.layer_norm1(x)))
    shape = Shape(attention.head_dim, x.shape[1], float(attention.dropout) if attention.training else 0.0)
    x = x + apply_linears((attention.out_proj,), attend(q, k, v, shape))[0]
    return x + _feed_forward(layer.mlp, to_autocast(layer.layer_norm2(x)))


def _feed_forward(mlp: upstream.GitVisionMLP, x: Tensor) -> Tensor:
    # An adapter around the whole module, or a hook on it, must run.
    if not is_unmodified(mlp, upstream.GitVisionMLP):
        whole: Tensor = mlp(x)
        return whole
    wide = mlp.activation_fn(apply_linears((mlp.fc1,), x)[0])
    return apply_linears((mlp.fc2,), wide)[0]


def image_vector(model: nn.Module, batch: Batch, pool: str) -> Tensor:
    """Return one vector for each row, without text, by transformers' own forward of the towers.

    Args:
        pool: "mean", of all image tokens after the decoder, [B, D]; "cls", the vision tower's class token [B, Dv], or
            the mean of the class tokens of several images, pixels [B, V, 3, S, S].
    """
    git, pixels = git_of(model), batch[PIXELS]
    states: Tensor = git.image_encoder(pixels.flatten(0, -4)).last_hidden_state  # [B V, I, Dv]
    states = states.view(*pixels.shape[:-3], *states.shape[1:])
    if pool == "cls":
        return states[:, 0] if states.ndim == 3 else states[:, :, 0].mean(1)
    tokens: Tensor = git.encoder(git.visual_projection(add_view_embeddings(git, states))).last_hidden_state
    return tokens.mean(1)


def resize(lm: upstream.GitForCausalLM, size: int) -> None:
    """Change `lm` to read [B, 3, size, size]: position embeddings by bicubic interpolation, as transformers does it.

    transformers would interpolate in each forward pass; done once here, every part that counts image tokens by the
    configuration counts right, and the saved configuration has the new size.

    Raises:
        UsageError: for a size that is no multiple of the patch size.
    """
    shape, embeddings = lm.config.vision_config, lm.git.image_encoder.vision_model.embeddings
    patch = int(shape.patch_size)
    if size < patch or size % patch:
        below = max(size // patch, 1) * patch
        raise UsageError(f"data.image_size: {size} is no multiple of the patches' {patch} pixels; give {below}")
    old, new = int(shape.image_size) // patch, size // patch
    with torch.no_grad():
        # The class token has no place in the grid: its position embedding stays.
        one, grid = embeddings.position_embedding.weight.split([1, old * old])  # [1, Dv], [patches, Dv]
        square = grid.T.reshape(1, -1, old, old)
        square = nn.functional.interpolate(square, size=(new, new), mode="bicubic", align_corners=False)
        positions = torch.cat((one, square.flatten(2)[0].T))
    embeddings.position_embedding = nn.Embedding(new * new + 1, positions.shape[1], device=positions.device)
    embeddings.position_embedding.weight = nn.Parameter(positions)
    embeddings.num_patches, embeddings.num_positions = new * new, len(positions)
    embeddings.position_ids = torch.arange(len(positions), device=positions.device)[None]
    embeddings.image_size = shape.image_size = size
    count_tokens(lm.git, new * new + 1)


def count_tokens(git: upstream.GitModel, tokens: int) -> None:
    """Set the number of image tokens before a text; transformers keeps a copy of it in each layer of a `GitModel`."""
    for layer in git.encoder.layer:
        layer.attention.self.image_patch_tokens = tokens
