"""GIT's fused path against transformers' own forward: states, loss, every gradient."""

import copy
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from peft import IA3Config, LoraConfig, get_peft_model
from torch import nn
from torch.nn import functional as F
from transformers import GitConfig, GitForCausalLM

from cxr_ft.model.bases import git as base
from cxr_ft.model.bases.git import attention, decoder, dropout, eligibility, frozen_prefix, fused_linear, vision
from cxr_ft.model.heads._next_token_loss import cross_entropy_sum

IGNORE = -100
TOLERANCE = {"rtol": 0, "atol": 1e-5}


def model(seed=0, dropout=0.0, **changes):
    """A small random GIT; weights larger than the usual ones, so that a wrong mask or scale shows."""
    small = {"hidden_size": 32, "intermediate_size": 48, "num_attention_heads": 4, "num_hidden_layers": 2}
    eyes = {**small, "image_size": 32, "patch_size": 16, **changes.pop("vision", {})}
    rates = {"hidden_dropout_prob": dropout, "attention_probs_dropout_prob": dropout}
    shape = {
        **small,
        "vocab_size": 101,
        "max_position_embeddings": 40,
        "bos_token_id": 1,
        "eos_token_id": 2,
        **rates,
        **changes,
    }
    torch.manual_seed(seed)
    lm = GitForCausalLM(GitConfig(vision_config=eyes, initializer_range=0.2, **shape))
    with torch.no_grad():
        for name, p in lm.named_parameters():
            if "norm" in name.lower() or name.endswith("bias") or "temporal" in name:
                p.add_(torch.randn_like(p) * 0.1)
    return lm


def batch_of(lm, rows=3, length=9, images=None, mask="right", seed=1):
    """Random pixels, ids, a mask with padding on one side, and labels that leave some positions out."""
    torch.manual_seed(seed)
    side = lm.config.vision_config.image_size
    shape = (rows, 3, side, side) if images is None else (rows, images, 3, side, side)
    ids = torch.randint(0, lm.config.vocab_size, (rows, length))
    lengths = torch.randint(1, length + 1, (rows, 1))
    place = torch.arange(length)
    everywhere = torch.ones(rows, length, dtype=torch.bool)
    kept = {"right": place < lengths, "left": place >= length - lengths, "none": everywhere}[mask]
    labels = torch.where(kept & (torch.rand(rows, length) < 0.7), ids.roll(-1, 1), IGNORE)
    return {
        "pixel_values": torch.randn(shape),
        "input_ids": ids,
        "attention_mask": None if mask == "none" else kept.long(),
        "labels": labels,
    }


def theirs(lm, batch):
    """Logits at the text, and the summed loss, from transformers' own forward."""
    t = batch["input_ids"].shape[1]
    inputs = {key: batch[key] for key in ("input_ids", "pixel_values", "attention_mask")}
    logits = lm(**inputs).logits[:, -t:]
    return logits, F.cross_entropy(logits.flatten(0, 1), batch["labels"].flatten(), reduction="sum")


def ours(lm, batch):
    """Logits at the counted positions alone, and the summed loss."""
    git, counts = eligibility.git_of(lm), batch["labels"] != IGNORE
    tokens = vision.image_tokens(git, vision.image_states(git, batch["pixel_values"]))
    states = decoder.text_states(git, tokens, batch["input_ids"], batch["attention_mask"], at=counts)
    logits = eligibility.unwrapped(lm).output(states)
    return logits, cross_entropy_sum(logits, batch["labels"][counts])


def check(lm, batch):
    """Equal logits, loss and gradients, and the same parameters get one."""
    assert eligibility.can_use_fused_path(lm)
    lm.zero_grad()
    logits, loss = theirs(lm, batch)
    scale = max(1, int((batch["labels"] != IGNORE).sum()))
    (loss / scale).backward()
    expected = {name: p.grad for name, p in lm.named_parameters()}
    lm.zero_grad()
    mine, loss_mine = ours(lm, batch)
    (loss_mine / scale).backward()
    torch.testing.assert_close(mine, logits[batch["labels"] != IGNORE], **TOLERANCE)
    torch.testing.assert_close(loss_mine / scale, loss / scale, **TOLERANCE)
    for name, p in lm.named_parameters():
        assert (p.grad is None) == (expected[name] is None), name
        if p.grad is not None:
            torch.testing.assert_close(p.grad, expected[name], **TOLERANCE, msg=lambda m, name=name: f"{name}: {m}")


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


PATTERNS = {
    "text": r"git\.encoder\.layer\.\d+\.attention\.self\.(query|value)",
    "vision": r"git\.image_encoder\..*(q_proj|fc2|out_proj)",
    "everywhere": "all-linear",
}


