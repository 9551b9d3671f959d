"""Broken files by the thousand end as a picture or a refusal: no crash, no hang, no gigabytes."""

import json
import os
import subprocess
import sys
from pathlib import Path

import fuzz_dicom
import pytest

from cxr_ft.data.dicom import Reason


@pytest.mark.parametrize(("count", "seed"), [(400, 1), pytest.param(10_000, 2, marks=pytest.mark.slow)])
def test_broken_files(tmp_path, count, seed):
    here = Path(fuzz_dicom.__file__)
    result = subprocess.run(
        [sys.executable, str(here), str(tmp_path), str(count), str(seed)],
        capture_output=True,
        text=True,
        env=os.environ | {"PYTHONPATH": str(here.parent)},
    )
    assert result.returncode == 0, result.stderr[-2000:]
    report = json.loads(result.stdout)
    outcomes = report["outcomes"]
    assert sum(outcomes.values()) == count
    assert set(outcomes) <= {"picture", *Reason}
    assert {"picture", Reason.TRUNCATED, Reason.BAD_HEADER, Reason.BAD_PIXELS} <= set(outcomes)
    assert report["slowest"] < 5  # seconds, of which a busy machine takes most
    assert 0 < report["self_mb"] < 500
    assert 0 < report["child_mb"] < 500
