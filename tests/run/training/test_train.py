"""The one loop: seeded, resumed exactly, skipped when done, recorded when it fails; test touched once, after reload."""

import dataclasses
import json

import numpy as np
import pandas as pd
import pytest
import torch
import toy
from safetensors.torch import load_file, save_file

from cxr_ft import config
from cxr_ft.data import manifest
from cxr_ft.errors import TrainingError, UsageError
from cxr_ft.run.evaluation import evaluate_split, verify
from cxr_ft.run.record import results, saved_model
from cxr_ft.run.training import checkpoint, loop, train


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """Splits of a tiny folder, and a tiny pretrained model."""
    place = tmp_path_factory.mktemp("place")
    toy.make_shades(place)
    return place


def configured(place, method="lora", task="classify", **settings):
    raw = {
        "data": {"splits": str(place / "splits")},
        "model": str(place / "tiny"),
        "head": {"name": task, **({"max_tokens": 8} if task == "report" else {})},
        "tuning": {"name": method},
        "train": {"epochs": 2, "batch_size": 4, **settings},
    }
    return config.resolve(raw)


def weights(run):
    (file,) = (run / "model").glob("*.safetensors")
    return load_file(file)


def same(one, other):
    return one.keys() == other.keys() and all(torch.equal(one[key], other[key]) for key in one)


def without_times(result):
    plain = dataclasses.asdict(result)
    for row in plain["history"]:
        row.pop("seconds")
    return {key: plain[key] for key in ("history", "metrics", "plan", "config_hash", "data")}


#: Each method and each task in every commit; all pairs are slow.
PAIRS = [(method, task) for method in ("zero_shot", "last_layers", "lora", "full") for task in ("classify", "report")]
OFTEN = {("zero_shot", "report"), ("last_layers", "classify"), ("lora", "classify"), ("full", "report")}


@pytest.mark.parametrize(
    ("method", "task"), [pytest.param(*pair, marks=[] if pair in OFTEN else [pytest.mark.slow]) for pair in PAIRS]
)
def test_a_run_from_splits_to_success(place, tmp_path, method, task):
    train.fit(configured(place, method, task), tmp_path / "run", verify=False)
    result = verify.verify(tmp_path / "run")
    assert result.status == "success" and result == results.read(tmp_path / "run")
    names = {"result.json", "config.yaml", "predictions.parquet", "gallery", "model"}
    assert names <= {p.name for p in (tmp_path / "run").iterdir()}
    assert set(result.metrics) == {"train", "val", "test", "test_natural"}
    # The longest text of these runs is 8 tokens, which no mini-report fits; nothing is learnt by zero_shot.
    assert result.data.cut_texts == (
        None if method == "zero_shot" else 0 if task == "classify" else result.data.rows["train"]
    )
    table = results.read_predictions(tmp_path / "run")
    assert set(table["split"]) == {"val", "test", "test_natural"}
    if task == "classify":
        assert list(table.columns) == ["split", "subject_id", "study_id", "dicom_id", "label", "truth", "score"]
        assert 0 <= result.metrics["test"]["macro"]["auroc"] <= 1
    else:
        assert list(table.columns) == ["split", "subject_id", "study_id", "dicom_id", "reference", "generated"]
        assert {"bleu_4", "constant_baseline"} <= set(result.metrics["test"])
    assert (len(result.history) == 2) == (method != "zero_shot")
    assert result.cost.saved_model_bytes == sum(
        p.stat().st_size for p in (tmp_path / "run" / "model").rglob("*") if p.is_file()
    )
    assert json.loads((tmp_path / "run" / "gallery" / "gallery.json").read_text())


def test_the_same_seed_gives_the_same_numbers_and_another_does_not(place, tmp_path):
    one = train.fit(configured(place), tmp_path / "one", verify=False)
    two = train.fit(configured(place), tmp_path / "two", verify=False)
    other = train.fit(configured(place, seed=1), tmp_path / "other", verify=False)
    assert without_times(one) == without_times(two)
    assert same(weights(tmp_path / "one"), weights(tmp_path / "two"))
    assert not same(weights(tmp_path / "one"), weights(tmp_path / "other"))
    assert one.metrics["val"] != other.metrics["val"]


def test_a_recorded_run_repeats_with_the_same_numbers(place, tmp_path):
    first = train.fit(configured(place), tmp_path / "first")
    again = config.resolve(config.read_yaml(tmp_path / "first" / "result.json"))
    assert without_times(train.fit(again, tmp_path / "again")) == without_times(first)
    yaml = config.resolve(config.read_yaml(tmp_path / "first" / "config.yaml"))
    assert yaml == again


@pytest.mark.parametrize("method", ["lora", pytest.param("full", marks=pytest.mark.slow)])
def test_resumed_equals_unbroken(place, tmp_path, monkeypatch, method):
    """Interrupted in the second of three epochs and started again: the same weights, to the bit."""
    resolved = configured(place, method, epochs=3)
    whole = train.fit(resolved, tmp_path / "whole", verify=False)
    restore = toy.interrupt_second_save(monkeypatch)
    with pytest.raises(KeyboardInterrupt):
        train.fit(resolved, tmp_path / "broken", verify=False)
    assert results.read(tmp_path / "broken").status == "cancelled"
    restore()
    resumed = train.fit(resolved, tmp_path / "broken", verify=False)
    assert resumed.status == "trained"
    assert without_times(resumed) == without_times(whole)
    assert same(weights(tmp_path / "broken"), weights(tmp_path / "whole"))
    assert not (tmp_path / "broken" / checkpoint.FILE).exists()