def adapted(lm, where="text", **options):
    """LoRA whose B is no zero, so that the adapter matters from the start."""
    model = get_peft_model(lm, LoraConfig(r=3, lora_alpha=6, target_modules=PATTERNS[where], **options))
    with torch.no_grad():
        for name, p in model.named_parameters():
            if "lora_" in name:
                p.copy_(torch.randn_like(p) * 0.2)
    return model.train()


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
    logits, loss = ours(lm, nothing)
    loss.backward()
    assert logits.shape == (0, 101) and loss.item() == 0
    assert all(p.grad is None or not p.grad.any() for p in lm.parameters())


@pytest.mark.parametrize("reentrant", [True, False])
@pytest.mark.parametrize("lora", [True, False])
def test_gradient_checkpointing(lora, reentrant):
    """Whatever form is asked for, and PEFT's hook on the embeddings beside it, which breaks transformers' forward."""
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
        ours(each, batch)[1].backward()
        grads.append({name: p.grad for name, p in each.named_parameters() if p.grad is not None})
    assert grads[0].keys() == grads[1].keys()
    for name in grads[0]:
        torch.testing.assert_close(grads[0][name], grads[1][name], **TOLERANCE)


def test_checkpointing_draws_the_same_dropout_again():
    results = []
    for checkpointed in (False, True):
        lm = model(dropout=0.3).train()
        if checkpointed:
            lm.gradient_checkpointing_enable()
        torch.manual_seed(9)
        loss = ours(lm, batch_of(lm))[1]
        loss.backward()
        results.append((loss, lm.git.encoder.layer[0].attention.self.query.weight.grad))
    torch.testing.assert_close(results[0], results[1])


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("p", [0.001, 0.1, 0.5, 0.7, 0.9, 0.999])
def test_dropout_drops_its_share_and_keeps_the_mean(p, dtype):
    x = torch.ones(1000, 1003, dtype=dtype)
    torch.manual_seed(0)
    drop = dropout.draw(x, p)
    kept = drop.on(x)
    assert set(kept.unique().tolist()) == {0.0, 1.0}
    share, deviation = float((kept == 0).double().mean()), math.sqrt(p * (1 - p) / x.numel())
    assert abs(share - p) < 5 * deviation + 2**-17
    assert drop.scale == pytest.approx(1 / (1 - p), rel=1e-3)
    pairs = (kept[:, 1:] * kept[:, :-1] == 1).double().mean()  # neighbours are independent
    assert float(pairs) == pytest.approx((1 - p) ** 2, abs=6 * deviation + 1e-4)
    torch.manual_seed(0)
    assert torch.equal(dropout.draw(x, p).on(x), kept)
    assert not torch.equal(dropout.draw(x, p).on(x), kept)


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
        mine = ours(lm, batch)[0]
        torch.manual_seed(0)
        torch.testing.assert_close(mine, theirs(lm, batch)[0][batch["labels"] != IGNORE], rtol=0, atol=1e-4)


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
def test_hooks_fire_and_have_their_say(name, autocast):
    """A hook that changes a module's output changes ours as it changes transformers'."""
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
        plain = theirs(lm, batch)[0].float()
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
        torch.testing.assert_close(tiny.logits(lm, batch), theirs(lm, batch)[0], **TOLERANCE)
    tiny = base.tiny()
    layer = tiny.lm.eval().git.encoder.layer[0]
    usual = layer.forward
    layer.forward = lambda *a, **k: usual(*a, **k) * 1.5
    assert not eligibility.can_use_fused_path(tiny.lm)
    torch.testing.assert_close(tiny.logits(tiny.lm, batch), theirs(tiny.lm, batch)[0], **TOLERANCE)


@pytest.mark.parametrize("images", [None, 2])
def test_stored_work_gives_the_same(images):
    """Tokens where the projection is frozen too, else the tower's states; None where the tower is trained."""
    lm = model(num_image_with_embedding=None if images is None else 3).requires_grad_(False)
    batch = batch_of(lm, images=images)
    expected = ours(lm, batch)[0]
    for trained, key in (
        ("nothing", "image_tokens"),
        ("visual_projection", "image_states"),
        ("layers.1.mlp.fc1", None),
    ):
        for name, p in lm.named_parameters():
            p.requires_grad_(trained in name)
        found = frozen_prefix.prefix(lm)
        assert (found and found.key) == key
        if found:
            stored = {**batch, found.key: found.compute(batch["pixel_values"])}
            tokens = frozen_prefix.tokens_of(lm.git, {found.key: stored[found.key]})
            torch.testing.assert_close(tokens, frozen_prefix.tokens_of(lm.git, batch), rtol=0, atol=0)
            states = decoder.text_states(
                lm.git, tokens, batch["input_ids"], batch["attention_mask"], at=batch["labels"] != IGNORE
            )
            torch.testing.assert_close(lm.output(states), expected, **TOLERANCE)
            assert any("patch_embedding" in name for name in found.weights)
            assert any("visual_projection" in name for name in found.weights) == (key == "image_tokens")


