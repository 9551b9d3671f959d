"""Following a run: every tracker there is, offline; nothing of the data in what it wrote; three libraries read back."""

import getpass
import json
import socket

import numpy as np
import pytest

from cxr_ft import config, plugins
from cxr_ft.data.layouts import folder
from cxr_ft.data.splits.request import SplitRequest
from cxr_ft.data.splits.write import make_splits
from cxr_ft.errors import UsageError
from cxr_ft.model.bases import git
from cxr_ft.run import trackers as track
from cxr_ft.run.cost import machine_load
from cxr_ft.run.record import results
from cxr_ft.run.trackers import tensorboard
from cxr_ft.run.training import train

TRACKERS = plugins.choices(plugins.TRACKERS)
#: A patient's name that is part of file names, and so in paths and ids; and what must never leave either.
NAME = "Mustermann"


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    place = tmp_path_factory.mktemp("place")
    folder.demo(place)
    for i, path in enumerate(sorted((place / "classes").rglob("*.png"))):
        path.rename(path.with_name(f"{NAME}{i}.png"))
    make_splits(str(place / "classes"), "folder", SplitRequest(per_label=12), place / "splits")
    tiny = git.tiny()
    tiny.save(place / "tiny", tiny.lm)
    return place


@pytest.fixture(scope="module")
def resolved(place):
    raw = {
        "data": {"splits": str(place / "splits")},
        "model": str(place / "tiny"),
        "train": {"epochs": 2, "batch_size": 8},
    }
    return config.resolve(raw)


def often(patch):
    """Measure the machine often enough for a short run, and follow no server of the environment's."""
    patch.setattr(machine_load, "EVERY", 0.05)
    for variable in ("WANDB_MODE", "MLFLOW_TRACKING_URI"):
        patch.delenv(variable, raising=False)


def fit(resolved, out, **how):
    """Train with a tracker; skip the test where its package is not installed."""
    try:
        return out, train.fit(resolved, out, tracking=track.Tracking(**how))
    except UsageError as error:
        if "install it" in str(error):
            pytest.skip(str(error))
        raise


@pytest.fixture
def tracked(resolved, tmp_path, monkeypatch):
    often(monkeypatch)
    return lambda name, **more: fit(resolved, tmp_path / "runs" / "one", name=name, **more)


@pytest.fixture(scope="module", params=TRACKERS)
def followed(request, resolved, tmp_path_factory):
    """The tracker's name, and the folder and result of one run that several tests read."""
    place = tmp_path_factory.mktemp("followed")
    with pytest.MonkeyPatch.context() as patch:
        often(patch)
        patch.setenv("CXR_FT_CACHE", str(place / "cache"))
        return request.param, *fit(resolved, place / "runs" / "one", name=request.param)


@pytest.fixture(scope="module")
def alone(resolved, tmp_path_factory):
    """The folder and result of the same run without a tracker."""
    place = tmp_path_factory.mktemp("alone")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("CXR_FT_CACHE", str(place / "cache"))
        return place / "run", train.fit(resolved, place / "run")


def read_tensorboard(out):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(out / "tracking" / "tensorboard"), size_guidance={"scalars": 0}).Reload()
    return {tag: [event.value for event in events.Scalars(tag)] for tag in events.Tags()["scalars"]}


def read_mlflow(out):
    from mlflow.tracking import MlflowClient

    client = MlflowClient(tracking_uri=(out.parent / "mlruns").absolute().as_uri())
    run = json.loads((out / track.FILE).read_text())["id"]
    return {key: [m.value for m in client.get_metric_history(run, key)] for key in client.get_run(run).data.metrics}


def wandb_records(content):
    """The records of a .wandb file: a header of 7 bytes, then LevelDB's log format in blocks of 32 KiB."""
    place, whole = 7, b""
    while place + 7 <= len(content):
        if (left := 32768 - place % 32768) < 7:
            place += left
            continue
        length, kind = int.from_bytes(content[place + 4 : place + 6], "little"), content[place + 6]
        whole += content[place + 7 : place + 7 + length]
        place += 7 + length
        if kind in (1, 4):  # whole, or the last part
            yield whole
            whole = b""


def read_wandb(out):
    from wandb.proto.wandb_internal_pb2 import Record

    values = {}
    for file in sorted((out / "tracking" / "wandb").glob("offline-run-*/*.wandb")):
        for data in wandb_records(file.read_bytes()):
            record = Record.FromString(data)
            for start, items in (("", record.history.item), ("summary/", record.summary.update)):
                for item in items:
                    key = start + (item.key or "/".join(item.nested_key))
                    values.setdefault(key, []).append(json.loads(item.value_json))
    return values


READERS = {"tensorboard": read_tensorboard, "mlflow": read_mlflow, "wandb": read_wandb}


def test_what_was_written_reads_back(followed):
    name, out, result = followed
    if name not in READERS:
        pytest.skip(f"{name} has no reader here")
    values = READERS[name](out)
    assert values["val_loss"] == pytest.approx([row["val_loss"] for row in result.history])
    assert any(key.startswith("system/cpu_percent") for key in values)
    assert values["summary/test/macro.auroc"][-1] == pytest.approx(result.metrics["test"]["macro"]["auroc"])
    assert values["summary/cost/parameters.trainable"][-1] == result.cost["parameters"]["trainable"]


