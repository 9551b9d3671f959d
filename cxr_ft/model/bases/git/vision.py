"""Images -> image tokens: the part of GIT that knows no text, and that a frozen vision tower makes constant."""

from typing import Any

import torch
from torch import Tensor
from transformers.models.git import modeling_git as upstream

from cxr_ft.model.bases.git.attention import Shape, attend
from cxr_ft.model.bases.git.eligibility import untouched
from cxr_ft.model.bases.git.fused_linear import linears, lowered
from cxr_ft.model.bases.git.recompute import recomputed


def image_states(git: Any, pixel_values: Tensor) -> Tensor:
    """What the vision tower says: pixels [B, 3, S, S] or [B, F, 3, S, S] -> [B, F I, Dv], temporal embeddings added."""
    return placed(git, tower_states(git, pixel_values))


def tower_states(git: Any, pixel_values: Tensor) -> Tensor:
    """What it says of each image alone: pixels [B, 3, S, S] or [B, F, 3, S, S] -> [B, I, Dv] or [B, F, I, Dv]."""
    tower = git.image_encoder.vision_model
    states: Tensor = tower.pre_layrnorm(tower.embeddings(pixel_values.flatten(0, -4)))  # [B F, I, Dv]
    for layer in tower.encoder.layers:
        states = recomputed(layer, _block, layer, states)
    states = tower.post_layernorm(states)
    return states.view(*pixel_values.shape[:-3], *states.shape[1:])


def placed(git: Any, states: Tensor) -> Tensor:
    """`tower_states` of several images with the embedding of its place on each: [B, F I, Dv]; of one as they are."""
    if states.ndim == 3:
        return states
    places = torch.cat([git.img_temporal_embedding[i] for i in range(states.shape[1])], dim=1)  # [1, F, Dv]
    return (states + places[..., None, :]).flatten(1, 2)


def image_tokens(git: Any, states: Tensor) -> Tensor:
    """`image_states` -> what the decoder reads in front of the text, [B, I, D]."""
    tokens: Tensor = git.visual_projection(states)
    return tokens


def _block(layer: Any, x: Tensor) -> Tensor:
    """A vision block, [B, I, Dv]: pre-norm attention over all tokens, then the feed-forward part."""
    attention = layer.self_attn
    q, k, v = linears((attention.q_proj, attention.k_proj, attention.v_proj), lowered(layer.layer_norm1(x)))
    shape = Shape(attention.head_dim, x.shape[1], float(attention.dropout) if attention.training else 0.0)
    x = x + linears((attention.out_proj,), attend(q, k, v, shape))[0]
    return x + _feed_forward(layer.mlp, lowered(layer.layer_norm2(x)))


def _feed_forward(mlp: Any, x: Tensor) -> Tensor:
    if not untouched(mlp, upstream.GitVisionMLP):
        whole: Tensor = mlp(x)
        return whole
    wide = mlp.activation_fn(linears((mlp.fc1,), x)[0])
    return linears((mlp.fc2,), wide)[0]
