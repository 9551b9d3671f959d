"""Decoding many images once: which of them cannot be read, and a memory-mapped cache of resized pixels.

The cache is one `.npy` file of uint8 [N, S, S] per (files, size), in the user's cache folder. It carries pixels and no
header field. A changed source file or size makes another key, never a stale hit.
"""

import hashlib
import os
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from cxr_ft.data.dicom import DicomError, read_xray
from cxr_ft.errors import UsageError
from cxr_ft.files import atomic, cache_folder
from cxr_ft.progress import bar

Pixels = NDArray[np.uint8]
#: Part of the key: raise it when what is stored for the same file and size changes.
FORMAT = 1
#: Below this many files starting processes costs more than it saves.
MANY = 64


def unreadable(root: Path, paths: Sequence[str]) -> dict[str, tuple[str, str]]:
    """The paths below `root` that cannot be decoded, with reason code and detail."""
    bad = {}
    for path, outcome in zip(paths, _decode(root, paths, None, "checking images"), strict=True):
        if isinstance(outcome, DicomError):
            bad[path] = (outcome.reason.value, outcome.detail)
    return bad


def square(path: Path, size: int) -> Pixels:
    """One image as uint8 [size, size]: the short side resized to `size`, then the middle.

    This is what GIT's processor does to an image (shortest edge, then centre crop), from the raw values.
    """
    pixels = read_xray(path, size=size)
    top, left = (pixels.shape[0] - size) // 2, (pixels.shape[1] - size) // 2
    return np.ascontiguousarray(pixels[top : top + size, left : left + size])


def cached(root: Path, paths: Sequence[str], size: int) -> Pixels:
    """The images [N, size, size], memory-mapped, decoded on first use.

    Raises:
        UsageError: where a file is gone or cannot be read any more.
    """
    file = cache_folder() / "pixels" / f"{_key(root, paths, size)}.npy"
    if not file.exists():
        header = {"descr": "|u1", "fortran_order": False, "shape": (len(paths), size, size)}
        # Written, not mapped: on a full disk a write fails with an error, a mapped page kills the process.
        with atomic(file) as temporary, temporary.open("wb") as store:
            np.lib.format.write_array_header_1_0(store, header)
            for path, outcome in zip(paths, _decode(root, paths, size, "decoding images"), strict=True):
                if isinstance(outcome, DicomError):
                    raise UsageError(f"{root / path}: {outcome.reason.value}: {outcome.detail}; run cxr-split again")
                store.write(outcome.tobytes())
    mapped: Pixels = np.load(file, mmap_mode="r")
    return mapped


def _key(root: Path, paths: Sequence[str], size: int) -> str:
    digest = hashlib.sha256(f"{FORMAT}|{size}|{root.resolve()}".encode())
    for path in paths:
        try:
            stat = (root / path).stat()
        except OSError:
            raise UsageError(
                f"{root / path} does not exist: was the archive moved? Then use --set data.root=DIR, or --root DIR"
            ) from None
        digest.update(f"|{path}|{stat.st_size}|{stat.st_mtime_ns}".encode())
    return digest.hexdigest()[:32]


def _decode(root: Path, paths: Sequence[str], size: int | None, what: str) -> Iterator[Pixels | DicomError]:
    jobs = [(str(root / path), size) for path in paths]
    workers = min(os.cpu_count() or 1, 16)
    with bar(what, len(jobs)) as progress:
        if workers == 1 or len(jobs) < MANY:
            for job in jobs:
                yield _decode_one(job)
                progress.advance()
            return
        from joblib import Parallel, delayed

        # joblib's workers do not run the caller's main script again, so scripts, notebooks and pipes need no guard.
        parallel = Parallel(n_jobs=workers, return_as="generator", batch_size=8)
        for outcome in parallel(delayed(_decode_one)(job) for job in jobs):
            yield outcome
            progress.advance()


def _decode_one(job: tuple[str, int | None]) -> Pixels | DicomError:
    path, size = job
    try:
        return read_xray(Path(path)) if size is None else square(Path(path), size)
    except DicomError as error:
        return error
