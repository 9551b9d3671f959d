"""What `prompt` and `prefix` share: vectors that are learnt in place of words, by PEFT."""

from typing import TYPE_CHECKING, Any

from cxr_ft.errors import UsageError
from cxr_ft.model.protocols import Base
from cxr_ft.model.tuning._options import at_least_one

if TYPE_CHECKING:
    from torch import nn


def check_tokens(tokens: int) -> None:
    """Refuse a number of learnt tokens below 1."""
    at_least_one("tokens", tokens)


def prompted(model: Any, base: Base, config: Any, new: tuple[str, ...], method: str) -> "nn.Module":
    """`model` with the learnt tokens of `config`, a `peft.PromptLearningConfig`, read before the text.

    Raises:
        UsageError: where the model reads no text, or has no positions left for any.
    """
    from peft import get_peft_model

    if not _reads_text(model):
        raise UsageError(
            f"{method} learns tokens that are read before a text, and {base.name} ({base.family}) reads none for this "
            "task; use lora, adapter or another method that changes layers (with a GIT: or head.pool=query)"
        )
    longest = getattr(base, "longest", None)
    if longest is not None and config.num_virtual_tokens >= longest:
        raise UsageError(f"tuning.tokens: {config.num_virtual_tokens}; {base.name} has {longest} positions in all")
    # By its kind PEFT knows where the tokens go, and which modules are trained besides.
    config.task_type = "CAUSAL_LM" if model is base.lm else "SEQ_CLS"
    config.modules_to_save = list(new) or None
    out: nn.Module = get_peft_model(model, config)
    return out


def _reads_text(model: Any) -> bool:
    from torch import nn

    words = getattr(model.config, "vocab_size", None)
    return any(isinstance(module, nn.Embedding) and module.num_embeddings == words for module in model.modules())
