"""Read causal language models: GPT-2 (Radford et al., 2019), Llama (Touvron et al., arXiv 2302.13971), Mistral (Jiang
et al., arXiv 2310.06825) and Qwen2 (arXiv 2407.10671).

A row is the input text, a start token (a line break, if the vocabulary has one), and the generated text; for
classification the input text alone. Rows are padded on the right, so that each token has the same position as in a row
without padding, under every method.

Shapes besides those of `protocols`: G input tokens, T generated tokens, M of both together in the longest row.

Upstream: transformers/models/{gpt2,llama,mistral,qwen2}.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Unpack

from cxr_ft.json_values import JsonObject
from cxr_ft.model.bases import _text
from cxr_ft.model.bases._trim import trimmed
from cxr_ft.model.peft_models import learns_prompts, unwrapped
from cxr_ft.model.protocols import Batch, CardCode, Example, SearchOptions

if TYPE_CHECKING:
    from torch import Tensor, nn
    from transformers import PretrainedConfig, PreTrainedModel, PreTrainedTokenizerBase

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
PUBLISHED: dict[str, JsonObject] = {
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
    writes_text = True

    def __init__(self, lm: "PreTrainedModel", tokenizer: "PreTrainedTokenizerBase | None", name: str) -> None:
        from transformers import GenerationConfig

        super().__init__(lm, tokenizer, name, ROLES)
        # A checkpoint's own settings may sample tokens or penalise repetition: the head's options alone decide.
        lm.generation_config = GenerationConfig()
        #: Ids of a line break (or what begins a text, if the vocabulary has none), and of what ends a text.
        self.start, self.end = -1, -1
        #: Ids before each input text: the token that begins a text, where the tokenizer puts it there; else none.
        self.before: list[int] = []
        if tokenizer is not None:
            self.start, self.end = _text.start_and_end(tokenizer)
            # A family that puts a token before a text was pretrained so.
            first = tokenizer("a").input_ids[:1]
            self.before = first if first == [tokenizer.bos_token_id] else []

    @property
    def pools(self) -> dict[str, int]:
        """Return the widths of the last token's state, which alone has read the whole text, and of the mean."""
        return dict.fromkeys(("last", "mean"), int(self.lm.config.hidden_size))

    @property
    def code(self) -> dict[str, str]:
        """Return the expression of each pool, as `pooled` computes it; a single text has no padding."""
        return {"last": "model(**tokens).last_hidden_state[:, -1]", "mean": _text.MEAN}

    def card_code(self, *, writes: bool, prompt: Sequence[int]) -> CardCode:
        """Return the lines of a model card; a row is the input text, the prompt and the generated text."""
        if not writes:
            return CardCode(imports=(), classes=("AutoModel", "AutoTokenizer"), inputs=_text.CARD_INPUTS)
        generate = (
            f'ids = torch.cat((tokens["input_ids"], torch.tensor([{list(prompt)}])), dim=1)',
            "with torch.no_grad():",
            "    logits = model(input_ids=ids).logits[:, -1]",
            "    ids = model.generate(input_ids=ids, max_new_tokens=64, do_sample=False)",
            'print(AutoTokenizer.from_pretrained(".").batch_decode(ids, skip_special_tokens=True))',
        )
        classes = ("AutoModelForCausalLM", "AutoTokenizer")
        return CardCode(imports=(), classes=classes, inputs=_text.CARD_INPUTS, generate=generate)

    def encoder(self, pool: str = "last") -> "nn.Module":
        """Return a `GPT2Model`, `LlamaModel` or its like, without the vocabulary projection."""
        return trimmed(self.lm.base_model)

    def inputs(self, examples: Sequence[Example]) -> Batch:
        """Return given_ids, given_mask int64 [B, G], padded to the longest text; a pair's second text is the next line.

        Texts are cut at the end to `limit` tokens. An empty one is the end token alone, as between two documents.
        """
        import torch

        texts = [f"{e.given}\n{e.pair}" if e.pair else e.given for e in examples]
        # Without the tokenizer's own template: some folders' begins a text twice, or ends it before we go on writing.
        tokens = self.tokenizer(texts, add_special_tokens=False).input_ids
        rows = [torch.tensor([*self.before, *row][: self.limit] or [self.end]) for row in tokens]
        ids = torch.nn.utils.rnn.pad_sequence(rows, batch_first=True, padding_value=self.tokenizer.pad_token_id)
        # From the lengths, not from ids: the pad token may be the end token, of which an empty text consists.
        lengths = torch.tensor([len(row) for row in rows])
        return {"given_ids": ids, "given_mask": (torch.arange(ids.shape[1]) < lengths[:, None]).long()}

    def pooled(self, model: "nn.Module", batch: Batch, pool: str = "last") -> "Tensor":
        """Return [B, D]: the state of the input text's last token, or the mean over all of it."""
        mask = batch["given_mask"]
        states = _states(model, batch["given_ids"], mask)
        return _text.mean(states, mask) if pool == "mean" else _at_last(states, mask)

    def logits(self, model: "nn.Module", batch: Batch, at: "Tensor | None" = None) -> "Tensor":
        """Return next-token logits [B, T, W] of input_ids, or those where `at`, bool [B, T], is True: [N, W]."""
        if at is not None:
            return _read(model, batch, at)[0]
        import torch

        everywhere = torch.ones_like(batch["attention_mask"], dtype=torch.bool)
        # Padding is read like text, so that each column stays in its place; causal attention hides it from the text.
        padded = {**batch, "attention_mask": everywhere.long()}
        logits = _read(model, padded, everywhere)[0]
        return logits.view(*everywhere.shape, -1)

    def logits_and_pooled(self, model: "nn.Module", batch: Batch, at: "Tensor") -> tuple["Tensor", "Tensor"]:
        """Return `logits` at `at` [N, W], and the state [B, D] of the input text's last token, from one pass."""
        logits, states = _read(model, batch, at)
        return logits, _at_last(states, batch["given_mask"])

    def generate(
        self,
        model: "nn.Module",
        batch: Batch,
        prompt: Sequence[int] | Sequence[Sequence[int]],
        max_new_tokens: int,
        **search: Unpack[SearchOptions],
    ) -> list[str]:
        """Return the text after input text and prompt, by transformers' own generation, up to the end token.

        Args:
            prompt: token ids, the same for all rows; or a list for each row.
            search: beams, temperature, top_k, top_p, length_penalty; greedy by default.
        """
        prompts = _text.prompt_rows(prompt, len(batch["given_ids"]))
        pad = self.tokenizer.pad_token_id
        options = {"max_new_tokens": max_new_tokens, "eos_token_id": self.end, "pad_token_id": pad}
        rows = _generate(model, batch, prompts, options, search)
        texts: list[str] = self.tokenizer.batch_decode(rows, skip_special_tokens=True)
        return texts

    def likelihood(self, model: "nn.Module", batch: Batch, sentences: Sequence[Sequence[int]]) -> "Tensor":
        """Return the log-probability of each sentence after input text and start token, [B, K]."""
        return _likelihood(model, batch, self.start, sentences)


