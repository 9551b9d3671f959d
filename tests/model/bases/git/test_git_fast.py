"""GIT's fused path against transformers' own forward: states, loss, every gradient, and what is stored of it."""

import pytest
import torch
from fused_path import IGNORE, PATTERNS, TOLERANCE, adapted, batch_of, by_fused_path, check, model
from hypothesis import given, settings
from hypothesis import strategies as st
from peft import IA3Config, get_peft_model
from torch.nn import functional as F

from cxr_ft.model.bases.git import decoder, frozen_prefix
from cxr_ft.model.heads._next_token_loss import cross_entropy_sum


@settings(max_examples=25, deadline=None, derandomize=True)
@given(
    width=st.sampled_from([8, 24, 40]),
    heads=st.sampled_from([1, 2, 4]),
    layers=st.integers(1, 3),
    eyes=st.sampled_from([(16, 8), (32, 8), (48, 16)]),
    vision_width=st.sampled_from([8, 16]),
    vocabulary=st.integers(5, 70),
    rows=st.integers(1, 4),
    length=st.integers(1, 12),
    mask=st.sampled_from(["right", "left", "none"]),
    images=st.sampled_from([None, 1, 2, 3]),
    seed=st.integers(0, 5),
)
def test_any_shape_equals_transformers(
    width, heads, layers, eyes, vision_width, vocabulary, rows, length, mask, images, seed
):
    sizes = {"image_size": eyes[0], "patch_size": eyes[1], "hidden_size": vision_width, "num_hidden_layers": 2}
    lm = model(
        seed,
        hidden_size=width,
        num_attention_heads=heads,
        num_hidden_layers=layers,
        vocab_size=vocabulary,
        pad_token_id=0,
        num_image_with_embedding=None if images is None else 3,
        vision=sizes,
    )
    check(lm.train(), batch_of(lm, rows, length, images, mask, seed))


@pytest.mark.parametrize("where", PATTERNS)
@pytest.mark.parametrize("options", [{}, {"use_dora": True}, {"use_rslora": True}, {"bias": "all"}])
def test_under_lora(where, options):
    check(adapted(model(), where, **options), batch_of(model(), mask="left"))


def test_under_another_adapter():
    config = IA3Config(
        target_modules=r".*(query|value|intermediate\.dense)", feedforward_modules=r".*intermediate\.dense"
    )
    check(get_peft_model(model(), config).train(), batch_of(model()))


@pytest.mark.parametrize("trained", ["image_encoder", "encoder.layer.1", "visual_projection", "output", "word_embed"])
def test_with_a_part_trained(trained):
    lm = model().requires_grad_(False)
    for name, p in lm.named_parameters():
        p.requires_grad_(trained in name)
    check(lm.train(), batch_of(lm))


def test_no_label_counts():
    lm, nothing = model().train(), batch_of(model())
    nothing["labels"] = torch.full_like(nothing["labels"], IGNORE)
    logits, loss = by_fused_path(lm, nothing)
    loss.backward()
    assert logits.shape == (0, 101) and loss.item() == 0
    assert all(p.grad is None or not p.grad.any() for p in lm.parameters())


@pytest.mark.parametrize("reentrant", [True, False])
@pytest.mark.parametrize("lora", [True, False])
def test_gradient_checkpointing(lora, reentrant):
    """Whatever form is configured, also with PEFT's hook on the embeddings, which breaks transformers' forward."""
    plain, lm = model(), model()
    if lora:
        torch.manual_seed(4)
        plain = adapted(plain, "everywhere")
    lm.gradient_checkpointing_enable({"use_reentrant": reentrant})
    lm.enable_input_require_grads()
    if lora:
        torch.manual_seed(4)
        lm = adapted(lm, "everywhere")
    assert any(getattr(m, "gradient_checkpointing", False) for m in lm.modules())
    batch, grads = batch_of(model()), []
    for each in (plain.train(), lm.train()):
        by_fused_path(each, batch)[1].backward()
        grads.append({name: p.grad for name, p in each.named_parameters() if p.grad is not None})
    assert grads[0].keys() == grads[1].keys()
    for name in grads[0]:
        torch.testing.assert_close(grads[0][name], grads[1][name], **TOLERANCE)


@pytest.mark.parametrize("images", [None, 2])
def test_stored_work_gives_the_same(images):
    """Tokens where the projection is frozen too, else the tower's states; None where the tower is trained."""
    lm = model(num_image_with_embedding=None if images is None else 3).requires_grad_(False)
    batch = batch_of(lm, images=images)
    expected = by_fused_path(lm, batch)[0]
    for trained, key in (
        ("nothing", "image_tokens"),
        ("visual_projection", "image_states"),
        ("layers.1.mlp.fc1", None),
    ):
        for name, p in lm.named_parameters():
            p.requires_grad_(trained in name)
        stored_part = frozen_prefix.prefix(lm)
        assert (stored_part and stored_part.key) == key
        if stored_part:
            stored = {**batch, stored_part.key: stored_part.compute(batch["pixel_values"])}
            tokens = frozen_prefix.tokens_of(lm.git, {stored_part.key: stored[stored_part.key]})
            torch.testing.assert_close(tokens, frozen_prefix.tokens_of(lm.git, batch), rtol=0, atol=0)
            states = decoder.text_states(
                lm.git, tokens, batch["input_ids"], batch["attention_mask"], at=batch["labels"] != IGNORE
            )
            torch.testing.assert_close(lm.output(states), expected, **TOLERANCE)
            assert any("patch_embedding" in name for name in stored_part.weights)
            assert any("visual_projection" in name for name in stored_part.weights) == (key == "image_tokens")


def test_random_vision_is_not_stored():
    assert frozen_prefix.prefix(model(vision={"attention_dropout": 0.1}).requires_grad_(False)) is None


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("rows", [0, 1, 16, 37])
def test_cross_entropy(rows, dtype):
    torch.manual_seed(0)
    logits = (torch.randn(rows, 50) * 5).to(dtype).requires_grad_()
    targets = torch.randint(0, 50, (rows,))
    plain = F.cross_entropy(logits.float(), targets, reduction="sum")
    summed = cross_entropy_sum(logits, targets)
    torch.testing.assert_close(summed, plain, rtol=1e-6, atol=1e-5)
    (expected,) = torch.autograd.grad(plain * 0.5, logits)
    before = logits.detach().clone()
    (grad,) = torch.autograd.grad(summed * 0.5, logits)
    torch.testing.assert_close(grad, expected, rtol=0, atol=1e-6 if dtype == torch.float32 else 2e-3)
    assert torch.equal(logits, before)