def test_a_finished_run_is_skipped_and_another_is_not_overwritten(place, tmp_path, monkeypatch):
    first = train.fit(configured(place), tmp_path / "run")
    monkeypatch.setattr(train, "_train", lambda *a, **k: pytest.fail("trained again"))
    assert train.fit(configured(place), tmp_path / "run") == first
    with pytest.raises(UsageError, match=r"holds another run \(lora q,v r8, seed 0\); choose another --out"):
        train.fit(configured(place, seed=1), tmp_path / "run")


def test_test_is_not_touched_before_the_reload(place, tmp_path, monkeypatch):
    seen = []
    run_inference = verify.run_inference

    def noted(parts, dataset, *arguments, **more):
        seen.append(dataset.table["split"].iloc[0])
        return run_inference(parts, dataset, *arguments, **more)

    for module in (train, loop, verify, evaluate_split):
        monkeypatch.setattr(module, "run_inference", noted)
    result = train.fit(configured(place), tmp_path / "run", verify=False)
    assert set(seen) == {"train", "val"} and result.status == "trained"
    assert set(result.metrics) == {"train", "val"}
    assert set(results.read_predictions(tmp_path / "run")["split"]) == {"val"}
    seen.clear()
    verify.verify(tmp_path / "run")
    assert seen == ["val", "test", "test_natural"]


@pytest.mark.fresh_process
def test_a_corrupted_saved_model_fails_the_run(place, tmp_path):
    train.fit(configured(place), tmp_path / "run", verify=False)
    path = tmp_path / "run" / "model" / "adapter_model.safetensors"
    save_file({key: torch.zeros_like(value) for key, value in load_file(path).items()}, path)
    with pytest.raises(TrainingError, match="differ by"):
        train.fit(configured(place), tmp_path / "run")
    result = results.read(tmp_path / "run")
    assert result.status == "failed" and "reloaded" in str(result.error)


def test_the_best_epoch_on_val_is_kept(place, tmp_path):
    result = train.fit(configured(place, "full", epochs=4), tmp_path / "run", verify=False)
    best = max(row["val"] for row in result.history)
    assert result.metrics["val"]["macro"]["auroc"] == pytest.approx(best, abs=1e-9)


def test_thresholds_come_from_val(place, tmp_path):
    from cxr_ft.score.metrics.classification import best_thresholds

    train.fit(configured(place), tmp_path / "run", verify=False)
    table = results.read_predictions(tmp_path / "run")
    val = table[table["split"] == "val"]
    labels = saved_model.labels(tmp_path / "run")
    wide = {
        name: np.stack([val[val["label"] == label][name] for label in labels.labels], axis=1)
        for name in ("truth", "score")
    }
    assert list(labels.thresholds) == best_thresholds(wide["truth"], wide["score"])


def test_a_loss_that_explodes_is_recorded(place, tmp_path, monkeypatch):
    from cxr_ft.model.heads.classify import Classify

    monkeypatch.setattr(Classify, "loss", lambda self, model, batch: (next(model.parameters()).sum() * float("nan"), 1))
    with pytest.raises(TrainingError, match="loss is nan at step 1"):
        train.fit(configured(place, "full"), tmp_path / "run")
    result = results.read(tmp_path / "run")
    assert result.status == "failed" and "step 1" in str(result.error)


def test_a_parameter_without_gradient_fails(place, tmp_path, monkeypatch):
    """A declared parameter that the loss never reaches is an error, not a smaller method."""
    from cxr_ft.model.tuning import full

    def apply(model, base, chosen, new):
        model.unused = torch.nn.Parameter(torch.zeros(3, device=next(model.parameters()).device))
        return model.requires_grad_(True)

    monkeypatch.setattr(full, "apply", apply)
    with pytest.raises(TrainingError, match=r"1 declared parameters got no gradient.*unused"):
        train.fit(configured(place, "full"), tmp_path / "run")


def test_what_cannot_be_done_writes_nothing(place, tmp_path):
    with pytest.raises(UsageError, match="no target 'vv'"):
        raw = configured(place).to_json()
        raw["tuning"]["targets"] = ["q", "vv"]
        train.fit(config.resolve(raw), tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_reports_count_a_study_once(place, tmp_path):
    from cxr_ft.data.dataset.open_split import open_split

    splits = manifest.read(place / "splits")
    twice = pd.concat([splits.tables["train"]] * 2, ignore_index=True)
    doubled = dataclasses.replace(splits, tables={**splits.tables, "train": twice})
    assert len(open_split(doubled, "train", 32)) == 2 * len(splits.tables["train"])
    assert len(open_split(doubled, "train", 32, text="mini_report")) == len(splits.tables["train"])


def test_memory_and_parameters_are_counted(place, tmp_path):
    lora = train.fit(configured(place), tmp_path / "lora", verify=False).cost
    full = train.fit(configured(place, "full"), tmp_path / "full", verify=False).cost
    for cost in (lora, full):
        # AdamW keeps two numbers a trained parameter, and a step count a tensor.
        trained = cost["parameters"]["trainable"] * 4
        assert cost["memory_largest"]["gradients"] == trained
        assert 2 * trained <= cost["memory"]["optimizer"] < 2 * trained + 4096
        assert cost["memory_largest"]["activations"] > 0
    assert lora["parameters"]["trainable"] < full["parameters"]["trainable"]
    assert lora["memory_largest"]["activations"] < full["memory_largest"]["activations"]
    assert full["memory_largest"]["weights"] >= full["parameters"]["total"] * 4
