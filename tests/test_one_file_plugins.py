"""A new layout, base, head, method or tracker is one file: it is used from split to page, and nothing else is edited.

The files are in tests/new_plugins, written as CONTRIBUTING.md describes. Each test adds one of them to the package that
it belongs to, as a file in that folder would be.
"""

import importlib
import json
import shutil
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from torch import nn

import cxr_ft
from cxr_ft import plugins
from cxr_ft.cli import compare, split, train
from cxr_ft.data.layouts import folder
from cxr_ft.model import methods
from cxr_ft.model.bases import git
from cxr_ft.show import page
from cxr_ft.show.charts import all_charts

NEW = Path(__file__).parent / "new_plugins"


@pytest.fixture
def add(tmp_path, monkeypatch):
    """Return a function that puts tests/new_plugins/FOLDER/NAME.py into a plug-in package until the test ends."""
    added = []

    def add_file(package, name):
        place = tmp_path / "plugins" / package
        place.mkdir(parents=True)
        shutil.copy(NEW / package.rpartition(".")[2] / f"{name}.py", place)
        parent = importlib.import_module(package)
        path = [*parent.__path__, str(place)]
        monkeypatch.setattr(parent, "__path__", path)
        monkeypatch.setattr(parent.__spec__, "submodule_search_locations", path)
        plugins.choices.cache_clear()
        added.append((parent, name))

    yield add_file
    plugins.choices.cache_clear()
    for parent, name in added:
        sys.modules.pop(f"{parent.__name__}.{name}", None)
        vars(parent).pop(name, None)


@pytest.fixture(scope="module")
def toy(tmp_path_factory):
    """A folder with `splits` of 24 images in two classes, and the tiny GIT in `git`."""
    place = tmp_path_factory.mktemp("toy")
    archive = folder.demo(place)
    assert split.main([archive, "--layout", "folder", "--per-label", "12", "--out", str(place / "splits")]) == 0
    tiny = git.tiny()
    tiny.save(place / "git", tiny.lm)
    return place


@pytest.fixture
def trained(toy, tmp_path, monkeypatch):
    """Return a function that trains one epoch by cxr-train and writes the page by cxr-compare."""
    # The PDF and the other charts take seconds a page, and know nothing of plug-ins.
    monkeypatch.setattr(page, "_pdf", lambda *_: [])
    monkeypatch.setattr(page, "all_charts", lambda: {"per_label": all_charts()["per_label"]})

    def run(*flags, model="git"):
        out = tmp_path / "run"
        known = ["--splits", str(toy / "splits"), "--model", str(toy / model), "--set", "train.epochs=1"]
        assert train.main([*known, "--out", str(out), *flags]) == 0
        assert compare.main([str(out), "--out", str(tmp_path / "page")]) == 0
        result = json.loads((out / "result.json").read_text(encoding="utf-8"))
        assert result["status"] == "success" and 0 <= result["metrics"]["test"]["macro"]["auroc"] <= 1
        return out, result, (tmp_path / "page" / "comparison.html").read_text(encoding="utf-8")

    return run


def test_a_layout_is_one_file(add, tmp_path, capsys):
    add(plugins.LAYOUTS, "film_list")
    source = plugins.load(plugins.LAYOUTS, "film_list").demo(tmp_path / "archive")
    assert "film_list" in cxr_ft.list_layouts()
    with pytest.raises(SystemExit):
        split.main(["--help"])
    assert "film_list" in capsys.readouterr().out
    assert split.main([source, "--layout", "film_list", "--per-label", "12", "--out", str(tmp_path / "splits")]) == 0
    tables = {name: pd.read_csv(tmp_path / "splits" / f"{name}_split.csv") for name in ("train", "val", "test")}
    assert sorted(pd.concat(tables.values())["path"]) == sorted(f"{i}.png" for i in range(24))
    for table in tables.values():
        assert (
            table["subject_id"] == "p" + (table["path"].str.removesuffix(".png").astype(int) // 2).astype(str)
        ).all()
    manifest = json.loads((tmp_path / "splits" / "manifest.json").read_text(encoding="utf-8"))
    assert manifest["card"]["name"] == "film list" and manifest["card"]["labels"] == ["clear", "opaque"]


def test_a_base_is_one_file(add, trained, toy):
    add(plugins.BASES, "vit")
    tiny = plugins.load(plugins.BASES, "vit").tiny()
    tiny.save(toy / "vit", tiny.lm)
    assert "google/vit-base-patch16-224-in21k" in cxr_ft.list_bases()
    out, result, shown = trained("--method", "lora", "--targets", "q,v", "--rank", "2", model="vit")
    adapted = [f"layers.{block}.attention.{role}_proj" for block in (0, 1) for role in "qv"]
    assert result["plan"]["modules"] == [*adapted, "classifier"]
    assert "lora q,v r2" in shown
    prediction = cxr_ft.load_run(out).predict(np.zeros((32, 32), np.uint8))
    assert set(prediction.scores) == {"clear", "opaque"}


def test_a_head_is_one_file(add, trained, capsys):
    add(plugins.HEADS, "classify_deep")
    assert "classify_deep" in cxr_ft.list_heads()
    _, result, shown = trained("--task", "classify_deep", "--method", "last_layers", "--set", "head.hidden=8")
    assert result["config"]["head"]["name"] == "classify_deep" and result["config"]["head"]["hidden"] == 8
    # Two layers: width 64 -> 8 -> 2 classes, with their biases.
    width = git.tiny().pools["query"]
    assert result["cost"]["parameters"]["head"] == (width + 1) * 8 + (8 + 1) * 2
    assert "classify_deep" in shown


def test_a_method_and_a_tracker_are_one_file_each(add, trained):
    add(plugins.TUNING, "norms")
    add(plugins.TRACKERS, "lines")
    assert "norms" in cxr_ft.list_methods()
    assert methods.load("norms").merge is not None
    out, result, shown = trained("--method", "norms", "--lr", "0.01", "--track", "lines")
    assert result["config"]["tuning"] == {"name": "norms", "lr": 0.01}
    layers = [module for module in git.tiny().encoder("query").modules() if isinstance(module, nn.LayerNorm)]
    norms = sum(p.numel() for layer in layers for p in layer.parameters())
    assert result["cost"]["parameters"]["adapter"] == norms > 0
    assert "norms" in shown
    lines = (out / "tracking" / "lines.txt").read_text(encoding="utf-8").splitlines()
    (loss,) = [float(line.split()[2]) for line in lines if line.startswith("1 val_loss ")]
    assert loss == pytest.approx(result["history"][0]["val_loss"])
    assert any(" summary/test/macro.auroc " in line for line in lines)
