"""An image in the wrong range is refused, and a saved run prepares images by its own processor."""

import json

import numpy as np
import pytest
import torch

from cxr_ft import config
from cxr_ft.data.dataset.split_dataset import Example
from cxr_ft.model import assembly
from cxr_ft.model.bases import git, timm_vision
from cxr_ft.run.record import results, saved_model
from cxr_ft.run.record.saved_labels import SavedLabels

LABELS = ("Edema", "Fracture")
RNG = np.random.default_rng(0)
FILM = RNG.integers(0, 256, (32, 32), dtype=np.uint8)


@pytest.mark.parametrize("base", [git, timm_vision])
@pytest.mark.parametrize(
    ("image", "named"),
    [
        (FILM / 255, r"float64 from 0(\.\d+)? to 1; give uint8"),
        (FILM.astype(np.float32), "float32 .* give uint8"),
        (FILM.astype(np.float32) * 2 - 255, "float32 from -255 to 255; give uint8"),
        (FILM.astype(np.int16) * 16, "int16 .* give uint8"),
        (FILM.astype(np.uint16) * 257, "uint16 from 0 to 65535; give uint8"),
        (FILM > 128, "bool .* give uint8"),
        (np.zeros((48, 48), np.uint8), r"48 x 48; give \.\.\. x 32 x 32"),
        (np.zeros((32, 33), np.uint8), r"32 x 33; give \.\.\. x 32 x 32"),
        (np.zeros((32, 32, 3), np.uint8), r"32 x 3; give \.\.\. x 32 x 32"),
    ],
)
def test_an_image_in_the_wrong_range_is_one_line(base, image, named):
    tiny = base.tiny()
    with pytest.raises(ValueError, match=named) as refused:
        tiny.inputs([Example(image, np.zeros(2), "")])
    assert len(str(refused.value).splitlines()) == 1


def test_a_further_image_is_looked_at_too():
    tiny = git.tiny()
    tiny.read_several(2)
    with pytest.raises(ValueError, match="same shape"):
        tiny.inputs([Example(FILM, np.zeros(2), "", further=(np.zeros((16, 16), np.uint8),))])
    with pytest.raises(ValueError, match="give uint8"):
        tiny.inputs([Example(FILM, np.zeros(2), "", further=(FILM / 255,))])


@pytest.mark.parametrize("base", [git, timm_vision])
def test_black_and_white_are_where_the_weights_expect_them(base):
    tiny = base.tiny()
    ends = tiny.pixel_values(np.stack([np.zeros((32, 32), np.uint8), np.full((32, 32), 255, np.uint8)]))
    how = tiny.processor.image_processor if base is git else None
    mean, deviation = (how.image_mean, how.image_std) if how else (tiny.mean, tiny.std)
    for value, got in zip((0.0, 1.0), ends, strict=True):
        expected = (value - torch.tensor(mean)) / torch.tensor(deviation)
        torch.testing.assert_close(got.amax((1, 2)), expected)
        torch.testing.assert_close(got.amin((1, 2)), expected)


def saved_run(tmp_path, base, method):
    tiny = base.tiny()
    tiny.save(tmp_path / "base", tiny.lm)
    resolved = config.resolve({"model": str(tmp_path / "base"), "tuning": {"name": method}})
    torch.manual_seed(0)
    parts = assembly.build(resolved, LABELS, True)
    run = tmp_path / "run"
    run.mkdir()
    results.write(run, results.Result(status="trained", config=resolved.to_json(), config_hash=""))
    saved_model.save(run, parts, SavedLabels(labels=tuple(LABELS), multi_label=True, thresholds=(0.5,) * 2))
    return run


def answer(run):
    parts, _, _ = saved_model.load(run)
    with torch.no_grad():
        return parts.head.predict(parts.model, parts.head.collate([Example(FILM, np.zeros(2), "")])).answers


@pytest.mark.parametrize("method", ["full", "lora", "last_layers"])
def test_the_saved_processor_is_the_one_that_is_used(method, tmp_path):
    run = saved_run(tmp_path, git, method)
    before = answer(run)
    np.testing.assert_array_equal(before, answer(run))
    file = run / "model" / "processor_config.json"
    settings = json.loads(file.read_text())
    settings["image_processor"]["image_mean"] = [0.1, 0.1, 0.1]
    file.write_text(json.dumps(settings))
    assert np.abs(answer(run) - before).max() > 1e-5


@pytest.mark.parametrize("method", ["full", "lora"])
def test_the_saved_mean_of_an_image_model_is_the_one_that_is_used(method, tmp_path):
    run = saved_run(tmp_path, timm_vision, method)
    before = answer(run)
    file = run / "model" / "config.json"
    settings = json.loads(file.read_text())
    settings["pretrained_cfg"]["mean"] = [0.1, 0.1, 0.1]
    file.write_text(json.dumps(settings))
    assert np.abs(answer(run) - before).max() > 1e-5


def test_the_saved_processor_alone_makes_what_the_model_reads(tmp_path):
    """transformers' own processor, from the folder of a model of another size, on a film of any shape."""
    from transformers import GitProcessor

    base = git.tiny()
    base.resize(48)
    base.save(tmp_path, None)
    film = RNG.integers(0, 256, (48, 48), dtype=np.uint8)
    processor = GitProcessor.from_pretrained(tmp_path).image_processor
    pixels = processor(np.stack([film] * 3, axis=-1), return_tensors="pt")["pixel_values"]
    torch.testing.assert_close(pixels, base.pixel_values(film[None]), rtol=0, atol=1e-6)
    wide = processor(np.zeros((60, 90, 3), np.uint8), return_tensors="pt")["pixel_values"]
    assert wide.shape == (1, 3, 48, 48)
