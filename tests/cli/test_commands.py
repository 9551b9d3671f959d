"""The commands as a user types them: the whole path once, and a wrong value for each flag."""

import json
import os

import pytest

from cxr_ft.cli import ablate, compare, evaluate, phantom, predict, split, train
from cxr_ft.data.layouts import folder
from cxr_ft.model.bases import git
from cxr_ft.show.charts import all_charts


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """An archive, its splits, a tiny model and one finished run, made by the commands themselves."""
    place = tmp_path_factory.mktemp("place")
    os.environ["CXR_FT_CACHE"] = str(place / "cache")
    tiny = git.tiny()
    tiny.save(place / "tiny", tiny.lm)
    archive = folder.demo(place)
    assert split.main([archive, "--layout", "folder", "--per-label", "12", "--out", str(place / "splits")]) == 0
    flags = ["--splits", str(place / "splits"), "--model", str(place / "tiny"), "--set", "train.epochs=1"]
    assert train.main([*flags, "--method", "lora", "--targets", "q,v", "--rank", "2", "--out", str(place / "run")]) == 0
    return place


def printed(capsys, main, argv):
    """Exit code and the one line on standard error."""
    code = main([str(a) for a in argv])
    err = capsys.readouterr().err
    return code, err


def test_the_whole_path(place, capsys, tmp_path):
    result = json.loads((place / "run" / "result.json").read_text())
    assert result["status"] == "success" and result["config"]["tuning"]["targets"] == ["q", "v"]
    assert (place / "splits" / "distribution.png").read_bytes()[:4] == b"\x89PNG"
    assert evaluate.main([str(place / "run"), "--splits", str(place / "splits")]) == 0
    assert (place / "run" / "evaluated" / "splits" / "metrics.json").exists()
    image = next((place / "classes").rglob("*.png"))
    capsys.readouterr()
    assert predict.main([str(place / "run"), str(image), "--json"]) == 0
    assert set(json.loads(capsys.readouterr().out)["scores"]) == {"clear", "opaque"}
    assert compare.main([str(place / "run"), "--out", str(tmp_path / "page")]) == 0
    assert (tmp_path / "page" / "comparison.html").stat().st_size > 1000
    needed = {name for name, chart in all_charts().items() if not chart.optional}
    assert {path.stem for path in (tmp_path / "page" / "charts").glob("*.svg")} >= needed
    csvs = [str(place / "splits" / f"{side}_split.csv") for side in ("train", "val", "test", "test_natural")]
    # Two subjects a label in test are too few, and that is all that an audit finds.
    capsys.readouterr()
    assert split.main(["--audit", *csvs]) == 1
    printed = capsys.readouterr().out
    assert "FEW" in printed and "no leaks found, no labels confounded, 1 other finding\n" in printed
    assert split.main(["--audit", csvs[0], csvs[0]]) == 1


def test_a_grid(place, tmp_path):
    grid = tmp_path / "grid.yaml"
    grid.write_text(
        f"data: {{splits: {place / 'splits'}}}\nmodel: {place / 'tiny'}\ntrain: {{epochs: 1}}\n"
        "grid: {method: [zero_shot, lora], targets: [[q], [v]]}\n"
    )
    assert ablate.main([str(grid), "--seeds", "0", "--out", str(tmp_path / "runs")]) == 0
    assert len(list((tmp_path / "runs").glob("*/result.json"))) == 3
    assert len((tmp_path / "runs" / "ablation.csv").read_text().splitlines()) == 4


