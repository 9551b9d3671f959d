"""Decoding many images: one as a square, what a look at them finds, and the processes that share the work."""

import functools
import hashlib
from collections.abc import Callable, Iterator, Sequence
from importlib import metadata
from pathlib import Path
from typing import NamedTuple, TypeVar

import numpy as np
from numpy.typing import NDArray

from cxr_ft.child_processes import safe_path
from cxr_ft.data.dicom import read_xray
from cxr_ft.data.sources.locations import local_copy
from cxr_ft.errors import UsageError

__all__ = [
    "NOT_CHECKED",
    "CheckedImages",
    "Pixels",
    "centre_square",
    "decoder",
    "local_copy",
    "pixel_hash",
    "spread",
    "square",
]

Pixels = NDArray[np.uint8]
Job = TypeVar("Job")
Done = TypeVar("Done")
#: More processes than this are started only on request: each holds a full-size film or two in memory.
MOST_WORKERS = 16
#: What decides which pixels a picture gives: files here (a test holds them against what `dicom` imports), and packages.
DECODER = ("dicom/*.py", "pixels/image_decode.py")
LIBRARIES = (
    "imagecodecs",
    "numpy",
    "opencv-python",
    "opencv-python-headless",
    "pillow",
    "pydicom",
    "pyjpegls",
    "pylibjpeg-libjpeg",
    "pylibjpeg-openjpeg",
)
#: Below this many files starting processes costs more than it saves.
MANY = 64


class CheckedImages(NamedTuple):
    """The outcome of a look at some images.

    Args:
        unreadable: reason code and detail, by path.
        pixels: `pixel_hash` of each of the others, by path.
    """

    unreadable: dict[str, tuple[str, str]]
    pixels: dict[str, str]


#: Of images that are not at hand nothing is known.
NOT_CHECKED = CheckedImages({}, {})


def pixel_hash(pixels: Pixels) -> str:
    """Return a hash of an image's values and shape, by which two files are known for one image."""
    digest = hashlib.blake2b(np.ascontiguousarray(pixels).tobytes(), digest_size=16)
    # The same bytes in another shape are another image.
    digest.update(str(pixels.shape).encode())
    return digest.hexdigest()


def square(path: Path, size: int) -> Pixels:
    """Return one image as uint8 [size, size]: the short side resized to `size`, then the middle.

    This is what GIT's processor does to an image (shortest edge, then centre crop), from the raw values.
    """
    return centre_square(read_xray(path, size=size), size)


def centre_square(pixels: Pixels, size: int) -> Pixels:
    """Return the middle [size, size] of an image whose short side is `size`."""
    top, left = (pixels.shape[0] - size) // 2, (pixels.shape[1] - size) // 2
    return np.ascontiguousarray(pixels[top : top + size, left : left + size])


@functools.cache
def decoder() -> str:
    """Return a hash of what decides which pixels a file gives: the code here and the libraries behind it."""
    # Any other version may round otherwise; a cache made by it would silently mix two kinds of pixels.
    digest = hashlib.sha256(" ".join(f"{name} {_version(name)}" for name in LIBRARIES).encode())
    # Sorted, since glob's order is the file system's.
    for file in sorted(file for pattern in DECODER for file in Path(__file__).parents[1].glob(pattern)):
        digest.update(file.read_bytes())
    return digest.hexdigest()


def spread(work: Callable[[Job], Done], jobs: Sequence[Job], workers: int | None, batch: int = 1) -> Iterator[Done]:
    """Yield `work(job)` of each job, in their order, from `workers` processes (None: one a core, 16 at most).

    Raises:
        UsageError: where a process was killed, for want of memory as a rule; and whatever `work` raises.
    """
    from concurrent.futures.process import BrokenProcessPool

    from joblib import Parallel, cpu_count, delayed

    workers = min(cpu_count(), MOST_WORKERS) if workers is None else workers
    if min(workers, len(jobs)) <= 1:
        yield from map(work, jobs)
        return
    # joblib's workers do not run the caller's main script again, so scripts, notebooks and pipes need no guard.
    # A generator, so that the progress bar moves and the main process holds no list of results.
    parallel = Parallel(n_jobs=min(workers, len(jobs)), return_as="generator", batch_size=batch)
    try:
        # Workers start at the first call, which is when they inherit the search path.
        with safe_path():
            outcomes = parallel(delayed(_on_one_thread)(work, job) for job in jobs)
        yield from outcomes
    except BrokenProcessPool:
        raise UsageError(
            f"one of {workers} worker processes was killed, for want of memory perhaps; what was finished is kept: "
            "run the same command again, with fewer workers if it happens again"
        ) from None


def _version(package: str) -> str:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return "absent"


def _on_one_thread(work: Callable[[Job], Done], job: Job) -> Done:
    import cv2

    cv2.setNumThreads(1)  # the processes share the cores already
    return work(job)
