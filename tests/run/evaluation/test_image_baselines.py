"""Baselines of images: what they see and what they never see, that runs share them, and where their scores lie."""

import json
import stat
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import toy
from PIL import Image
from real_data import REAL
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score

from cxr_ft import config, files
from cxr_ft.data import manifest
from cxr_ft.data.layouts import text_table
from cxr_ft.data.splits.request import SplitRequest
from cxr_ft.data.splits.write import make_splits
from cxr_ft.model import assembly
from cxr_ft.run.evaluation import image_baselines
from cxr_ft.run.evaluation.image_baselines import ImageBaselines
from cxr_ft.run.evaluation.run_datasets import build_datasets
from cxr_ft.run.record import results
from cxr_ft.run.training import train
from cxr_ft.show import page, phrasing
from cxr_ft.show.compare import compare
from cxr_ft.show.recorded_runs import load

TESTED = ("test", "test_natural")
ALL = {"majority", "acquisition", "mean_intensity", "thumbnail", "frozen_probe"}


def world(place, tells):
    """Splits of evenly grey images of two classes, which their "size" or "shade" tells in nine cases of ten.

    Noise in the pixels would tell the size as well: it loses contrast where an image is made smaller.
    """
    rng = np.random.default_rng(5)
    (place / "images").mkdir(parents=True)
    rows = []
    for i in range(120):
        large, bright = rng.random(2) < 0.5
        sign = i % 2 == (rng.random() >= 0.1)
        large, bright = (sign, bright) if tells == "size" else (large, sign)
        pixels = np.full((40, 44) if large else (36, 32), rng.integers(20, 120) + 110 * bright, np.uint8)
        # Uncompressed, since the bytes of a compressed one depend on the shade.
        Image.fromarray(pixels).save(place / "images" / f"secret{i}.png", compress_level=0)
        rows.append({"path": f"secret{i}.png", "subject_id": f"s{i}", "label": ("well", "ill")[i % 2]})
    pd.DataFrame(rows).to_csv(place / "images" / "index.csv", index=False)
    make_splits(
        str(place / "images"), "folder", SplitRequest(per_label=60, ratios=(50.0, 20.0, 30.0)), place / "splits"
    )


@pytest.fixture(scope="module")
def by_size(tmp_path_factory, overlapping):
    place = tmp_path_factory.mktemp("by_size")
    world(place, "size")
    return SimpleNamespace(splits=place / "splits", tiny=overlapping / "tiny")


def opened(splits, tiny, method="last_layers", **changes):
    """The baselines of an untrained run."""
    raw = {
        "data": {"splits": str(splits)},
        "model": str(tiny),
        "head": {"name": "classify"},
        "tuning": {"name": method},
    }
    resolved = config.resolve(raw)
    read = manifest.read(splits)
    parts = assembly.build(resolved, read.card.labels, read.card.multi_label)
    datasets = build_datasets(resolved, read, parts.base.image_size)
    return ImageBaselines(
        parts=parts,
        config=resolved,
        splits=read,
        datasets=changes.get("datasets", datasets),
        labels=read.card.labels,
        multi_label=read.card.multi_label,
        batch_size=8,
    )


def areas(baselines, split="test"):
    truth = baselines.datasets[split].targets[:, 0]
    return {name: roc_auc_score(truth, scores[:, 0]) for name, scores in baselines.scores(TESTED)[split].scores.items()}


def test_a_label_that_the_size_tells_is_found_by_the_acquisition_alone(by_size):
    baselines = opened(by_size.splits, by_size.tiny)
    found = areas(baselines)
    assert set(found) == ALL
    assert found["acquisition"] > 0.75 and found["majority"] == 0.5
    assert max(found["mean_intensity"], found["thumbnail"]) < 0.75
    kept = baselines.scores(TESTED)["test"]
    prevalence = baselines.datasets["train"].targets.mean(axis=0)
    np.testing.assert_allclose(kept.scores["majority"], np.tile(prevalence, (len(kept.scores["majority"]), 1)))
    assert set(kept.train_rows.values()) == {len(baselines.datasets["train"])}


