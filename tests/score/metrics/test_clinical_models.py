"""The optional models: what is missing is said in one line, what radeval is asked for, by the names it has."""

import subprocess
import sys
import types

import pytest

from cxr_ft.errors import UsageError
from cxr_ft.score.metrics import clinical_models, doctor

TEXTS = ["no edema .", "mild edema .", " "]


def test_an_unknown_model_and_a_missing_package_are_one_line(monkeypatch):
    with pytest.raises(UsageError, match="unknown clinical model 'green2'"):
        clinical_models.evaluate(TEXTS, TEXTS, ["green2"])
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(UsageError, match=r"radgraph cannot be computed: it needs pip install 'cxr_ft\[clinical\]'$"):
        clinical_models.evaluate(TEXTS, TEXTS, ["radgraph"], download=True)


def test_weights_that_are_not_here_are_fetched_only_where_it_was_allowed(monkeypatch):
    monkeypatch.setattr(clinical_models, "missing", lambda name: ["chexbert.pth of StanfordAIMI/RRG_scorers"])
    with pytest.raises(UsageError, match=r"chexbert cannot be computed: it needs chexbert\.pth of Stanford"):
        clinical_models.evaluate(TEXTS, TEXTS, ["chexbert"])


def test_radeval_gets_the_pairs_with_a_reference_alone(monkeypatch):
    asked = {}

    class RadEval:
        def __init__(self, metrics, show_progress):
            asked["metrics"] = metrics

        def __call__(self, refs, hyps):
            asked["pairs"] = (refs, hyps)
            return {"green": 0.25, "radcliq_v1": 1.5, "something_else": 3.0}

    monkeypatch.setitem(sys.modules, "radeval", types.SimpleNamespace(RadEval=RadEval))
    monkeypatch.setattr("importlib.metadata.version", lambda name: "2.2.1")
    monkeypatch.setattr(clinical_models, "missing", lambda name: [])
    result = clinical_models.evaluate(TEXTS, ["a", "b", "c"], ["green", "radcliq"])
    assert asked == {"metrics": ["green", "radcliq"], "pairs": (["no edema .", "mild edema ."], ["a", "b"])}
    assert result == {"green": 0.25, "radcliq_v1": 1.5, "n": 2, "signature": "radeval 2.2.1", "undefined": {}}
    nothing = clinical_models.evaluate([""], ["a"], ["green"])
    assert nothing["green"] is None and nothing["undefined"]


#: The names in METRIC_REGISTRY of radeval 2.2.1 (radeval/metrics/_registry.py).
RADEVAL = (
    *("bleu", "rouge", "bertscore", "radeval_bertscore", "f1chexbert", "f1radbert_ct", "radgraph", "ratescore"),
    *("radgraph_radcliq", "radcliq", "srrbert", "temporal", "green", "mammo_green", "crimson", "radfact_ct"),
)


def test_the_models_are_radevals():
    assert {model.radeval for model in clinical_models.MODELS.values()} <= set(RADEVAL)


def test_the_doctor_says_what_is_missing_and_what_brings_it(monkeypatch, capsys):
    monkeypatch.setattr(clinical_models, "missing", lambda name: [] if name == "green" else [clinical_models.INSTALL])
    monkeypatch.setattr(doctor, "_version", lambda name: "" if name == "radeval" else "1.0")
    assert doctor.main() == 1
    printed = capsys.readouterr().out.splitlines()
    assert "ok      nltk          METEOR: 1.0" in printed
    assert any(line.startswith("missing radeval") and line.endswith(clinical_models.INSTALL) for line in printed)
    assert any(line.startswith("ok      green") for line in printed)
    monkeypatch.setattr(clinical_models, "missing", lambda name: [])
    monkeypatch.setattr(doctor, "_version", lambda name: "1.0")
    assert doctor.main() == 0


def test_the_doctor_runs_as_a_command():
    done = subprocess.run(
        [sys.executable, "-m", "cxr_ft.score.metrics.doctor"], capture_output=True, text=True, check=False, timeout=120
    )
    assert done.returncode in (0, 1) and "sacrebleu" in done.stdout and "Traceback" not in done.stderr
