"""Frozen work is done once, changes no bit, and is never found for other weights, images or settings."""

import dataclasses
from pathlib import Path

import numpy as np
import pytest
import torch
from accelerate.state import AcceleratorState
from safetensors.torch import load_file
from transformers import GitConfig, GitForCausalLM

from cxr_ft import config
from cxr_ft.config import PluginConfig
from cxr_ft.data import manifest
from cxr_ft.data.dataset.open_split import open_split
from cxr_ft.data.layouts import folder
from cxr_ft.data.splits.request import SplitRequest
from cxr_ft.data.splits.write import make_splits
from cxr_ft.errors import TrainingError, UsageError
from cxr_ft.model.assembly import ModelParts, build
from cxr_ft.model.bases import git, timm_vision
from cxr_ft.model.protocols import PIXELS
from cxr_ft.run.evaluation import inference, verify
from cxr_ft.run.features import feature_store
from cxr_ft.run.record import results
from cxr_ft.run.training import checkpoint, train


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """Splits of a tiny folder, and a tiny pretrained model."""
    place = tmp_path_factory.mktemp("place")
    make_splits(folder.demo(place), "folder", SplitRequest(per_label=12), place / "splits")
    tiny = git.tiny()
    tiny.save(place / "tiny", tiny.lm)
    return place


