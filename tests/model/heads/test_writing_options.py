"""Every option of a head that writes has its effect: what is cut, what is searched, and that a base hands it on."""

import numpy as np
import pytest
import torch
from text_parts import base_of, examples, parts_of
from tuning_parts import LABELS

from cxr_ft.data.dataset.split_dataset import Example
from cxr_ft.model.bases import git
from cxr_ft.model.heads import report

SEARCHES = [
    {"beams": 3},
    {"beams": 3, "length_penalty": 4.0},
    {"beams": 3, "length_penalty": -4.0},
    {"temperature": 3.0, "top_k": 3},
    {"temperature": 3.0, "top_p": 0.3},
]


def test_the_search_of_a_head_has_each_of_its_options():
    drawn = report.Config(temperature=0.5, top_k=7, top_p=0.4)
    assert drawn.search == {"beams": 1, "temperature": 0.5, "top_k": 7, "top_p": 0.4, "length_penalty": 1.0}
    searched = report.Config(beams=3, length_penalty=2.0)
    assert searched.search == {"beams": 3, "temperature": 0.0, "top_k": 0, "top_p": 1.0, "length_penalty": 2.0}


@pytest.mark.parametrize("most", [1, 2, 4, 96])
def test_a_target_that_is_cut_has_no_end(most):
    """Else a model would learn to end in the middle of a sentence."""
    base = git.tiny()
    head = report.attach(base, report.Config(max_tokens=most), LABELS, True, True)
    image = np.zeros((base.image_size, base.image_size), np.uint8)
    text = "there is a large left effusion. no edema."
    ids = base.tokenizer(text, add_special_tokens=False).input_ids
    assert 4 < len(ids) < 95
    labels = head.collate([Example(image, np.zeros(2), text)])["labels"][0]
    assert labels[labels != -100].tolist() == [*ids, base.end][:most]
    assert head.count_cut([text, "no edema.", text]) == (0 if most == 96 else 3 if most < 3 else 2)


def test_a_target_fits_with_its_end_or_counts_as_cut():
    base = git.tiny()
    text = "there is a large left effusion."
    length = len(base.tokenizer(text, add_special_tokens=False).input_ids)
    for most, cut in ((length, 1), (length + 1, 0)):
        head = report.attach(base, report.Config(max_tokens=most), LABELS, True, True)
        labels = head.collate([Example(np.zeros((base.image_size,) * 2, np.uint8), np.zeros(2), text)])["labels"][0]
        assert (labels[labels != -100][-1] == base.end) == (cut == 0)
        assert head.count_cut([text]) == cut


@pytest.mark.parametrize("most", [1, 3])
def test_a_context_is_cut_to_its_longest(most):
    base = git.tiny()
    head = report.attach(base, report.Config(max_context=most), LABELS, True, True)
    image = np.zeros((base.image_size, base.image_size), np.uint8)
    row = Example(image, np.zeros(2), "no edema.", given="cough and fever since a week.")
    batch = head.collate([row])
    context = base.tokenizer(row.given, add_special_tokens=False).input_ids
    assert len(context) > most
    # What comes before the first token that counts: the start token and the context.
    first = int((batch["labels"][0] != -100).int().argmax())
    assert batch["input_ids"][0, : first + 1].tolist() == [base.start, *context[:most]]


@pytest.mark.parametrize("most", [1, 5])
@pytest.mark.parametrize("make", [git.tiny, lambda: base_of("llama"), lambda: base_of("gpt2")])
def test_no_text_is_longer_than_was_allowed(make, most):
    base = make()
    base.end = -2  # a token that never comes
    rows = [Example(np.zeros((base.image_size,) * 2, np.uint8), np.zeros(2), "no edema.", given="a large heart.")]
    decoded = []
    tokenizer = base.tokenizer
    decode = type(tokenizer).batch_decode
    try:
        type(tokenizer).batch_decode = lambda self, ids, **how: decoded.extend(ids) or decode(self, ids, **how)
        base.generate(base.lm.eval(), base.inputs(rows), [base.start], most)
    finally:
        type(tokenizer).batch_decode = decode
    assert [len(row) for row in decoded] == [most]


@pytest.mark.parametrize("search", SEARCHES)
@pytest.mark.parametrize("kind", ["gpt2", "llama"])
def test_a_causal_model_searches_as_transformers_does(kind, search):
    """Each row alone, by transformers' own generation under the names it has for these options."""
    base = base_of(kind)
    with torch.no_grad():  # a random model is so sure of nothing that options would not tell
        base.lm.get_output_embeddings().weight.mul_(8)
    drawn = "temperature" in search
    names = {"beams": "num_beams"}
    upstream_options = {"do_sample": drawn, **{names.get(key, key): value for key, value in search.items()}}
    (one,) = examples(["no edema."])
    prompt_ids = [*base.inputs([one])["given_ids"][0].tolist(), base.start]
    torch.manual_seed(3)
    out = base.lm.eval().generate(
        input_ids=torch.tensor([prompt_ids]),
        max_new_tokens=12,
        eos_token_id=base.end,
        pad_token_id=base.tokenizer.pad_token_id,
        **upstream_options,
    )
    torch.manual_seed(3)
    (written,) = base.generate(base.lm, base.inputs([one]), [base.start], 12, **search)
    assert written == base.tokenizer.decode(out[0, len(prompt_ids) :], skip_special_tokens=True)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ({}, {"beams": 4}),
        ({"beams": 4, "length_penalty": 8.0}, {"beams": 4, "length_penalty": -8.0}),
        ({"temperature": 3.0}, {"temperature": 3.0, "top_k": 2}),
        ({"temperature": 3.0}, {"temperature": 3.0, "top_p": 0.1}),
    ],
)
def test_each_option_changes_what_a_run_writes(one, other):
    def written(options):
        parts = parts_of(base_of("llama"), "full", head="report", head_options=options)
        with torch.no_grad():
            parts.model.get_output_embeddings().weight.mul_(8)
        return parts.head.text.generate(parts.model.eval(), parts.head.collate(examples()))

    assert written(one) == written(one)
    assert written(one) != written(other)
