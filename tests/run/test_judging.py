"""What judging takes from the data: prevalences of training and of the archive, subgroups, thumbnails, the section."""

import json
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
from scipy.special import expit

from cxr_ft.data.dataset.split_dataset import SplitDataset, TrainTargets
from cxr_ft.data.dataset.train_view import TrainView, class_weights
from cxr_ft.run.evaluation import evaluation_context

LABELS = ["a", "b"]


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
            "asked": {"blank": blank},
        }
    )


def test_the_prevalence_of_training_is_that_of_its_targets_and_weights():
    targets = np.array([[1, np.nan], [0, 1], [0, 0], [0, 1]])
    learnt = TrainTargets(TrainView(), targets, class_weights(targets, True))
    scores = np.random.default_rng(1).random((4, 2))
    plain = evaluation_context.fitted("lora", rows(4, targets), rows(4, targets), scores, True)
    assert plain["prevalence"] == [0.25, pytest.approx(2 / 3)]
    balanced = evaluation_context.fitted("lora", rows(4, targets, learnt), rows(4, targets), scores, True)
    assert balanced["prevalence"] == [pytest.approx(0.5), pytest.approx(0.5)]
    assert (
        evaluation_context.fitted("zero_shot", rows(4, targets), rows(4, targets), scores, True)["prevalence"] is None
    )
    classes = np.eye(2)[[0, 0, 0, 1]]
    assert evaluation_context.fitted("lora", rows(4, classes), rows(4, classes), classes, False)["prevalence"] == [
        0.75,
        0.25,
    ]


def test_the_natural_prevalence_is_the_manifests():
    assert evaluation_context.EvaluationContext(None, None, manifest()).natural(LABELS) == [0.2, 0.05]
    assert evaluation_context.EvaluationContext(None, None, manifest(labels=("a",))).natural(LABELS) == [0.2, None]
    assert evaluation_context.EvaluationContext(None, None, manifest(blank="ignore")).natural(LABELS) == [None, None]
    assert evaluation_context.EvaluationContext(
        None, None, SimpleNamespace(manifest={"asked": {"blank": "negative"}})
    ).natural(LABELS) == [
        None,
        None,
    ]


def test_scores_of_the_natural_side_are_corrected_and_of_the_balanced_side_not():
    rng = np.random.default_rng(2)
    truth = (rng.random((4000, 2)) < [0.2, 0.05]).astype(float)
    scores = expit(3 * rng.normal(np.where(truth == 1, 1.0, -1.0)))
    natural = rows(4000, truth, size=1, sex=["F", "M"] * 2000, age=["50-59", ""] * 2000, view=[""] * 4000)
    known = {"temperature": 1.5, "prevalence": [0.5, 0.5], "why": ""}
    saved = {"labels": LABELS, "multi_label": True, "thresholds": [0.5, 0.5], "calibration": known}
    tested = evaluation_context.EvaluationContext(natural, natural, manifest())
    judged = evaluation_context.of_scores(natural, scores, saved, "test_natural", tested)
    assert judged["calibration"]["corrected"]["ece"] < judged["calibration"]["raw"]["ece"] / 3
    assert set(judged["subgroups"]) == {"sex", "age"}
    assert set(judged["subgroups"]["age"]["groups"]) == {"40-59", "unknown"}
    json.dumps(judged, allow_nan=False)
    balanced = evaluation_context.of_scores(natural, scores, saved, "test", tested)["calibration"]
    assert balanced["corrected"] is None and "balanced as train is" in balanced["undefined"]["corrected"]
    assert balanced["scaled"] == judged["calibration"]["scaled"]
    train = evaluation_context.of_scores(natural, scores, saved, "", None)
    assert "subgroups" not in train
    old = evaluation_context.of_scores(natural, scores, {**saved, "calibration": None}, "test_natural", tested)[
        "calibration"
    ]
    assert old["scaled"] is old["corrected"] is None and old["undefined"]["scaled"] == "the run recorded none"


def test_texts_are_judged_with_baselines_and_probes_on_a_test_side_alone():
    findings = ["Small left effusion.", "No edema. Right pneumothorax.", "Mild edema.", "Heart size is normal."]
    some = rows(4, np.zeros((4, 2)), findings=findings)
    parts = SimpleNamespace(head=SimpleNamespace(text=SimpleNamespace(config=SimpleNamespace(text=""))))
    saved = {"labels": LABELS}
    judged = evaluation_context.of_texts(
        parts, some, findings, saved, evaluation_context.EvaluationContext(some, some, manifest())
    )
    # Each image is its own nearest one here.
    assert judged["baselines"]["nearest"]["bleu_4"] == judged["bleu_4"] == pytest.approx(1.0)
    assert judged["signature"]["section"] == "findings" and judged["probes"]["sides_swapped"]["changed"] == 2
    assert "baselines" not in evaluation_context.of_texts(parts, some, findings, saved, None)
    blind = rows(4, np.zeros((4, 2)), size=0, findings=findings)
    judged = evaluation_context.of_texts(
        parts, blind, findings, saved, evaluation_context.EvaluationContext(blind, blind, manifest())
    )
    assert judged["baselines"]["nearest"] is None and judged["baselines"]["undefined"] == {
        "nearest": "the rows have no image"
    }
    json.dumps(judged, allow_nan=False)
