"""The files of stored features: never used for other weights, images or settings, and written whole or not at all."""

import dataclasses
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from store_parts import files, open_rows, parts_of
from transformers import GitConfig, GitForCausalLM

from cxr_ft.config import PluginConfig
from cxr_ft.data import manifest
from cxr_ft.data.dataset.open_split import open_split
from cxr_ft.data.layouts import folder
from cxr_ft.data.splits.request import SplitRequest
from cxr_ft.data.splits.write import make_splits
from cxr_ft.model.assembly import ModelParts
from cxr_ft.model.bases import git, timm_vision
from cxr_ft.model.protocols import PIXELS
from cxr_ft.run.features import feature_store


def wide():
    """Return a GIT of GIT-Base's width: its kernels are chosen by the number of rows. It has one block a tower."""
    shape = {"num_hidden_layers": 1}
    torch.manual_seed(0)
    lm = GitForCausalLM(GitConfig(vision_config=shape, vocab_size=100, **shape)).requires_grad_(False)
    return git.Git(lm, git.tiny().processor, "wide")


@pytest.mark.parametrize("precision", feature_store.AUTOCAST)
def test_no_batch_changes_an_images_bits(precision):
    if precision == "fp16":
        pytest.skip("no arithmetic of a CPU")
    base = wide()
    frozen = feature_store.FrozenFeatures(base.prefix(base.lm), feature_store.AUTOCAST[precision], None)
    pixels = torch.randn(5, 3, 224, 224)
    alone = [frozen.replace_pixels({PIXELS: one[None]}, [0], torch.device("cpu"))["image_tokens"] for one in pixels]
    for size in (2, 3, 5):
        for start in range(0, 5, size):
            chosen = range(5)[start : start + size]
            batch = frozen.replace_pixels({PIXELS: pixels[start : start + size]}, chosen, torch.device("cpu"))
            assert batch.keys() == {"image_tokens"}
            assert torch.equal(batch["image_tokens"], torch.cat([alone[i] for i in chosen]))


def test_no_change_is_ever_a_cache_hit(place, cache, monkeypatch):
    """Each change of a weight, an image, the order, preprocessing or arithmetic gives a file of its own."""
    parts, rows = parts_of(place), open_rows(place)

    def stored(parts=parts, rows=rows, **how):
        feature_store.FeatureStore(parts).frozen_features(rows, reads=2, **how)
        return len(files(cache))

    assert stored() == 1 and stored() == 1
    tower = parts.base.lm.image_encoder if hasattr(parts.base.lm, "image_encoder") else parts.base.lm.git.image_encoder
    with torch.no_grad():
        tower.vision_model.encoder.layers[1].mlp.fc1.bias[3] += 1e-8
    assert stored() == 2
    assert stored(autocast=torch.bfloat16) == 3
    order = dataclasses.replace(manifest.read(place / "splits"))
    order.tables["train"] = order.tables["train"][::-1].reset_index(drop=True)
    assert stored(rows=open_split(order, "train", 32)) == 4
    assert stored(rows=open_rows(place, "val")) == 5
    settings = parts.base.processor.image_processor
    monkeypatch.setattr(settings, "image_mean", [0.5, 0.5, 0.4])
    assert stored() == 6
    monkeypatch.setattr(settings, "rescale_factor", 1 / 256)
    assert stored() == 7
    layer = tower.vision_model.encoder.layers[0].mlp
    monkeypatch.setattr(layer, "activation_fn", torch.nn.ReLU())
    assert stored() == 8
    monkeypatch.setattr(torch, "__version__", "9.9")
    assert stored() == 9


def test_another_image_is_another_file(place, tmp_path, cache):
    source = Path(folder.demo(tmp_path))
    make_splits(str(source), "folder", SplitRequest(per_label=12), tmp_path / "splits")
    parts = parts_of(place)
    feature_store.FeatureStore(parts).frozen_features(open_rows(tmp_path), reads=2)
    film = source / str(open_rows(tmp_path).table["path"].iloc[0])
    other = source / str(open_rows(tmp_path).table["path"].iloc[1])
    film.write_bytes(other.read_bytes())
    feature_store.FeatureStore(parts).frozen_features(open_rows(tmp_path), reads=2)
    assert len(files(cache)) == 2


