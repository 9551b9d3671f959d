"""The tuning methods: what each of them promises, on tiny models, and against PEFT alone."""

import dataclasses

import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from tuning_parts import LABELS, answers, batch_of, built, logits, merged, train

from cxr_ft import config, plugins
from cxr_ft.errors import UsageError
from cxr_ft.model import assembly
from cxr_ft.model.bases import git, timm_vision
from cxr_ft.model.protocols import trainable
from cxr_ft.run.record import saved_model
from cxr_ft.run.record.saved_labels import SavedLabels

OPTIONS = [
    ("full", {"targets": "vision.q,text.mlp"}),
    ("lora", {"dora": True}),
    ("lora", {"rslora": True}),
    ("lora", {"pissa": True}),
    ("lora", {"dora": True, "rslora": True, "pissa": True}),
    ("lora", {"targets": "text[1].attn", "dropout": 0.1}),
    ("qlora", {"quantise": "int8"}),
    ("qlora", {"targets": "all"}),
    ("hybrid", {"layers": 3, "targets": "vision.q"}),
    ("oft", {"block": 16, "targets": "all"}),
    ("vera", {"targets": "all", "rank": 16}),
    ("adapter", {"width": 4}),
]


@pytest.mark.parametrize(
    ("method", "options"),
    [pytest.param(*case, marks=[pytest.mark.slow] if i % 4 else []) for i, case in enumerate(OPTIONS)],
)
def test_options_train_what_they_declare_and_reload(method, options, tmp_path):
    """Gradients on exactly the declared, after an evaluation too; frozen weights to the bit; the same after reload."""
    from cxr_ft.run.record import results

    base = git.tiny()
    base.save(tmp_path / "base", base.lm)
    raw = {"model": str(tmp_path / "base"), "tuning": {"name": method, **options}}
    resolved = config.resolve(raw)
    torch.manual_seed(0)
    parts = assembly.build(resolved, LABELS, True)
    batch = batch_of(parts)
    logits(parts, batch)
    chosen = set(trainable(parts.model))
    frozen = {name: p.detach().clone() for name, p in parts.model.named_parameters() if not p.requires_grad}
    loss, _ = parts.head.loss(parts.model.train(), batch)
    loss.backward()
    assert {name for name, p in parts.model.named_parameters() if p.grad is not None} == chosen
    parts.model.zero_grad()
    losses = train(parts, batch)
    assert losses[-1] < losses[0]
    loss, _ = parts.head.loss(parts.model, batch)
    loss.backward()
    silent = [name for name, p in trainable(parts.model).items() if not p.grad.any()]
    assert not silent
    after = dict(parts.model.named_parameters())
    assert all(torch.equal(tensor, after[name]) for name, tensor in frozen.items())
    run = tmp_path / "run"
    run.mkdir()
    results.write(run, results.Result(status="trained", config=resolved.to_json(), config_hash=""))
    saved_model.save(run, parts, SavedLabels(labels=tuple(LABELS), multi_label=True, thresholds=(0.5, 0.5)))
    again, *_ = saved_model.load(run)
    torch.testing.assert_close(logits(again, batch), logits(parts, batch), rtol=0, atol=1e-6)


