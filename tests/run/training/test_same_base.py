"""A run knows the weights of its base: replaced ones are refused by every command, and allowed only by --other-base."""

import io
import json
import os
import shutil

import pytest
import torch
import toy
from safetensors.torch import load_file, save_file

import cxr_ft
from cxr_ft import config
from cxr_ft.cli import ablate, compare, evaluate, predict
from cxr_ft.cli import train as train_command
from cxr_ft.errors import TrainingError, UsageError
from cxr_ft.files import sha256
from cxr_ft.run.ablation import workers
from cxr_ft.run.evaluation import verify
from cxr_ft.run.record import results, saved_model
from cxr_ft.run.trackers import NOBODY
from cxr_ft.run.training import checkpoint, train
from cxr_ft.show import page

OTHER = "has other weights than those recorded"


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """Splits, a tiny base, and a verified LoRA run, `run`, on it."""
    place = tmp_path_factory.mktemp("made")
    toy.make_shades(place)
    train.fit(configured(place), place / "run")
    return place


@pytest.fixture
def place(made, tmp_path):
    """A copy of `made` whose base may be changed; the run's configuration names the copy."""
    copy = shutil.copytree(made, tmp_path / "made")
    raw = json.loads((copy / "run" / "result.json").read_text())
    raw["config"]["model"] = str(copy / "tiny")
    (copy / "run" / "result.json").write_text(json.dumps(raw))
    return copy


def configured(place, method="lora", model="tiny", **settings):
    raw = {
        "data": {"splits": str(place / "splits")},
        "model": str(place / model),
        "tuning": {"name": method},
        "train": {"epochs": 1, "batch_size": 8, **settings},
    }
    return config.resolve(raw)


