"""No process that we start imports a module from the working folder."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

import cxr_ft
from cxr_ft import child_processes

#: A user's scripts that bear the names of libraries: each leaves a mark when it is run.
NAMES = ("pandas", "numpy", "joblib", "torch", "cv2", "PIL", "json", "cxr_ft", "multiprocessing")
STARTS = {
    "joblib": "from cxr_ft.data.pixels.image_decode import spread; assert list(spread(abs, range(8), 2))[7] == 7",
    "multiprocessing": "from cxr_ft.cli.phantom import main; "
    "assert main(['--out', 'a', '--subjects', '4', '--size', '32', '--workers', '2']) == 0",
}


def run(code, folder, environment):
    command = [sys.executable, "-P", "-c", code]
    return subprocess.run(
        command, cwd=folder, env=environment, capture_output=True, text=True, timeout=120, check=False
    )


@pytest.fixture
def folder(tmp_path):
    for name in NAMES:
        (tmp_path / f"{name}.py").write_text(f"open({str(tmp_path / 'RUN')!r} + {name!r}, 'w').close()")
    return tmp_path


@pytest.fixture
def environment():
    return {**os.environ, "PYTHONPATH": str(Path(cxr_ft.__file__).parents[1])}


@pytest.mark.parametrize("start", ["multiprocessing", pytest.param("joblib", marks=pytest.mark.slow)])
def test_workers_import_nothing_from_the_working_folder(folder, environment, start):
    done = run(STARTS[start], folder, environment)
    assert done.returncode == 0, done.stderr
    assert not [*folder.glob("RUN*")]


@pytest.mark.parametrize(
    "module",
    [pytest.param("cxr_ft.run.evaluation.verify", marks=pytest.mark.slow), "cxr_ft.data.dicom.decoder_process"],
)
def test_modules_of_ours_import_nothing_from_the_working_folder(folder, environment, module):
    command = child_processes.module_command(module)
    done = subprocess.run(
        command, cwd=folder, env=environment, capture_output=True, stdin=subprocess.DEVNULL, timeout=120, check=False
    )
    assert b"ModuleNotFound" not in done.stderr and not [*folder.glob("RUN*")], done.stderr


def test_the_switch_is_as_it_was_afterwards(monkeypatch):
    for value in (None, "", "1"):
        monkeypatch.delenv(child_processes.SWITCH, raising=False)
        if value is not None:
            monkeypatch.setenv(child_processes.SWITCH, value)
        with child_processes.safe_path():
            assert os.environ[child_processes.SWITCH] == "1"
        assert os.environ.get(child_processes.SWITCH) == value
