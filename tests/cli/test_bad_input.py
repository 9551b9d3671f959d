"""Bad input of cxr-train and cxr-split: one line on what, where and what would work, exit code 2, nothing left."""

import json
import shutil
from pathlib import Path

import pytest

from cxr_ft.cli import split, train
from cxr_ft.model.assembly import SHIPPED


@pytest.fixture
def splits():
    """The phantom's, whose images are never decoded here."""
    return Path(__file__).parents[2] / "data_splits" / "phantom"


@pytest.fixture
def base(tmp_path):
    return shutil.copytree(SHIPPED / "git-phantom-tiny", tmp_path / "base")


def refused(command, argv, capsys, out):
    """The line that a command prints; it ends with exit code 2 and leaves nothing."""
    capsys.readouterr()
    assert command.main([str(arg) for arg in argv]) == 2
    lines = [line for line in capsys.readouterr().err.splitlines() if "error:" in line]
    assert len(lines) == 1 and len(lines[0]) < 400, lines
    assert not out.exists()
    return lines[0]


def cut_short(base):
    with (base / "model.safetensors").open("rb+") as file:
        file.truncate(100_000)


def cut_in_its_header(base):
    with (base / "model.safetensors").open("rb+") as file:
        file.truncate(30)


def of_zeros(base):
    (base / "model.safetensors").write_bytes(bytes(1000))


def of_endless_brackets(base):
    header = b"[" * 50_000
    (base / "model.safetensors").write_bytes(len(header).to_bytes(8, "little") + header)


def pickled(base):
    (base / "model.safetensors").rename(base / "pytorch_model.bin")
    config = json.loads((base / "config.json").read_text())
    config.pop("cxr_ft_random_seed", None)
    (base / "config.json").write_text(json.dumps(config))


@pytest.mark.parametrize(
    ("damage", "why"),
    [
        (cut_short, "was cut short: it has 100,000 of"),
        (cut_in_its_header, "was cut short"),
        (of_zeros, "is no safetensors file"),
        (of_endless_brackets, "is no safetensors file"),
        (pickled, "pytorch_model.bin and no model.safetensors"),
    ],
)
def test_weights_that_cannot_be_read_are_named_before_an_image_is(
    splits, base, tmp_path, capsys, monkeypatch, damage, why
):
    damage(base)
    from cxr_ft.run.training import train as training

    monkeypatch.setattr(training, "build_datasets", lambda *a: pytest.fail("images were decoded"))
    argv = ["--splits", splits, "--model", base, "--method", "lora", "--out", tmp_path / "run"]
    assert why in refused(train, argv, capsys, tmp_path / "run")


@pytest.mark.parametrize("method", ["lora", "lora_scratch", "qlora", "hybrid", "adalora"])
def test_a_rank_above_a_matrix_s_is_refused(splits, tmp_path, capsys, method):
    argv = ["--splits", splits, "--method", method, "--rank", 100_000, "--out", tmp_path / "run"]
    line = refused(train, argv, capsys, tmp_path / "run")
    # AdaLoRA begins with 1.5 times the rank.
    assert "or less" in line and ("150000" if method == "adalora" else "100000") in line


@pytest.mark.parametrize(
    ("argv", "why"),
    [
        (["--method", "bitfit", "--targets", "q"], "bitfit has no such option; methods that have it: adalora, adapter"),
        (["--method", "full", "--rank=4"], "full has no such option; methods that have it: adalora"),
        (["--tragets", "q"], "unrecognized arguments: --tragets q"),
        (["--model", "git-phantom-tinny"], "did you mean 'git-phantom-tiny'?); give a folder"),
        (["--set", "train.lr=1e-3"], "unknown key 'lr'"),
    ],
)
def test_names_that_do_not_exist(splits, tmp_path, capsys, argv, why):
    assert why in refused(train, ["--splits", splits, *argv, "--out", tmp_path / "run"], capsys, tmp_path / "run")


def test_splits_that_do_not_exist(tmp_path, capsys):
    argv = ["--splits", tmp_path / "nowhere", "--out", tmp_path / "run"]
    assert "give a folder that cxr-split wrote" in refused(train, argv, capsys, tmp_path / "run")


def test_a_name_that_is_too_long_for_the_disk(splits, tmp_path, capsys):
    capsys.readouterr()
    assert train.main(["--splits", str(splits), "--out", str(tmp_path / ("x" * 300))]) == 2
    (line,) = [line for line in capsys.readouterr().err.splitlines() if "error:" in line]
    assert "File name too long" in line and len(line) < 200


def test_more_images_than_there_are_numbers(tmp_path, capsys):
    argv = ["phantom:subjects=30,size=32", "--per-label", "12345678901234567890", "--out", tmp_path / "out"]
    assert "give at most 1,000,000,000" in refused(split, argv, capsys, tmp_path / "out")
