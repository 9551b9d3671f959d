"""Hooked, patched, replaced and absent modules: the fused path calls them or leaves the forward to transformers."""

import pytest
import torch
from fused_path import TOLERANCE, batch_of, by_transformers, model, relative
from torch import nn

from cxr_ft.model.bases import git as base
from cxr_ft.model.bases.git import eligibility, frozen_prefix

HOOKED = [
    "git",
    "git.encoder",
    "git.encoder.layer.0",
    "git.encoder.layer.1.attention",
    "git.encoder.layer.1.attention.self",
    "git.encoder.layer.1.attention.self.dropout",
    "git.encoder.layer.1.attention.output",
    "git.encoder.layer.0.attention.output.dropout",
    "git.encoder.layer.0.intermediate",
    "git.encoder.layer.1.output.dense",
    "git.embeddings",
    "git.image_encoder.vision_model.encoder.layers.0",
    "git.image_encoder.vision_model.encoder.layers.1.self_attn",
    "git.image_encoder.vision_model.encoder.layers.1.mlp",
    "git.visual_projection",
    "output",
]


@pytest.mark.parametrize("autocast", [False, True])
@pytest.mark.parametrize("name", HOOKED)
def test_hooks_fire_and_change_the_output(name, autocast):
    """A hook that changes a module's output changes the fused path's result as it changes transformers'."""
    lm = model().eval()
    git, batch = base.Git(lm, None, "random"), batch_of(lm, length=6)
    before = git.logits(lm, batch).float()
    fired = []

    def louder(module, inputs, output):
        fired.append(name)
        if isinstance(output, tuple):
            return (output[0] * 3, *output[1:])
        if isinstance(output, torch.Tensor):
            return output * 3
        return None

    lm.get_submodule(name).register_forward_hook(louder)
    with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
        after = git.logits(lm, batch).float()
        assert fired
        plain = by_transformers(lm, batch)[0].float()
    assert relative(after, plain) < (0.05 if autocast else 1e-6)
    if name not in ("git", "git.encoder"):  # their outputs are records, which the hook leaves alone
        assert relative(after, before) > 0.05


def test_a_replaced_or_patched_module_runs():
    class Louder(nn.Module):
        def __init__(self, inner):
            super().__init__()
            self.inner = inner

        def forward(self, *inputs):
            return self.inner(*inputs) * 1.5

    for parent, child in (("git.encoder.layer.0.attention", "output"), ("git.encoder.layer.1", "output")):
        tiny = base.tiny()
        lm = tiny.lm.eval()
        setattr(lm.get_submodule(parent), child, Louder(lm.get_submodule(f"{parent}.{child}")))
        batch = batch_of(lm, length=6)
        assert eligibility.can_use_fused_path(lm)
        torch.testing.assert_close(tiny.logits(lm, batch), by_transformers(lm, batch)[0], **TOLERANCE)
    tiny = base.tiny()
    layer = tiny.lm.eval().git.encoder.layer[0]
    usual = layer.forward
    layer.forward = lambda *a, **k: usual(*a, **k) * 1.5
    assert not eligibility.can_use_fused_path(tiny.lm)
    torch.testing.assert_close(tiny.logits(tiny.lm, batch), by_transformers(tiny.lm, batch)[0], **TOLERANCE)


def test_a_model_without_a_part_takes_transformers_forward():
    lm = model().requires_grad_(False)
    del lm.git.embeddings
    assert not eligibility.can_use_fused_path(lm) and frozen_prefix.prefix(lm) is None
