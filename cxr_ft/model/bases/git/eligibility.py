"""Decide for which models the fused path may run: it calls parts of modules that transformers would call whole."""

from typing import TypeGuard, TypeVar

from torch import nn
from transformers.models.git import modeling_git as upstream

from cxr_ft.model.peft_models import learns_prompts, unwrapped

_HOOKS = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")

_Kind = TypeVar("_Kind", bound=nn.Module)


def git_of(model: nn.Module) -> upstream.GitModel:
    """Return the `GitModel` in a `GitForCausalLM` or `GitModel`, adapted by PEFT or not."""
    inner = unwrapped(model)
    return inner if isinstance(inner, upstream.GitModel) else inner.git


def is_unmodified(module: nn.Module, kind: type[_Kind]) -> TypeGuard[_Kind]:
    """Return True if `module` is exactly a `kind`, has no hooks and has the forward method of its class."""
    # The exact class, since a subclass may compute something else.
    return type(module) is kind and "forward" not in vars(module) and not any(getattr(module, h) for h in _HOOKS)


def can_use_fused_path(model: nn.Module) -> bool:
    """Return True if every module that the fused path opens up, and so does not call, is as transformers made it.

    Otherwise transformers' own forward has to run: a hook on one of those modules must fire, a replaced module must be
    called, a learnt prompt must be read.
    """
    # PEFT's own forward adds the learnt tokens: the fused path, which calls the modules inside, would not see them.
    if learns_prompts(model):
        return False
    inner = unwrapped(model)
    top = isinstance(inner, upstream.GitForCausalLM)
    if not is_unmodified(inner, upstream.GitForCausalLM if top else upstream.GitModel):
        return False
    git = git_of(model)
    # An encoder without the parts that its pool never reads has no use for the fused path.
    whole = all(hasattr(git, part) for part in ("image_encoder", "visual_projection", "embeddings", "encoder"))
    return whole and is_unmodified(git, upstream.GitModel) and _decoder(git) and _vision(git.image_encoder)


def _decoder(git: upstream.GitModel) -> bool:
    return (
        is_unmodified(git.encoder, upstream.GitEncoder)
        and is_unmodified(git.embeddings, upstream.GitEmbeddings)
        and all(
            is_unmodified(layer, upstream.GitLayer)
            and is_unmodified(layer.attention, upstream.GitAttention)
            and is_unmodified(layer.attention.self, upstream.GitSelfAttention)
            # The fused path reads the rate and draws the zeros itself: another module might drop otherwise.
            and is_unmodified(layer.attention.self.dropout, nn.Dropout)
            for layer in git.encoder.layer
        )
    )


def _vision(model: upstream.GitVisionModel) -> bool:
    return (
        is_unmodified(model, upstream.GitVisionModel)
        and is_unmodified(model.vision_model, upstream.GitVisionTransformer)
        and is_unmodified(model.vision_model.encoder, upstream.GitVisionEncoder)
        and all(
            is_unmodified(layer, upstream.GitVisionEncoderLayer)
            and is_unmodified(layer.self_attn, upstream.GitVisionAttention)
            for layer in model.vision_model.encoder.layers
        )
    )
