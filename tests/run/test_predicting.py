"""A saved model on single images: the preprocessing of its training, and each label's own threshold."""

import numpy as np
import pytest
import torch
from PIL import Image

from cxr_ft import config
from cxr_ft.data.dataset.split_dataset import Example
from cxr_ft.data.pixels import image_decode
from cxr_ft.model import assembly
from cxr_ft.model.bases import git
from cxr_ft.run.evaluation import external_validation
from cxr_ft.run.record import results, saved_model

LABELS = ("Edema", "Fracture", "Effusion")


def saved(tmp_path, thresholds, multi_label=True, **data):
    """The folder of a run that was never trained: base, head and adapter as they were drawn."""
    tiny = git.tiny()
    tiny.save(tmp_path / "base", tiny.lm)
    resolved = config.resolve({"model": str(tmp_path / "base"), "data": data})
    torch.manual_seed(0)
    parts = assembly.build(resolved, LABELS, multi_label)
    run = tmp_path / "run"
    run.mkdir()
    results.write(run, results.Result(status="trained", config=resolved.to_json(), config_hash=""))
    saved_model.save(run, parts, {"labels": list(LABELS), "multi_label": multi_label, "thresholds": thresholds})
    return run, parts


def film(tmp_path, height=90, width=120):
    image = np.random.default_rng(0).integers(0, 256, (height, width), dtype=np.uint8)
    Image.fromarray(image).save(tmp_path / "film.png")
    return tmp_path / "film.png"


def scores_of(parts, image):
    with torch.no_grad():
        rows = [Example(image, np.full(len(LABELS), np.nan), "")]
        return parts.head.predict(parts.model.eval(), parts.head.collate(rows)).scores[0]


@pytest.mark.parametrize("data", [{}, {"image_size": 64}])
def test_an_image_is_prepared_as_in_training(tmp_path, data):
    """At the run's own size, by the one function that the splits' images go through, by the model that was saved."""
    run, parts = saved(tmp_path, [0.5] * 3, **data)
    file = film(tmp_path)
    ((_, answer),) = external_validation.predict(run, [file])
    expected = scores_of(parts, image_decode.square(file, data.get("image_size", 32)))
    assert list(answer["scores"].values()) == pytest.approx(expected, abs=1e-4)


def test_each_label_is_positive_from_its_own_threshold_on(tmp_path):
    file = film(tmp_path)
    run, parts = saved(tmp_path, [0.0, 1.0, 0.5])
    low, high, _ = scores_of(parts, image_decode.square(file, 32))
    assert 0.05 < low < 0.95 and 0.05 < high < 0.95
    ((_, answer),) = external_validation.predict(run, [file])
    assert "Edema" in answer["positive"] and "Fracture" not in answer["positive"]


def test_a_score_at_the_threshold_is_positive():
    kept = {"labels": list(LABELS), "multi_label": True, "thresholds": [0.25, 0.25, 0.75]}
    said = external_validation._scored(np.array([0.25, 0.2, 0.7]), kept)
    assert said == {"scores": {"Edema": 0.25, "Fracture": 0.2, "Effusion": 0.7}, "positive": ["Edema"]}


def test_of_classes_that_exclude_each_other_the_likeliest_is_positive_whatever_the_thresholds():
    kept = {"labels": list(LABELS), "multi_label": False, "thresholds": [0.0, 0.0, 0.0]}
    assert external_validation._scored(np.array([0.2, 0.45, 0.35]), kept)["positive"] == ["Fracture"]
