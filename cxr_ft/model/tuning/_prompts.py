"""Learn vectors in place of word embeddings, by PEFT: the common part of `prompt` and `prefix`."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from cxr_ft.errors import UsageError
from cxr_ft.model.protocols import Base, is_text_reader, is_writer
from cxr_ft.model.tuning._options import at_least_one

if TYPE_CHECKING:
    from peft import PromptLearningConfig
    from torch import nn
    from transformers import PreTrainedModel

#: Why nothing learnt in front of the text can be merged.
NOT_IN_WEIGHTS = "a learnt prompt is read beside the text and is in no weight: it cannot be merged; export the adapter"


@dataclass(frozen=True, kw_only=True)
class VirtualTokenOptions:
    """Options of the methods that learn tokens in front of the text.

    Args:
        tokens: number of learnt tokens.
    """

    tokens: int = field(default=16, metadata={"help": "number of learnt tokens in front of the text"})

    def __post_init__(self) -> None:
        at_least_one("tokens", self.tokens)


def prompted(
    model: "PreTrainedModel", base: Base, config: "PromptLearningConfig", new: tuple[str, ...], method: str
) -> "nn.Module":
    """Return `model` with the learnt tokens of `config`, a `peft.PromptLearningConfig`, in front of the text.

    Raises:
        UsageError: if the model reads no text, or has no positions left for text.
    """
    from peft import get_peft_model

    if not _reads_text(model):
        raise UsageError(
            f"{method} learns tokens that are read before a text, and {base.name} ({base.family}) reads none for this "
            "task; use lora, adapter or another method that changes layers (with a GIT: or head.pool=query)"
        )
    if config.num_virtual_tokens >= base.longest:
        raise UsageError(f"tuning.tokens: {config.num_virtual_tokens}; {base.name} has {base.longest} positions in all")
    # Learnt tokens take positions of the model: texts are cut that much earlier, from now on.
    leave_room(base, config.num_virtual_tokens)
    # PEFT chooses by the task type where the tokens go, and which modules are trained besides.
    config.task_type = "CAUSAL_LM" if is_writer(base) and model is base.lm else "SEQ_CLS"
    config.modules_to_save = list(new) or None
    # PEFT reads these by names that not every configuration has (DistilBERT's).
    shape = model.config.to_dict()
    if not shape.keys() & {"hidden_size", "n_embd", "d_model"}:
        config.token_dim, config.num_layers = model.config.hidden_size, model.config.num_hidden_layers
        config.num_attention_heads = model.config.num_attention_heads
    out: nn.Module = get_peft_model(model, config)
    return out


def reloaded(model: "nn.Module", base: Base, tokens: int, folder: Path) -> "nn.Module":
    """Return `model` with the learnt tokens that PEFT wrote; texts are cut as in training."""
    from peft import PeftModel

    leave_room(base, tokens)
    peft_model: nn.Module = PeftModel.from_pretrained(model, folder)
    return peft_model


def leave_room(base: Base, tokens: int) -> None:
    """Keep `tokens` positions of a base of texts free for learnt tokens."""
    if is_text_reader(base):
        base.leave_room(tokens)


def _reads_text(model: "PreTrainedModel") -> bool:
    """Return True if `model` has an embedding table of its vocabulary; a vision tower alone has none."""
    from torch import nn

    words = getattr(model.config, "vocab_size", None)
    return any(isinstance(module, nn.Embedding) and module.num_embeddings == words for module in model.modules())
