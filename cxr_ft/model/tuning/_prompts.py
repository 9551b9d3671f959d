"""What `prompt` and `prefix` share: vectors that are learnt in place of words, by PEFT."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cxr_ft.errors import UsageError
from cxr_ft.model.protocols import Base, TextReader, Writer
from cxr_ft.model.tuning._options import at_least_one

if TYPE_CHECKING:
    from torch import nn


@dataclass(frozen=True, kw_only=True)
class VirtualTokenOptions:
    """Options of every method that learns something in front of the text.

    Args:
        tokens: in place of how many tokens it is learnt.
    """

    tokens: int = field(default=16, metadata={"help": "learnt tokens in front of the text"})

    def __post_init__(self) -> None:
        at_least_one("tokens", self.tokens)


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
    leave_room(base, config.num_virtual_tokens)
    # By its kind PEFT knows where the tokens go, and which modules are trained besides.
    config.task_type = "CAUSAL_LM" if isinstance(base, Writer) and model is base.lm else "SEQ_CLS"
    config.modules_to_save = list(new) or None
    # PEFT asks for these under names that not every configuration has (DistilBERT's).
    shape = model.config.to_dict()
    if not shape.keys() & {"hidden_size", "n_embd", "d_model"}:
        config.token_dim, config.num_layers = model.config.hidden_size, model.config.num_hidden_layers
        config.num_attention_heads = model.config.num_attention_heads
    out: nn.Module = get_peft_model(model, config)
    return out


def reloaded(model: "nn.Module", base: Base, tokens: int, folder: Path) -> "nn.Module":
    """`model` with the learnt tokens that PEFT wrote; texts are cut as they were in training."""
    from peft import PeftModel

    leave_room(base, tokens)
    peft_model: nn.Module = PeftModel.from_pretrained(model, folder)
    return peft_model


def leave_room(base: Base, tokens: int) -> None:
    """Have a base of texts read so much less of them that `tokens` learnt ones have positions."""
    if isinstance(base, TextReader):
        base.leave_room(tokens)


def _reads_text(model: Any) -> bool:
    from torch import nn

    words = getattr(model.config, "vocab_size", None)
    return any(isinstance(module, nn.Embedding) and module.num_embeddings == words for module in model.modules())
