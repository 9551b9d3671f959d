"""GIT's fused path in bfloat16 and float64: no noisier than autocast, and the low-precision copies it keeps."""

import copy

import pytest
import torch
from fused_path import IGNORE, PATTERNS, adapted, batch_of, by_fused_path, by_transformers, model, relative
from peft import IA3Config, LoraConfig, get_peft_model
from torch import nn

from cxr_ft.model.bases.git import fused_linear


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64])
def test_whole_models_in_another_precision(dtype):
    lm = model(dropout=0.1).to(dtype).train()
    batch = batch_of(lm)
    batch["pixel_values"] = batch["pixel_values"].to(dtype)
    by_fused_path(lm, batch)[1].backward()
    assert all(torch.isfinite(p.grad).all() for p in lm.parameters() if p.grad is not None)
    lm.eval()
    fused, plain = by_fused_path(lm, batch)[0], by_transformers(lm, batch)[0][batch["labels"] != IGNORE]
    assert relative(fused, plain) < (0.05 if dtype == torch.bfloat16 else 1e-6)


def test_an_adapter_that_answers_in_float32_under_autocast():
    config = IA3Config(
        target_modules=r".*(query|value|intermediate\.dense)", feedforward_modules=r".*intermediate\.dense"
    )
    lm, batch = get_peft_model(model(dropout=0.1), config).train(), batch_of(model())
    with torch.autocast("cpu", torch.bfloat16):
        loss = by_fused_path(lm, batch)[1]
    loss.backward()
    assert all(torch.isfinite(p.grad).all() for p in lm.parameters() if p.requires_grad)


@pytest.mark.parametrize("where", ["none", *PATTERNS])
def test_bfloat16_is_no_noisier_than_autocast(where):
    """Gradients against float32's: the fused path errs at most a little more than transformers under autocast."""
    lm = model().train() if where == "none" else adapted(model(), where)
    batch = batch_of(model(), rows=4)
    trained = [p for p in lm.parameters() if p.requires_grad]

    def gradients(loss_of, low):
        with torch.autocast("cpu", torch.bfloat16, enabled=low):
            loss = loss_of(lm, batch)[1]
        return torch.cat([g.flatten() for g in torch.autograd.grad(loss.float(), trained)])

    exact = gradients(by_transformers, False)
    assert (
        relative(gradients(by_fused_path, True), exact) < 1.3 * relative(gradients(by_transformers, True), exact) + 1e-3
    )


@pytest.mark.parametrize("rate", [0.0, 0.5])
def test_a_small_adapter_survives_bfloat16(rate):
    """Ten thousand times smaller than its base's part: PEFT under autocast loses most of it, one product none."""
    torch.manual_seed(0)
    holder = nn.Sequential(nn.Linear(256, 256)).requires_grad_(False)
    lora = get_peft_model(holder, LoraConfig(r=4, target_modules=["0"], lora_dropout=rate)).base_model.model[0].eval()
    x = torch.randn(4096, 256)
    with torch.no_grad():
        lora.lora_B["default"].weight.normal_(std=1e-5)
        x = x.bfloat16().float()
        delta = lora(x) - lora.base_layer(x)
        with torch.autocast("cpu", torch.bfloat16):
            low = x.bfloat16()
            rounded = fused_linear.apply_linears([lora.base_layer], low)[0].float()
            shares = [
                float(((out.float() - rounded) * delta).sum() / delta.square().sum())
                for out in (fused_linear.apply_linears([lora], low)[0], lora(low))
            ]
    assert shares[0] == pytest.approx(1, abs=0.2)
    assert shares[1] < 0.6


def test_cached_copies_follow_their_weights():
    """Through an optimizer's step, a load, and a write to `.data`, as merging an adapter does."""
    layer = nn.Linear(8, 8).requires_grad_(False)
    x = torch.randn(3, 8).bfloat16()
    changes = [
        lambda: layer.weight.add_(1.0),
        lambda: layer.load_state_dict({k: v + 1 for k, v in layer.state_dict().items()}),
        lambda: layer.weight.data.add_(torch.ones(8, 8)),
        lambda: setattr(layer.weight, "data", layer.weight.data * 2),
    ]
    with torch.autocast("cpu", torch.bfloat16):
        for change in [lambda: None, *changes]:
            change()
            torch.testing.assert_close(fused_linear.apply_linears([layer], x)[0], layer(x))


def test_merging_an_adapter_after_training_in_bfloat16():
    lm = adapted(model(), "everywhere").eval()
    batch = batch_of(model())
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        before = by_fused_path(lm, batch)[0].float()
        merged = by_fused_path(lm.merge_and_unload(), batch)[0].float()
    assert relative(merged, before) < 0.05


def test_copies_are_neither_saved_nor_copied():
    lm = model().requires_grad_(False).eval()
    with torch.autocast("cpu", torch.bfloat16):
        by_fused_path(lm, batch_of(lm))
    assert lm.state_dict().keys() == model().state_dict().keys()
    assert copy.deepcopy(lm).state_dict().keys() == lm.state_dict().keys()
