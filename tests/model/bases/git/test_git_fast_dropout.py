"""Dropout and attention of GIT's fused path: shares, places, means and gradients."""

import math

import pytest
import torch
from fused_path import IGNORE, batch_of, by_fused_path, by_transformers, model
from torch import nn

from cxr_ft.model.bases.git import attention, dropout


def test_checkpointing_draws_the_same_dropout_again():
    results = []
    for checkpointed in (False, True):
        lm = model(dropout=0.3).train()
        if checkpointed:
            lm.gradient_checkpointing_enable()
        torch.manual_seed(9)
        loss = by_fused_path(lm, batch_of(lm))[1]
        loss.backward()
        results.append((loss, lm.git.encoder.layer[0].attention.self.query.weight.grad))
    torch.testing.assert_close(results[0], results[1])


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("p", [0.001, 0.1, 0.5, 0.7, 0.9, 0.999])
def test_dropout_drops_its_share_and_keeps_the_mean(p, dtype):
    x = torch.ones(1000, 1003, dtype=dtype)
    torch.manual_seed(0)
    drop = dropout.draw(x, p)
    ones = drop.on(x)
    assert set(ones.unique().tolist()) == {0.0, 1.0}
    share, deviation = float((ones == 0).double().mean()), math.sqrt(p * (1 - p) / x.numel())
    assert abs(share - p) < 5 * deviation + 2**-17
    assert drop.scale == pytest.approx(1 / (1 - p), rel=1e-3)
    pairs = (ones[:, 1:] * ones[:, :-1] == 1).double().mean()  # neighbours are independent
    assert float(pairs) == pytest.approx((1 - p) ** 2, abs=6 * deviation + 1e-4)
    torch.manual_seed(0)
    assert torch.equal(dropout.draw(x, p).on(x), ones)
    assert not torch.equal(dropout.draw(x, p).on(x), ones)


def test_the_threshold_is_exact():
    """In bfloat16 every pattern can be tried: exactly `count` of them are dropped."""
    every = torch.arange(-(2**15), 2**15, dtype=torch.int16).view(torch.bfloat16)
    for p in (2**-16, 0.1, 0.25, 0.49, 0.498, 0.4981, 0.5, 0.51, 0.9, 0.99):
        drop = dropout.draw(every, p)._replace(patterns=every)
        dropped = int((drop.on(torch.ones_like(every)) == 0).sum())
        assert abs(dropped - p * 2**16) <= 0.5 + (p > 0.5)
        assert drop.scale == pytest.approx(1 / (1 - dropped / 2**16), rel=1e-4)


def test_dropout_hits_the_same_places_as_transformers():
    """With all dropped in one kind of place both forwards give the same: nothing comes through."""
    for place in ("attention.self.dropout", "attention.output.dropout", "output.dropout", "embeddings.dropout"):
        lm = model().train()
        for name, module in lm.named_modules():
            if (
                isinstance(module, nn.Dropout)
                and name.endswith(place)
                and not (place == "output.dropout" and "attention" in name)
            ):
                module.p = 1.0
        batch = batch_of(lm, mask="none")
        torch.manual_seed(0)
        fused = by_fused_path(lm, batch)[0]
        torch.manual_seed(0)
        torch.testing.assert_close(fused, by_transformers(lm, batch)[0][batch["labels"] != IGNORE], rtol=0, atol=1e-4)


def test_dropout_in_attention_has_the_mean_of_none():
    torch.manual_seed(0)
    q, k, v = (torch.randn(2, 5, 8, requires_grad=True) for _ in range(3))
    none = attention.attend(q, k, v, attention.Shape(4, 2, 0.0))
    many = torch.stack([attention.attend(q, k, v, attention.Shape(4, 2, 0.2)) for _ in range(4000)])
    torch.testing.assert_close(many.mean(0), none, rtol=0, atol=0.06)
    assert float(many.var(0).min()) > 0


@pytest.mark.parametrize("graph", [True, False])
def test_attentions_kernels_agree(graph):
    torch.manual_seed(0)
    inputs = [torch.randn(2, 7, 12, requires_grad=graph) for _ in range(3)]
    shape, bias = attention.Shape(4, 3, 0.0), torch.randn(2, 1, 4, 7)
    outs = [kernel(*inputs, shape, bias) for kernel in (attention.products, attention.fused)]
    torch.testing.assert_close(*outs)
    if graph:
        weights = torch.randn_like(outs[0])
        grads = [torch.autograd.grad((out * weights).sum(), inputs) for out in outs]
        torch.testing.assert_close(*grads)


def test_gradients_of_attention_are_those_of_its_differences():
    inputs = [torch.randn(1, 5, 4, dtype=torch.float64, requires_grad=True) for _ in range(3)]
    bias = torch.randn(1, 1, 2, 5, dtype=torch.float64)

    def attended(*qkv):
        torch.manual_seed(1)  # the same numbers dropped each time
        return attention.attend(*qkv, attention.Shape(2, 3, 0.3), bias)

    assert torch.autograd.gradcheck(attended, inputs)