def _states(model: "nn.Module", ids: "Tensor", mask: "Tensor") -> "Tensor":
    """Return the last states of tokens [B, T], [B, T, D], without those of learnt tokens, which come first."""
    # No cache: training and evaluation read each text once, and it would hold every layer's keys and values.
    out: Tensor = model(input_ids=ids, attention_mask=mask, use_cache=False).last_hidden_state
    return out[:, -ids.shape[1] :]


def _at_last(states: "Tensor", mask: "Tensor") -> "Tensor":
    import torch

    # By the mask, since the last column of a shorter row is padding.
    return states[torch.arange(len(states), device=states.device), mask.sum(1) - 1]


def _read(model: "nn.Module", batch: Batch, at: "Tensor") -> tuple["Tensor", "Tensor"]:
    """Return logits [N, W] at the positions `at` [B, T] of input_ids, and states [B, M, D] of the joined rows."""
    import torch

    ids, mask, order = _joined(batch)
    # In the order of the joined rows, where padding has moved to the end.
    needed = torch.cat((torch.zeros_like(batch["given_mask"], dtype=torch.bool), at), dim=1).gather(1, order)
    # The forward of PEFT adds the learnt tokens: the whole model has to run.
    if learns_prompts(model):
        out = model(input_ids=ids, attention_mask=mask, output_hidden_states=True, use_cache=False)
        length = ids.shape[1]
        return out.logits[:, -length:][needed], out.hidden_states[-1][:, -length:]
    lm: PreTrainedModel = unwrapped(model)
    # Call the model inside PEFT's wrapper, with its adapters, up to its states: the vocabulary projection is large, and
    # few positions need it.
    states = lm.base_model(input_ids=ids, attention_mask=mask, use_cache=False).last_hidden_state
    return lm.get_output_embeddings()(states[needed]), states


def _joined(batch: Batch) -> tuple["Tensor", "Tensor", "Tensor"]:
    """Return ids and mask [B, M], padding last, and the source column (of G + T) of each entry."""
    import torch

    ids = torch.cat((batch["given_ids"], batch["input_ids"]), dim=1)
    mask = torch.cat((batch["given_mask"], batch["attention_mask"]), dim=1)
    # A stable sort moves padding behind the tokens and keeps their order.
    order = (1 - mask).argsort(dim=1, stable=True)[:, : int(mask.sum(1).max())]
    return ids.gather(1, order), mask.gather(1, order), order


