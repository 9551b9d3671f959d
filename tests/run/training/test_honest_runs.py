"""What a run says is of the rows, the model and the splits that it names, also after it was resumed."""

import dataclasses

import pandas as pd
import pytest
import torch
import toy
from safetensors.torch import load_file, save_file

from cxr_ft.data import manifest
from cxr_ft.errors import UsageError
from cxr_ft.run.evaluation.inference import run_inference
from cxr_ft.run.evaluation.run_datasets import build_datasets
from cxr_ft.run.evaluation.verify import verify
from cxr_ft.run.record import results, saved_model
from cxr_ft.run.training import checkpoint, train
from cxr_ft.score.metrics import text_overlap
from cxr_ft.score.metrics.classification import best_thresholds

SHORT = {"epochs": 1}


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A run of one epoch by task, verified in this process, and its `splits`, in which no two splits are alike."""
    place = tmp_path_factory.mktemp("trained")
    toy.make(place, per_label=24)
    for task in ("classify", "report"):
        train.fit(toy.configured(place, "lora", task, **SHORT), place / task, verify=False)
        verify(place / task)
    return place


def test_a_run_resumed_after_its_best_epoch_still_saves_that_epoch(overlapping, tmp_path, monkeypatch):
    chosen = toy.configured(overlapping, "full", "report", {"lr": 0.1}, epochs=4, warmup=0.9)
    save = checkpoint.save

    def interrupt(folder, fingerprint, state, trained):
        if state.epoch == 3:
            raise KeyboardInterrupt
        save(folder, fingerprint, state, trained)

    monkeypatch.setattr(checkpoint, "save", interrupt)
    with pytest.raises(KeyboardInterrupt):
        train.fit(chosen, tmp_path / "run", verify=False)
    monkeypatch.setattr(checkpoint, "save", save)
    result = train.fit(chosen, tmp_path / "run", verify=False)
    value, best = toy.best_epoch(result.history)
    # Found before the interruption: what was saved then is what must be saved now.
    assert best == 1 and len(result.history) == 4
    assert result.metrics["val"]["loss"] == pytest.approx(value, rel=1e-5)


def test_each_prediction_is_of_its_own_row_and_split(trained):
    tables = manifest.read(trained / "splits").tables
    predictions = results.read_predictions(trained / "classify")
    for split in ("val", "test", "test_natural"):
        own = predictions[(predictions["split"] == split) & (predictions["label"] == "opaque")]
        assert sorted(own["dicom_id"]) == sorted(tables[split]["dicom_id"].astype(str))
        truth = tables[split].assign(dicom_id=tables[split]["dicom_id"].astype(str)).set_index("dicom_id")["label"]
        assert (own.set_index("dicom_id")["truth"] == (truth == "opaque").astype(float)[own["dicom_id"]]).all()
    # Without this one split could pass for the other.
    assert set(tables["test"]["dicom_id"]) != set(tables["test_natural"]["dicom_id"])


def test_the_score_of_an_image_alone_is_that_of_its_row(trained):
    predictions = results.read_predictions(trained / "classify")
    parts, again, saved = saved_model.load(trained / "classify")
    datasets = build_datasets(again, manifest.read(trained / "splits"), parts.base.image_size)
    column = saved.labels.index("opaque")
    for split in ("val", "test", "test_natural"):
        own = predictions[(predictions["split"] == split) & (predictions["label"] == "opaque")].set_index("dicom_id")
        for i in (0, len(datasets[split]) - 1):
            (score,) = run_inference(parts, datasets[split], 1, "", indices=[i]).scores[:, column]
            assert own.loc[str(datasets[split].ids["dicom_id"].iloc[i]), "score"] == pytest.approx(score, abs=1e-6)


def test_reports_are_compared_with_their_own_reference(trained):
    splits = manifest.read(trained / "splits")
    predictions = results.read_predictions(trained / "report")
    for split in ("val", "test", "test_natural"):
        own = predictions[predictions["split"] == split].set_index("dicom_id")["reference"]
        table = splits.tables[split].assign(dicom_id=splits.tables[split]["dicom_id"].astype(str))
        assert own.to_dict() == table.set_index("dicom_id")["findings"].to_dict()


def test_the_constant_report_is_chosen_on_train(trained):
    tables = manifest.read(trained / "splits").tables
    metrics = results.read(trained / "report").metrics
    labels = saved_model.labels(trained / "report").labels
    for split in ("val", "test", "test_natural"):
        train_texts, texts = tables["train"]["findings"].tolist(), tables[split]["findings"].tolist()
        chosen = text_overlap.constant_baseline(train_texts, texts, labels)
        # The scores alone: the text itself is a patient's report.
        assert metrics[split]["constant_baseline"] == {name: chosen[name] for name in text_overlap.BASELINE_SCORES}


def test_thresholds_are_those_of_val_and_of_no_other_split(trained):
    predictions = results.read_predictions(trained / "classify")
    saved = saved_model.labels(trained / "classify")

    def chosen(split):
        own = predictions[predictions["split"] == split]
        truth, score = (
            pd.concat([own[own["label"] == label][name].reset_index(drop=True) for label in saved.labels], axis=1)
            for name in ("truth", "score")
        )
        return best_thresholds(truth.to_numpy(), score.to_numpy())

    assert list(saved.thresholds) == chosen("val")
    # Without this the test could not fail.
    assert chosen("test") != chosen("val")


@pytest.mark.parametrize("task", ["classify", "report"])
def test_a_model_that_answers_otherwise_than_the_trained_one_is_refused(overlapping, tmp_path, task):
    run = tmp_path / "run"
    train.fit(toy.configured(overlapping, "full", task, {"lr": 0.03}, epochs=2), run, verify=False)
    if task == "classify":
        path = run / "model" / "model.safetensors"
        before = load_file(path)
        changed = {name: tensor * 0.97 if "layernorm" in name.lower() else tensor for name, tensor in before.items()}
        save_file(changed, path, metadata={"format": "pt"})
    else:
        results.write_predictions(run, results.read_predictions(run).assign(generated="another text"))
    with pytest.raises(RuntimeError, match="the reloaded model"):
        verify(run)
    assert set(results.read(run).metrics) == {"train", "val"}


def test_splits_that_changed_since_training_are_refused(overlapping, tmp_path):
    run = tmp_path / "run"
    train.fit(toy.configured(overlapping, "last_layers", tuning={"layers": 0}, **SHORT), run, verify=False)
    done = results.read(run)
    results.write(
        run, done.replace(data=dataclasses.replace(done.data, sha256={**done.data.sha256, "test_split.csv": "0" * 64}))
    )
    with pytest.raises(UsageError, match="changed since it was trained"):
        verify(run)
    assert set(results.read(run).metrics) == {"train", "val"}


def test_a_run_is_named_by_the_splits_it_was_trained_on(overlapping):
    chosen = toy.configured(overlapping)
    assert chosen.fingerprint({"train": "a", "test": "b"}) != chosen.fingerprint({"train": "a", "test": "c"})
    assert chosen.fingerprint({"train": "a"}) == chosen.fingerprint({"train": "a"})
    assert chosen.fingerprint({}) != toy.configured(overlapping, seed=1).fingerprint({})


def test_only_train_is_learnt_from_and_weighted_only_where_the_head_says_so(trained):
    splits = manifest.read(trained / "splits")
    raw = toy.configured(trained).to_json()
    for weights in ("none", "balanced"):
        raw["head"]["weights"] = weights
        datasets = build_datasets(toy.config.resolve(raw), splits, 32)
        assert {split for split, rows in datasets.items() if rows.train_targets is not None} == {"train"}
        assert (datasets["train"].train_targets.weights is not None) == (weights == "balanced")


def test_running_means_change_in_training_and_are_saved_with_it():
    model = torch.nn.Sequential(torch.nn.Linear(2, 2), torch.nn.BatchNorm1d(2))
    model[0].requires_grad_(False)
    assert set(checkpoint.changing(model)) == {
        "1.weight",
        "1.bias",
        "1.running_mean",
        "1.running_var",
        "1.num_batches_tracked",
    }
