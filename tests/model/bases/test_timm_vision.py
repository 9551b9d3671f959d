"""Image-only baselines: timm's own features, batch norms that keep their statistics, and what is refused."""

import json

import numpy as np
import pytest
import timm
import torch
from safetensors.torch import save_file

from cxr_ft import config, plugins
from cxr_ft.data.dataset.split_dataset import Example
from cxr_ft.errors import UsageError
from cxr_ft.model import assembly
from cxr_ft.model.bases import timm_vision
from cxr_ft.model.protocols import trainable
from cxr_ft.run.training.train import plan

LABELS = ("Edema", "Fracture")
SMALL = {
    "densenet121": {"growth_rate": 8, "block_config": [2, 2]},
    "convnext_tiny": {"depths": [1, 1, 1, 1], "dims": [8, 16, 24, 32]},
    "vit_tiny_patch16_224": {"img_size": 32, "patch_size": 16, "embed_dim": 32, "depth": 2, "num_heads": 4},
}
TARGETS = {"densenet121": "conv", "convnext_tiny": "mlp,conv", "vit_tiny_patch16_224": "q,o,mlp"}


def saved(folder, architecture):
    """A folder as timm itself puts it on the hub: no model_type, plain names; and the model."""
    torch.manual_seed(0)
    model = timm.create_model(architecture, num_classes=0, **SMALL[architecture])
    folder.mkdir()
    pretrained = {"input_size": [3, 32, 32], "mean": [0.2, 0.3, 0.4], "std": [0.5, 0.6, 0.7], "num_classes": 5}
    (folder / "config.json").write_text(
        json.dumps(
            {
                "architecture": architecture,
                "num_classes": 5,
                "model_args": SMALL[architecture],
                "label_names": list("abcde"),
                "pretrained_cfg": pretrained,
            }
        )
    )
    save_file(model.state_dict(), folder / "model.safetensors", metadata={"format": "pt"})
    return model.eval()


def batch_of(base, head, rows=4):
    images = np.random.default_rng(0).integers(0, 256, (rows, base.image_size, base.image_size), dtype=np.uint8)
    return head.collate([Example(image, np.array([1.0, 0.0]), "") for image in images])


@pytest.mark.parametrize("architecture", SMALL)
def test_a_folder_of_timms_own_gives_timms_own_features(architecture, tmp_path):
    reference = saved(tmp_path / "model", architecture)
    name = str(tmp_path / "model")
    assert assembly.family(name) is timm_vision
    base = timm_vision.load(name)
    assert base.image_size == 32
    images = np.random.default_rng(0).integers(0, 256, (2, 32, 32), dtype=np.uint8)
    pixels = base.pixel_values(images)
    by_hand = (images[:, None] / 255 - np.reshape([0.2, 0.3, 0.4], (3, 1, 1))) / np.reshape([0.5, 0.6, 0.7], (3, 1, 1))
    np.testing.assert_allclose(pixels.numpy(), by_hand, atol=1e-6)
    pool, width = next(iter(base.pools.items()))
    ours = base.pooled(base.encoder(pool).eval(), {"pixel_values": pixels}, pool)
    assert ours.shape == (2, width)
    torch.testing.assert_close(ours, reference(pixels))


def test_a_vit_also_pools_the_mean_of_its_patches(tmp_path):
    reference = saved(tmp_path / "model", "vit_tiny_patch16_224")
    base = timm_vision.load(str(tmp_path / "model"))
    assert list(base.pools) == ["cls", "mean"]
    pixels = torch.rand(2, 3, 32, 32)
    ours = base.pooled(base.encoder("mean").eval(), {"pixel_values": pixels}, "mean")
    torch.testing.assert_close(ours, reference.forward_features(pixels)[:, 1:].mean(1))


@pytest.mark.parametrize("method", ["full", "lora", "last_layers"])
@pytest.mark.parametrize("architecture", SMALL)
def test_each_family_trains_exactly_what_is_declared(architecture, method, tmp_path):
    saved(tmp_path / "model", architecture)
    tuning = {"name": method, **({"targets": TARGETS[architecture].split(",")} if method == "lora" else {})}
    resolved = config.resolve({"model": str(tmp_path / "model"), "tuning": tuning})
    parts = assembly.build(resolved, LABELS, True)
    before = {name: value.clone() for name, value in parts.model.state_dict().items()}
    parts.model.train()
    optimizer = torch.optim.SGD(list(trainable(parts.model).values()), lr=0.01)
    loss, count = parts.head.loss(parts.model, batch_of(parts.base, parts.head))
    (loss / count).backward()
    assert {n for n, p in parts.model.named_parameters() if p.grad is not None} == set(trainable(parts.model))
    optimizer.step()
    # Batch norms' statistics too stay what they were: no adapter's file would hold a change.
    changed = {name for name, value in parts.model.state_dict().items() if not torch.equal(value, before[name])}
    assert changed <= set(trainable(parts.model))


@pytest.mark.parametrize("name", timm_vision.PUBLISHED)
def test_the_published_shapes_are_planned_without_weights(name):
    """The numbers of parameters that timm's own models have without ImageNet's classes, and the head's."""
    shape = timm_vision.PUBLISHED[name]["architecture"]
    with torch.device("meta"):
        body = sum(p.numel() for p in timm.create_model(shape, num_classes=0).parameters())
    counted = plan(config.resolve({"model": name, "tuning": {"name": "full"}}), LABELS, True)
    width = {"densenet121": 1024, "vit_small_patch16_224": 384, "convnext_tiny": 768}[shape]
    assert counted["parameters"] == {
        "trainable": body + 2 * width + 2,
        "total": body + 2 * width + 2,
        "adapter": body,
        "head": 2 * width + 2,
    }
    assert counted["image_size"] == 224


@pytest.mark.parametrize(("head", "method"), [("report", "lora"), ("both", "full"), ("classify", "zero_shot")])
def test_what_needs_text_is_refused_before_loading(head, method):
    resolved = config.resolve({"model": "densenet121-random", "head": {"name": head}, "tuning": {"name": method}})
    with pytest.raises(UsageError, match=r"densenet121-random.*timm_vision.*writes no text"):
        plan(resolved, LABELS, True)


def test_other_families_of_timm_are_refused_by_name(tmp_path):
    (tmp_path / "config.json").write_text('{"architecture": "resnet18", "num_classes": 2}')
    with pytest.raises(UsageError, match=r"resnet18.*densenet\*"):
        timm_vision.load(str(tmp_path))
    (tmp_path / "config.json").write_text('{"architecture": "densenet121", "num_classes": 2}')
    with pytest.raises(UsageError, match="no complete folder of a timm model"):
        timm_vision.load(str(tmp_path))


def test_random_weights_are_the_same_each_time():
    one, other = (timm_vision.tiny().lm.state_dict() for _ in range(2))
    assert all(torch.equal(one[name], other[name]) for name in one)
    assert "timm_vision" in plugins.choices(plugins.BASES)