@pytest.mark.parametrize("damage", ["cut", "one byte", "zeros", "empty", "header", "no file at all"])
def test_a_damaged_file_is_made_again(place, cache, capsys, damage):
    parts, rows = parts_of(place), open_rows(place)
    whole = feature_store.FeatureStore(parts).frozen_features(rows, reads=2).stored.clone()
    (file,) = files(cache)
    good = file.read_bytes()
    bad = {
        "cut": good[:-100],
        "one byte": good[:5000] + bytes([good[5000] ^ 1]) + good[5001:],
        "zeros": good[: len(good) // 2] + bytes(len(good) - len(good) // 2),
        "empty": b"",
        "header": good[:30] + b"9" + good[31:],
    }
    if damage in bad:
        file.unlink()  # what is mapped already stays as it is
        file.write_bytes(bad[damage])
    else:
        file.unlink()
        file.mkdir()
    again = feature_store.FeatureStore(parts).frozen_features(rows, reads=2).stored
    if damage in bad:
        assert torch.equal(again, whole) and file.read_bytes() == good
        assert "damaged and not used" in capsys.readouterr().err
    else:
        assert again is None and "not stored, which costs time alone" in capsys.readouterr().err


def test_an_interrupted_store_leaves_no_file_and_begins_again(place, cache, monkeypatch):
    parts, rows = parts_of(place), open_rows(place)
    compute, seen = feature_store.FrozenFeatures.compute, []

    def killed(self, pixels):
        seen.append(1)
        if len(seen) == 8:
            raise KeyboardInterrupt
        return compute(self, pixels)

    monkeypatch.setattr(feature_store.FrozenFeatures, "compute", killed)
    with pytest.raises(KeyboardInterrupt):
        feature_store.FeatureStore(parts).frozen_features(rows, reads=2)
    assert not list(cache.iterdir())
    assert feature_store.FeatureStore(parts).frozen_features(rows, reads=2).stored is not None
    # A process that was killed outright leaves its temporary file; the next one that finishes removes it.
    leftover = cache / f".{files(cache)[0].name}.abc.safetensors"
    leftover.write_bytes(b"half")
    files(cache)[0].unlink()
    feature_store.FeatureStore(parts).frozen_features(rows, reads=2)
    assert [path.name for path in cache.iterdir()] == [files(cache)[0].name]


def test_two_processes_at_once_are_harmless(place, cache, monkeypatch):
    """The other one finishes first, and removes our temporary file as a leftover."""
    parts, rows = parts_of(place), open_rows(place)
    first, compute = feature_store.FeatureStore(parts), feature_store.FrozenFeatures.compute
    busy = []

    def meanwhile(self, pixels):
        if len(busy) == 5:
            busy.append(1)
            assert feature_store.FeatureStore(parts).frozen_features(rows, reads=2).stored is not None
        busy.append(1)
        return compute(self, pixels)

    monkeypatch.setattr(feature_store.FrozenFeatures, "compute", meanwhile)
    stored = first.frozen_features(rows, reads=2).stored
    assert torch.equal(stored, feature_store.FeatureStore(parts).frozen_features(rows).stored)
    assert len(list(cache.iterdir())) == 1


def test_a_split_is_mapped_not_read_into_memory(place, cache):
    stored = feature_store.FeatureStore(parts_of(place)).frozen_features(open_rows(place), reads=2).stored
    assert stored.untyped_storage().nbytes() <= files(cache)[0].stat().st_size
    assert stored.data_ptr() % 64 == 0


def test_the_file_is_ordinary_safetensors(tmp_path):
    rows = torch.randn(5, 3, 7)
    for dtype in feature_store.DTYPE_NAMES:
        path = tmp_path / f"{dtype}.safetensors"
        feature_store.write_tensor(path, iter(rows.to(dtype)), (5, 3, 7), dtype)
        assert torch.equal(load_file(path)["rows"], rows.to(dtype))
        assert torch.equal(feature_store.read_tensor(path, (5, 3, 7), dtype), rows.to(dtype))
        assert feature_store.read_tensor(path, (5, 3, 8), dtype) is None
    for wrong in (rows[:4], rows[:, :2], torch.cat((rows, rows)), rows.double()):
        with pytest.raises(ValueError, match="announced"):
            feature_store.write_tensor(tmp_path / "wrong", iter(wrong), (5, 3, 7), torch.float32)
    assert not (tmp_path / "wrong").exists()


@pytest.mark.parametrize("name", ["densenet121-random", "convnext_tiny-random"])
def test_other_image_models_store_nothing(name):
    base = timm_vision.load(name, weights=False)
    assert base.prefix(base.lm.requires_grad_(False)) is None


def test_a_base_that_stores_nothing(place):
    class Plain:
        image_size = 32
        has_frozen_prefix = False

    parts = parts_of(place)
    store = feature_store.FeatureStore(
        ModelParts(base=Plain(), head=parts.head, model=parts.model, tuning=PluginConfig("lora", None))
    )
    assert store.frozen_features(open_rows(place), reads=2) is None
