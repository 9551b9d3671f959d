"""Folders as cxr-train leaves them, made up: predictions of a wanted quality, and the metrics that follow from them."""

import hashlib
import json

import numpy as np
import pandas as pd
from PIL import Image

from cxr_ft.run.record import results
from cxr_ft.run.record.results import Result
from cxr_ft.run.record.saved_labels import SavedLabels
from cxr_ft.score.metrics import calibration, classification, subgroups, text_overlap

HOSTILE = "<script>alert(1)</script>"
LABELS = ("Cardiomegaly", "Pleural Effusion", "Edema", "Fracture")
SUBJECTS, IMAGES = 40, 3
SENTENCES = (
    "The heart is enlarged .",
    "There is a pleural effusion .",
    "No focal consolidation .",
    "The lungs are clear .",
)

TUNING = {
    "zero_shot": {"name": "zero_shot"},
    "last_layers": {"name": "last_layers", "layers": 1},
    "lora": {"name": "lora", "targets": ["q", "v"], "rank": 8, "alpha": 16},
    "full": {"name": "full"},
}
TRAINABLE = {"zero_shot": 0, "last_layers": 1_790_000, "lora": 222_338, "full": 22_713_986}


def classify_run(folder, method="lora", seed=0, quality=1.0, labels=LABELS, **changes):
    """A successful classification run; `quality` shifts the scores of positives."""
    truth, score, subjects = _scores(seed, quality, len(labels), changes.get("split", "a"))
    metrics = classification.evaluate(truth, score, labels, None, multi_label=True) | {"loss": 0.4}
    metrics |= {"calibration": calibration.evaluate(truth, score, labels, True, temperature=1.3)}
    people = subjects.astype(str).tolist()
    # Of the second group the positives are missed as the bias says, whatever the image shows.
    sex = np.where(subjects % 2, "F", "M")
    missed = (sex == "F")[:, None] & (np.random.default_rng(3).random(truth.shape) < changes.get("bias", 0.0))
    metrics |= {
        "subgroups": subgroups.evaluate(
            truth, score, (score >= 0.5) & ~missed, labels, groups={"sex": sex.tolist()}, subjects=people
        )
    }
    natural = metrics | {"macro": metrics["macro"] | {"auroc": metrics["macro"]["auroc"] - 0.03}}
    # Other images, a little easier: a number of val in the place of one of test is seen.
    val_truth, val_score, _ = _scores(seed, 1.1 * quality + 0.1, len(labels), "val")
    val = metrics | classification.evaluate(val_truth, val_score, labels, None, multi_label=True)
    result = _result("classify", method, seed, labels, {"val": val, "test": metrics, "test_natural": natural}, changes)
    results.write(folder, result)
    (folder / "system.jsonl").write_text('{"seconds": 5.0, "cpu_percent": 80.0, "memory_bytes": 900000000}\n{"sec')
    rows = [
        (split, f"{prefix}{subject}", f"{prefix}s{subject}", f"{prefix}d{i}", label, right[i, j], predicted[i, j])
        for split, prefix, right, predicted in (("val", "v", val_truth, val_score), ("test", "", truth, score))
        for i, subject in enumerate(subjects)
        for j, label in enumerate(labels)
    ]
    columns = ["split", "subject_id", "study_id", "dicom_id", "label", "truth", "score"]
    results.write_predictions(folder, pd.DataFrame(rows, columns=columns))
    predicted = [dict(zip(labels, row.round(3).tolist(), strict=True)) for row in score]
    true_labels = [[label for label, value in zip(labels, row, strict=True) if value == 1] for row in truth]
    _gallery(folder, true_labels, predicted)
    (folder / "model").mkdir(exist_ok=True)
    saved = SavedLabels(labels=tuple(labels), multi_label=True, task="classify", thresholds=(0.5,) * len(labels))
    (folder / "model" / "labels.json").write_text(json.dumps(saved.to_json()))
    return folder


def report_run(folder, method="lora", seed=0, quality=0.5, **changes):
    """A successful report run; `quality` is the share of reports it gets right."""
    rng = np.random.default_rng(5)
    references = [" ".join(rng.choice(SENTENCES, 2, replace=False)) for _ in range(SUBJECTS)]
    own_noise = np.random.default_rng([seed, round(1000 * quality)])
    generated = [r if own_noise.random() < quality else " ".join(own_noise.choice(SENTENCES, 2)) for r in references]
    metrics = text_overlap.evaluate(references, generated) | {
        "loss": 1.2,
        "constant_baseline": text_overlap.constant_baseline(references, references),
    }
    half = text_overlap.evaluate(references[::2], generated[::2]) | {"loss": 1.1}
    results.write(folder, _result("report", method, seed, LABELS, {"val": half, "test": metrics}, changes))
    pairs = list(enumerate(zip(references, generated, strict=True)))
    rows = [("val", f"v{i}", f"vs{i}", f"vd{i}", r, g) for i, (r, g) in pairs[::2]]
    rows += [("test", str(i), f"s{i}", f"d{i}", r, g) for i, (r, g) in pairs]
    columns = ["split", "subject_id", "study_id", "dicom_id", "reference", "generated"]
    results.write_predictions(folder, pd.DataFrame(rows, columns=columns))
    _gallery(folder, references, generated)
    return folder