def test_the_acquisitions_scores_are_scikit_learns_on_what_the_files_say(by_size):
    baselines = opened(by_size.splits, by_size.tiny)
    sizes = {}
    for split, data in baselines.datasets.items():
        sizes[split] = [Image.open(by_size.splits.parent / "images" / path).width for path in data.table["path"]]
    codes = {split: np.array(widths)[:, None] == [32, 44] for split, widths in sizes.items()}
    truth = baselines.datasets["train"].targets.argmax(axis=1)
    reference = LogisticRegression(C=1e3).fit(codes["train"], truth).predict_proba(codes["test"])
    ours = baselines.scores(TESTED)["test"].scores["acquisition"]
    # Bytes are seen too, and say the same once more: the order of the two sizes is what both agree on.
    assert np.corrcoef(reference[:, 0], ours[:, 0])[0, 1] > 0.95


def test_the_brightness_and_the_thumbnail_find_a_label_that_is_a_shade(overlapping, tmp_path):
    world(tmp_path, "shade")
    found = areas(opened(tmp_path / "splits", overlapping / "tiny"))
    assert min(found["mean_intensity"], found["thumbnail"]) > 0.75 > found["acquisition"]


def test_no_label_of_a_test_row_is_seen(by_size):
    baselines = opened(by_size.splits, by_size.tiny)
    before = baselines.scores(TESTED)
    for path in (files.cache_folder() / "baselines").iterdir():
        path.unlink()
    for split in TESTED:
        targets = baselines.datasets[split].targets
        targets[:] = np.random.default_rng(1).permutation(targets)
    after = opened(by_size.splits, by_size.tiny, datasets=baselines.datasets).scores(TESTED)
    for split in TESTED:
        for name in ALL:
            np.testing.assert_array_equal(before[split].scores[name], after[split].scores[name])
    assert before["test"].thresholds == after["test"].thresholds


def test_runs_on_one_split_share_them_and_a_changed_file_is_no_hit(by_size, monkeypatch):
    first = opened(by_size.splits, by_size.tiny).scores(TESTED)
    kept = sorted((files.cache_folder() / "baselines").iterdir())
    assert len(kept) == 2 and {stat.S_IMODE(path.stat().st_mode) for path in kept} == {0o600}
    assert stat.S_IMODE(kept[0].parent.stat().st_mode) == 0o700
    raw = b"".join(path.read_bytes() for path in kept)
    assert b"secret" not in raw
    with monkeypatch.context() as patch:
        for name in ("_of_data", "_probe"):
            patch.setattr(ImageBaselines, name, lambda *_: pytest.fail("computed again"))
        again = opened(by_size.splits, by_size.tiny, method="full").scores(TESTED)
    for name in ALL:
        np.testing.assert_array_equal(first["test"].scores[name], again["test"].scores[name])
    kept[0].write_bytes(kept[0].read_bytes()[:50])
    kept[1].write_bytes(b"")
    mended = opened(by_size.splits, by_size.tiny).scores(TESTED)
    np.testing.assert_array_equal(first["test"].scores["acquisition"], mended["test"].scores["acquisition"])
    monkeypatch.setattr(image_baselines, "_states", lambda root, paths: ["other"] * len(paths))
    opened(by_size.splits, by_size.tiny).scores(TESTED)
    assert len(list(kept[0].parent.iterdir())) == 4


def test_a_large_train_is_sampled_and_the_number_kept(by_size, monkeypatch):
    monkeypatch.setattr(image_baselines, "ROWS", 30)
    monkeypatch.setattr(image_baselines, "PROBE_ROWS", 20)
    kept = opened(by_size.splits, by_size.tiny).scores(TESTED)["test"]
    assert kept.train_rows == {**dict.fromkeys(ALL, 30), "frozen_probe": 20}


def test_a_base_that_is_gone_leaves_the_other_baselines_and_a_reason(by_size, monkeypatch):
    monkeypatch.setattr(image_baselines.frozen_features, "compute", lambda *_: (_ for _ in ()).throw(MemoryError()))
    kept = opened(by_size.splits, by_size.tiny).scores(TESTED)["test"]
    assert set(kept.scores) == ALL - {"frozen_probe"} and kept.missing == {"frozen_probe": "out of memory"}


