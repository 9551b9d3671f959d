"""Two processes of a launcher: the losses of one at the same batch, one writer, and they survive what one survives."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from cxr_ft import config
from cxr_ft.data.layouts import folder
from cxr_ft.data.splits.request import SplitRequest
from cxr_ft.data.splits.write import make_splits
from cxr_ft.errors import UsageError
from cxr_ft.model.bases import git
from cxr_ft.run.record import results
from cxr_ft.run.training import checkpoint, processes, train

SHARDED = {"ACCELERATE_USE_FSDP": "true", "FSDP_VERSION": "2"}


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """Splits of a tiny folder, and a tiny pretrained model without dropout."""
    place = tmp_path_factory.mktemp("place")
    make_splits(folder.demo(place), "folder", SplitRequest(per_label=12), place / "splits")
    tiny = git.tiny()
    tiny.lm.config.hidden_dropout_prob = tiny.lm.config.attention_probs_dropout_prob = 0.0
    tiny.save(place / "dry", tiny.lm)
    return place


def raw(place, method, task):
    return {
        "data": {"splits": str(place / "splits")},
        "model": str(place / "dry"),
        "head": {"name": task, **({"max_tokens": 8} if task == "report" else {})},
        "tuning": {"name": method},
        "train": {"epochs": 2, "batch_size": 5},
    }


def launch(raw_config, out, env, die=None, hungry=False):
    """Run it in two processes; return the launcher's exit code and what it printed."""
    out.parent.mkdir(exist_ok=True)
    order = out.parent / f"{out.name}.json"
    order.write_text(json.dumps({"config": raw_config, "out": str(out), "die": die, "hungry": hungry}))
    script = Path(__file__).with_name("launched.py")
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2", script, order]
    done = subprocess.run(
        command, capture_output=True, text=True, check=False, env={**os.environ, **env, "OMP_NUM_THREADS": "1"}
    )
    return done.returncode, done.stderr


def weights(run):
    (file,) = (run / "model").glob("*.safetensors")
    return load_file(file)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("method", "task", "env"),
    [("full", "classify", {}), ("full", "classify", SHARDED), ("lora", "report", SHARDED)],
    ids=["full", "full-fsdp", "lora-report-fsdp"],
)
def test_two_processes_learn_what_one_learns_and_survive_a_kill(place, tmp_path, method, task, env):
    raw_config = raw(place, method, task)
    one = train.fit(config.resolve(raw_config), tmp_path / "one", verify=False)
    code, printed = launch(raw_config, tmp_path / "two", env)
    assert code == 0, printed
    two = results.read(tmp_path / "two")
    assert two.status == "trained" and two.environment["processes"] == 2
    for alone, together in zip(one.history, two.history, strict=True):
        assert together["step"] == alone["step"]
        assert together["train_loss"] == pytest.approx(alone["train_loss"], rel=1e-4)
        assert together["val_loss"] == pytest.approx(alone["val_loss"], rel=1e-4)
    assert {p.name for p in (tmp_path / "two").iterdir()} == {p.name for p in (tmp_path / "one").iterdir()}
    code, _ = launch(raw_config, tmp_path / "broken", env, die=5)
    assert code != 0 and (tmp_path / "broken" / checkpoint.FILE).exists()
    code, printed = launch(raw_config, tmp_path / "broken", env)
    assert code == 0, printed
    unbroken = weights(tmp_path / "two")
    assert all(torch.equal(tensor, unbroken[name]) for name, tensor in weights(tmp_path / "broken").items())


@pytest.mark.slow
def test_one_process_out_of_memory_leaves_none_waiting(place, tmp_path):
    raw_config = raw(place, "full", "classify")
    one = train.fit(config.resolve(raw_config), tmp_path / "one", verify=False)
    code, printed = launch(raw_config, tmp_path / "two", {}, hungry=True)
    assert code == 0, printed
    # Of 5 rows the first process has 3 and the second 2, then 2 + 1 and 1 + 1; the first one alone says so.
    assert printed.count("out of memory at step") == 1 and "with 3 rows at a time: going on with 2" in printed
    two = results.read(tmp_path / "two")
    assert two.cost["micro_batch"] == 2
    assert two.history[-1]["train_loss"] == pytest.approx(one.history[-1]["train_loss"], rel=1e-4)


@pytest.mark.parametrize(
    ("env", "precision", "says"),
    [
        ({"FSDP_VERSION": "1"}, "no", "asks for FSDP 1; set fsdp_version: 2"),
        ({}, "no", "asks for FSDP 1"),
        ({"FSDP_VERSION": "2", "FSDP_OFFLOAD_PARAMS": "true"}, "no", "asks for fsdp_offload_params"),
        ({"FSDP_VERSION": "2"}, "fp16", "use bf16"),
    ],
)
def test_what_the_loop_lacks_of_fsdp_is_refused_by_name(monkeypatch, env, precision, says):
    for name in ("FSDP_VERSION", "FSDP_OFFLOAD_PARAMS"):
        monkeypatch.delenv(name, raising=False)
    for name, value in env.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(UsageError, match=says):
        processes.check_sharding(precision)


def test_accumulation_of_the_launcher_is_refused(monkeypatch):
    monkeypatch.setenv("ACCELERATE_GRADIENT_ACCUMULATION_STEPS", "4")
    with pytest.raises(UsageError, match=r"gradient_accumulation_steps 4.*train\.micro_batch"):
        processes.start("no")