def _generate(
    model: "PreTrainedModel",
    batch: Batch,
    prompts: Sequence[Sequence[int]],
    options: Mapping[str, int],
    search: SearchOptions,
) -> list["Tensor"]:
    """Return the new token ids of each row after its input text and prompt."""
    import torch

    ids, mask = batch["given_ids"], batch["given_mask"].bool()
    rows = [torch.cat((ids[i][mask[i]], ids.new_tensor(prompt))) for i, prompt in enumerate(prompts)]
    lengths = [len(row) for row in rows]
    # transformers skips padding on the left when it counts positions; PEFT with learnt tokens does not: then only rows
    # of one length are generated together.
    together = [[i for i in range(len(rows)) if lengths[i] == n] for n in sorted(set(lengths))]
    written: dict[int, Tensor] = {}
    for group in together if learns_prompts(model) else [list(range(len(rows)))]:
        padded = torch.nn.utils.rnn.pad_sequence(
            [rows[i] for i in group], batch_first=True, padding_value=options["pad_token_id"], padding_side="left"
        )
        longest = padded.shape[1]
        seen = (
            torch.arange(longest, device=ids.device) >= longest - ids.new_tensor([lengths[i] for i in group])[:, None]
        )
        out = model.generate(input_ids=padded, attention_mask=seen.long(), **options, **_search_options(search))
        written |= zip(group, out[:, longest:], strict=True)
    return [written[i] for i in range(len(rows))]


def _search_options(search: SearchOptions) -> dict[str, int | float]:
    """Return our options of generation by transformers' names."""
    temperature = search.get("temperature", 0.0)
    options = {
        "num_beams": search.get("beams", 1),
        "length_penalty": search.get("length_penalty", 1.0),
        "do_sample": temperature > 0,
    }
    if temperature > 0:
        options["temperature"] = temperature
        # Left out, each has the default of transformers.
        if "top_k" in search:
            options["top_k"] = search["top_k"]
        if "top_p" in search:
            options["top_p"] = search["top_p"]
    return options


def _likelihood(model: "nn.Module", batch: Batch, start: int, sentences: Sequence[Sequence[int]]) -> "Tensor":
    """Return the log-probability of each sentence after input text and `start`, [B, K]; keys and values are shared."""
    import torch
    from transformers import DynamicCache

    ids, mask = batch["given_ids"], batch["given_mask"]
    # Not the model's own cache: a sliding-window one could not go back for the next sentence.
    cache = DynamicCache()
    lm: PreTrainedModel = unwrapped(model)
    # For its side effect: it fills the cache with the input text, once for all sentences.
    lm.base_model(input_ids=ids, attention_mask=mask, past_key_values=cache, use_cache=True)
    scores = []
    for sentence in sentences:
        # An empty sentence has probability 1, and no token to run.
        if not sentence:
            scores.append(torch.zeros(len(ids), device=ids.device))
            continue
        tokens = torch.tensor([start, *sentence], device=ids.device).expand(len(ids), -1)
        inputs = tokens[:, :-1]
        out = lm(
            input_ids=inputs,
            attention_mask=torch.cat((mask, torch.ones_like(inputs)), dim=1),
            # Behind a shorter text there is padding, which takes no position.
            position_ids=mask.sum(1, keepdim=True) + torch.arange(inputs.shape[1], device=ids.device),
            past_key_values=cache,
            use_cache=True,
        )
        # Back to the input text alone, for the next sentence.
        cache.crop(-inputs.shape[1])
        # In float32: sums of bfloat16 logarithms would hide the differences between sentences.
        chosen = out.logits.float().log_softmax(-1).gather(-1, tokens[:, 1:, None])
        scores.append(chosen.sum((1, 2)))
    return torch.stack(scores, dim=1)


def load(name: str, weights: bool = True) -> CausalLm:
    """Return a causal language model by shipped name, folder or hub name; without `weights` its shape alone.

    Raises:
        UsageError: if there is no such model, or no way to fetch it.
    """
    from transformers import AutoModelForCausalLM

    return CausalLm(*_text.load(name, PUBLISHED, AutoModelForCausalLM, _from_config, weights=weights), name)


def restore(folder: Path, name: str) -> CausalLm:
    """Return the architecture and tokenizer that `save` wrote; the caller loads the weights."""
    from transformers import AutoConfig

    config = AutoConfig.from_pretrained(folder, trust_remote_code=False)
    return CausalLm(_text.random_model(_from_config, config), _text.tokenizer_of(folder), name)


def tiny() -> CausalLm:
    """Return a Llama of two blocks of width 32 with the shipped vocabulary; random, the same each time."""
    from transformers import AutoConfig

    from cxr_ft.model.assembly import SHIPPED

    folder = SHIPPED / "llama-tiny-random"
    small = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2}
    heads = {"num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 8}
    config = AutoConfig.from_pretrained(folder, **small, **heads)
    return CausalLm(_text.random_model(_from_config, config), _text.tokenizer_of(folder), "causal_lm-tiny-test")


def _from_config(config: "PretrainedConfig") -> "PreTrainedModel":
    from transformers import AutoModelForCausalLM

    return AutoModelForCausalLM.from_config(config)