@pytest.fixture(autouse=True)
def any_precision():
    """accelerate keeps the first precision of a process."""
    yield
    AcceleratorState._reset_state(reset_partial_state=True)


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    """A cache folder of the test's own; the features in it."""
    monkeypatch.setenv("CXR_FT_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache" / "features"


def configured(place, task="classify", method="lora", store="auto", data=None, **settings):
    targets = {"targets": ["text.q", "text.v"]} if method == "lora" else {}
    return config.resolve(
        {
            "data": {"splits": str(place / "splits"), **(data or {})},
            "model": str(place / "tiny"),
            "head": {"name": task, **({"max_tokens": 8} if task != "classify" else {})},
            "tuning": {"name": method, **targets},
            "train": {"epochs": 2, "batch_size": 4, "store_features": store, **settings},
        }
    )


def parts_of(place, **how):
    torch.manual_seed(0)
    resolved = configured(place, **how)
    card = manifest.read(place / "splits").card
    return build(resolved, card.labels, card.multi_label)


def side(place, name="train", size=32, **how):
    return open_split(manifest.read(place / "splits"), name, size, **how)


def files(cache):
    return sorted(cache.glob("*.safetensors"))


def counted(monkeypatch):
    """The images that frozen parts read from now on."""
    seen, compute = [], feature_store.FrozenFeatures.compute
    monkeypatch.setattr(
        feature_store.FrozenFeatures, "compute", lambda self, pixels: seen.extend(pixels) or compute(self, pixels)
    )
    return seen


def trained_weights(run):
    (file,) = (run / "model").glob("*.safetensors")
    return load_file(file)


@pytest.mark.parametrize("precision", ["no", "bf16"])
@pytest.mark.parametrize(
    ("task", "rows"), [("classify", 4), ("classify", 5), ("classify", 64), ("report", 3), ("both", 7)]
)
def test_training_is_the_same_to_the_bit(place, tmp_path, cache, task, rows, precision):
    done = {}
    for store in ("auto", "never"):
        resolved = configured(place, task, store=store, batch_size=rows, precision=precision)
        result = train.fit(resolved, tmp_path / store, verify=False)
        history = [{key: value for key, value in row.items() if key != "seconds"} for row in result.history]
        done[store] = trained_weights(tmp_path / store), history, result.metrics, result.config_hash
        assert len(files(cache)) == (2 if precision == "no" else 3)  # bf16 learns from its own, and judges in fp32
    weights = [found[0] for found in done.values()]
    assert weights[0].keys() == weights[1].keys()
    assert all(torch.equal(weights[0][name], weights[1][name]) for name in weights[0])
    assert done["auto"][1:] == done["never"][1:]


def wide():
    """GIT-Base's width and image, where kernels are chosen by the number of rows; one block a tower."""
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
    pixels = torch.randn(9, 3, 224, 224)
    alone = [frozen.replace_pixels({PIXELS: one[None]}, [0], torch.device("cpu"))["image_tokens"] for one in pixels]
    for size in (2, 3, 4, 8, 9):
        for start in range(0, 9, size):
            chosen = range(9)[start : start + size]
            batch = frozen.replace_pixels({PIXELS: pixels[start : start + size]}, chosen, torch.device("cpu"))
            assert batch.keys() == {"image_tokens"}
            assert torch.equal(batch["image_tokens"], torch.cat([alone[i] for i in chosen]))


@pytest.mark.parametrize("method", ["zero_shot", "last_layers", "lora"])
def test_a_second_run_computes_nothing_again(place, tmp_path, cache, monkeypatch, method):
    for seed in (0, 1):
        train.fit(configured(place, method=method, seed=seed), tmp_path / f"run{seed}", verify=False)
        verify.verify(tmp_path / f"run{seed}", shared=True)
        if seed == 0:
            before = {file: file.stat().st_mtime_ns for file in files(cache)}
            assert len(before) == 3  # train, val, and test, whose two sides are one here
            seen = counted(monkeypatch)
    assert {file: file.stat().st_mtime_ns for file in files(cache)} == before
    assert len(seen) == 2  # the test image, in each of the two processes' parts


def test_other_methods_and_seeds_share_and_another_head_does_too(place, tmp_path, cache):
    for i, how in enumerate([{}, {"seed": 3}, {"method": "last_layers"}, {"task": "both"}]):
        train.fit(configured(place, **how), tmp_path / str(i), verify=False)
        if i < 3:
            assert len(files(cache)) == 2
    assert len(files(cache)) <= 4  # a head that writes may leave out rows without text


def test_no_change_is_ever_a_hit(place, cache, monkeypatch):
    """Each change of a weight, of an image, of their order, of preprocessing or arithmetic gives a file of its own."""
    parts, rows = parts_of(place), side(place)

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
    assert stored(rows=side(place, "val")) == 5
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
    feature_store.FeatureStore(parts).frozen_features(side(tmp_path), reads=2)
    film = source / str(side(tmp_path).table["path"].iloc[0])
    other = source / str(side(tmp_path).table["path"].iloc[1])
    film.write_bytes(other.read_bytes())
    feature_store.FeatureStore(parts).frozen_features(side(tmp_path), reads=2)
    assert len(files(cache)) == 2


@pytest.mark.parametrize("damage", ["cut", "one byte", "zeros", "empty", "header", "no file at all"])
def test_a_damaged_file_is_made_again(place, cache, capsys, damage):
    parts, rows = parts_of(place), side(place)
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


def test_what_was_interrupted_leaves_nothing_and_begins_again(place, cache, monkeypatch):
    parts, rows = parts_of(place), side(place)
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
    # A process that was killed outright leaves its temporary file; whoever finishes removes it.
    leftover = cache / f".{files(cache)[0].name}.abc.safetensors"
    leftover.write_bytes(b"half")
    files(cache)[0].unlink()
    feature_store.FeatureStore(parts).frozen_features(rows, reads=2)
    assert [path.name for path in cache.iterdir()] == [files(cache)[0].name]


def test_two_processes_at_once_are_harmless(place, cache, monkeypatch):
    """The other one finishes first, and takes our temporary file for a leftover."""
    parts, rows = parts_of(place), side(place)
    first, compute = feature_store.FeatureStore(parts), feature_store.FrozenFeatures.compute
    busy = []

    def meanwhile(self, pixels):
        if len(busy) == 5:
            busy.append(1)
            assert feature_store.FeatureStore(parts).frozen_features(rows, reads=2).stored is not None
        busy.append(1)
        return compute(self, pixels)

    monkeypatch.setattr(feature_store.FrozenFeatures, "compute", meanwhile)
    found = first.frozen_features(rows, reads=2).stored
    assert torch.equal(found, feature_store.FeatureStore(parts).frozen_features(rows).stored)
    assert len(list(cache.iterdir())) == 1


@pytest.mark.parametrize("trouble", ["full", "fills up", "not writable"])
def test_without_room_it_trains_all_the_same(place, tmp_path, cache, monkeypatch, capsys, trouble):
    side(place), side(place, "val")
    if trouble == "full":
        monkeypatch.setattr(feature_store, "_free_bytes", lambda folder: 1000)
    elif trouble == "fills up":

        def full(*a, **k):
            raise UsageError("cannot write there: No space left on device")

        monkeypatch.setattr(feature_store, "write_tensor", full)
    else:
        cache.parent.mkdir(exist_ok=True)
        cache.write_text("a file where the folder should be")
    result = train.fit(configured(place), tmp_path / "run", verify=False)
    assert result.status == "trained"
    assert "not stored, which costs time alone" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("how", "why", "stored"),
    [
        ({}, "images stored once", 2),
        ({"data": {"flip": True}}, "data.augment and data.flip", 1),
        ({"data": {"augment": "mild"}}, "data.augment and data.flip", 1),
        ({"method": "full"}, "is trained", 0),
        ({"store": "never"}, "train.store_features is never", 0),
        ({"precision": "bf16", "epochs": 1}, "images stored once", 1),
    ],
)
def test_fit_decides_and_says_so(place, tmp_path, cache, monkeypatch, capsys, how, why, stored):
    """A run of its own: what is read once only is not stored. Val is judged in fp32, in each epoch and at the end."""
    monkeypatch.setattr(train, "_verify", results.read)  # in a process of its own, which the other tests stand for
    train.fit(configured(place, **how), tmp_path / "run")
    assert why in capsys.readouterr().err
    assert len(files(cache)) == stored
    assert results.read(tmp_path / "run").cost["feature_seconds"] >= 0


