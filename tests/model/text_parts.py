"""Tiny models of each family that reads text, random, with the shipped vocabulary; and some rows of text."""

import numpy as np
import torch
from transformers import AutoConfig

from cxr_ft import config, plugins
from cxr_ft.data.dataset.split_dataset import Example
from cxr_ft.model import assembly
from cxr_ft.model.bases import _text, causal_lm, text_encoder

LABELS = ("Edema", "Fracture")
_SIZE = {"hidden_size": 32, "intermediate_size": 64, "num_attention_heads": 4, "num_hidden_layers": 2}
_ENDS = {"bos_token_id": 2, "eos_token_id": 3, "pad_token_id": 0}
_GROUPED = {**_SIZE, **_ENDS, "num_key_value_heads": 2, "head_dim": 8, "max_position_embeddings": 128}
SHAPES = {
    "bert": {**_SIZE, "max_position_embeddings": 64},
    "roberta": {**_SIZE, "max_position_embeddings": 65, "pad_token_id": 0, "type_vocab_size": 1},
    "distilbert": {"dim": 32, "hidden_dim": 64, "n_heads": 4, "n_layers": 2, "max_position_embeddings": 64},
    "gpt2": {**_ENDS, "n_embd": 32, "n_head": 4, "n_layer": 2, "n_inner": 64, "n_positions": 128},
    "llama": _GROUPED,
    "mistral": _GROUPED,
    "qwen2": _GROUPED,
}
ENCODERS = ("bert", "roberta", "distilbert")
CAUSAL = ("gpt2", "llama", "mistral", "qwen2")
TEXTS = ("there is a large effusion on the left.", "no edema.", "", "the heart is enlarged, with a small effusion.")


def base_of(kind, **shape):
    module, name, tiny = (
        (text_encoder, "TextEncoder", "bert-tiny-random")
        if kind in ENCODERS
        else (causal_lm, "CausalLm", "llama-tiny-random")
    )
    tokenizer = _text.tokenizer_of(assembly.SHIPPED / tiny)
    made = AutoConfig.for_model(kind, vocab_size=len(tokenizer), **{**SHAPES[kind], **shape})
    return getattr(module, name)(_text.random_model(module._from_config, made), tokenizer, f"{kind}-test")


def examples(texts=TEXTS, pairs=None, written=("no edema.", "small effusion.")):
    nothing = np.zeros((0, 0), np.uint8)
    return [
        Example(
            nothing,
            np.array([i % 2, 1.0 - i % 2]),
            written[i % len(written)],
            given=text,
            pair=pairs[i] if pairs else "",
        )
        for i, text in enumerate(texts)
    ]


def parts_of(base, method, head="classify", multi_label=True, head_options=(), labels=LABELS, **options):
    raw = {"head": {"name": head, **dict(head_options)}, "tuning": {"name": method, **options}}
    if head == "report":
        raw["head"] = {"max_tokens": 12, **raw["head"]}
    torch.manual_seed(0)
    apply = plugins.load(plugins.TUNING, method).apply
    return assembly.assemble(base, config.resolve(raw), labels, multi_label, apply)


def answers(parts, batch):
    """Logits, by which no sigmoid hides a difference."""

    def of(model):
        if parts.head.output == "scores":
            return model.classifier(parts.base.pooled(model, batch, parts.head.pool))
        return parts.base.logits(model, batch, batch["labels"] >= 0)

    return of


def logits(parts, batch):
    with torch.no_grad():
        return answers(parts, batch)(parts.model.eval())
