"""Read text encoders: BERT (Devlin et al., arXiv 1810.04805), RoBERTa (Liu et al., arXiv 1907.11692), DistilBERT (Sanh
et al., arXiv 1910.01108), and MiniLM (Wang et al., arXiv 2002.10957), which is a small BERT.

They write no text: a report head and zero_shot are refused.

Upstream: transformers/models/{bert,roberta,distilbert}.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from cxr_ft.json_values import JsonObject
from cxr_ft.model.bases import _text
from cxr_ft.model.bases._trim import trimmed
from cxr_ft.model.protocols import Batch, CardCode, Example

if TYPE_CHECKING:
    from torch import Tensor, nn
    from transformers import PretrainedConfig, PreTrainedModel, PreTrainedTokenizerBase

_BERT = (
    r"encoder\.layer\.(\d+)",
    {
        "q": r"attention\.self\.query",
        "k": r"attention\.self\.key",
        "v": r"attention\.self\.value",
        "o": r"attention\.output\.dense",
        "up": r"intermediate\.dense",
        "down": r"output\.dense",
    },
)
_DISTILBERT = (
    r"transformer\.layer\.(\d+)",
    {
        "q": r"attention\.q_lin",
        "k": r"attention\.k_lin",
        "v": r"attention\.v_lin",
        "o": r"attention\.out_lin",
        "up": r"ffn\.lin1",
        "down": r"ffn\.lin2",
    },
)
ROLES = {"bert": _BERT, "roberta": _BERT, "distilbert": _DISTILBERT}
MODEL_TYPES = tuple(ROLES)
_BERT_BASE = {"model_type": "bert"}
_ROBERTA_BASE: JsonObject = {
    "model_type": "roberta",
    "vocab_size": 50265,
    "max_position_embeddings": 514,
    "type_vocab_size": 1,
    "layer_norm_eps": 1e-5,
}
_DISTILBERT_BASE = {"model_type": "distilbert"}
_MINILM: JsonObject = {"model_type": "bert", "hidden_size": 384, "intermediate_size": 1536, "num_hidden_layers": 6}
PUBLISHED: dict[str, JsonObject] = {
    "google-bert/bert-base-uncased": _BERT_BASE,
    "bert-base-uncased": _BERT_BASE,
    "FacebookAI/roberta-base": _ROBERTA_BASE,
    "roberta-base": _ROBERTA_BASE,
    "distilbert/distilbert-base-uncased": _DISTILBERT_BASE,
    "distilbert-base-uncased": _DISTILBERT_BASE,
    "sentence-transformers/all-MiniLM-L6-v2": _MINILM,
}


class TextEncoder(_text.TextBase):
    """A `BertModel` or its like, without pooler; see `cxr_ft.model.protocols.Base`."""

    family = "text_encoder"

    def __init__(self, lm: "PreTrainedModel", tokenizer: "PreTrainedTokenizerBase | None", name: str) -> None:
        super().__init__(lm, tokenizer, name, ROLES)
        if getattr(lm, "pooler", None) is not None:
            lm.pooler = None  # a head of BERT's own, which ours does not read

    @property
    def pools(self) -> dict[str, int]:
        """Return the widths of the first token's state, as in the papers, and of the mean, for sentence encoders."""
        return dict.fromkeys(("cls", "mean"), int(self.lm.config.hidden_size))

    @property
    def code(self) -> dict[str, str]:
        """Return the expression of each pool, as `pooled` computes it."""
        return {"cls": "model(**tokens).last_hidden_state[:, 0]", "mean": _text.MEAN}

    def card_code(self, *, writes: bool, prompt: Sequence[int]) -> CardCode:
        """Return the lines of a model card."""
        return CardCode(imports=(), classes=("AutoModel", "AutoTokenizer"), inputs=_text.CARD_INPUTS)

    def encoder(self, pool: str = "cls") -> "nn.Module":
        """Return the whole model: both pools read all of it."""
        # A module of its own, so that the head's layer is added to it and not to the base.
        return trimmed(self.lm)

    def inputs(self, examples: Sequence[Example]) -> Batch:
        """Return input_ids, attention_mask int64 [B, T], padded to the longest text; token_type_ids if texts are pairs.

        Texts are cut at the end to `limit` tokens, of a pair the longer one first.
        """
        second = _text.pairs(examples)
        tokens = self.tokenizer(
            [example.given for example in examples],
            second,
            truncation=True,
            max_length=self.limit,
            padding=True,
            # Whatever the default of the tokenizer is: the first state must be that of the first token.
            padding_side="right",
            # All would be 0, which the model assumes by default.
            return_token_type_ids=second is not None and getattr(self.lm.config, "type_vocab_size", 1) > 1,
            return_tensors="pt",
        )
        return dict(tokens)

    def pooled(self, model: "nn.Module", batch: Batch, pool: str = "cls") -> "Tensor":
        """Return [B, D]: the state of the first token, or the mean over all tokens but padding."""
        names = ("input_ids", "attention_mask", "token_type_ids")
        states = model(**{name: batch[name] for name in names if name in batch}).last_hidden_state
        # Learnt tokens (prompt tuning) come before the text.
        states = states[:, -batch["input_ids"].shape[1] :]
        first: Tensor = states[:, 0]
        return first if pool == "cls" else _text.mean(states, batch["attention_mask"])


def load(name: str, weights: bool = True) -> TextEncoder:
    """Return an encoder by shipped name, folder or hub name; without `weights` its shape alone.

    Raises:
        UsageError: if there is no such model, or no way to fetch it.
    """
    from transformers import AutoModel

    return TextEncoder(*_text.load(name, PUBLISHED, AutoModel, _from_config, weights=weights), name)


def restore(folder: Path, name: str) -> TextEncoder:
    """Return the architecture and tokenizer that `save` wrote; the caller loads the weights."""
    from transformers import AutoConfig

    config = AutoConfig.from_pretrained(folder, trust_remote_code=False)
    return TextEncoder(_text.random_model(_from_config, config), _text.tokenizer_of(folder), name)


def tiny() -> TextEncoder:
    """Return a BERT of two blocks of width 32 with the shipped vocabulary; random, the same each time."""
    from transformers import AutoConfig

    from cxr_ft.model.assembly import SHIPPED

    folder = SHIPPED / "bert-tiny-random"
    small = {"hidden_size": 32, "intermediate_size": 64, "num_attention_heads": 4, "num_hidden_layers": 2}
    config = AutoConfig.from_pretrained(folder, **small)
    return TextEncoder(_text.random_model(_from_config, config), _text.tokenizer_of(folder), "text_encoder-tiny-test")


def _from_config(config: "PretrainedConfig") -> "PreTrainedModel":
    from transformers import AutoModel

    return AutoModel.from_config(config)