def test_what_flips_is_learnt_flipped(place, tmp_path):
    """Stored features of the plain image must not stand for it: the same run without any store."""
    runs = {}
    for store in ("auto", "never"):
        train.fit(configured(place, data={"flip": True}, store=store), tmp_path / store, verify=False)
        runs[store] = trained_weights(tmp_path / store)
    assert all(torch.equal(runs["auto"][name], runs["never"][name]) for name in runs["auto"])
    train.fit(configured(place), tmp_path / "plain", verify=False)
    plain = trained_weights(tmp_path / "plain")
    assert any(not torch.equal(plain[name], runs["auto"][name]) for name in plain)


def test_resumed_with_and_without_the_store(place, tmp_path, monkeypatch):
    whole = tmp_path / "whole"
    train.fit(configured(place, epochs=3, store="never"), whole, verify=False)
    save, calls = checkpoint.save, []

    def interrupt(*arguments, **more):
        calls.append(1)
        if len(calls) == 2:
            raise KeyboardInterrupt
        save(*arguments, **more)

    monkeypatch.setattr(checkpoint, "save", interrupt)
    with pytest.raises(KeyboardInterrupt):
        train.fit(configured(place, epochs=3), tmp_path / "broken", verify=False)
    monkeypatch.setattr(checkpoint, "save", save)
    train.fit(configured(place, epochs=3, store="never"), tmp_path / "broken", verify=False)
    one, other = trained_weights(whole), trained_weights(tmp_path / "broken")
    assert all(torch.equal(one[name], other[name]) for name in one)


def test_a_side_is_mapped_not_read_into_memory(place, cache):
    stored = feature_store.FeatureStore(parts_of(place)).frozen_features(side(place), reads=2).stored
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


@pytest.mark.parametrize("error", [MemoryError(), RuntimeError("DefaultCPUAllocator: not enough memory")])
@pytest.mark.parametrize("task", ["classify", "report"])
def test_out_of_memory_in_judging_halves_the_rows(place, monkeypatch, capsys, task, error):
    parts, rows = parts_of(place, task=task), side(place, text="mini_report")
    expected = inference.run_inference(parts, rows, 8, "")
    predict, sizes = type(parts.head).predict, []

    def small(self, model, batch):
        sizes.append(len(batch["image_tokens"]))
        if sizes[-1] > 3:
            raise error
        return predict(self, model, batch)

    monkeypatch.setattr(type(parts.head), "predict", small)
    found = inference.run_inference(parts, rows, 8, "val")
    assert sizes[:3] == [8, 4, 2] and sum(n for n in sizes if n <= 3) == len(rows)
    assert found.counted == expected.counted and found.loss == pytest.approx(expected.loss)
    if task == "classify":
        np.testing.assert_allclose(found.scores, expected.scores, atol=1e-6)
    else:
        assert found.outputs == expected.outputs
    assert "out of memory evaluating val with 8 rows at a time: going on with 4" in capsys.readouterr().err

    def never(self, model, batch):
        raise error

    monkeypatch.setattr(type(parts.head), "predict", never)
    with pytest.raises(TrainingError, match="out of memory on one row of val"):
        inference.run_inference(parts, rows, 8, "val")


def test_another_error_in_judging_is_raised(place, monkeypatch):
    parts = parts_of(place)
    monkeypatch.setattr(type(parts.head), "predict", lambda *a: (_ for _ in ()).throw(RuntimeError("a bug")))
    with pytest.raises(RuntimeError, match="a bug"):
        inference.run_inference(parts, side(place), 8, "")


@pytest.mark.parametrize(("layers", "pool"), [(0, ""), (1, "cls"), (1, "mean"), (2, "")])
def test_a_vit_stores_what_lies_below_its_trained_blocks(place, tmp_path, cache, layers, pool):
    tiny = timm_vision.tiny()
    tiny.save(tmp_path / "vit", tiny.lm)
    done = []
    for store in ("auto", "never"):
        raw = configured(place, method="last_layers", store=store).to_json()
        raw |= {"model": str(tmp_path / "vit"), "tuning": {"name": "last_layers", "layers": layers}}
        raw["head"] = {"name": "classify", "pool": pool}
        resolved = config.resolve(raw)
        train.fit(resolved, tmp_path / store, verify=False)
        verify.verify(tmp_path / store)
        done.append(trained_weights(tmp_path / store))
    assert all(torch.equal(done[0][name], done[1][name]) for name in done[0])
    assert len(files(cache)) == (0 if layers == 2 else 2)
    card = manifest.read(place / "splits").card
    parts, rows = build(resolved, card.labels, card.multi_label), side(place)
    whole = parts.head.collate([rows[i] for i in range(5)])
    frozen = feature_store.FeatureStore(parts).frozen_features(rows, reads=2)
    assert (frozen is None) == (layers == 2)
    if frozen is not None:
        less = frozen.replace_pixels(whole, range(5), torch.device("cpu"))
        assert PIXELS not in less and frozen.stored is not None
        torch.testing.assert_close(parts.head.loss(parts.model, less), parts.head.loss(parts.model, whole))


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
    assert store.frozen_features(side(place), reads=2) is None
