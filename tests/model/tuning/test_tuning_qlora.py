"""QLoRA against plain LoRA on the rounded weights, and against transformers and PEFT alone."""

import importlib.util
import json

import pytest
import torch
from peft import PeftModel
from tuning_parts import answers, batch_of, built, logits, train, wide

from cxr_ft.errors import UsageError
from cxr_ft.model.bases import git
from cxr_ft.model.protocols import trainable
from cxr_ft.model.tuning import _quantised
from cxr_ft.run.record import saved_model
from cxr_ft.run.record.saved_labels import SavedLabels


def test_qlora_without_bitsandbytes_is_refused_before_loading(monkeypatch):

    find = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name, *rest: None if name == "bitsandbytes" else find(name, *rest)
    )
    base = git.load("microsoft/git-base", weights=False)
    with pytest.raises(UsageError, match=r"qlora needs bitsandbytes: pip install bitsandbytes"):
        built("qlora", base)


def test_qlora_in_four_bits_is_lora_on_the_rounded_weights():
    """Logits and gradients are those of plain LoRA on a base that holds the same, rounded, numbers; before and after an
    evaluation, with a head of few rows."""
    four = built("qlora", wide(), rank=4)
    rounded = built("lora", wide(), rank=4)
    inner, plain = four.model.get_base_model(), rounded.model.get_base_model()
    hit = [name for name, module in inner.named_modules() if _quantised.is_quantised(module)]
    assert len(hit) == 24
    with torch.no_grad():
        for name in hit:
            numbers = _quantised.dequantised(inner.get_submodule(name)).weight
            layer = plain.get_submodule(name)
            assert not torch.equal(layer.weight, numbers)
            torch.testing.assert_close(layer.weight, numbers, rtol=0, atol=0.16 * float(layer.weight.abs().max()))
            layer.weight.copy_(numbers)
    torch.manual_seed(1)
    with torch.no_grad():
        for (name, p), (other, q) in zip(trainable(four.model).items(), trainable(rounded.model).items(), strict=True):
            assert name == other
            q.copy_(p.normal_(std=0.2))
    batch = batch_of(four)
    torch.testing.assert_close(logits(four, batch), logits(rounded, batch), rtol=0, atol=1e-6)
    for parts in (four, rounded):
        torch.manual_seed(2)  # of dropout
        parts.head.loss(parts.model.train(), batch)[0].backward()
    for (_, p), (_, q) in zip(trainable(four.model).items(), trainable(rounded.model).items(), strict=True):
        torch.testing.assert_close(p.grad, q.grad, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("kind", ["nf4", "int8"])
def test_transformers_and_peft_alone_read_what_qlora_left(kind, tmp_path):
    from transformers import BitsAndBytesConfig, GitForCausalLM

    base = wide()
    base.save(tmp_path / "base", base.lm)
    parts = built("qlora", git.load(str(tmp_path / "base")), head="report", quantise=kind)
    batch = batch_of(parts)
    train(parts, batch)
    expected = logits(parts, batch)
    (tmp_path / "run").mkdir()
    saved_model.save(tmp_path / "run", parts, SavedLabels(labels=(), multi_label=True))
    folder = tmp_path / "run" / "model"
    how = BitsAndBytesConfig.from_dict(json.loads((folder / "quantization_config.json").read_text()))
    plain = GitForCausalLM.from_pretrained(
        tmp_path / "base", quantization_config=how, dtype=torch.float32, device_map="cpu"
    )
    for module in plain.modules():
        if type(module).__name__ == "Linear4bit":
            module.support_avx512bf16_for_cpu = False
    model = PeftModel.from_pretrained(plain, folder).eval()
    with torch.no_grad():
        torch.testing.assert_close(answers(parts, batch)(model), expected, rtol=0, atol=1e-5)


def test_quantised_weights_take_a_quarter_and_an_eighth():
    plain, eight, four = (
        sum(
            p.nbytes for n, p in built(m, wide(), **o).model.named_parameters() if n.endswith("query.base_layer.weight")
        )
        for m, o in (("lora", {}), ("qlora", {"quantise": "int8"}), ("qlora", {}))
    )
    assert (plain, plain) == (4 * eight, 8 * four)


def test_four_bits_come_back_as_they_were_stored():
    """Nearest of NF4's 16 levels times the block's largest number: a kernel that mixes up scales would not pass."""
    from bitsandbytes.functional import get_4bit_type

    base = wide()
    layer = base.lm.git.encoder.layer[0].intermediate.dense
    weight = layer.weight.detach().clone()
    levels = get_4bit_type("nf4", device="cpu")
    scales = weight.reshape(-1, 64).abs().amax(1, keepdim=True)
    nearest = (weight.reshape(-1, 64) / scales).sub(levels.view(16, 1, 1)).abs().argmin(0)
    expected = (levels[nearest] * scales).view_as(weight)
    model = built("qlora", base).model.get_base_model()
    read = _quantised.dequantised(model.encoder.layer[0].intermediate.dense).weight
    # The scales are quantised too, to a part in a hundred.
    torch.testing.assert_close(read, expected, rtol=0.02, atol=1e-6)


def test_rows_that_are_no_whole_blocks_stay_as_they_are():
    base = git.tiny()
    names = _quantised.layers_of(base.lm, base, "nf4")
    assert names and all(name.endswith(("output.dense", "fc2")) and "attention" not in name for name in names)
    assert len(_quantised.layers_of(base.lm, base, "int8")) == 24


@pytest.mark.parametrize("kind", ["nf4", "int8"])
def test_autocast_leaves_what_is_frozen_as_it_is(kind):
    parts = built("qlora", wide(), quantise=kind)
    batch = batch_of(parts)
    frozen = {name: p.detach().clone() for name, p in parts.model.named_parameters() if not p.requires_grad}
    with torch.autocast("cpu", torch.bfloat16):
        loss, _ = parts.head.loss(parts.model.train(), batch)
    loss.backward()
    assert all(torch.isfinite(p.grad).all() for p in trainable(parts.model).values())
    after = dict(parts.model.named_parameters())
    assert all(p.dtype == after[name].dtype and torch.equal(p, after[name]) for name, p in frozen.items())
