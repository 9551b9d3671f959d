"""Broken DICOM files by the thousand: `python fuzz_dicom.py FOLDER COUNT SEED` prints what became of them, as JSON.

A process of its own, so that one that crashes is seen as such. Every file is a sound one with some bytes changed, cut,
put in or moved, in its header, its lengths or its stream.
"""

import collections
import json
import os
import struct
import sys
import time
import warnings
from pathlib import Path

import numpy as np
import psutil
from dicom_files import lut, write_dicom
from pydicom import uid

from cxr_ft.data.dicom import DicomError, read_xray

SYNTAXES = (
    *(uid.ImplicitVRLittleEndian, uid.ExplicitVRLittleEndian, uid.ExplicitVRBigEndian),
    *(uid.DeflatedExplicitVRLittleEndian, uid.RLELossless, uid.JPEGBaseline8Bit, uid.JPEGExtended12Bit),
    *(uid.JPEGLossless, uid.JPEGLSLossless, uid.JPEGLSNearLossless, uid.JPEG2000Lossless, uid.HTJ2KLossless),
)
EXTREMES = (0, 1, 0x7FFF, 0xFFFF, 0x7FFFFFFF, 0xFFFFFFFE, 0xFFFFFFFF)


def sound(folder: Path) -> list[bytes]:
    """One file a syntax, with tags for most stages, and of a few syntaxes one in colour."""
    y, x = np.mgrid[:47, :61]
    grey = np.clip((np.sin(x / 7) + np.cos(y / 9) + 2) * 1000 + (x * y) % 23, 0, 4095).astype(np.uint16)
    files = []
    for number, syntax in enumerate(SYNTAXES):
        small = syntax == uid.JPEGBaseline8Bit
        tags = {} if small else {"BitsStored": 12, "HighBit": 11}
        if number % 2:
            tags |= {"WindowCenter": 1000, "WindowWidth": 500, "RescaleSlope": "1.5", "PixelPaddingValue": 0}
        else:
            tags |= {"VOILUTSequence": lut(3, np.arange(0, 65536, 64), 16), "PixelSpacing": ["0.1", "0.2"]}
        array = (grey // 16).astype(np.uint8) if small else grey
        files.append(write_dicom(folder / "sound.dcm", array, syntax=syntax, **tags).read_bytes())
    colours = np.stack([grey // 16, grey // 32, 255 - grey // 16], axis=-1).astype(np.uint8)
    for syntax in (uid.ExplicitVRLittleEndian, uid.RLELossless, uid.JPEG2000Lossless):
        files.append(write_dicom(folder / "sound.dcm", colours, syntax=syntax).read_bytes())
    return files


def broken(whole: bytes, rng: np.random.Generator) -> bytes:
    """The file with one to three faults, most of them where its parts begin."""
    data = bytearray(whole)
    pixels = max(whole.find(b"\xe0\x7f\x10\0"), 200)
    if (
        rng.random() < 0.5
    ):  # only values, and none of those that begin or end the stream, so that its decoder is reached
        for at in rng.integers(min(pixels + 40, len(data) - 5), len(data) - 4, rng.integers(1, 6)):
            data[at] = rng.integers(256)
        return bytes(data)
    for _ in range(rng.integers(1, 4)):
        low, high = [(128, pixels), (pixels, min(pixels + 200, len(data))), (128, len(data))][rng.integers(3)]
        at = int(rng.integers(min(low, len(data) - 1), max(min(high, len(data)), min(low, len(data) - 1) + 1)))
        match rng.integers(6):
            case 0 | 1:
                data[at] = rng.integers(256)
            case 2:
                order = "<>"[rng.integers(2)] + "HL"[rng.integers(2)]
                value = EXTREMES[rng.integers(len(EXTREMES))] & (0xFFFF if order[1] == "H" else 0xFFFFFFFF)
                data[at : at + struct.calcsize(order)] = struct.pack(order, value)
            case 3:
                data[at:at] = rng.bytes(int(rng.integers(1, 12)))
            case 4:
                del data[at : at + int(rng.integers(1, 12))]
            case 5:
                if rng.random() < 0.3:
                    del data[at:]
        if len(data) < 140:
            return bytes(data)
    return bytes(data)


def main(folder: Path, count: int, seed: int) -> None:
    """Read `count` broken files, one after another."""
    warnings.simplefilter("ignore")
    rng = np.random.default_rng(seed)
    files = sound(folder)
    outcomes: collections.Counter[str] = collections.Counter()
    path, slowest, peak, child = folder / "broken.dcm", 0.0, 0, 0
    for number in range(count):
        path.write_bytes(broken(files[number % len(files)], rng))
        start = time.perf_counter()
        try:
            picture = read_xray(path, size=(None, 32)[number % 2])
            assert picture.dtype == np.uint8 and picture.ndim == 2 and picture.size
            outcomes["picture"] += 1
        except DicomError as error:
            outcomes[error.reason.value] += 1
        if (seconds := time.perf_counter() - start) > slowest:
            slowest = seconds
            (folder / "slowest.dcm").write_bytes(path.read_bytes())
        if number % 50 == 0 or number == count - 1:
            peak = max(peak, peak_mb(os.getpid()))
            child = max(child, *(peak_mb(process.pid) for process in psutil.Process().children()), 0)
    print(json.dumps({"outcomes": outcomes, "slowest": slowest, "self_mb": peak, "child_mb": child}))


def peak_mb(process: int) -> int:
    """The most memory that a process ever held, in MiB (Linux; ru_maxrss would count what its parent held)."""
    lines = Path(f"/proc/{process}/status").read_text(encoding="ascii").splitlines()
    return next((int(line.split()[1]) >> 10 for line in lines if line.startswith("VmHWM")), 0)


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]))