def replace(place, by=1.5):
    """Multiply the weights of the base; size and mtime of the file stay as they were."""
    file = place / "tiny" / "model.safetensors"
    before = file.stat()
    save_file({key: value * by for key, value in load_file(file).items()}, file, {"format": "pt"})
    os.utime(file, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert file.stat().st_size == before.st_size
    return sha256(file)


def image(place):
    return str(next((place / "classes").rglob("*.png")))


def flags(place, *more):
    known = ["--splits", str(place / "splits"), "--model", str(place / "tiny"), "--method", "lora"]
    return [*known, "--set", "train.epochs=1", "--set", "train.batch_size=8", *more]


def test_a_result_names_the_weights_of_its_base(made):
    raw = json.loads((made / "run" / "result.json").read_text())
    digest = sha256(made / "tiny" / "model.safetensors")
    assert raw["base"] == {"digest": digest, "files": {"model.safetensors": digest}, "instead_of": []}


def test_every_command_refuses_replaced_weights_in_one_line(place, capsys):
    """Before, all of these went on without a word."""
    before = (place / "run" / "result.json").read_bytes()
    replace(place)
    run, splits = str(place / "run"), str(place / "splits")
    commands = [
        (train_command.main, flags(place, "--out", run)),
        (train_command.main, flags(place, "--out", run, "--export", "merged")),
        (train_command.main, ["--config", f"{run}/result.json", "--out", str(place / "again")]),
        (evaluate.main, [run, "--splits", splits]),
        (predict.main, [run, image(place)]),
    ]
    for main, argv in commands:
        assert main(argv) == 2, argv
        err = capsys.readouterr().err
        assert OTHER in err.splitlines()[-1] and "--other-base" in err and "model.safetensors" in err
        assert err.count("\n") == 1
    assert (place / "run" / "result.json").read_bytes() == before
    assert not (place / "again").exists() and not (place / "run" / "export").exists()


def test_other_weights_are_allowed_and_noted(place, capsys):
    replace(place)
    run, splits = str(place / "run"), str(place / "splits")
    assert predict.main([run, image(place), "--json", "--other-base"]) == 0
    out, err = capsys.readouterr()
    assert json.loads(out)["scores"] and f"note: {run}: --other-base" in err
    assert evaluate.main([run, "--splits", splits, "--other-base"]) == 0
    assert f"note: {run}: --other-base" in capsys.readouterr().out
    (note,) = json.loads((place / "run" / "evaluated" / "splits" / "metrics.json").read_text())["notes"]
    assert "--other-base" in note
    # The finished run is that of the recorded weights, and stays so.
    assert train_command.main(flags(place, "--out", run, "--export", "merged", "--other-base")) == 0
    out, err = capsys.readouterr()
    assert "already finished" in out and f"note: {run}: --other-base" in err
    card = (place / "run" / "export" / "merged" / "README.md").read_text()
    assert "other weights of the base than these (--other-base)" in card
    assert results.read(place / "run").base.files["model.safetensors"] in card and str(place) not in card


def test_the_door_has_the_flag(place):
    replace(place)
    run = cxr_ft.load_run(place / "run")
    for work in (lambda: run.predict(image(place)), lambda: run.evaluate(place / "splits")):
        with pytest.raises(UsageError, match=OTHER):
            work()
    assert run.predict(image(place), other_base=True).scores
    assert run.evaluate(place / "splits", other_base=True)["test"]
    assert cxr_ft.load_run(place / "run", other_base=True).predict(image(place)).scores
    options = {"method": "lora", "epochs": 1, "batch_size": 8, "out": place / "run"}
    with pytest.raises(UsageError, match=OTHER):
        cxr_ft.train(place / "splits", str(place / "tiny"), **options)
    assert cxr_ft.train(place / "splits", str(place / "tiny"), other_base=True, **options).other_base
    repeated = {"config": place / "run" / "result.json", "out": place / "again"}
    with pytest.raises(UsageError, match=f"the repeated run: .* {OTHER}"):
        cxr_ft.train(**repeated)


def test_a_moved_base_is_the_same_run(place, capsys):
    (place / "tiny").rename(place / "elsewhere")
    before = results.read(place / "run")
    assert train.fit(configured(place, model="elsewhere"), place / "run") == before
    assert capsys.readouterr().err == ""


def test_a_finished_run_is_returned_where_its_base_has_no_weights_any_more(place, capsys):
    (place / "tiny" / "model.safetensors").unlink()
    raw = json.loads((place / "tiny" / "config.json").read_text())
    (place / "tiny" / "config.json").write_text(json.dumps({k: v for k, v in raw.items() if "seed" not in k}))
    assert train.fit(configured(place), place / "run") == results.read(place / "run")
    assert "is not here to be compared" in capsys.readouterr().err


def test_old_records_are_noted_and_not_refused(place, capsys):
    raw = json.loads((place / "run" / "result.json").read_text())
    del raw["base"]
    hashes = raw["data"]["sha256"]
    raw["config_hash"] = configured(place).fingerprint(hashes)  # as older versions computed it
    (place / "run" / "result.json").write_text(json.dumps(raw))
    assert train.fit(configured(place), place / "run").status == "success"
    line = f"note: {place / 'run'} has no record of its base's weights, so {place / 'tiny'} is not compared with them"
    assert capsys.readouterr().err.splitlines() == [line]
    assert predict.main([str(place / "run"), image(place)]) == 0
    assert capsys.readouterr().err.splitlines() == [line]


def interrupted(place, out, **settings):
    """A run of three epochs that was stopped after the first one's checkpoint."""
    save = checkpoint.save

    def stop(*arguments):
        save(*arguments)
        raise KeyboardInterrupt

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(checkpoint, "save", stop)
        with pytest.raises(KeyboardInterrupt):
            train.fit(configured(place, epochs=3), out, verify=False, **settings)
    return results.read(out)


def test_an_unfinished_run_goes_on_with_its_own_weights_alone(place, capsys):
    out, first = place / "stopped", sha256(place / "tiny" / "model.safetensors")
    assert interrupted(place, out).base.digest == first
    second = replace(place)
    with pytest.raises(UsageError, match=f"stopped: .* {OTHER}"):
        train.fit(configured(place, epochs=3), out, verify=False)
    assert results.read(out).base.digest == first and (out / checkpoint.FILE).exists()
    # Stopped again before a checkpoint of its own: the one that is there was made with the first weights.
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(train, "TrainingLoop", lambda **_: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            train.fit(configured(place, epochs=3), out, verify=False, other_base=True)
    result = train.fit(configured(place, epochs=3), out)
    assert [row.epoch for row in result.history] == [1, 2, 3]
    assert result.status == "success" and (result.base.digest, result.base.instead_of) == (second, (first,))
    text = page_of(place, out)
    assert (
        f"by --other-base, its base has other weights ({second[:8]}) than those recorded before ({first[:8]})" in text
    )


def page_of(place, *runs):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(page, "_pdf", lambda *_: [])
        patch.setattr(page, "all_charts", dict)  # drawing takes most of the time
        assert compare.main([*map(str, runs), "--out", str(place / "page")]) == 0
    return (place / "page" / "comparison.html").read_text()


def test_weights_replaced_before_verification_fail_the_run(place):
    train.fit(configured(place), place / "new", verify=False)
    replace(place)
    verify.main([str(place / "new")])
    result = results.read(place / "new")
    assert result.status == "failed" and OTHER in result.error
    assert "test" not in result.metrics


def test_a_trained_run_is_verified_with_other_weights_if_they_are_allowed(place):
    """The record then has the weights that its test metrics were made with. Here the new file holds equal weights."""
    train.fit(configured(place), place / "new", verify=False)
    first = results.read(place / "new").base.digest
    second = replace(place, by=1.0)
    file = place / "tiny" / "model.safetensors"
    save_file(load_file(file), file, {"format": "pt", "note": "saved again"})
    second = sha256(file)
    with pytest.raises(UsageError, match=OTHER):
        train.fit(configured(place), place / "new")
    result = train.fit(configured(place), place / "new", other_base=True)
    assert result.status == "success" and (result.base.digest, result.base.instead_of) == (second, (first,))
    assert train.fit(configured(place), place / "new") == result


def test_a_run_with_all_weights_needs_no_base(place, capsys):
    train.fit(configured(place, "full"), place / "full")
    replace(place)
    saved_model.load(place / "full")
    assert predict.main([str(place / "full"), image(place)]) == 0
    assert "note:" not in capsys.readouterr().err
    with pytest.raises(UsageError, match=OTHER):  # but it is not the run of the new weights
        train.fit(configured(place, "full"), place / "full")


def test_zero_shot_is_its_base(place):
    train.fit(configured(place, "zero_shot"), place / "none", verify=False)
    replace(place)
    with pytest.raises(UsageError, match=OTHER):
        saved_model.load(place / "none")


def test_two_bases_of_one_name_are_two_variants_and_a_mismatch(place):
    replace(place)
    train.fit(configured(place, seed=1), place / "second")
    train.fit(configured(place, seed=2), place / "third")
    text = page_of(place, place / "run", place / "second", place / "third")
    digests = [results.read(place / name).base.digest[:12] for name in ("run", "second")]
    assert len(set(digests)) == 2
    for digest in digests:
        assert f"lora q,v r8 (model weights {digest})" in text
    assert f"base: weights {digests[0]} (lora q,v r8 (model weights {digests[0]})), weights {digests[1]}" in text
    assert "quality, time and memory are not comparable" in text
    lines = (place / "page" / "comparison.csv").read_text().splitlines()
    assert "base_weights" in lines[0] and results.read(place / "run").base.digest in lines[1]
    assert len(cxr_ft.compare([place / "run", place / "second", place / "third"]).to_frame()) == 2


def test_a_base_that_was_moved_is_no_mismatch(place):
    shutil.copytree(place / "tiny", place / "moved")
    train.fit(configured(place, model="moved", seed=1), place / "second")
    text = page_of(place, place / "run", place / "second")
    assert "differ in more than the method" not in text and "model weights" not in text


def test_an_ablation_refuses_and_allows_like_a_run(place, capsys, monkeypatch):
    grid = ["--method", "lora", "--seeds", "0", "--set", "train.batch_size=8", "--out", str(place / "runs")]
    grid += ["--splits", str(place / "splits"), "--model", str(place / "tiny"), "--set", "train.epochs=1"]
    assert ablate.main(grid) == 0
    digest = results.read(next((place / "runs").glob("*-lora-*"))).base.digest
    assert digest == sha256(place / "tiny" / "model.safetensors")
    replace(place)
    capsys.readouterr()
    assert ablate.main(grid) == 2
    assert OTHER in capsys.readouterr().err.splitlines()[-1]
    assert ablate.main([*grid, "--other-base"]) == 0
    # What a worker process does with the line that it reads.
    cell = next((place / "runs").glob("*-lora-*"))
    for allowed, code in ((False, 2), (True, 0)):
        order = {"config": results.read(cell).config, "tracking": NOBODY.to_json(), "other_base": allowed}
        monkeypatch.setattr(workers.sys, "stdin", io.StringIO(json.dumps(order)))
        monkeypatch.setattr(workers, "_end_with_input", lambda: None)
        assert workers.main(str(cell)) == code


def test_a_checkpoint_of_other_weights_is_refused_without_a_record(place):
    interrupted(place, place / "stopped")
    (place / "stopped" / "result.json").unlink()
    replace(place)
    with pytest.raises((UsageError, TrainingError), match="belongs to another run"):
        train.fit(configured(place, epochs=3), place / "stopped", verify=False)


def test_broken_records_are_refused_in_one_line(place):
    raw = json.loads((place / "run" / "result.json").read_text())
    for base in ("text", {"files": ["a"]}):
        (place / "run" / "result.json").write_text(json.dumps({**raw, "base": base}))
        with pytest.raises(UsageError, match="is no result of cxr-train"):
            results.read(place / "run")


def test_replaced_weights_change_what_a_saved_adapter_predicts(place):
    """The reason for all of this: the same run, with the same adapter, answers otherwise."""
    before = cxr_ft.load_run(place / "run").predict(image(place)).scores
    replace(place, by=4.0)
    after = cxr_ft.load_run(place / "run", other_base=True).predict(image(place)).scores
    assert not torch.allclose(torch.tensor(list(before.values())), torch.tensor(list(after.values())), atol=1e-3)
