"""A saved model on single images: loaded once, the preprocessing of its training, and each label's own threshold."""

import numpy as np
import pytest
import torch
from PIL import Image

from cxr_ft import config
from cxr_ft.cli import predict as command
from cxr_ft.data.dataset.split_dataset import Example
from cxr_ft.data.dicom import DicomError
from cxr_ft.data.pixels import image_decode
from cxr_ft.errors import UsageError
from cxr_ft.model import assembly
from cxr_ft.model.bases import git, text_encoder
from cxr_ft.run.evaluation import predictor
from cxr_ft.run.evaluation.predictor import Predictor
from cxr_ft.run.record import results, saved_model
from cxr_ft.run.record.saved_labels import SavedLabels

LABELS = ("Edema", "Fracture", "Effusion")


def saved(tmp_path, thresholds=(0.5, 0.5, 0.5), multi_label=True, base=git, **data):
    """The folder of a run that was never trained: base, head and adapter as they were drawn."""
    tiny = base.tiny()
    tiny.save(tmp_path / "base", tiny.lm)
    tuning = {"name": "lora"} if base is git else {"name": "full"}
    resolved = config.resolve({"model": str(tmp_path / "base"), "data": data, "tuning": tuning})
    torch.manual_seed(0)
    parts = assembly.build(resolved, LABELS, multi_label)
    run = tmp_path / "run"
    run.mkdir()
    results.write(run, results.Result(status="trained", config=resolved.to_json(), config_hash=""))
    saved_model.save(run, parts, SavedLabels(labels=LABELS, multi_label=multi_label, thresholds=tuple(thresholds)))
    return run, parts