@pytest.mark.image_baselines
def test_a_run_keeps_them_privately_by_row_and_records_their_metrics_without_ids(by_size, tmp_path):
    raw = {
        "data": {"splits": str(by_size.splits)},
        "model": str(by_size.tiny),
        "head": {"name": "classify"},
        "tuning": {"name": "last_layers"},
        "train": {"epochs": 1, "batch_size": 16},
    }
    train.fit(config.resolve(raw), tmp_path / "run")
    result = results.read(tmp_path / "run")
    file = tmp_path / "run" / "baselines.parquet"
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    table, predictions = results.read_baselines(tmp_path / "run"), results.read_predictions(tmp_path / "run")
    keys = ["split", "subject_id", "study_id", "dicom_id", "label", "truth"]
    tested = predictions[predictions["split"] != "val"].reset_index(drop=True)
    pd.testing.assert_frame_equal(table[keys], tested[keys], check_like=True)
    for split in TESTED:
        recorded = result.metrics[split]["baselines"]
        assert set(recorded) == ALL
        rows = table[table["split"] == split]
        for name, metrics in recorded.items():
            area = np.mean([roc_auc_score(part["truth"], part[name]) for _, part in rows.groupby("label")])
            assert metrics["macro"]["auroc"] == pytest.approx(area) and len(metrics["thresholds"]) == 2
    assert "secret" not in json.dumps(result.to_json()["metrics"])


@pytest.mark.image_baselines
def test_a_model_that_writes_has_the_baselines_of_texts_alone(overlapping, tmp_path):
    train.fit(toy.configured(overlapping, task="report", epochs=1), tmp_path / "run")
    assert not (tmp_path / "run" / "baselines.parquet").exists()
    assert "nearest" in results.read(tmp_path / "run").metrics["test"]["baselines"]


def test_the_baselines_of_texts_are_kept_by_row_too(tmp_path):
    make_splits(text_table.demo(tmp_path / "texts"), "text_table", SplitRequest(per_label=20), tmp_path / "splits")
    raw = {
        "data": {"splits": str(tmp_path / "splits")},
        "model": "bert-tiny-random",
        "tuning": {"name": "last_layers"},
        "train": {"epochs": 1},
    }
    train.fit(config.resolve(raw), tmp_path / "run")
    table, result = results.read_baselines(tmp_path / "run"), results.read(tmp_path / "run")
    rows = table[table["split"] == "test"]
    recorded = result.metrics["test"]["baselines"]
    assert {"majority", "tfidf_logreg"} <= set(recorded) and "acquisition" not in recorded
    areas = [roc_auc_score(part["truth"], part["tfidf_logreg"]) for _, part in rows.groupby("label")]
    assert recorded["tfidf_logreg"]["macro"]["auroc"] == pytest.approx(np.mean(areas))


@pytest.mark.slow
@pytest.mark.image_baselines
@pytest.mark.skipif(not (REAL / "real_cxr").exists(), reason="the real radiographs are not here")
def test_the_page_of_radiographs_whose_label_is_their_source_begins_with_what_explains_it(tmp_path):
    make_splits(str(REAL / "real_cxr"), "folder", SplitRequest(per_label=130), tmp_path / "splits")
    raw = {
        "data": {"splits": str(tmp_path / "splits")},
        "model": "git-phantom-tiny",
        "tuning": {"name": "lora"},
        "train": {"epochs": 3},
    }
    result = train.fit(config.resolve(raw), tmp_path / "run")
    assert result.primary("test") > 0.9
    folders = [tmp_path / "run"]
    (comparison,) = compare(load(folders)[0])
    beaten = {test.baseline: test.shown for test in comparison.against_baselines}
    assert not beaten["acquisition data alone"] and not beaten["a 32 x 32 thumbnail"]
    said = phrasing.against_baselines(comparison)
    assert any(line.startswith("Not shown to beat acquisition data alone (macro AUROC 0.9") for line in said)
    page.write_page(folders, tmp_path / "page")
    html = (tmp_path / "page" / "comparison.html").read_text()
    assert html.index("CONFOUND") < html.index("Not shown to beat") < html.index("The only variant")
