"""cxr-split as a user types it: what an interruption leaves, what broken archives and single modules say."""

import subprocess
import sys

import numpy as np
import pytest

from cxr_ft.cli import split
from cxr_ft.data.layouts import folder
from cxr_ft.show.charts import _distribution


def test_the_chart_is_written_with_the_rest(tmp_path):
    archive = folder.demo(tmp_path)
    assert split.main([archive, "--layout", "folder", "--per-label", "10", "--out", str(tmp_path / "out")]) == 0
    assert (tmp_path / "out" / "distribution.png").read_bytes()[:4] == b"\x89PNG"


def test_an_interruption_leaves_nothing_and_says_so(tmp_path, monkeypatch, capsys):
    def interrupt(_):
        raise KeyboardInterrupt

    archive, out = folder.demo(tmp_path), tmp_path / "out"
    monkeypatch.setattr(_distribution, "distribution", interrupt)
    assert split.main([archive, "--layout", "folder", "--per-label", "10", "--out", str(out)]) == 130
    assert not out.exists()
    printed = capsys.readouterr().err
    assert "interrupted; the same command starts again from the beginning" in printed
    assert "continues where" not in printed


def test_an_archive_of_broken_files_is_one_line(tmp_path, capsys):
    rng = np.random.default_rng(0)
    for i in range(40):
        file = tmp_path / "films" / "ab"[i % 2] / f"{i}.dcm"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(bytes(128) + b"DICM" + rng.bytes(40))
    code = split.main([str(tmp_path / "films"), "--layout", "folder", "--out", str(tmp_path / "out")])
    last = capsys.readouterr().err.strip().splitlines()[-1]
    assert code == 2 and not (tmp_path / "out").exists()
    assert "40 images could not be read (" in last and "for example a/0.dcm" in last


@pytest.mark.parametrize("path", ["/etc/passwd", "../../etc/passwd"])
def test_a_path_out_of_the_folder_is_one_line(tmp_path, capsys, path):
    archive = folder.demo(tmp_path)
    rows = [f"{name}/{i}.png,{name}" for name in ("clear", "opaque") for i in range(12)]
    (tmp_path / "classes" / "t.csv").write_text("\n".join(["path,label", *rows, f"{path},clear"]) + "\n")
    assert split.main([archive, "--layout", "folder", "--per-label", "5", "--out", str(tmp_path / "out")]) == 2
    err = capsys.readouterr().err
    assert f"path {path} leads out of it" in err and len(err.strip().splitlines()) == 1


def test_the_module_is_a_command(tmp_path):
    ran = subprocess.run(
        [sys.executable, "-m", "cxr_ft.cli.split", "--audit", str(tmp_path / "none.csv")],
        capture_output=True,
        text=True,
        check=False,
    )
    assert ran.returncode == 2 and "none.csv" in ran.stderr
