"""Training that survives: killed anywhere it ends with the same bits; one process a folder; no step out of memory."""

import json
import math
import multiprocessing
import os
import random
import signal
import stat
import time

import pytest
import torch
from safetensors.torch import load_file

from cxr_ft import config
from cxr_ft.data import manifest
from cxr_ft.data.layouts import folder
from cxr_ft.data.splits.request import SplitRequest
from cxr_ft.data.splits.write import make_splits
from cxr_ft.errors import TrainingError, UsageError
from cxr_ft.model.bases import git
from cxr_ft.model.heads.classify import Classify
from cxr_ft.run.record import failures, results
from cxr_ft.run.training import checkpoint, divergence, lock, processes, train
from cxr_ft.run.training.step import TrainingStep


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """Splits of a tiny folder, and a tiny pretrained model, with dropout and without."""
    place = tmp_path_factory.mktemp("place")
    make_splits(folder.demo(place), "folder", SplitRequest(per_label=12), place / "splits")
    tiny = git.tiny()
    assert tiny.lm.config.hidden_dropout_prob > 0
    tiny.save(place / "tiny", tiny.lm)
    tiny.lm.config.hidden_dropout_prob = tiny.lm.config.attention_probs_dropout_prob = 0.0
    tiny.save(place / "dry", tiny.lm)
    return place


def configured(place, method="lora", task="classify", model="tiny", tuning=None, **settings):
    return config.resolve(
        {
            "data": {"splits": str(place / "splits")},
            "model": str(place / model),
            "head": {"name": task, **({"max_tokens": 8} if task == "report" else {})},
            "tuning": {"name": method, **(tuning or {})},
            "train": {"epochs": 3, "batch_size": 4, **settings},
        }
    )


def weights(run):
    (file,) = (run / "model").glob("*.safetensors")
    return load_file(file)


def same(one, other):
    return one.keys() == other.keys() and all(torch.equal(one[key], other[key]) for key in one)


def history(run):
    return [{k: v for k, v in row.items() if k != "seconds"} for row in results.read(run).history]


def started(resolved, out, every):
    """A child that trains, with a checkpoint each `every` seconds, and the end of a pipe that hears of each step."""
    hear, tell = os.pipe()

    def child():
        os.close(hear)
        checkpoint.INTERVAL = every
        step = TrainingStep.run

        def telling(self, batch, state):
            os.write(tell, b".")
            return step(self, batch, state)

        TrainingStep.run = telling
        train.fit(resolved, out, verify=False)

    process = multiprocessing.get_context("fork").Process(target=child)
    process.start()
    os.close(tell)
    return process, hear


@pytest.mark.parametrize(
    ("method", "task", "tuning", "every"),
    [
        ("lora", "classify", {"dropout": 0.2}, 0.0),
        pytest.param("full", "report", {}, math.inf, marks=pytest.mark.slow),
        pytest.param("full", "classify", {}, math.inf, marks=pytest.mark.slow),
        pytest.param("full", "report", {}, 0.0, marks=pytest.mark.slow),
        pytest.param("lora", "report", {}, math.inf, marks=pytest.mark.slow),
    ],
)
def test_killed_anywhere_it_ends_with_the_same_bits(place, tmp_path, method, task, tuning, every):
    """SIGKILL at random moments of random steps, with checkpoints after each step and with those of epochs alone."""
    resolved = configured(place, method, task, tuning=tuning, micro_batch=3, epochs=6)
    train.fit(resolved, tmp_path / "whole", verify=False)
    chance = random.Random(f"{method} {task}")
    for _ in range(3):
        process, hear = started(resolved, tmp_path / "broken", every)
        for _ in range(chance.randrange(1, 6)):
            assert os.read(hear, 1)
        time.sleep(chance.random() * 0.01)
        process.kill()
        process.join()
        os.close(hear)
        assert process.exitcode == -signal.SIGKILL
    assert results.read(tmp_path / "broken").status == "running"
    train.fit(resolved, tmp_path / "broken", verify=False)
    assert same(weights(tmp_path / "broken"), weights(tmp_path / "whole"))
    assert history(tmp_path / "broken") == history(tmp_path / "whole")
    left = {path.name for path in (tmp_path / "broken").iterdir()}
    assert left == {path.name for path in (tmp_path / "whole").iterdir()}


