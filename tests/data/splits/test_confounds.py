"""What a split says of labels that need no content of an image, of labels without rows, and of costly weights."""

import json

import numpy as np
import pandas as pd
import pytest
from PIL import Image
from sklearn.metrics import roc_auc_score

from cxr_ft.cli import split
from cxr_ft.data.audit import acquisition, confound_probe
from cxr_ft.data.splits import notes, prevalence
from cxr_ft.data.splits.request import SplitRequest
from cxr_ft.data.splits.write import make_splits

REQUEST = SplitRequest(per_label=60)


def archive(folder, strength):
    """Random films of two classes in one folder; the share `strength` of the ill ones are larger."""
    rng = np.random.default_rng(3)
    (folder / "films").mkdir(parents=True)
    rows = []
    for i in range(60):
        ill = i % 2
        size = (48, 40) if ill and rng.random() < strength else (40, 36)
        Image.fromarray(rng.integers(0, 255, size, dtype=np.uint8)).save(folder / "films" / f"secret{i}.png")
        rows.append({"path": f"films/secret{i}.png", "label": ("well", "ill")[ill]})
    pd.DataFrame(rows).to_csv(folder / "index.csv", index=False)
    return str(folder)


@pytest.fixture(scope="module")
def confounded(tmp_path_factory):
    return archive(tmp_path_factory.mktemp("confounded"), 0.9)


def test_the_manifest_names_the_label_and_the_signal_and_no_image(confounded, tmp_path):
    manifest = make_splits(confounded, "folder", REQUEST, tmp_path / "out")
    audited = manifest["confounds"]
    (label,) = audited["labels"]
    assert label["label"] == "well" and label["confounded"] and label["signal"] in ("size", "file")
    assert label["low"] <= label["auroc"] <= label["high"] and label["by"]["size"] > 0.85
    assert audited["images"] == audited["thumbnails"] == 60
    assert "secret" not in json.dumps(audited)
    again = make_splits(confounded, "folder", REQUEST, tmp_path / "again")
    assert again["confounds"] == audited


def test_a_split_without_a_confound_says_so(tmp_path, capsys):
    source = archive(tmp_path / "plain", 0.0)
    assert split.main([source, "--layout", "folder", "--per-label", "60", "--out", str(tmp_path / "out")]) == 0
    printed = capsys.readouterr().out
    assert "CONFOUND" not in printed and "no of 1 labels can be predicted without the content" in printed


def test_the_command_prints_the_confound_and_counts_no_unknown_subjects(confounded, tmp_path, capsys):
    assert split.main([confounded, "--layout", "folder", "--per-label", "60", "--out", str(tmp_path / "out")]) == 0
    printed = capsys.readouterr().out
    assert "CONFOUND well: predicted without the content of the image by" in printed and ", AUROC " in printed
    assert "subjects unknown" in printed and "│ subjects" not in printed


def test_thumbnails_are_of_some_images_at_random_and_each_image_is_decoded_once(confounded, monkeypatch):
    monkeypatch.setattr(acquisition, "THUMBNAILS", 3)
    paths = [f"films/secret{i}.png" for i in range(10)]
    kept = []
    for order in (paths, paths[::-1]):
        seen = acquisition.Acquisitions(acquisition.Path(confounded))
        assert not seen.check(order[:8]).unreadable and len(seen.check(order[8:]).pixels) == 2
        assert len(seen.thumbnails) == 3 and len(seen.measured()) == 10
        seen = acquisition.Acquisitions(acquisition.Path(confounded))
        seen.check(order)
        kept.append(set(seen.thumbnails))
    assert kept[0] == kept[1]


def test_labels_that_come_after_the_time_are_named():
    table = pd.DataFrame({"view": ["PA", "AP"] * 60})
    truth = (np.arange(120) % 3 == 0).astype(float)
    options = confound_probe.ProbeOptions(quick=True, seconds=-1)
    found, said = confound_probe.probe(table, pd.DataFrame(), None, None, labels={"Edema": truth}, options=options)
    assert found == [] and "not probed for confounds, for want of time: Edema" in said[0]


def test_the_interval_is_that_of_resampled_subjects():
    rng = np.random.default_rng(0)
    subject = rng.integers(0, 30, 90)
    truth = rng.random(90) < 0.4
    score = np.round(truth + rng.normal(0, 1, 90))
    low, high = confound_probe._interval(truth, score, subject, np.random.default_rng(1))
    areas = []
    rows_of = [np.flatnonzero(subject == s) for s in np.unique(subject)]
    for _ in range(500):
        rows = np.concatenate([rows_of[s] for s in rng.integers(0, len(rows_of), len(rows_of))])
        areas.append(confound_probe._auroc(truth[rows], score[rows]))
    assert areas[-1] == pytest.approx(roc_auc_score(truth[rows], score[rows]))
    # Of 500 replicates an end of an interval has a standard error of about a hundredth.
    assert np.allclose([low, high], np.percentile(areas, [2.5, 97.5]), atol=0.04)


def test_the_effective_sample_size_is_kishs():
    weight, rows = np.array([1.0, 3.0, 0.0]), np.array([4, 2, 5])
    out = prevalence.effective(weight, rows)
    assert out["effective_rows"] == pytest.approx((4 + 6) ** 2 / (4 + 18), rel=1e-5) and out["ratio"] == 3
    assert prevalence.effective(np.full(3, 0.7), rows)["effective_rows"] == pytest.approx(11)


def test_weights_that_cost_half_of_the_rows_are_told():
    quality = {
        "train": {"rows_without": 0.0, "prevalence_error": 0.0, "effective_rows": 900.0, "ratio": 2.0},
        "test": {"rows_without": 0.0, "prevalence_error": 0.0, "effective_rows": 129.2, "ratio": 96883.0},
    }
    (note,) = notes.effective_notes(quality, {"train": 1000, "test": 5312})
    assert "test 129 of 5,312 rows;" in note and "96,883 times" in note and "train" not in note
    assert notes.effective_notes({"train": quality["train"]}, {"train": 1000}) == []


def test_a_label_without_rows_in_val_or_test_is_named():
    def label(**counts):
        return {"available": 30, "train": 30, "val": 1, "test": 1} | counts

    labels = {"PMO": label(val=0, test=0), "Arts": label(), "HR": label(val=0), "None": label(available=0, test=0)}
    val, test = notes.missing_notes(labels)
    assert val.startswith("val has no positive row of PMO, HR:") and test.startswith("test has no positive row of PMO:")
    assert notes.missing_notes({"Arts": label()}) == []