def pixels(*shape, dtype=np.uint8):
    # Not from end to end: 16 bits are stretched, and a stretch must be seen.
    return np.random.default_rng(0).integers(3, np.iinfo(dtype).max // 5, shape).astype(dtype)


def written(tmp_path, array):
    Image.fromarray(array).save(tmp_path / "image.png")
    return tmp_path / "image.png"


def scores_of(parts, image):
    with torch.no_grad():
        rows = [Example(image, np.full(len(LABELS), np.nan), "")]
        return parts.head.predict(parts.model.eval(), parts.head.collate(rows)).scores[0]


@pytest.mark.parametrize("data", [{}, {"image_size": 64}])
def test_an_image_is_prepared_as_in_training(tmp_path, data):
    """At the run's own size, by the one function that the splits' images go through, by the model that was saved."""
    run, parts = saved(tmp_path, **data)
    file = written(tmp_path, pixels(90, 120))
    prediction = Predictor(run).predict(file)
    expected = scores_of(parts, image_decode.square(file, data.get("image_size", 32)))
    assert list(prediction.scores.values()) == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize(
    ("shape", "dtype"),
    [((90, 120), np.uint8), ((120, 90, 3), np.uint8), ((90, 120), np.uint16), ((20, 17), np.uint8)],
    ids=["grey", "rgb", "16 bits", "smaller than the model's input"],
)
def test_path_str_array_and_pil_image_give_the_same_numbers(tmp_path, shape, dtype):
    run, _ = saved(tmp_path)
    array = pixels(*shape, dtype=dtype)
    file = written(tmp_path, array)
    loaded = Predictor(run)
    expected = loaded.predict(file)
    with Image.open(file) as opened:
        for image in (str(file), array, opened, Image.fromarray(array), np.asfortranarray(array)):
            assert loaded.predict(image) == expected
            assert np.array_equal(predictor.to_square(image, 32), predictor.to_square(file, 32))


def test_equal_channels_are_grey():
    for dtype in (np.uint8, np.uint16):
        grey = pixels(50, 40, dtype=dtype)
        rgb = np.repeat(grey[..., None], 3, axis=2)
        assert np.array_equal(predictor.to_square(rgb, 32), predictor.to_square(grey, 32))


def test_the_model_is_loaded_once(tmp_path, monkeypatch, capsys):
    """Of many images only the first one waits for the model, in Python and on the command line."""
    run, _ = saved(tmp_path)
    load, loads = saved_model.load, []
    monkeypatch.setattr(saved_model, "load", lambda folder: loads.append(folder) or load(folder))
    file = written(tmp_path, pixels(40, 40))
    loaded = Predictor(str(run))
    assert loaded.predict(file) == loaded.predict(pixels(40, 40)) and loaded.labels == LABELS
    assert len(loads) == 1
    assert command.main([str(run), str(file), str(file), str(file)]) == 0
    assert len(loads) == 2 and capsys.readouterr().out.count("Edema") == 3


@pytest.mark.parametrize(
    ("image", "message"),
    [
        (3.5, "float is no image; give a path, a numpy array"),
        ([[1, 2], [3, 4]], "list is no image"),
        (np.zeros((9, 9)), "an image of float64; give uint8 or uint16"),
        (np.zeros((9, 9, 4), np.uint8), r"an image of shape \[9, 9, 4\]; give \[H, W\] or \[H, W, 3\]"),
        (np.zeros((2, 9, 9, 3), np.uint8), r"an image of shape \[2, 9, 9, 3\]"),
        (np.zeros((0, 9), np.uint8), r"an image of shape \[0, 9\]"),
        (np.zeros((1, 4_000_000), np.uint8), "an image of 1 x 4000000 pixels is too narrow"),
        (Image.fromarray(np.full((9, 9), 70_000, np.int32)), "mode I has values outside 0 to 65535"),
        (Image.fromarray(np.zeros((9, 9), np.float32)), "mode F"),
    ],
)
def test_no_image_is_refused_in_one_line(image, message):
    with pytest.raises(UsageError, match=message) as caught:
        predictor.to_square(image, 32)
    assert "\n" not in str(caught.value)


def test_a_file_that_is_no_image_is_refused_with_its_reason(tmp_path, capsys):
    run, _ = saved(tmp_path)
    (tmp_path / "text.png").write_text("no picture")
    with pytest.raises(DicomError):
        Predictor(run).predict(tmp_path / "text.png")
    with pytest.raises(DicomError, match="not_readable"):
        Predictor(run).predict(str(tmp_path / "absent.png"))
    assert command.main([str(run), str(tmp_path / "text.png"), str(written(tmp_path, pixels(40, 40)))]) == 1
    printed = capsys.readouterr()
    assert "text.png: cannot be read: not_dicom" in printed.err and "image.png: " in printed.out


def test_a_model_of_texts_is_refused(tmp_path):
    run, _ = saved(tmp_path, base=text_encoder)
    with pytest.raises(UsageError, match="reads text, not images"):
        Predictor(run)


def test_each_label_is_positive_from_its_own_threshold_on(tmp_path):
    file = written(tmp_path, pixels(90, 120))
    run, parts = saved(tmp_path, [0.0, 1.0, 0.5])
    low, high, _ = scores_of(parts, image_decode.square(file, 32))
    assert 0.05 < low < 0.95 and 0.05 < high < 0.95
    prediction = Predictor(run).predict(file)
    assert "Edema" in prediction.positive and "Fracture" not in prediction.positive


def test_a_score_at_the_threshold_is_positive():
    labels = SavedLabels(labels=LABELS, multi_label=True, thresholds=(0.25, 0.25, 0.75))
    scores = dict(zip(LABELS, (0.25, 0.2, 0.7), strict=True))
    positive = predictor.positive_labels(scores, labels)
    assert positive == ("Edema",)
    prediction = predictor.Prediction(scores=scores | {"Edema": 0.250049}, positive=positive, report=None)
    assert prediction.to_json() == {
        "scores": {"Edema": 0.25, "Fracture": 0.2, "Effusion": 0.7},
        "positive": ["Edema"],
    }


def test_of_classes_that_exclude_each_other_the_likeliest_is_positive_whatever_the_thresholds():
    labels = SavedLabels(labels=LABELS, multi_label=False, thresholds=(0.0, 0.0, 0.0))
    assert predictor.positive_labels(dict(zip(LABELS, (0.2, 0.45, 0.35), strict=True)), labels) == ("Fracture",)
