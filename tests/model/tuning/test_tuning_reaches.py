"""What the configuration of a method says is what its layers are: numbers of options, blocks, heads and counts."""

import pytest
import torch
from text_parts import base_of, parts_of
from tuning_parts import LABELS, batch_of, built, wide

from cxr_ft import config, plugins
from cxr_ft.model import assembly
from cxr_ft.model.bases import git
from cxr_ft.model.protocols import trainable
from cxr_ft.run.training.train import plan

#: Methods of PEFT with all options of `LowRank`.
LOW_RANK = ("lora", "qlora", "hybrid", "adalora")
TRAINING = [
    name for name in plugins.choices(plugins.TUNING) if plugins.load(plugins.TUNING, name).TRAINS
]  # every method that trains


def modules_with(parts, attribute):
    adapted = [module for module in parts.model.modules() if hasattr(module, attribute)]
    assert adapted
    return adapted


@pytest.mark.parametrize(
    ("options", "scale", "rate"),
    [
        ({"rank": 4, "alpha": 6.0, "dropout": 0.25}, 1.5, 0.25),
        ({"rank": 4}, 2.0, 0.0),  # the default: alpha is twice the rank
    ],
)
@pytest.mark.parametrize("method", LOW_RANK)
def test_rank_alpha_and_dropout_reach_every_low_rank_layer(method, options, scale, rate):
    parts = built(method, wide() if method == "qlora" else None, **options)
    layers = modules_with(parts, "lora_A")
    rank = 6 if method == "adalora" else 4  # AdaLoRA begins with half as many again
    for layer in layers:
        down = layer.lora_A["default"]
        assert len(down if method == "adalora" else down.weight) == rank
        # AdaLoRA divides by the rank in its forward pass, by a number that it takes from `ranknum`.
        assert layer.scaling["default"] == pytest.approx(scale * 4 if method == "adalora" else scale)
        assert getattr(layer.lora_dropout["default"], "p", 0.0) == rate
    if method == "adalora":
        assert parts.model.peft_config["default"].target_r == 4


def test_lora_scratch_has_the_options_of_lora():
    for layer in modules_with(built("lora_scratch", rank=4, alpha=6.0, dropout=0.25), "lora_A"):
        assert (layer.lora_A.out_features, layer.scale, layer.dropout.p) == (4, 1.5, 0.25)


def test_rank_and_dropout_reach_vera():
    for layer in modules_with(built("vera", rank=5, dropout=0.25), "vera_lambda_d"):
        assert layer.vera_lambda_d["default"].shape == (5,)
        assert layer.vera_dropout["default"].p == 0.25


@pytest.mark.parametrize("block", [8, 16])
def test_the_block_reaches_oft(block):
    for layer in modules_with(built("oft", block=block), "oft_R"):
        # 32 inputs in blocks, and of each block's skew-symmetric matrix the part above the diagonal.
        assert layer.oft_R["default"].weight.shape == (32 // block, block * (block - 1) // 2)


def test_the_width_reaches_the_adapter():
    for layer in modules_with(built("adapter", width=5), "adapter_down"):
        assert layer.adapter_down.out_features == layer.adapter_up.in_features == 5


def test_ia3_scales_the_inputs_of_down_and_the_outputs_of_the_rest():
    parts = built("ia3", targets="v,down")
    layers = {name: module for name, module in parts.model.named_modules() if hasattr(module, "ia3_l")}
    inside = {name for name, layer in layers.items() if layer.is_feedforward}
    assert inside == {name for name in layers if name.endswith(("mlp.fc2", "output.dense"))}
    assert len(inside) == 4 and len(layers) == 8


@pytest.mark.parametrize("method", ["prompt", "prefix"])
def test_so_many_tokens_are_learnt(method):
    parts = parts_of(base_of("llama"), method, tokens=3)
    (learnt,) = (p for name, p in trainable(parts.model).items() if "prompt_encoder" in name)
    assert len(learnt) == 3


def test_gradients_reach_only_the_last_blocks_and_the_head():
    """Blocks in order are the vision tower's two and the text tower's two: the last n of them, and no other."""
    blocks = ["image_encoder.vision_model.encoder.layers.0.", "image_encoder.vision_model.encoder.layers.1."]
    blocks += ["encoder.layer.0.", "encoder.layer.1."]
    for layers in range(5):
        parts = built("last_layers", layers=layers)
        starts = (*blocks[4 - layers :], "classifier.")
        expected = {name for name, _ in parts.model.named_parameters() if name.startswith(starts)}
        assert set(trainable(parts.model)) == expected
        assert {name.split(".")[0] for name in expected} >= {"classifier"}


@pytest.mark.parametrize("method", TRAINING)
def test_the_head_is_trained_by_every_method_and_the_plan_counts_what_is(method, tmp_path):
    """The plan, made without weights, against the numbers of the loaded model."""
    reads_text = getattr(plugins.load(plugins.TUNING, method), "NEEDS_TEXT", False)
    base = base_of("llama") if reads_text else wide() if method == "qlora" else git.tiny()
    width = int(base.lm.config.hidden_size)
    base.save(tmp_path, base.lm)
    resolved = config.resolve({"model": str(tmp_path), "tuning": {"name": method}})
    parts = assembly.build(resolved, LABELS, True)
    chosen = trainable(parts.model)
    head = {name: p for name, p in chosen.items() if "classifier" in name}
    assert sorted(tuple(p.shape) for p in head.values()) == [(len(LABELS),), (len(LABELS), width)]
    counted = plan(resolved, LABELS, True).parameters
    assert counted.trainable == sum(p.numel() for p in chosen.values())
    assert counted.head == sum(p.numel() for p in head.values())
    assert counted.adapter == counted.trainable - counted.head > 0 or method == "last_layers"


@pytest.mark.parametrize("method", ["lora", "adapter", "bitfit", "last_layers", "ia3", "vera", "oft"])
def test_frozen_weights_stay_to_the_bit_through_steps_of_training(method):
    """In training mode, with weight decay, which moves what has a gradient of zero."""
    parts = built(method)
    before = {name: tensor.clone() for name, tensor in parts.model.state_dict().items()}
    chosen = set(trainable(parts.model))
    optimizer = torch.optim.AdamW((p for p in parts.model.parameters()), lr=1e-2, weight_decay=0.1)
    batch = batch_of(parts)
    for _ in range(2):
        loss, count = parts.head.loss(parts.model.train(), batch)
        (loss / count).backward()
        optimizer.step()
        optimizer.zero_grad()
    after = parts.model.state_dict()
    moved = {name for name, tensor in before.items() if not torch.equal(tensor, after[name])}
    assert moved and moved <= chosen
