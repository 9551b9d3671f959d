"""Every metric as an `evaluate` module: loads from disk without a network and computes what the package computes."""

import os
import subprocess
import sys
from pathlib import Path

import evaluate
import numpy as np
import pytest

from cxr_ft.errors import UsageError
from cxr_ft.score import evaluate_modules
from cxr_ft.score.metrics import calibration, classification, clinical, laterality, report_metrics, text_overlap

REFERENCES = ["There is a small left effusion .", "No edema . Heart size is normal .", "Mild cardiomegaly ."]
GENERATED = ["Small right effusion .", "Possible edema .", "Mild cardiomegaly ."]


@pytest.fixture(scope="module")
def load(tmp_path_factory):
    # `evaluate` imports a module from a copy; one folder for all, since it is one package to Python.
    folder = tmp_path_factory.mktemp("modules")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("evaluate.config.HF_MODULES_CACHE", str(folder))
        patch.setattr("evaluate.loading.HF_MODULES_CACHE", str(folder), raising=False)
        yield lambda name: evaluate.load(evaluate_modules.path(name), cache_dir=str(folder))


@pytest.mark.parametrize(
    ("name", "module"),
    [("clinical", clinical), ("reports", report_metrics), ("laterality", laterality), ("text", text_overlap)],
)
def test_a_module_of_texts_is_the_function(name, module, load):
    metric = load(name)
    assert metric.compute(predictions=GENERATED, references=REFERENCES) == module.evaluate(REFERENCES, GENERATED)
    for reference, generated in zip(REFERENCES, GENERATED, strict=True):
        metric.add(prediction=generated, reference=reference)
    assert metric.compute() == module.evaluate(REFERENCES, GENERATED)


@pytest.mark.parametrize("multi_label", [True, False])
def test_classification_and_calibration_are_the_functions(multi_label, load):
    rng = np.random.default_rng(0)
    score, truth = rng.random((40, 3)), np.eye(3)[rng.integers(0, 3, 40)]
    truth[3, 1] = np.nan
    rows = [[None if np.isnan(v) else v for v in row] for row in truth.tolist()]
    given = {"predictions": score.tolist(), "references": rows, "labels": list("abc"), "multi_label": multi_label}
    metric = load("classification")
    assert metric.compute(**given) == classification.evaluate(truth, score, list("abc"), None, multi_label)
    metric = load("calibration")
    wanted = calibration.evaluate(truth, score, list("abc"), multi_label, temperature=2.0)
    assert metric.compute(**given, temperature=2.0) == wanted


def test_all_are_named_and_loaded():
    folder = Path(evaluate_modules.__file__).parent
    assert {p.name for p in folder.iterdir() if p.is_dir() and p.name != "__pycache__"} == set(evaluate_modules.NAMES)
    with pytest.raises(UsageError, match="unknown evaluate module 'bleu'"):
        evaluate_modules.path("bleu")


@pytest.mark.slow
def test_they_load_in_a_process_without_a_network(tmp_path):
    code = (
        "import socket\ndef refuse(*a): raise SystemExit(f'opened a socket: {a}')\nsocket.socket.connect = refuse\n"
        "import evaluate\nfrom cxr_ft.score import evaluate_modules\n"
        "for name in evaluate_modules.NAMES: evaluate.load(evaluate_modules.path(name))\n"
    )
    env = os.environ | {"HF_HUB_OFFLINE": "1", "HF_HOME": str(tmp_path)}
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=False, env=env, timeout=300
    )
    assert done.returncode == 0, done.stderr[-2000:]