def failed_run(folder, status="failed", error="CUDA out of memory at step 3"):
    """A run that left nothing but its record."""
    results.write(folder, _result("classify", "full", 7, LABELS, {}, {}).replace(status=status, error=error))
    return folder


def _scores(seed, quality, columns, split):
    rng = np.random.default_rng({"a": 11, "val": 13}.get(split, 12))
    subjects = np.repeat(np.arange(SUBJECTS), IMAGES)
    truth = (rng.random((len(subjects), columns)) < 0.4).astype(float)
    truth[rng.random(truth.shape) < 0.05] = np.nan
    hard = rng.normal(0, 1, truth.shape)
    own_noise = np.random.default_rng([seed, round(1000 * quality)])
    logit = quality * (np.nan_to_num(truth, nan=0.5) * 2 - 1) + hard + own_noise.normal(0, 0.4, truth.shape)
    return truth, 1 / (1 + np.exp(-logit)), subjects


def _result(task, method, seed, labels, metrics, changes):
    train = {
        "seed": seed,
        "epochs": 4,
        "batch_size": changes.get("batch_size", 16),
        "precision": "no",
        **changes.get("train", {}),
    }
    config = {
        "data": {"splits": f"/somewhere/{method}", "root": None, **changes.get("data", {})},
        "model": "git-tiny",
        "head": {"name": task},
        "tuning": TUNING[method] | changes.get("tuning", {}),
        "train": train,
    }
    split = changes.get("split", "a")
    sha256 = {f"{name}_split.csv": hashlib.sha256(f"{name}{split}".encode()).hexdigest() for name in ("train", "test")}
    trainable = TRAINABLE[method]
    memory = {"weights": 9e7, "gradients": 4 * trainable, "optimizer": 8 * trainable, "activations": 3e8}
    steps = [] if method == "zero_shot" else range(1, 5)
    primary = metrics.get("val", {}).get("macro", {}).get("auroc") or metrics.get("val", {}).get("bleu_4") or 0.5
    return Result(
        status="success",
        config=config,
        config_hash=hashlib.sha256(json.dumps([config, sha256]).encode()).hexdigest(),
        environment={"cxr_ft": "0.1.0", "torch": "2.9.0", "commit": "abc1234", "device": changes.get("device", "cpu")},
        data={
            "splits": "data_splits/phantom",
            "sha256": sha256,
            "rows": {"train": 560, "val": 120, "test": 120, "test_natural": 120},
            "card": {"name": "phantom", "sensitivity": changes.get("sensitivity", "synthetic"), "labels": list(labels)},
        },
        plan={
            "output": changes.get("output", "text" if task == "report" else "scores"),
            "modules": [f"encoder.layer.{i}.attention.self.{word}" for i in range(2) for word in changes.get("at", ())],
        },
        cost={
            "train_seconds": 20.0 + trainable / 1e5,
            "parameters": {"trainable": trainable, "total": 22_900_000},
            "memory": {kind: int(value) for kind, value in memory.items()},
            "saved_model_bytes": 4 * trainable + 2000,
        },
        history=[
            {
                "epoch": epoch,
                "step": 35 * epoch,
                "seconds": 5.0 * epoch,
                "train_loss": 0.7 / epoch + 0.02 * seed,
                "val_loss": 0.6 / epoch + 0.15 + 0.02 * seed,
                "val": primary - 0.2 / epoch,
            }
            for epoch in steps
        ],
        metrics=metrics,
    )


def _gallery(folder, truth, predicted):
    (folder / "gallery").mkdir(parents=True, exist_ok=True)
    entries = []
    for i in range(4):
        shade = np.linspace(20 + 40 * i, 200, 96).astype(np.uint8)
        Image.fromarray(np.add.outer(shade // 2, shade // 2)).save(folder / "gallery" / f"{i}.png")
        looked = {"at": HOSTILE, "map": [[0.0, -1.0], [i, 0.5]]}
        entry = {"file": f"{i}.png", "dicom_id": f"d{i}", "truth": truth[i], "predicted": predicted[i]}
        entries.append(entry | {"looked": looked})
    (folder / "gallery" / "gallery.json").write_text(json.dumps(entries))
