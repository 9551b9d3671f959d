"""Training with stored features: the same weights to the bit, frozen work done once, and runs that do without."""

import pytest
import torch
import toy
from store_parts import configured, counted, files, open_rows, trained_weights

from cxr_ft import config
from cxr_ft.data import manifest
from cxr_ft.errors import UsageError
from cxr_ft.model.assembly import build
from cxr_ft.model.bases import timm_vision
from cxr_ft.model.protocols import PIXELS
from cxr_ft.run.evaluation import verify
from cxr_ft.run.features import feature_store
from cxr_ft.run.record import results
from cxr_ft.run.training import train

#: Each head, each precision, and a batch that does not divide the rows in every commit; all of them are slow.
CELLS = [("classify", 4), ("classify", 5), ("classify", 64), ("report", 3), ("both", 7)]
OFTEN = {("classify", 5, "no"), ("report", 3, "bf16"), ("both", 7, "no")}


@pytest.mark.parametrize(
    ("task", "rows", "precision"),
    [
        pytest.param(*cell, precision, marks=[] if (*cell, precision) in OFTEN else [pytest.mark.slow])
        for cell in CELLS
        for precision in ("no", "bf16")
    ],
)
def test_training_is_the_same_to_the_bit(place, tmp_path, cache, task, rows, precision):
    done = {}
    for store in ("auto", "never"):
        resolved = configured(place, task, store=store, batch_size=rows, precision=precision)
        result = train.fit(resolved, tmp_path / store, verify=False)
        history = [{key: value for key, value in row.items() if key != "seconds"} for row in result.history]
        done[store] = trained_weights(tmp_path / store), history, result.metrics, result.config_hash
        assert len(files(cache)) == (2 if precision == "no" else 3)  # bf16 learns from its own, and evaluates in fp32
    weights = [outcome[0] for outcome in done.values()]
    assert weights[0].keys() == weights[1].keys()
    assert all(torch.equal(weights[0][name], weights[1][name]) for name in weights[0])
    assert done["auto"][1:] == done["never"][1:]


@pytest.mark.parametrize(
    "method", ["lora", *(pytest.param(m, marks=pytest.mark.slow) for m in ("zero_shot", "last_layers"))]
)
def test_a_second_run_computes_nothing_again(place, tmp_path, cache, monkeypatch, method):
    for seed in (0, 1):
        train.fit(configured(place, method=method, seed=seed), tmp_path / f"run{seed}", verify=False)
        verify.verify(tmp_path / f"run{seed}", shared=True)
        if seed == 0:
            before = {file: file.stat().st_mtime_ns for file in files(cache)}
            assert len(before) == 3  # train, val, and test: its two splits have the same rows here
            seen = counted(monkeypatch)
    assert {file: file.stat().st_mtime_ns for file in files(cache)} == before
    assert len(seen) == 2  # the test image, in each of the two processes' parts


def test_other_methods_and_seeds_share_and_another_head_does_too(place, tmp_path, cache):
    for i, how in enumerate([{}, {"seed": 3}, {"method": "last_layers"}, {"task": "both"}]):
        train.fit(configured(place, **how), tmp_path / str(i), verify=False)
        if i < 3:
            assert len(files(cache)) == 2
    assert len(files(cache)) <= 4  # a head that writes may leave out rows without text


@pytest.mark.parametrize("trouble", ["full", "fills up", pytest.param("not writable", marks=pytest.mark.slow)])
def test_without_room_it_trains_all_the_same(place, tmp_path, cache, monkeypatch, capsys, trouble):
    open_rows(place), open_rows(place, "val")
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
    """Features that are read once only are not stored. Val is evaluated in fp32, in each epoch and at the end."""
    monkeypatch.setattr(train, "_verify", results.read)  # it takes a process of its own, which other tests cover
    train.fit(configured(place, **how), tmp_path / "run")
    assert why in capsys.readouterr().err
    assert len(files(cache)) == stored
    assert results.read(tmp_path / "run").cost["feature_seconds"] >= 0


def test_flipped_images_are_learnt_flipped(place, tmp_path):
    """Features of the plain image must not be used for the flipped one: compare with a run without any store."""
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
    restore = toy.interrupt_second_save(monkeypatch)
    with pytest.raises(KeyboardInterrupt):
        train.fit(configured(place, epochs=3), tmp_path / "broken", verify=False)
    restore()
    train.fit(configured(place, epochs=3, store="never"), tmp_path / "broken", verify=False)
    one, other = trained_weights(whole), trained_weights(tmp_path / "broken")
    assert all(torch.equal(one[name], other[name]) for name in one)


@pytest.mark.parametrize(
    ("layers", "pool"),
    [(1, "cls"), *(pytest.param(*c, marks=pytest.mark.slow) for c in ((0, ""), (1, "mean"), (2, "")))],
)
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
    parts, rows = build(resolved, card.labels, card.multi_label), open_rows(place)
    whole = parts.head.collate([rows[i] for i in range(5)])
    frozen = feature_store.FeatureStore(parts).frozen_features(rows, reads=2)
    assert (frozen is None) == (layers == 2)
    if frozen is not None:
        less = frozen.replace_pixels(whole, range(5), torch.device("cpu"))
        assert PIXELS not in less and frozen.stored is not None
        torch.testing.assert_close(parts.head.loss(parts.model, less), parts.head.loss(parts.model, whole))
