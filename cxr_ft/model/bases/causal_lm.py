"""Causal language models: GPT-2 (Radford et al., 2019), Llama (Touvron et al., arXiv 2302.13971), Mistral (Jiang et
al., arXiv 2310.06825) and Qwen2 (arXiv 2407.10671).

A row is the text that is given, a start token (a line break, where the vocabulary has one), and what is written. Where
only the given text is read, as for classification, it stands alone. Rows are padded on the right, so that each token
has the position it has alone, under every method.

Upstream: transformers/models/{gpt2,llama,mistral,qwen2}.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cxr_ft.model.bases import _text
from cxr_ft.model.protocols import Batch, Example

if TYPE_CHECKING:
    from torch import Tensor, nn

_LLAMA = (
    r"(?:model\.)?layers\.(\d+)",
    {
        **{role: rf"self_attn\.{role}_proj" for role in ("q", "k", "v", "o")},
        **{role: rf"mlp\.{role}_proj" for role in ("up", "gate", "down")},
    },
)
_GPT2 = (
    r"(?:transformer\.)?h\.(\d+)",
    {
        # One matrix, stored the other way round (Conv1D): each of q, k, v means all three.
        **dict.fromkeys(("q", "k", "v"), r"attn\.c_attn"),
        "o": r"attn\.c_proj",
        "up": r"mlp\.c_fc",
        "down": r"mlp\.c_proj",
    },
)
ROLES = {"gpt2": _GPT2, "llama": _LLAMA, "mistral": _LLAMA, "qwen2": _LLAMA}
MODEL_TYPES = tuple(ROLES)
_GPT2_SMALL = {"model_type": "gpt2"}
PUBLISHED: dict[str, dict[str, Any]] = {
    "openai-community/gpt2": _GPT2_SMALL,
    "gpt2": _GPT2_SMALL,
    "meta-llama/Llama-2-7b-hf": {"model_type": "llama", "max_position_embeddings": 4096},
    "TinyLlama/TinyLlama-1.1B-Chat-v1.0": {
        "model_type": "llama",
        "hidden_size": 2048,
        "intermediate_size": 5632,
        "num_hidden_layers": 22,
        "num_key_value_heads": 4,
    },
    "mistralai/Mistral-7B-v0.1": {"model_type": "mistral", "max_position_embeddings": 32768},
    "Qwen/Qwen2.5-0.5B": {
        "model_type": "qwen2",
        "vocab_size": 151936,
        "hidden_size": 896,
        "intermediate_size": 4864,
        "num_hidden_layers": 24,
        "num_attention_heads": 14,
        "num_key_value_heads": 2,
        "tie_word_embeddings": True,
    },
}


class CausalLm(_text.TextBase):
    """A `GPT2LMHeadModel`, `LlamaForCausalLM` or its like; see `cxr_ft.model.protocols.Writer`."""

    family = "causal_lm"

    def __init__(self, lm: Any, tokenizer: Any, name: str) -> None:
        from transformers import GenerationConfig

        super().__init__(lm, tokenizer, name, ROLES)
        # Of its own a checkpoint may draw tokens or punish repetition: the head's options alone say how it writes.
        lm.generation_config = GenerationConfig()
        #: A line break, or what begins a text where the vocabulary has no line break; and what ends a text.
        self.start, self.end = -1, -1
        if tokenizer is not None:
            self.start, self.end = _text.start_and_end(tokenizer)
            if tokenizer.pad_token_id is None:
                tokenizer.pad_token = tokenizer.eos_token  # never read, the mask says so

    @property
    def pools(self) -> dict[str, int]:
        """The last token's state, which alone has read the whole text, or the mean."""
        return dict.fromkeys(("last", "mean"), int(self.lm.config.hidden_size))

    @property
    def code(self) -> dict[str, str]:
        """By pool, as `pooled` does it; one text has no padding."""
        return {"last": "model(**tokens).last_hidden_state[:, -1]", "mean": _text.MEAN}

    def encoder(self, pool: str = "last") -> "nn.Module":
        """`GPT2Model`, `LlamaModel` or its like: no vocabulary projection."""
        encoder: nn.Module = self.lm.base_model
        return encoder

    def inputs(self, examples: Sequence[Example]) -> Batch:
        """given_ids, given_mask int64 [B, G], padded to the batch's longest. Of a pair, the second is the next line.

        Texts are cut at their ends to `limit` tokens. An empty one is the end token alone, as between two documents.
        """
        import torch

        texts = [f"{e.given}\n{e.pair}" if e.pair else e.given for e in examples]
        rows = self.tokenizer(texts, truncation=True, max_length=self.limit).input_ids
        rows = [torch.tensor(row or [self.end]) for row in rows]
        ids = torch.nn.utils.rnn.pad_sequence(rows, batch_first=True, padding_value=self.tokenizer.pad_token_id)
        lengths = torch.tensor([len(row) for row in rows])
        return {"given_ids": ids, "given_mask": (torch.arange(ids.shape[1]) < lengths[:, None]).long()}

    def pooled(self, model: Any, batch: Batch, pool: str = "last") -> "Tensor":
        """[B, D]: the state of the given text's last token, or the mean over all of it."""
        mask = batch["given_mask"]
        states = _states(model, batch["given_ids"], mask)
        return _text.mean(states, mask) if pool == "mean" else _at_last(states, mask)

    def logits(self, model: Any, batch: Batch, at: "Tensor | None" = None) -> "Tensor":
        """Next-token logits at the positions of input_ids [B, T, V]; with `at`, bool [B, T], there alone: [N, V]."""
        from cxr_ft.model.bases import _causal_rows

        if at is not None:
            return _causal_rows.read(model, batch, at)[0]
        import torch

        everywhere = torch.ones_like(batch["attention_mask"], dtype=torch.bool)
        padded = {**batch, "attention_mask": everywhere.long()}
        logits = _causal_rows.read(model, padded, everywhere)[0]
        return logits.view(*everywhere.shape, -1)

    def logits_and_pooled(self, model: Any, batch: Batch, at: "Tensor") -> tuple["Tensor", "Tensor"]:
        """`logits` at `at` [N, V], and the state [B, D] of the given text's last token, which reads nothing behind."""
        from cxr_ft.model.bases import _causal_rows

        logits, states = _causal_rows.read(model, batch, at)
        return logits, _at_last(states, batch["given_mask"])

    def generate(
        self,
        model: Any,
        batch: Batch,
        prompt: Sequence[int] | Sequence[Sequence[int]],
        max_new_tokens: int,
        **search: Any,
    ) -> list[str]:
        """Text behind the given text and the prompt by transformers' own generation, stopped at the end token.

        Args:
            prompt: token ids, the same for all rows; or a list a row.
            search: beams, temperature, top_k, top_p, length_penalty; greedy where none is given.
        """
        from cxr_ft.model.bases import _causal_rows

        first: Any = prompt[0]
        prompts: Any = [prompt] * len(batch["given_ids"]) if isinstance(first, int) else prompt
        how = {"max_new_tokens": max_new_tokens, "eos_token_id": self.end, "pad_token_id": self.tokenizer.pad_token_id}
        rows = _causal_rows.generate(model, batch, prompts, how, search)
        texts: list[str] = self.tokenizer.batch_decode(rows, skip_special_tokens=True)
        return texts

    def likelihood(self, model: Any, batch: Batch, sentences: Sequence[Sequence[int]]) -> "Tensor":
        """Log-probability of each sentence behind the given text and the start token, [B, K]; the text is read once."""
        from cxr_ft.model.bases import _causal_rows

        return _causal_rows.likelihood(model, batch, self.start, sentences)


