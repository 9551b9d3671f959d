"""What is read of a text depends on the package's settings alone, whatever a folder's tokenizer says."""

import json

import pytest
import torch
from text_parts import CAUSAL, SHAPES, base_of, examples
from tokenizers.processors import TemplateProcessing
from transformers import AutoTokenizer

from cxr_ft.model.bases import causal_lm, text_encoder

LONG = "the heart is enlarged. " * 60
TEXTS = ("there is a large effusion on the left.", "no edema.", "", LONG)


def no_pad(tokenizer):
    tokenizer.pad_token = None


def pad_beyond_the_embedding(tokenizer):
    tokenizer.add_special_tokens({"pad_token": "<a new pad token>"})


def from_the_left(tokenizer):
    """Set by `with_tokenizer`: transformers does not write what was set on the object."""


def always_padded(tokenizer):
    tokenizer.backend_tokenizer.enable_padding(length=50)


def always_cut(tokenizer):
    tokenizer.backend_tokenizer.enable_truncation(max_length=5)


def _template(tokenizer, single):
    ends = [(token, tokenizer.convert_tokens_to_ids(token)) for token in ("[CLS]", "[SEP]")]
    tokenizer.backend_tokenizer.post_processor = TemplateProcessing(
        single=single, pair=f"{single} $B:1", special_tokens=ends
    )
    tokenizer.bos_token, tokenizer.eos_token = "[CLS]", "[SEP]"


def begins_once(tokenizer):
    _template(tokenizer, "[CLS] $A")


def begins_twice(tokenizer):
    _template(tokenizer, "[CLS] [CLS] $A")


def ends_what_is_read(tokenizer):
    _template(tokenizer, "[CLS] $A [SEP]")


def read(base, texts):
    """Each row's tokens, without padding, and its pooled state."""
    batch = base.inputs(examples(texts))
    ids, mask = (batch["given_ids"], batch["given_mask"]) if base.writes_text else (
        batch["input_ids"], batch["attention_mask"])  # fmt: skip
    with torch.no_grad():
        states = base.pooled(base.encoder().eval(), batch)
    return [row[keep.bool()].tolist() for row, keep in zip(ids, mask, strict=True)], states


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    made = {}
    for kind in SHAPES:
        made[kind] = tmp_path_factory.mktemp(kind)
        base_of(kind).save(made[kind], base_of(kind).lm)
    return made


def with_tokenizer(folders, kind, *settings):
    """The base of a folder whose tokenizer has these settings."""
    folder = folders[kind]
    tokenizer = AutoTokenizer.from_pretrained(folder)
    before = {path: path.read_bytes() for path in folder.iterdir() if path.suffix == ".json"}
    try:
        for change in settings:
            change(tokenizer)
        tokenizer.save_pretrained(folder)
        if from_the_left in settings:
            config = json.loads((folder / "tokenizer_config.json").read_text())
            config |= {"truncation_side": "left", "padding_side": "left"}
            (folder / "tokenizer_config.json").write_text(json.dumps(config))
        return (causal_lm if kind in CAUSAL else text_encoder).load(str(folder))
    finally:
        for path, content in before.items():
            path.write_bytes(content)


@pytest.mark.parametrize("change", [no_pad, pad_beyond_the_embedding, from_the_left, always_padded, always_cut])
@pytest.mark.parametrize("kind", SHAPES)
def test_sides_and_padding_change_nothing(folders, kind, change):
    plain, changed = with_tokenizer(folders, kind), with_tokenizer(folders, kind, change)
    (rows, states), (rows_changed, states_changed) = read(plain, TEXTS), read(changed, TEXTS)
    assert rows == rows_changed
    torch.testing.assert_close(states, states_changed, rtol=0, atol=1e-6)
    # A long text is cut at its end, to as many tokens as there are positions.
    assert rows[3][:5] == read(plain, [LONG[:40]])[0][0][:5] and len(rows[3]) == plain.limit


@pytest.mark.parametrize("kind", CAUSAL)
def test_a_text_begins_once_and_does_not_end(folders, kind):
    once, twice, ended = (
        with_tokenizer(folders, kind, change) for change in (begins_once, begins_twice, ends_what_is_read)
    )
    rows, states = read(once, TEXTS)
    begin, end = once.tokenizer.bos_token_id, once.tokenizer.eos_token_id
    assert all(row[0] == begin and begin not in row[1:] and end not in row for row in rows)
    for other in (twice, ended):
        rows_other, states_other = read(other, TEXTS)
        assert rows_other == rows
        torch.testing.assert_close(states_other, states, rtol=0, atol=1e-6)
