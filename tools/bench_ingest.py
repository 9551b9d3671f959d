"""How fast an uncompressed radiograph becomes a small picture, against other ways of doing it.

All in one process, taking turns, so that what else the machine does falls on each alike; the ratios of the medians are
what counts. The files are made here: 3056 x 2544 pixels, 12 bits in 16, with a window, as most of MIMIC-CXR's are.

    OMP_NUM_THREADS=1 python tools/bench_ingest.py [--rounds 15]
"""

import argparse
import importlib
import importlib.util
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import numpy.typing as npt
import pydicom
from PIL import Image
from pydicom import Dataset, FileMetaDataset, uid
from pydicom.pixels.processing import apply_voi_lut

from cxr_ft.data.dicom import read_xray

ROWS, COLUMNS = 3056, 2544
CENTRE, WIDTH = 2048, 3000
FILES = 3
Reader = Callable[[Path, int], npt.NDArray[np.generic]]


def main() -> None:
    """Print milliseconds an image and ratios, at two sizes."""
    parser = argparse.ArgumentParser(description="Ingest: ours against others, as ratios of medians.")
    parser.add_argument("--rounds", type=int, default=15, help="times each way reads each file (default: 15)")
    rounds = parser.parse_args().rounds
    readers: dict[str, Reader | None] = {
        "read_xray": read_xray,
        "notebook (dcmread, apply_voi_lut, min-max, PIL)": notebook,
        "torchxrayvision (read_xray_dcm, then cv2 area)": if_installed("torchxrayvision", torchxrayvision),
        "MONAI (PydicomReader, Resize area)": if_installed("monai", monai),
    }
    with tempfile.TemporaryDirectory() as folder:
        files = [write_film(Path(folder) / f"{seed}.dcm", seed) for seed in range(FILES)]
        for size in (224, 512):
            print(f"short side {size}, ms an image, median of {rounds * FILES}; error of read_xray in levels of 255:")
            print(f"  {worst_error(files[0], size):.2f} at most, of which rounding is up to 0.50")
            times = alternate({name: reader for name, reader in readers.items() if reader}, files, size, rounds)
            for name, reader in readers.items():
                ratio = f"{times[name]:7.1f}   {times[name] / times['read_xray']:5.1f} x" if reader else "not installed"
                print(f"  {name:50} {ratio}")


def alternate(readers: dict[str, Reader], files: list[Path], size: int, rounds: int) -> dict[str, float]:
    """Median milliseconds an image of each reader, all having read each file once before."""
    times: dict[str, list[float]] = {name: [] for name in readers}
    for number in range(rounds + 1):
        for path in files:
            for name, read in readers.items():
                start = time.perf_counter()
                read(path, size)
                if number:
                    times[name].append(1000 * (time.perf_counter() - start))
    return {name: statistics.median(values) for name, values in times.items()}


def film(seed: int) -> npt.NDArray[np.uint16]:
    """A smooth 12-bit picture with noise and a bright marker, uint16 [ROWS, COLUMNS]."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:ROWS, :COLUMNS]
    shades = (np.sin(x / 97 + seed) * np.cos(y / 131) + 1) * 1900 + rng.normal(0, 15, (ROWS, COLUMNS))
    shades[100:200, 100:400] = 4095
    pixels: npt.NDArray[np.uint16] = np.clip(shades, 0, 4095).astype(np.uint16)
    return pixels


def write_film(path: Path, seed: int) -> Path:
    """Write the film as a DICOM file in explicit little endian and return `path`."""
    header = Dataset()
    header.file_meta = FileMetaDataset()
    header.file_meta.TransferSyntaxUID = uid.ExplicitVRLittleEndian
    header.SOPClassUID, header.SOPInstanceUID = uid.DigitalXRayImageStorageForPresentation, uid.generate_uid()
    header.Modality, header.PhotometricInterpretation = "DX", "MONOCHROME2"
    header.Rows, header.Columns, header.SamplesPerPixel = ROWS, COLUMNS, 1
    header.BitsAllocated, header.BitsStored, header.HighBit, header.PixelRepresentation = 16, 12, 11, 0
    header.WindowCenter, header.WindowWidth = CENTRE, WIDTH
    header.PixelData = film(seed).tobytes()
    header["PixelData"].VR = "OW"
    header.save_as(path, enforce_file_format=True)
    return path


def worst_error(path: Path, size: int) -> float:
    """The largest difference from the window in float64 at full size, then the exact area mean."""
    grey = np.clip((film(int(path.stem)) - (CENTRE - 0.5)) / (WIDTH - 1) + 0.5, 0, 1) * 255
    expected = cv2.resize(grey, target(size), interpolation=cv2.INTER_AREA)
    return float(np.abs(read_xray(path, size) - expected).max())


def target(size: int) -> tuple[int, int]:
    """The width and height whose shorter side is `size`."""
    return size, round(size * ROWS / COLUMNS)


def notebook(path: Path, size: int) -> npt.NDArray[np.generic]:
    """What most notebooks do."""
    header = pydicom.dcmread(path)
    values = apply_voi_lut(header.pixel_array, header).astype(np.float64)
    levels = (values - values.min()) / (values.max() - values.min()) * 255
    return np.asarray(Image.fromarray(levels.astype(np.uint8)).resize(target(size)))


def torchxrayvision(path: Path, size: int) -> npt.NDArray[np.generic]:
    """Its own reader, and the faster of the ways to make the outcome smaller."""
    pixels = importlib.import_module("torchxrayvision").utils.read_xray_dcm(str(path), voi_lut=True)
    return np.asarray(cv2.resize(pixels, target(size), interpolation=cv2.INTER_AREA))


def monai(path: Path, size: int) -> npt.NDArray[np.generic]:
    """Its reader and its resizing; it applies no window."""
    reader = importlib.import_module("monai.data").PydicomReader(swap_ij=False)
    pixels, _ = reader.get_data(reader.read(str(path)))
    width, height = target(size)
    resize = importlib.import_module("monai.transforms").Resize((height, width), mode="area")
    return np.asarray(resize(pixels.reshape(1, ROWS, COLUMNS)))


def if_installed(package: str, reader: Reader) -> Reader | None:
    """The reader, or None without its package."""
    return reader if importlib.util.find_spec(package) else None


if __name__ == "__main__":
    main()