def _states(model: Any, ids: "Tensor", mask: "Tensor") -> "Tensor":
    """The states of tokens [B, T] that `encoder` ends with, [B, T, D]; learnt tokens stand in front of them."""
    out: Tensor = model(input_ids=ids, attention_mask=mask, use_cache=False).last_hidden_state
    return out[:, -ids.shape[1] :]


def _at_last(states: "Tensor", mask: "Tensor") -> "Tensor":
    import torch

    return states[torch.arange(len(states), device=states.device), mask.sum(1) - 1]


def load(name: str, weights: bool = True) -> CausalLm:
    """A causal language model by shipped name, folder or hub name; with `weights` off of the right shape alone.

    Raises:
        UsageError: where there is no such model, or no way to fetch it.
    """
    from transformers import AutoModelForCausalLM

    return CausalLm(*_text.load(name, PUBLISHED, AutoModelForCausalLM, _made, weights=weights), name)


def restore(folder: Path, name: str) -> CausalLm:
    """The architecture and tokenizer that `save` wrote; the caller puts the weights in."""
    from transformers import AutoConfig

    config = AutoConfig.from_pretrained(folder, trust_remote_code=False)
    return CausalLm(_text.drawn(_made, config), _text.tokenizer_of(folder), name)


def tiny() -> CausalLm:
    """A Llama of two blocks of width 32, the shipped vocabulary; random, the same each time."""
    from transformers import AutoConfig

    from cxr_ft.model.assembly import SHIPPED

    folder = SHIPPED / "llama-tiny-random"
    small = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2}
    heads = {"num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 8}
    config = AutoConfig.from_pretrained(folder, **small, **heads)
    return CausalLm(_text.drawn(_made, config), _text.tokenizer_of(folder), "causal_lm-tiny-test")


def _made(config: Any) -> Any:
    from transformers import AutoModelForCausalLM

    return AutoModelForCausalLM.from_config(config)
