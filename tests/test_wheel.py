"""What an installation from a wheel has: the shipped base and the page's template travel with the code."""

import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from cxr_ft.model.assembly import shipped

ROOT = Path(__file__).parents[1]


@pytest.mark.slow
def test_the_wheel_holds_all_that_is_read_at_run_time(tmp_path):
    source = tmp_path / "source"
    source.mkdir()
    archive = subprocess.run(["git", "-C", str(ROOT), "archive", "HEAD"], capture_output=True, check=False)
    if archive.returncode:
        pytest.skip("not a git checkout")
    subprocess.run(["tar", "-x", "-C", str(source)], input=archive.stdout, check=True)
    command = [sys.executable, "-m", "pip", "wheel", "--no-deps", "--no-build-isolation", "-w", str(tmp_path)]
    subprocess.run([*command, str(source)], check=True, capture_output=True)
    (wheel,) = tmp_path.glob("*.whl")
    names = set(zipfile.ZipFile(wheel).namelist())
    assert "cxr_ft/show/page.html" in names
    for name in shipped():
        assert {f"cxr_ft/model/weights/{name}/{file}" for file in ("config.json", "tokenizer.json")} <= names
    assert not [name for name in names if name.startswith("tests/")]
