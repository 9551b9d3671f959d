"""Which modules of a GIT may be walked through instead of called."""

from typing import Any

from torch import nn
from transformers.models.git import modeling_git as upstream

_HOOKS = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")


def unwrapped(model: Any) -> Any:
    """The transformers model inside a PEFT model; any other model as it is."""
    return model.get_base_model() if hasattr(model, "peft_config") else model


def git_of(model: Any) -> Any:
    """The `GitModel` in a `GitForCausalLM` or `GitModel`, adapted by PEFT or not."""
    inner = unwrapped(model)
    return inner if isinstance(inner, upstream.GitModel) else inner.git


def untouched(module: nn.Module, kind: type[nn.Module]) -> bool:
    """Whether `module` is a `kind` itself, without hooks and with the forward of its class."""
    return type(module) is kind and "forward" not in vars(module) and not any(getattr(module, h) for h in _HOOKS)


def walkable(model: Any) -> bool:
    """Whether all that the walk goes through, and does not call, does what transformers made it do.

    A hook on one of those modules must fire, a replaced one must run, a learnt prompt must be read: then it is False,
    and transformers' own forward has to be called.
    """
    if any(config.is_prompt_learning for config in getattr(model, "peft_config", {}).values()):
        return False
    inner = unwrapped(model)
    top = isinstance(inner, upstream.GitForCausalLM)
    if not untouched(inner, upstream.GitForCausalLM if top else upstream.GitModel):
        return False
    git = inner.git if top else inner
    whole = all(hasattr(git, part) for part in ("image_encoder", "visual_projection", "embeddings", "encoder"))
    return whole and untouched(git, upstream.GitModel) and _decoder(git) and _vision(git.image_encoder)


def _decoder(git: Any) -> bool:
    return (
        untouched(git.encoder, upstream.GitEncoder)
        and untouched(git.embeddings, upstream.GitEmbeddings)
        and all(
            untouched(layer, upstream.GitLayer)
            and untouched(layer.attention, upstream.GitAttention)
            and untouched(layer.attention.self, upstream.GitSelfAttention)
            and untouched(layer.attention.self.dropout, nn.Dropout)
            for layer in git.encoder.layer
        )
    )


def _vision(model: Any) -> bool:
    return (
        untouched(model, upstream.GitVisionModel)
        and untouched(model.vision_model, upstream.GitVisionTransformer)
        and untouched(model.vision_model.encoder, upstream.GitVisionEncoder)
        and all(
            untouched(layer, upstream.GitVisionEncoderLayer) and untouched(layer.self_attn, upstream.GitVisionAttention)
            for layer in model.vision_model.encoder.layers
        )
    )