def test_nothing_of_the_data_goes_there(followed, place):
    _, out, _ = followed
    written = [*(out / "tracking").rglob("*"), *(out.parent / "mlruns").rglob("*"), out / "system.jsonl"]
    files = [path for path in written if path.is_file()]
    assert len(files) > 1
    for path in files:
        content = path.read_bytes()
        assert NAME.encode() not in content, path
        assert str(place).encode() not in content, path
        if path.suffix == ".wandb":  # what `wandb sync` sends; the others' files stay, and say where they lie
            assert not any(
                len(word) > 4 and word.encode() in content for word in (socket.gethostname(), getpass.getuser())
            )


# wandb writes an artifact in the background: on a busy machine now and then after its run has finished.
@pytest.mark.parametrize("name", [pytest.param("wandb", marks=pytest.mark.slow), "mlflow"])
def test_data_goes_there_when_it_may(tracked, name):
    out, _ = tracked(name, include_data=True)
    logged = [path for top in (out / "tracking", out.parent / "mlruns") for path in top.rglob("*") if path.is_file()]
    if name == "mlflow":
        assert {"predictions.parquet", "0.png"} <= {path.name for path in logged}
    else:
        assert any(b"predictions.parquet" in path.read_bytes() for path in logged)


def test_a_resumed_run_goes_on_in_the_tracker(tracked, resolved, monkeypatch):
    """Interrupted after an epoch and run again it is one run, and no epoch is logged twice."""
    pytest.importorskip("tensorboard")
    right = train.compute_metrics
    with pytest.raises(KeyboardInterrupt):
        monkeypatch.setattr(train, "compute_metrics", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
        tracked("tensorboard")
    monkeypatch.setattr(train, "compute_metrics", right)
    out, result = tracked("tensorboard")
    assert len(read_tensorboard(out)["val_loss"]) == len(result.history) == 2


def test_tracking_changes_no_number(followed, alone):
    _, out, result = followed
    folder, plain = alone
    assert result.metrics == plain.metrics and result.config_hash == plain.config_hash
    (one,), (other,) = ((p / "model").glob("*.safetensors") for p in (out, folder))
    assert one.read_bytes() == other.read_bytes()


@pytest.mark.parametrize("name", TRACKERS)
def test_a_tracker_that_fails_on_the_way_does_not_end_the_training(tracked, monkeypatch, capsys, name):
    module = plugins.load(plugins.TRACKERS, name)
    begin = module.begin

    def full(*_):
        raise OSError("no space left")

    def failing(*known):
        tracker = begin(*known)
        monkeypatch.setattr(tracker, "log", full)
        return tracker

    monkeypatch.setattr(module, "begin", failing)
    out, result = tracked(name)
    assert result.status == "success"
    assert "OSError: no space left" in json.loads((out / track.FILE).read_text())["error"]
    assert capsys.readouterr().err.count(f"{name} failed and gets no more numbers") == 1


def test_what_cannot_begin_is_one_line(resolved, tmp_path, monkeypatch):
    with pytest.raises(UsageError, match="unknown tracker 'tensorbord'"):
        track.Tracking(name="tensorbord")
    with pytest.raises(UsageError, match="--include-data needs a tracker"):
        track.Tracking(include_data=True)

    def missing(*_):
        raise ImportError("No module named 'wandb'")

    monkeypatch.setattr(tensorboard, "begin", missing)
    with pytest.raises(UsageError, match=r"install it: pip install 'cxr_ft\[tensorboard\]'"):
        train.fit(resolved, tmp_path / "run", tracking=track.Tracking(name="tensorboard"))


def test_the_machine_is_watched_without_a_tracker(alone):
    folder, _ = alone
    lines = results.read_system(folder)
    assert lines and {"seconds", "cpu_percent", "memory_bytes", "disk_free_bytes"} <= set(lines[-1])
    assert not (folder / "tracking").exists()


def test_half_a_line_is_left_out_and_the_seconds_go_on(tmp_path):
    (tmp_path / results.SYSTEM).write_text('{"seconds": 7.0}\n{"sec')
    with machine_load.Watch(tmp_path, measure=lambda _: {"x": 1.0}):
        pass
    lines = results.read_system(tmp_path)
    assert len(lines) == 2 and lines[1]["seconds"] >= 7 and lines[1]["x"] == 1
    assert (tmp_path / results.SYSTEM).read_text().count("\n") == 2


def test_only_numbers_of_no_single_row_are_summarised():
    raw = {"tuning": {"name": "lora"}, "head": {"name": "classify"}, "train": {"seed": 0}}
    metrics = {"loss": 1.0, "macro": {"auroc": 0.5, "ap": None}, "labels": {"x": {"auroc": 0.1}}, "signature": "s"}
    result = results.Result(
        status="success", config=raw, config_hash="", metrics={"test": metrics}, cost={"train_seconds": 2.0}
    )
    assert track.summary(result) == {"cost/train_seconds": 2.0, "test/loss": 1.0, "test/macro.auroc": 0.5}
    assert np.isfinite(list(track.summary(result).values())).all()