def test_a_rerun_is_skipped(place, capsys):
    before = (place / "run" / "result.json").stat().st_mtime_ns
    assert train.main(["--config", str(place / "run" / "result.json"), "--out", str(place / "run")]) == 0
    assert (place / "run" / "result.json").stat().st_mtime_ns == before
    assert "nothing was trained" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("main", "argv", "words"),
    [
        (split.main, [], "give SOURCE and --out DIR"),
        (split.main, ["nowhere", "--out", "{tmp}/o"], "nowhere does not exist"),
        (split.main, ["{place}/classes", "--layout", "mimc_cxr", "--out", "{tmp}/o"], "did you mean 'mimic_cxr'"),
        (
            split.main,
            ["{place}/classes", "--layout", "mimic_cxr", "--out", "{tmp}/o"],
            "no mimic-cxr-2.0.0-metadata.csv.gz",
        ),
        (
            split.main,
            ["{place}/classes", "--layout", "folder", "--per-label", "0", "--out", "{tmp}/o"],
            "--per-label 0",
        ),
        (
            split.main,
            ["{place}/classes", "--layout", "folder", "--per-label", "x", "--out", "{tmp}/o"],
            "invalid int value: 'x'",
        ),
        (split.main, ["{place}/classes", "--layout", "folder", "--ratios", "7/3", "--out", "{tmp}/o"], "--ratios 7/3"),
        (
            split.main,
            ["{place}/classes", "--layout", "folder", "--ratios", "a/b/c", "--out", "{tmp}/o"],
            "--ratios a/b/c",
        ),
        (split.main, ["{place}/classes", "--layout", "folder", "--views", "up", "--out", "{tmp}/o"], "frontal"),
        (split.main, ["{place}/classes", "--layout", "folder", "--views", "PA", "--out", "{tmp}/o"], "use --views all"),
        (
            split.main,
            ["{place}/classes", "--layout", "folder", "--uncertain", "up", "--out", "{tmp}/o"],
            "choose from ignore",
        ),
        (
            split.main,
            ["{place}/classes", "--layout", "folder", "--blank", "up", "--out", "{tmp}/o"],
            "choose from negative",
        ),
        (split.main, ["{place}/classes", "--layout", "folder", "--unit", "up", "--out", "{tmp}/o"], "image, study"),
        (split.main, ["{place}/classes", "--layout", "folder", "--text", "up", "--out", "{tmp}/o"], "mini_report"),
        (
            split.main,
            ["{place}/classes", "--layout", "folder", "--text", "findings", "--out", "{tmp}/o"],
            "has no reports",
        ),
        (split.main, ["{place}/classes", "--layout", "folder", "--official", "--out", "{tmp}/o"], "own split has no"),
        (split.main, ["{place}/classes", "--layout", "folder", "--out", "{tmp}/file/o"], "cannot write"),
        (split.main, ["{place}/classes", "--layuot", "folder", "--out", "{tmp}/o"], "--layuot"),
        (split.main, ["phantom:subject=3", "--out", "{tmp}/o"], "subjects"),
        (split.main, ["--audit", "{tmp}/none.csv"], "none.csv"),
        (train.main, ["--splits", "nowhere"], "nowhere holds no manifest.json"),
        (train.main, ["--splits", "{place}/splits", "--method", "lorra"], "did you mean 'lora'"),
        (train.main, ["--splits", "{place}/splits", "--task", "clasify"], "did you mean 'classify'"),
        (train.main, ["--splits", "{place}/splits", "--model", "git-tny"], "git-tiny-random"),
        (train.main, ["--splits", "{place}/splits", "--targets", "q,vv", "--out", "{tmp}/o"], "no target 'vv'"),
        (train.main, ["--splits", "{place}/splits", "--method", "bitfit", "--targets", "q"], "--targets"),
        (train.main, ["--splits", "{place}/splits", "--rank", "x"], "'x' is not of type int"),
        (train.main, ["--splits", "{place}/splits", "--rank", "-1"], "tuning.rank: -1"),
        (train.main, ["--splits", "{place}/splits", "--lr", "fast"], "'fast' is not of type float"),
        (train.main, ["--splits", "{place}/splits", "--seed", "x"], "invalid int value"),
        (train.main, ["--splits", "{place}/splits", "--set", "train.epoch=1"], "did you mean 'epochs'"),
        (train.main, ["--splits", "{place}/splits", "--set", "train.epochs"], "SECTION.KEY=VALUE"),
        (train.main, ["--config", "{tmp}/none.yaml"], "none.yaml does not exist"),
        (train.main, ["--splits", "{place}/splits", "--out", "{tmp}/file/o"], "cannot write"),
        (
            train.main,
            ["--splits", "{place}/splits", "--model", "{place}/tiny", "--seed", "9", "--out", "{place}/run"],
            "holds another run",
        ),
        (
            train.main,
            ["--splits", "{place}/splits", "--task", "report", "--set", "head.text=story"],
            "unknown text column 'story'",
        ),
        (
            train.main,
            ["--splits", "{place}/splits", "--set", "data.root=/nowhere", "--out", "{tmp}/o"],
            "/nowhere does not exist",
        ),
        (evaluate.main, ["{tmp}", "--splits", "{place}/splits"], "is no run's folder"),
        (evaluate.main, ["{place}/run", "--splits", "{tmp}"], "holds no manifest.json"),
        (evaluate.main, ["{place}/run"], "--splits"),
        (predict.main, ["{place}/run", "{tmp}/none.png"], "none.png is not a file"),
        (predict.main, ["{tmp}", "{tmp}/file"], "is no run's folder"),
        (compare.main, ["{tmp}/none", "--out", "{tmp}/o"], "does not exist"),
        (compare.main, ["{place}/run", "--out", "{tmp}/file/o"], "cannot write"),
        (ablate.main, ["{tmp}/none.yaml", "--out", "{tmp}/o"], "none.yaml does not exist"),
        (ablate.main, ["--method", "lora,x", "--splits", "{place}/splits", "--out", "{tmp}/o"], "unknown method 'x'"),
        (ablate.main, ["--rank", "4,x", "--splits", "{place}/splits", "--out", "{tmp}/o"], "--rank 4,x"),
        (ablate.main, ["--seeds", "a", "--splits", "{place}/splits", "--out", "{tmp}/o"], "--seeds a"),
        (ablate.main, ["--targets", "q;vv", "--splits", "{place}/splits", "--out", "{tmp}/o"], "no target 'vv'"),
        (ablate.main, ["--method", "lora"], "--out"),
        (phantom.main, ["--subjects", "0", "--out", "{tmp}/o"], "subjects"),
        (phantom.main, ["--size", "1", "--out", "{tmp}/o"], "size"),
        (phantom.main, ["--out", "{place}/classes"], "empty"),
        (phantom.main, ["--out", "{tmp}/file/o"], "cannot write"),
    ],
)
def test_bad_input_is_one_line_and_writes_nothing(place, tmp_path, capsys, main, argv, words):
    (tmp_path / "file").write_text("")
    filled = [a.format(place=place, tmp=tmp_path) for a in argv]
    before = sorted(p for p in tmp_path.rglob("*"))
    code, err = printed(capsys, main, filled)
    assert code == 2
    assert words in err
    assert len(err.strip().splitlines()) == 1 and err.startswith("cxr-") and "Traceback" not in err
    assert sorted(p for p in tmp_path.rglob("*")) == before
