"""Greedy, sampled and beam search against transformers' own generation, token by token."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import GitConfig, GitForCausalLM

from cxr_ft.errors import UsageError
from cxr_ft.model.bases.git import eligibility, forward, frozen_prefix, generation
from cxr_ft.model.bases.git.beam_search import Search

VOCABULARY = 23


def model(seed):
    """Small and restless: large weights, so that texts differ by row, and end at different lengths."""
    small = {"hidden_size": 16, "intermediate_size": 32, "num_attention_heads": 2, "num_hidden_layers": 2}
    eyes = {**small, "image_size": 32, "patch_size": 16}
    ends = {"bos_token_id": 1, "eos_token_id": 2}
    torch.manual_seed(seed)
    config = GitConfig(vision_config=eyes, vocab_size=VOCABULARY, max_position_embeddings=32, **small, **ends)
    lm = GitForCausalLM(config).eval()
    with torch.no_grad():
        for p in lm.parameters():
            p.add_(torch.randn_like(p) * 0.3)
    return lm


def prompts(rows, length, padded, seed):
    torch.manual_seed(seed)
    ids = torch.randint(3, VOCABULARY, (rows, length))
    start = torch.randint(0, length, (rows, 1)) if padded else torch.zeros(rows, 1, dtype=torch.long)
    return torch.randn(rows, 3, 32, 32), ids, (torch.arange(length) >= start).long()


def texts(ids, end):
    """Rows up to their end token."""
    rows = ids.tolist()
    return [row[: row.index(end) + 1] if end in row else row for row in rows]


def both(lm, pixels, ids, mask, search):
    torch.manual_seed(5)
    expected = forward.plain_generate(lm, pixels, ids, mask, search)
    tokens = frozen_prefix.tokens_of(eligibility.git_of(lm), {"pixel_values": pixels})
    torch.manual_seed(5)
    ours = generation.generate(lm, tokens, ids, mask, search)
    return texts(ours, search.end), texts(expected, search.end)


@settings(max_examples=40, deadline=None, derandomize=True)
@given(
    seed=st.integers(0, 100),
    rows=st.integers(1, 4),
    length=st.integers(1, 5),
    padded=st.booleans(),
    new=st.integers(1, 12),
    beams=st.integers(1, 4),
    end=st.integers(1, VOCABULARY - 1),
    penalty=st.sampled_from([0.0, 1.0, 2.0, -1.0]),
)
def test_the_same_tokens_as_transformers(seed, rows, length, padded, new, beams, end, penalty):
    lm = model(seed)
    search = Search(end=end, pad=0, max_new_tokens=new, beams=beams, length_penalty=penalty)
    ours, expected = both(lm, *prompts(rows, length, padded, seed), search)
    assert ours == expected


@pytest.mark.parametrize("drawn", [{}, {"top_k": 4}, {"top_p": 0.7}, {"top_k": 9, "top_p": 0.4}, {"top_p": 1e-6}])
@pytest.mark.parametrize("temperature", [0.5, 1.0, 3.0])
def test_the_same_draws_as_transformers(drawn, temperature):
    """The same seed draws the same tokens: probabilities, and the use of the generator, are theirs."""
    search = Search(end=1, pad=0, max_new_tokens=10, temperature=temperature, **drawn)
    ours, expected = both(model(3), *prompts(4, 3, True, 3), search)
    assert ours == expected


def test_sampling_differs_and_follows_the_seed():
    lm, (pixels, ids, mask) = model(3), prompts(4, 3, False, 3)
    tokens = frozen_prefix.tokens_of(lm.git, {"pixel_values": pixels})
    search = Search(end=1, pad=0, max_new_tokens=10, temperature=2.0)
    outs = []
    for seed in (0, 0, 1):
        torch.manual_seed(seed)
        outs.append(generation.generate(lm, tokens, ids, mask, search).tolist())
    assert outs[0] == outs[1] != outs[2]


@pytest.mark.parametrize("beams", [1, 3])
def test_it_stops_when_every_row_has_ended(beams):
    """The output's bias makes the end token certain: one step, whatever was allowed."""
    lm, (pixels, ids, mask) = model(0), prompts(3, 2, False, 0)
    with torch.no_grad():
        lm.output.bias[7] = 1e4
    tokens = frozen_prefix.tokens_of(lm.git, {"pixel_values": pixels})
    calls = []
    lm.output.register_forward_hook(lambda *_: calls.append(1))
    out = generation.generate(lm, tokens, ids, mask, Search(end=7, pad=0, max_new_tokens=20, beams=beams))
    assert texts(out, 7) == [[7]] * 3
    assert len(calls) <= beams  # further beams are forced to one more token each before they end


def test_the_image_is_read_once():
    lm, (pixels, ids, mask) = model(0), prompts(2, 2, False, 0)
    seen = []
    key = lm.git.encoder.layer[0].attention.self.key
    key.register_forward_hook(lambda m, i, o: seen.append(o.shape[0] * o.shape[1]))
    tokens = frozen_prefix.tokens_of(lm.git, {"pixel_values": pixels})
    generation.generate(lm, tokens, ids, mask, Search(end=1, pad=0, max_new_tokens=6, beams=4))
    assert seen[0] == 2 * (5 + 2)  # image and prompt, once a row
    assert set(seen[1:]) == {2 * 4}


@settings(max_examples=20, deadline=None, derandomize=True)
@given(seed=st.integers(0, 50), rows=st.integers(1, 3), lengths=st.lists(st.integers(1, 7), min_size=1, max_size=5))
def test_log_probabilities_equal_those_of_whole_forwards(seed, rows, lengths):
    lm, (pixels, *_) = model(seed), prompts(rows, 1, False, seed)
    sentences = torch.full((len(lengths), max(lengths)), -1)
    for row, n in zip(sentences, lengths, strict=True):
        row[:n] = torch.randint(0, VOCABULARY, (n,))
    with torch.no_grad():
        expected = forward.plain_likelihood(lm, pixels, 2, sentences)
    ours = generation.log_probability(lm, frozen_prefix.tokens_of(lm.git, {"pixel_values": pixels}), 2, sentences)
    torch.testing.assert_close(ours, expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    "wrong",
    [
        {"max_new_tokens": 0},
        {"beams": 0},
        {"temperature": -1.0},
        {"top_k": -1},
        {"top_p": 0.0},
        {"beams": 2, "temperature": 1.0},
    ],
)
def test_a_wrong_search_is_one_line(wrong):
    with pytest.raises(UsageError, match="generation"):
        Search(**{"end": 1, "pad": 0, "max_new_tokens": 3, **wrong})


def test_texts_longer_than_the_positions_are_refused():
    lm, (pixels, ids, mask) = model(0), prompts(1, 4, False, 0)
    tokens = frozen_prefix.tokens_of(lm.git, {"pixel_values": pixels})
    with pytest.raises(UsageError, match="32"):
        generation.generate(lm, tokens, ids, mask, Search(end=1, pad=0, max_new_tokens=30))
    ours, expected = both(lm, pixels, ids, mask, Search(end=-1, pad=0, max_new_tokens=29))
    assert ours == expected


def test_right_padded_prompts_are_refused():
    lm, (pixels, ids, mask) = model(0), prompts(2, 4, False, 0)
    mask[0, -1] = 0
    tokens = frozen_prefix.tokens_of(lm.git, {"pixel_values": pixels})
    with pytest.raises(ValueError, match="left"):
        generation.generate(lm, tokens, ids, mask, Search(end=1, pad=0, max_new_tokens=3))
