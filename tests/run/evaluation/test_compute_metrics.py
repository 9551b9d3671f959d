"""What evaluation takes from the data: prevalences of train and of the archive, subgroups, thumbnails, the section."""

import dataclasses
import json
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
from scipy.special import expit

from cxr_ft.data.dataset.split_dataset import SplitDataset, TrainTargets
from cxr_ft.data.dataset.train_view import TrainView, class_weights
from cxr_ft.run.evaluation import compute_metrics
from cxr_ft.run.evaluation.evaluation_context import EvaluationContext
from cxr_ft.run.record.saved_labels import SavedCalibration, SavedLabels

LABELS = ("a", "b")


def rows(n, targets, learnt=None, size=32, **columns):
    ids = {name: [f"{name}{i}" for i in range(n)] for name in ("subject_id", "study_id", "dicom_id")}
    table = pd.DataFrame({**ids, **columns})
    images = np.random.default_rng(0).integers(0, 255, (n, size, size)).astype(np.uint8)
    return SplitDataset(
        table, images, np.asarray(targets, float), "findings" if "findings" in columns else None, learnt
    )


def manifest(blank="negative", labels=("a", "b")):
    counts = {"a": 20, "b": 5}
    return SimpleNamespace(
        manifest={
            "counts": {"eligible": 100},
            "labels": {name: {"available": counts[name]} for name in labels},
            "request": {"blank": blank},
        }
    )


def test_the_prevalence_of_training_is_that_of_its_targets_and_weights():
    targets = np.array([[1, np.nan], [0, 1], [0, 0], [0, 1]])
    learnt = TrainTargets(TrainView(), targets, class_weights(targets, True))
    scores = np.random.default_rng(1).random((4, 2))
    plain = compute_metrics.fit_calibration("lora", rows(4, targets), rows(4, targets), scores, True)
    assert plain.prevalence == (0.25, pytest.approx(2 / 3))
    balanced = compute_metrics.fit_calibration("lora", rows(4, targets, learnt), rows(4, targets), scores, True)
    assert balanced.prevalence == (pytest.approx(0.5), pytest.approx(0.5))
    assert (
        compute_metrics.fit_calibration("zero_shot", rows(4, targets), rows(4, targets), scores, True).prevalence
        is None
    )
    classes = np.eye(2)[[0, 0, 0, 1]]
    assert compute_metrics.fit_calibration("lora", rows(4, classes), rows(4, classes), classes, False).prevalence == (
        0.75,
        0.25,
    )


def test_the_natural_prevalence_is_the_manifests():
    assert EvaluationContext(None, None, manifest()).natural_prevalences(LABELS) == [0.2, 0.05]
    assert EvaluationContext(None, None, manifest(labels=("a",))).natural_prevalences(LABELS) == [0.2, None]
    assert EvaluationContext(None, None, manifest(blank="ignore")).natural_prevalences(LABELS) == [None, None]
    assert EvaluationContext(
        None, None, SimpleNamespace(manifest={"request": {"blank": "negative"}})
    ).natural_prevalences(LABELS) == [
        None,
        None,
    ]


def test_scores_of_the_natural_split_are_corrected_and_of_the_balanced_one_not():
    rng = np.random.default_rng(2)
    truth = (rng.random((4000, 2)) < [0.2, 0.05]).astype(float)
    scores = expit(3 * rng.normal(np.where(truth == 1, 1.0, -1.0)))
    natural = rows(4000, truth, size=1, sex=["F", "M"] * 2000, age=["50-59", ""] * 2000, view=[""] * 4000)
    calibration = SavedCalibration(temperature=1.5, prevalence=(0.5, 0.5), why="")
    saved = SavedLabels(labels=LABELS, multi_label=True, thresholds=(0.5, 0.5), calibration=calibration)
    tested = EvaluationContext(natural, natural, manifest())
    metrics = compute_metrics.score_metrics(natural, scores, saved, "test_natural", tested)
    assert metrics["calibration"]["corrected"]["ece"] < metrics["calibration"]["raw"]["ece"] / 3
    assert set(metrics["subgroups"]) == {"sex", "age"}
    assert set(metrics["subgroups"]["age"]["groups"]) == {"40-59", "unknown"}
    json.dumps(metrics, allow_nan=False)
    balanced = compute_metrics.score_metrics(natural, scores, saved, "test", tested)["calibration"]
    assert balanced["corrected"] is None and "balanced as train is" in balanced["undefined"]["corrected"]
    assert balanced["scaled"] == metrics["calibration"]["scaled"]
    train = compute_metrics.score_metrics(natural, scores, saved, "", None)
    assert "subgroups" not in train
    old = compute_metrics.score_metrics(
        natural, scores, dataclasses.replace(saved, calibration=None), "test_natural", tested
    )["calibration"]
    assert old["scaled"] is old["corrected"] is None and old["undefined"]["scaled"] == "the run recorded none"


def test_scores_are_cut_at_the_thresholds_that_were_saved():
    truth = np.array([[0, 1], [1, 0], [1, 1], [0, 0]] * 20, float)
    scores = np.where(truth == 1, 0.3, 0.1)
    test_rows = rows(80, truth, size=1, sex=["F", "M", "M", "F"] * 20)
    saved = SavedLabels(labels=LABELS, multi_label=True, thresholds=(0.2, 0.2), calibration=None)
    metrics = compute_metrics.score_metrics(
        test_rows, scores, saved, "test", EvaluationContext(test_rows, test_rows, manifest())
    )
    assert metrics["macro"]["f1"] == 1.0
    assert metrics["subgroups"]["sex"]["groups"]["M"]["recall"]["value"] == 1.0
    # At 0.5 no row would be positive.
    missed = compute_metrics.score_metrics(
        test_rows, scores, dataclasses.replace(saved, thresholds=(0.5, 0.5)), "test", None
    )
    assert missed["macro"]["recall"] == 0.0


def test_texts_get_baselines_and_probes_on_a_test_split_alone():
    findings = ["Small left effusion.", "No edema. Right pneumothorax.", "Mild edema.", "Heart size is normal."]
    some = rows(4, np.zeros((4, 2)), findings=findings)
    metrics = compute_metrics.text_metrics(some, findings, LABELS, EvaluationContext(some, some, manifest()))
    # Each image is its own nearest one here.
    assert metrics["baselines"]["nearest"]["bleu_4"] == metrics["bleu_4"] == pytest.approx(1.0)
    assert metrics["signature"]["section"] == "findings" and metrics["probes"]["sides_swapped"]["changed"] == 2
    assert "baselines" not in compute_metrics.text_metrics(some, findings, LABELS, None)
    blind = rows(4, np.zeros((4, 2)), size=0, findings=findings)
    metrics = compute_metrics.text_metrics(blind, findings, LABELS, EvaluationContext(blind, blind, manifest()))
    assert metrics["baselines"]["nearest"] is None and metrics["baselines"]["undefined"] == {
        "nearest": "the rows have no image"
    }
    json.dumps(metrics, allow_nan=False)


def test_the_configured_text_column_is_the_one_that_is_recorded():
    texts = ["Small left effusion.", "No edema."]
    some = rows(2, np.zeros((2, 2)), findings=texts, impression=texts)
    assert compute_metrics.text_metrics(some, texts, LABELS, None, "impression")["signature"]["section"] == "impression"
    assert compute_metrics.text_metrics(some, texts, LABELS, None)["signature"]["section"] == "findings"