def test_killed_within_a_checkpoint_the_one_before_counts(place, tmp_path, monkeypatch):
    resolved = configured(place)
    train.fit(resolved, tmp_path / "whole", verify=False)
    save = torch.save

    def dying(content, path, *rest):
        if content["state"]["step"] < 9:
            return save(content, path, *rest)
        path.write_bytes(b"half")
        os.kill(os.getpid(), signal.SIGKILL)

    monkeypatch.setattr(torch, "save", dying)
    process, _ = started(resolved, tmp_path / "broken", 0.0)
    process.join()
    assert process.exitcode == -signal.SIGKILL
    assert [p for p in (tmp_path / "broken").iterdir() if p.name.startswith(".checkpoint.pt.")]
    saved = torch.load(tmp_path / "broken" / checkpoint.FILE, weights_only=True)
    assert saved["state"]["step"] == 8
    monkeypatch.setattr(torch, "save", save)
    train.fit(resolved, tmp_path / "broken", verify=False)
    assert same(weights(tmp_path / "broken"), weights(tmp_path / "whole"))
    assert not [p for p in (tmp_path / "broken").iterdir() if p.name.startswith(".checkpoint.pt.")]


def test_a_checkpoint_of_another_run_or_version_is_not_guessed_at(place, tmp_path):
    state = checkpoint.LoopState(step=3)
    checkpoint.save(tmp_path, "one", state, {"weights": {}, "optimizer": {}, "schedule": {}, "scaler": None})
    assert checkpoint.read(tmp_path, "one").loop == state and state.checkpoint_step == 3
    with pytest.raises(UsageError, match="belongs to another run"):
        checkpoint.read(tmp_path, "other")
    torch.save({"format": 1, "fingerprint": "one"}, tmp_path / checkpoint.FILE)
    with pytest.raises(UsageError, match="another version"):
        checkpoint.read(tmp_path, "one")


def test_one_process_trains_and_the_other_leaves(place, tmp_path):
    resolved = configured(place, epochs=100)
    process, hear = started(resolved, tmp_path / "run", math.inf)
    assert os.read(hear, 1)
    before = (tmp_path / "run" / "result.json").read_bytes()
    with pytest.raises(UsageError, match=r"run is in use: another process trains this run; wait for it"):
        train.fit(resolved, tmp_path / "run", verify=False)
    assert (tmp_path / "run" / "result.json").read_bytes() == before
    process.kill()
    process.join()
    os.close(hear)
    with lock.lock_folder(tmp_path / "run"):  # what a dead process held is free
        pass


def test_the_lock_is_let_go_after_an_error(tmp_path):
    with pytest.raises(KeyError), lock.lock_folder(tmp_path / "run"):
        raise KeyError
    with (
        lock.lock_folder(tmp_path / "run"),
        pytest.raises(UsageError, match="in use"),
        lock.lock_folder(tmp_path / "run"),
    ):
        pass


@pytest.mark.parametrize(("task", "batch_size"), [("report", 7), pytest.param("classify", 8, marks=pytest.mark.slow)])
def test_rows_at_a_time_change_nothing_but_rounding(place, tmp_path, task, batch_size):
    def trained(micro):
        resolved = configured(place, "full", task, "dry", batch_size=batch_size, epochs=2, micro_batch=micro)
        return train.fit(resolved, tmp_path / str(micro), verify=False)

    whole = trained(0)
    assert whole.cost["micro_batch"] == batch_size
    for micro in (1, 3, 50):
        cut = trained(micro)
        assert cut.cost["micro_batch"] == min(micro, batch_size)
        assert [row["step"] for row in cut.history] == [row["step"] for row in whole.history]
        for before, after in zip(whole.history, cut.history, strict=True):
            assert after["train_loss"] == pytest.approx(before["train_loss"], rel=1e-4)


@pytest.mark.parametrize("world", [1, 2, 3])
@pytest.mark.parametrize("most", [1, 2, 3, 16])
@pytest.mark.parametrize("rows", [1, 2, 5, 16])
def test_parts_hold_each_row_once_and_are_as_many_everywhere(rows, most, world):
    chosen = [f"row {i}" for i in range(rows)]
    parts = [processes.micro_batches(chosen, world, rank, most) for rank in range(world)]
    assert [row for share in parts for part in share for row in part] == chosen
    assert len({len(share) for share in parts}) == 1
    assert max(len(part) for share in parts for part in share) <= most


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB"),
        pytest.param(
            RuntimeError("[enforce fail at alloc_cpu.cpp:121] DefaultCPUAllocator: can't allocate memory: 4 bytes"),
            marks=pytest.mark.slow,
        ),
        pytest.param(MemoryError(), marks=pytest.mark.slow),
    ],
)
def test_out_of_memory_halves_the_rows_at_a_time(place, tmp_path, monkeypatch, capsys, error):
    """Above three rows memory runs out, in forward: 8, then 4, then 2 at a time, and what is learnt is the same."""
    resolved = configured(place, "full", model="dry", batch_size=8, epochs=1)
    whole = train.fit(resolved, tmp_path / "whole", verify=False)
    loss = Classify.loss

    def hungry(self, model, batch):
        out = loss(self, model, batch)
        if model.training and len(batch["targets"]) > 3:
            raise error
        return out

    monkeypatch.setattr(Classify, "loss", hungry)
    halved = train.fit(resolved, tmp_path / "halved", verify=False)
    printed = capsys.readouterr().err
    assert "out of memory at step 1 with 8 rows at a time: going on with 4" in printed
    assert "with 4 rows at a time: going on with 2" in printed and printed.count("out of memory") == 2
    assert json.loads((tmp_path / "halved" / "result.json").read_text())["cost"]["micro_batch"] == 2
    for before, after in zip(whole.history, halved.history, strict=True):
        assert after["train_loss"] == pytest.approx(before["train_loss"], rel=1e-4)