@pytest.mark.parametrize("head", ["classify", "report"])
def test_lora_scratch_is_lora(head):
    """Same weights: same outputs, same gradients as PEFT's, at a point where neither matrix is zero."""
    own = built("lora_scratch", head=head, targets="q,v,down", rank=4, alpha=6.0)
    peft = built("lora", head=head, targets="q,v,down", rank=4, alpha=6.0)
    peft_parameters = dict(peft.model.named_parameters())

    def name_there(name):
        start = "base_model.model." + name
        if ".lora_" in name:
            return start.replace(".weight", ".default.weight")
        return start.replace("classifier.", "classifier.modules_to_save.default.")

    own_parameters = trainable(own.model)
    assert {name_there(name) for name in own_parameters} == set(trainable(peft.model))
    torch.manual_seed(1)
    with torch.no_grad():
        for name, p in own_parameters.items():
            peft_parameters[name_there(name)].copy_(p.normal_(std=0.2))
    batch = batch_of(own)
    torch.testing.assert_close(logits(own, batch), logits(peft, batch), rtol=0, atol=1e-6)
    for parts in (own, peft):
        parts.head.loss(parts.model, batch)[0].backward()
    for name, p in own_parameters.items():
        torch.testing.assert_close(p.grad, peft_parameters[name_there(name)].grad, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("method", ["lora_scratch", "adapter"])
def test_what_we_wrote_begins_as_the_base_answers_to_the_bit(method):
    plain, tuned = built("full"), built(method)
    batch = batch_of(plain)
    tuned.model.classifier.load_state_dict(plain.model.classifier.state_dict())
    assert torch.equal(logits(plain, batch), logits(tuned, batch))


@pytest.mark.parametrize("method", ["lora_scratch", "lora", "hybrid", "ia3", "vera", "oft"])
@pytest.mark.parametrize("head", ["classify", "report"])
def test_peft_alone_reads_the_folder(method, head, tmp_path):
    parts = built(method, head=head)
    batch = batch_of(parts)
    train(parts, batch)
    (tmp_path / "run").mkdir()
    saved_model.save(tmp_path / "run", parts, SavedLabels(labels=(), multi_label=True))
    fresh = git.tiny()
    plain = fresh.lm
    if head == "classify":
        plain = fresh.encoder()
        plain.classifier = torch.nn.Linear(32, len(LABELS))
    model = PeftModel.from_pretrained(plain, tmp_path / "run" / "model").eval()
    with torch.no_grad():
        torch.testing.assert_close(answers(parts, batch)(model), logits(parts, batch), rtol=0, atol=1e-6)


@pytest.mark.parametrize(
    ("method", "options"),
    [
        ("full", {}),
        ("bitfit", {}),
        ("last_layers", {}),
        ("lora", {}),
        ("lora", {"dora": True}),
        ("lora", {"pissa": True}),
        ("lora_scratch", {}),
        ("hybrid", {}),
        ("ia3", {}),
        ("vera", {}),
        ("oft", {"block": 16}),
        ("adalora", {}),
        ("qlora", {"targets": "q,proj"}),
        ("qlora", {"quantise": "int8"}),
    ],
)
@pytest.mark.parametrize("head", ["classify", pytest.param("report", marks=pytest.mark.slow)])
def test_merged_answers_as_before(method, options, head):
    parts = built(method, head=head, **options)
    batch = batch_of(parts)
    names = {name for name, _ in built("full", head=head).model.named_parameters()}
    train(parts, batch, 8)
    before = logits(parts, batch)
    model, drift = merged(parts, answers(parts, batch))
    assert {name for name, _ in model.named_parameters()} == names
    with torch.no_grad():
        assert drift == pytest.approx(float((answers(parts, batch)(model) - before).abs().max()), abs=1e-7)
    # int8 rounds activations too, which the merged model does not.
    assert drift < (0.05 if options.get("quantise") == "int8" else 1e-5)
    assert float((before - logits(built("full", head=head), batch)).abs().max()) > 1e-4


def test_an_adapter_is_not_merged():
    parts = built("adapter")
    with pytest.raises(UsageError, match="cannot be merged"):
        merged(parts, answers(parts, batch_of(parts)))


def test_bitfit_trains_biases_alone_and_no_inert_one():
    parts = built("bitfit", head="report")
    names = set(trainable(parts.model))
    biases = {name for name, _ in parts.model.named_parameters() if name.endswith(".bias")}
    assert names < biases
    assert biases - names == {n for n in biases if ".key." in n or ".k_proj." in n}
    batch = batch_of(parts)
    before = logits(parts, batch)
    with torch.no_grad():
        for name in biases - names:
            parts.model.get_parameter(name).normal_()
    torch.testing.assert_close(logits(parts, batch), before, rtol=1e-4, atol=1e-4)


def test_bitfit_refuses_a_base_without_biases():
    base = git.tiny()
    for module in base.lm.modules():
        if getattr(module, "bias", None) is not None:
            module.bias = None
    with pytest.raises(UsageError, match=r"bitfit.*git-tiny-test.*has none"):
        built("bitfit", base)


def test_full_on_targets_trains_these_and_the_head():
    parts = built("full", targets="text[1].q")
    assert set(trainable(parts.model)) == {
        "encoder.layer.1.attention.self.query.weight",
        "encoder.layer.1.attention.self.query.bias",
        "classifier.weight",
        "classifier.bias",
    }


def test_hybrid_trains_a_block_whole_and_products_below():
    parts = built("hybrid", targets="text.q,vision.v", layers=1)
    names = set(trainable(parts.model))
    block = {name for name in names if "encoder.layer.1." in name}
    assert block and not any(".lora_" in name for name in block)
    original = dict(git.tiny().lm.git.encoder.layer[1].named_parameters())
    assert len(block) == len(original)
    assert all(".lora_" in name or "classifier" in name for name in names - block)
    assert any("layer.0.attention.self.query.lora_A" in name for name in names)


@pytest.mark.parametrize(
    ("method", "options", "words"),
    [
        ("lora", {"pissa": True, "rank": 64}, r"rank: 64.*a matrix of 32 x 32.*give 32 or less"),
        ("oft", {"block": 24}, r"block: 24 does not divide the 32 inputs"),
        ("oft", {"block": 1}, r"block"),
        ("hybrid", {"layers": 4}, r"4 blocks"),
        ("hybrid", {"layers": 0}, r"use lora"),
        ("hybrid", {"layers": 1, "targets": "text[1].q"}, r"only in the blocks that are trained fully"),
        ("qlora", {"quantise": "int4"}, r"int4.*int8, nf4"),
        ("adapter", {"width": 0}, r"width: 0"),
        ("adalora", {"rank": 4, "start": 4}, r"start: 4.*above rank \(4\)"),
        ("vera", {"rank": 0}, r"rank: 0"),
        ("vera", {"dropout": 1.0}, r"dropout: 1.0"),
        ("ia3", {"targets": "gate"}, r"no target 'gate'"),
    ],
)
def test_what_cannot_be_done_is_refused_with_a_reason(method, options, words):
    with pytest.raises(UsageError, match=words):
        built(method, **options)


@pytest.mark.parametrize("method", ["adapter", "lora_scratch", "vera", "oft"])
def test_convolutions_are_refused_by_name(method):
    with pytest.raises(UsageError, match=rf"{method} changes linear layers.*patch_embed\.proj.*Conv2d.*lora"):
        built(method, timm_vision.tiny(), targets="conv", **({"block": 2} if method == "oft" else {}))


def test_every_method_has_frozen_options_and_says_no_to_others():
    for method in plugins.choices(plugins.TUNING):
        module = plugins.load(plugins.TUNING, method)
        assert dataclasses.fields(module.Config) is not None
        with pytest.raises(UsageError, match="unknown key"):
            config.resolve({"tuning": {"name": method, "nonsense": 1}})


def test_lora_in_a_peft_config_is_what_was_configured():
    parts = built("lora", rslora=True, dora=True, rank=4, alpha=3.0)
    made = parts.model.peft_config["default"]
    assert isinstance(made, LoraConfig)
    assert (made.use_dora, made.use_rslora, made.r, made.lora_alpha) == (True, True, 4, 3.0)
    names = [
        name
        for name, _ in git.tiny().encoder().named_modules()
        if name.endswith((".query", ".value", "q_proj", "v_proj"))
    ]
    reference = get_peft_model(
        git.tiny().encoder(), LoraConfig(r=4, lora_alpha=3.0, use_dora=True, use_rslora=True, target_modules=names)
    )
    ours = {n: tuple(p.shape) for n, p in trainable(parts.model).items() if "classifier" not in n}
    assert ours == {n: tuple(p.shape) for n, p in trainable(reference).items()}
