"""What --export writes is read by transformers, or PEFT, alone: the README's own code, in a process without cxr_ft."""

import dataclasses
import json
import re
import subprocess
import sys

import numpy as np
import pytest
import torch
from PIL import Image

from cxr_ft import config
from cxr_ft.data.dataset.split_dataset import Example
from cxr_ft.data.layouts import folder
from cxr_ft.data.splits.request import SplitRequest
from cxr_ft.data.splits.write import make_splits
from cxr_ft.errors import UsageError
from cxr_ft.model import methods
from cxr_ft.model.bases import git, timm_vision
from cxr_ft.run.record import export, results, saved_model
from cxr_ft.run.training import train


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """Splits of a tiny folder, and tiny pretrained models; the GIT's blocks are wide enough to be quantised."""
    place = tmp_path_factory.mktemp("place")
    make_splits(folder.demo(place), "folder", SplitRequest(per_label=12), place / "splits")
    for name, tiny in (("git", git.tiny()), ("vit", timm_vision.tiny())):
        tiny.save(place / name, tiny.lm)
    return place


def trained(place, out, method, model="git", task="classify", **data):
    raw = {
        "data": {"splits": str(place / "splits"), **data},
        "model": str(place / model),
        "head": {"name": task, **({"max_tokens": 8} if task == "report" else {})},
        "tuning": {"name": method, **({"targets": "all"} if method == "qlora" else {})},
        "train": {"epochs": 1, "batch_size": 8},
    }
    resolved = config.resolve(raw)
    train.fit(resolved, out, verify=False)
    return resolved


def answered(run, image):
    """The run's own logits for one image."""
    parts, *_ = saved_model.load(run)
    example = Example(image, np.zeros(len(saved_model.labels(run).labels)), "no edema.")
    batch = parts.head.collate([example])
    if parts.head.output == "text":
        batch["labels"][:, 1:] = -100  # the start token's alone
    return export.logits(parts, parts.model, batch)


def alone(where, place, model):
    """What the README's code prints, run in the folder by an interpreter that may not import cxr_ft."""
    (code,) = re.findall(r"```python\n(.*?)```", (where / "README.md").read_text(), re.DOTALL)
    if not (where / model).exists():
        (where / model).symlink_to(place / model)
    guard = "import sys; sys.modules['cxr_ft'] = None\n"
    done = subprocess.run(
        [sys.executable, "-c", guard + code + "\nprint(logits.tolist())"],
        cwd=where, capture_output=True, text=True, check=False, timeout=400,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return torch.tensor(json.loads(done.stdout.splitlines()[-1]))


@pytest.mark.parametrize(
    ("method", "way", "model", "task"),
    [
        ("lora", "adapter", "git", "classify"),
        pytest.param("full", "merged", "vit", "classify", marks=pytest.mark.slow),
        pytest.param("lora", "merged", "git", "classify", marks=pytest.mark.slow),
        pytest.param("lora_scratch", "adapter", "git", "report", marks=pytest.mark.slow),
        pytest.param("hybrid", "merged", "git", "report", marks=pytest.mark.slow),
        pytest.param("prompt", "adapter", "git", "classify", marks=pytest.mark.slow),
        pytest.param("lora", "merged", "vit", "classify", marks=pytest.mark.slow),
        pytest.param("ia3", "adapter", "vit", "classify", marks=pytest.mark.slow),
        pytest.param("qlora", "merged", "git", "classify", marks=pytest.mark.slow),
    ],
)
def test_the_readme_loads_it_to_the_same_logits(place, tmp_path, method, way, model, task):
    run = tmp_path / "run"
    trained(place, run, method, model, task)
    where, drift = export.export(run, way)
    image = np.random.default_rng(0).integers(0, 256, (32, 32), dtype=np.uint8)
    Image.fromarray(image).save(where / "image.png")
    torch.testing.assert_close(alone(where, place, model), answered(run, image), rtol=0, atol=2e-5)
    assert (drift is None) == (way == "adapter")
    card = (where / "README.md").read_text()
    assert "test: not evaluated yet" in card and "synthetic" not in card
    assert str(place) not in card and "base_model: " in card
    assert not [path for path in where.rglob("*") if path.suffix in (".bin", ".pkl", ".pt")]


def test_a_verified_run_tells_of_test_and_a_second_export_replaces_the_first(place, tmp_path):
    run = tmp_path / "run"
    trained(place, run, "lora")
    results.write(run, results.read(run).replace(status="success", metrics={"test": {"macro": {"auroc": 0.5}}}))
    first, drift = export.export(run, "merged")
    assert "- test: auroc 0.500" in (first / "README.md").read_text()
    assert drift is not None and 0 <= drift.mean <= drift.largest < 1e-5
    (first / "stale").touch()
    again, _ = export.export(run, "merged")
    assert again == first and not (first / "stale").exists()


def test_the_drift_is_the_difference_that_merging_made(place, tmp_path, monkeypatch):
    run, load = tmp_path / "run", methods.load
    trained(place, run, "lora")

    def shifted(model):
        plain = load("lora").merge(model)
        plain.classifier.bias.data += 0.125
        return plain

    monkeypatch.setattr(methods, "load", lambda name: dataclasses.replace(load(name), merge=shifted))
    _, drift = export.export(run, "merged")
    assert drift.largest == pytest.approx(0.125, abs=1e-4) and drift.mean == pytest.approx(0.125, abs=1e-4)


@pytest.mark.parametrize(
    ("method", "way", "words"),
    [
        ("adapter", "merged", r"adapter: .*cannot be merged; lora can"),
        ("prompt", "merged", r"prompt: .*cannot be merged; export the adapter"),
        ("full", "adapter", r"full: .*use --export merged"),
        ("adapter", "adapter", r"adapter: .*own format.*lora"),
        ("zero_shot", "merged", r"zero_shot: nothing is trained"),
    ],
)
def test_what_cannot_be_exported_is_refused_before_training(method, way, words):
    resolved = config.resolve({"model": "git-tiny-random", "tuning": {"name": method}})
    with pytest.raises(UsageError, match=words):
        export.check(resolved, way)


def test_an_adapter_for_a_changed_base_is_refused():
    resolved = config.resolve({"model": "git-tiny-random", "data": {"image_size": 64}})
    with pytest.raises(UsageError, match="image_size"):
        export.check(resolved, "adapter")
    export.check(resolved, "merged")


@pytest.mark.parametrize(
    ("method", "library", "words"),
    [("lora", "peft", "PeftModel"), ("last_layers", "transformers", "load_file"), ("adapter", "cxr_ft", "cxr-predict")],
)
def test_what_a_run_leaves_has_a_card_too(place, tmp_path, method, library, words):
    trained(place, tmp_path / "run", method)
    card = (tmp_path / "run" / "model" / "README.md").read_text()
    assert f"library_name: {library}" in card and words in card
    assert "test: not evaluated yet" in card and str(place) not in card


def test_an_unfinished_run_is_not_exported(place, tmp_path):
    run = tmp_path / "run"
    trained(place, run, "lora")
    results.write(run, results.read(run).replace(status="cancelled"))
    with pytest.raises(UsageError, match="is cancelled: only a finished run"):
        export.export(run, "merged")