def test_random_vision_is_not_stored():
    assert frozen_prefix.prefix(model(vision={"attention_dropout": 0.1}).requires_grad_(False)) is None


def test_a_model_without_a_part_takes_transformers_forward():
    lm = model().requires_grad_(False)
    del lm.git.embeddings
    assert not eligibility.can_use_fused_path(lm) and frozen_prefix.prefix(lm) is None


def relative(a, b):
    return float((a.float() - b.float()).norm() / b.float().norm())


def test_gradients_of_attention_are_those_of_its_differences():
    inputs = [torch.randn(1, 5, 4, dtype=torch.float64, requires_grad=True) for _ in range(3)]
    bias = torch.randn(1, 1, 2, 5, dtype=torch.float64)

    def attended(*qkv):
        torch.manual_seed(1)  # the same numbers dropped each time
        return attention.attend(*qkv, attention.Shape(2, 3, 0.3), bias)

    assert torch.autograd.gradcheck(attended, inputs)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("rows", [0, 1, 16, 37])
def test_cross_entropy(rows, dtype):
    torch.manual_seed(0)
    logits = (torch.randn(rows, 50) * 5).to(dtype).requires_grad_()
    targets = torch.randint(0, 50, (rows,))
    plain = F.cross_entropy(logits.float(), targets, reduction="sum")
    mine = cross_entropy_sum(logits, targets)
    torch.testing.assert_close(mine, plain, rtol=1e-6, atol=1e-5)
    (expected,) = torch.autograd.grad(plain * 0.5, logits)
    before = logits.detach().clone()
    (grad,) = torch.autograd.grad(mine * 0.5, logits)
    torch.testing.assert_close(grad, expected, rtol=0, atol=1e-6 if dtype == torch.float32 else 2e-3)
    assert torch.equal(logits, before)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64])
def test_whole_models_in_another_precision(dtype):
    lm = model(dropout=0.1).to(dtype).train()
    batch = batch_of(lm)
    batch["pixel_values"] = batch["pixel_values"].to(dtype)
    ours(lm, batch)[1].backward()
    assert all(torch.isfinite(p.grad).all() for p in lm.parameters() if p.grad is not None)
    lm.eval()
    mine, plain = ours(lm, batch)[0], theirs(lm, batch)[0][batch["labels"] != IGNORE]
    assert relative(mine, plain) < (0.05 if dtype == torch.bfloat16 else 1e-6)


def test_an_adapter_that_answers_in_float32_under_autocast():
    config = IA3Config(
        target_modules=r".*(query|value|intermediate\.dense)", feedforward_modules=r".*intermediate\.dense"
    )
    lm, batch = get_peft_model(model(dropout=0.1), config).train(), batch_of(model())
    with torch.autocast("cpu", torch.bfloat16):
        loss = ours(lm, batch)[1]
    loss.backward()
    assert all(torch.isfinite(p.grad).all() for p in lm.parameters() if p.requires_grad)


@pytest.mark.parametrize("where", ["none", *PATTERNS])
def test_bfloat16_is_no_noisier_than_autocast(where):
    """Gradients against float32's: ours may err at most a little more than transformers' own under autocast."""
    lm = model().train() if where == "none" else adapted(model(), where)
    batch = batch_of(model(), rows=4)
    trained = [p for p in lm.parameters() if p.requires_grad]

    def gradients(loss_of, low):
        with torch.autocast("cpu", torch.bfloat16, enabled=low):
            loss = loss_of(lm, batch)[1]
        return torch.cat([g.flatten() for g in torch.autograd.grad(loss.float(), trained)])

    exact = gradients(theirs, False)
    assert relative(gradients(ours, True), exact) < 1.3 * relative(gradients(theirs, True), exact) + 1e-3


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


def test_kept_copies_follow_their_weights():
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
        before = ours(lm, batch)[0].float()
        merged = ours(lm.merge_and_unload(), batch)[0].float()
    assert relative(merged, before) < 0.05


def test_copies_are_neither_saved_nor_copied():
    lm = model().requires_grad_(False).eval()
    with torch.autocast("cpu", torch.bfloat16):
        ours(lm, batch_of(lm))
    assert lm.state_dict().keys() == model().state_dict().keys()
    assert copy.deepcopy(lm).state_dict().keys() == lm.state_dict().keys()