def test_too_little_memory_for_one_row_stops(place, tmp_path, monkeypatch):
    def loss(self, model, batch):
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(Classify, "loss", loss)
    with pytest.raises(TrainingError, match="out of memory at step 1 with one row at a time; take a smaller model"):
        train.fit(configured(place), tmp_path / "run", verify=False)


def test_another_error_is_not_taken_for_memory(place, tmp_path, monkeypatch):
    def loss(self, model, batch):
        raise RuntimeError("mat1 and mat2 shapes cannot be multiplied")

    monkeypatch.setattr(Classify, "loss", loss)
    with pytest.raises(TrainingError, match="mat1 and mat2"):
        train.fit(configured(place), tmp_path / "run", verify=False)


@pytest.mark.parametrize("broken", ["loss", "gradient"])
def test_what_is_no_number_stops_with_step_rows_and_checkpoint(place, tmp_path, monkeypatch, broken):
    resolved = configured(place, "full", batch_size=8, epochs=2)
    rows = len(manifest.read(place / "splits").tables["train"])
    last = -(-rows // 8) + 2  # the second step of the second epoch
    loss, calls = Classify.loss, []

    def poisoned(self, model, batch):
        value, n = loss(self, model, batch)
        calls.append(model.training)
        if sum(calls) != last:
            return value, n
        if broken == "loss":
            return value * math.nan, n
        value.register_hook(lambda gradient: gradient * math.inf)
        return value, n

    monkeypatch.setattr(Classify, "loss", poisoned)
    with pytest.raises(TrainingError) as caught:
        train.fit(resolved, tmp_path / "run", verify=False)
    error = results.read(tmp_path / "run").error
    assert error in str(caught.value)
    assert ("loss is nan" if broken == "loss" else "gradient's norm is") in error
    assert f"at step {last}, epoch 2, on rows " in error and "and 4 more of train_split.csv" in error
    assert f"last good checkpoint: step {last - 2}, in checkpoint.pt" in error
    numbers = [int(number) for number in error.split("on rows ")[1].split(" and ")[0].split(", ")]
    assert len(numbers) == divergence.SHOWN_ROWS
    # The record names no id; the run's own log, which nobody else can read, has the ids of these very rows.
    ids = manifest.read(place / "splits").tables["train"]["dicom_id"].astype(str).tolist()
    assert not any(image in error for image in ids)
    log = tmp_path / "run" / failures.LOG
    assert stat.S_IMODE(log.stat().st_mode) == 0o600
    assert all(f"row {number}: " in log.read_text() and ids[number - 1] in log.read_text() for number in numbers)
    saved = torch.load(tmp_path / "run" / checkpoint.FILE, weights_only=True)
    assert all(tensor.isfinite().all() for tensor in saved["weights"].values())
    # What was the matter being mended, the run goes on from there and succeeds.
    monkeypatch.setattr(Classify, "loss", loss)
    assert train.fit(resolved, tmp_path / "run", verify=False).status == "trained"
    train.fit(resolved, tmp_path / "whole", verify=False)
    assert same(weights(tmp_path / "run"), weights(tmp_path / "whole"))


def watched(losses):
    state = checkpoint.LoopState()
    for loss in losses:
        divergence.check_loss(loss, state, [7])
        state.step += 1


def test_an_explosion_stops_and_an_ordinary_course_does_not():
    watched([0.7, *[0.69] * 50, *[0.01] * 50, 5.0, *[0.01] * 50])  # one hard batch among good ones
    watched([10.3, 12.0, 11.5, *[9.0] * 100])
    watched([0.001, *[0.8] * 100])  # a lucky first batch
    for losses in ([0.7, *[9.0] * 60], [0.7] * 20 + [1e4], [10.0 * 1.2**i for i in range(60)]):
        with pytest.raises(
            TrainingError, match=r"loss explodes.*at step \d+, epoch 1, on row 7 of train_split\.csv; no checkpoint yet"
        ):
            watched(losses)
