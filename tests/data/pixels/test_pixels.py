"""Decoding many images: squares, refusals in order, the processes that share the work, and what decides the pixels."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from cxr_ft.data.audit import acquisition
from cxr_ft.data.dicom import read_xray
from cxr_ft.data.pixels import image_decode
from cxr_ft.errors import UsageError


def double(number):
    return 2 * number


def die(number):
    os.kill(os.getpid(), signal.SIGKILL)


def refuse(number):
    if number == 5:
        raise UsageError("five is refused")
    return number


@pytest.mark.parametrize("shape", [(40, 30), (30, 40), (30, 30), (9, 200)])
def test_a_square_is_the_middle_of_the_picture(tmp_path, shape):
    Image.fromarray(np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)).save(tmp_path / "a.png")
    whole = read_xray(tmp_path / "a.png", size=12)
    top, left = (whole.shape[0] - 12) // 2, (whole.shape[1] - 12) // 2
    np.testing.assert_array_equal(image_decode.square(tmp_path / "a.png", 12), whole[top : top + 12, left : left + 12])


@pytest.mark.parametrize("count", [9, 70])
def test_refusals_come_in_the_order_of_the_paths(tmp_path, count):
    """In this process and, from 64 files on, in several."""
    for i in range(count):
        Image.fromarray(np.full((8, 8), i, np.uint8)).save(tmp_path / f"{i}.png")
    for i in (7, 3):
        (tmp_path / f"{i}.png").write_bytes(b"no picture")
    (tmp_path / "5.png").unlink()
    paths = [f"{i}.png" for i in range(count)][::-1]
    bad, pixels = acquisition.Acquisitions(tmp_path).check(paths)
    assert [*pixels] == [path for path in paths if path not in bad] and len({*pixels.values()}) == count - 3
    assert [(path, reason) for path, (reason, _) in bad.items()] == [
        ("7.png", "not_dicom"),
        ("5.png", "not_readable"),
        ("3.png", "not_dicom"),
    ]


@pytest.mark.parametrize("workers", [None, 1, 2, 3])
def test_work_is_spread_in_order(workers):
    assert list(image_decode.spread(double, range(10), workers)) == list(range(0, 20, 2))
    assert list(image_decode.spread(double, [], workers)) == []


@pytest.mark.parametrize("workers", [1, 2])
def test_bad_input_is_the_same_line_from_a_process(workers):
    with pytest.raises(UsageError, match=r"^five is refused$"):
        list(image_decode.spread(refuse, range(10), workers))


def test_a_killed_process_is_one_line():
    with pytest.raises(UsageError, match="one of 2 worker processes was killed"):
        list(image_decode.spread(die, range(10), 2))
    assert list(image_decode.spread(double, range(4), 2)) == [0, 2, 4, 6]  # and the next work finds new ones


def test_whatever_decodes_is_part_of_the_decoder():
    """A file that `dicom` comes to import decides about pixels, too."""
    code = (
        "import sys, cxr_ft.data.dicom\n"
        "print(*(m.__file__ for n, m in sys.modules.items() if n.startswith('cxr_ft.data.')), sep='\\n')"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=120)
    here = Path(image_decode.__file__).parents[1]
    counted = {str(file) for pattern in image_decode.DECODER for file in here.glob(pattern)}
    imported = set(done.stdout.split())
    assert len(imported) > 3
    assert imported <= counted


def test_other_versions_are_another_decoder(monkeypatch):
    now = image_decode.decoder.__wrapped__()
    assert image_decode.decoder.__wrapped__() == now
    version = image_decode.metadata.version
    monkeypatch.setattr(image_decode.metadata, "version", lambda name: "0.1" if name == "pydicom" else version(name))
    assert image_decode.decoder.__wrapped__() != now
