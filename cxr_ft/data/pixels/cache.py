"""The cache of resized pixels: which shards there are, and making those that are missing.

A cache is a folder of shards in the user's cache folder, under a hash of its images' files, their size, and the code
that decodes them: whatever changes gives another folder, never a stale hit. The plan (which image lies in which shard)
follows from the list of images alone, so any number of processes and machines can share the work, and one that was
killed goes on with the shards that are missing. Only images of the splits are decoded.
"""

import functools
import hashlib
import os
import random
import shutil
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from cxr_ft.data import manifest
from cxr_ft.data.pixels.image_decode import decoder, spread
from cxr_ft.data.pixels.shards import PER_SHARD, Images, Shard, intact, make
from cxr_ft.data.records import is_phantom, root_folder
from cxr_ft.data.sameness import path_key
from cxr_ft.data.sources import address, locations
from cxr_ft.errors import UsageError
from cxr_ft.files import cache_folder, make_folder
from cxr_ft.progress import bar

if TYPE_CHECKING:
    import pandas as pd

#: Part of the key: raise it when the shards' own format changes.
FORMAT = 2


@dataclass(frozen=True, kw_only=True)
class Built:
    """Result of `build`: shards of the whole cache, and how many of this machine's part were whole, made or mended."""

    folder: Path
    images: int
    shards: int
    whole: int
    made: int
    mended: int
    missing: int


def cached(root: Path, paths: Sequence[str], size: int, among: Sequence[str] | None = None) -> Images:
    """Return the images of `paths` [N, size, size], memory-mapped, decoded on first use.

    Args:
        root: what paths are relative to.
        paths: the images wanted, in this order; one may occur twice.
        size: side in pixels.
        among: the images that the cache holds (default: `paths`), so that several lists share one cache.

    Raises:
        UsageError: where a file is gone or cannot be read any more.
    """
    # Each image once, in its first place: the plan and so the key must not depend on repetitions.
    files = _distinct_files(root, paths if among is None else among)
    shards = _shards(root, files, size)
    # Only the structure is checked here, which needs no pixels; reading all of them would cost each training a pass.
    if missing := [shard for shard in shards if not intact(shard)]:
        carry_out(missing, lambda order: spread(make, order, None))
    _tidy(shards)
    return Images([shard.file for shard in shards], np.array([files.places[path] for path in paths], np.int64), size)


def build(
    splits: Path, size: int, shard: tuple[int, int] = (1, 1), workers: int | None = None, root: str | None = None
) -> Built:
    """Make the cache that training on a folder of splits uses, or this machine's part of it.

    Shards that are there are read whole against their checksum, and made again where they are damaged. Machines that
    share the work see the same archive and the same cache folder under the same names.

    Args:
        splits: a folder that cxr-split wrote.
        size: side in pixels; the base's image size.
        shard: (i, n): part i of n, from 1.
        workers: processes; None: one a core, 16 at most.
        root: where the images lie now, if not where the manifest says.

    Raises:
        UsageError: where the splits, an image, the part or the number of workers is wrong, or the disk is full.
    """
    part, parts = shard
    if not 1 <= part <= parts:
        raise UsageError(f"--shard {part}/{parts}: write i/N with i from 1 to N, as 2/8")
    if workers is not None and workers < 1:
        raise UsageError(f"{workers} workers; give at least 1")
    shards = planned(splits, size, root)
    work = functools.partial(make, thorough=True)
    # Every n-th shard: the parts differ by one shard at most.
    counts = carry_out(shards[part - 1 :: parts], lambda order: spread(work, order, workers))
    return report(shards, counts)


def part_of(text: str) -> tuple[int, int]:
    """Return "2/8" as (2, 8), for `build`.

    Raises:
        UsageError: where it is not written so.
    """
    numbers = text.split("/")
    if len(numbers) != 2 or not all(number.isascii() and number.isdigit() for number in numbers):
        raise UsageError(f"--shard {text}: write i/N with i from 1 to N, as 2/8")
    return int(numbers[0]), int(numbers[1])


def planned(splits: Path, size: int, root: str | None = None) -> list[Shard]:
    """Return the shards that training on a folder of splits uses; arguments and errors as for `build`."""
    read = manifest.read(splits)
    return plan(source_folder(read, root), shown(read), size)


def source_folder(splits: manifest.Splits, root: str | None = None) -> Path:
    """Return the root of the images of `splits`: `root`, or the one in the manifest.

    Raises:
        UsageError: where there is no such folder.
    """
    where = root or splits.root
    if not (is_phantom(where) or address.is_url(where) or Path(locations.normalized(where)).is_dir()):
        raise UsageError(f"{where} does not exist: was the archive moved? Then use --set data.root=DIR, or --root DIR")
    return root_folder(where)


def first(table: "pd.DataFrame") -> list[str]:
    """Return the image that each row shows: a study's row lists its images PA first, and the first one is taken."""
    return [str(path).split("|")[0] for path in table["path"]]


def several(table: "pd.DataFrame", views: int) -> list[list[str]]:
    """Return the images of each row, `views` at most: a frontal and a lateral one first, then further ones of either.

    So of PA, AP and LATERAL two are PA and LATERAL. The first is that of `first`.
    """
    names = table["view"] if "view" in table else table["path"].map(lambda _: "")
    return [_mixed(str(p).split("|"), str(v).split("|"))[:views] for p, v in zip(table["path"], names, strict=True)]


def _mixed(paths: list[str], views: list[str]) -> list[str]:
    if len(views) != len(paths):  # some other tool's table
        return paths
    lateral = [view == "LATERAL" for view in views]
    # How many of the same kind came before: the first frontal and lateral have turn 0, the second ones 1, and so on.
    turn = [lateral[:i].count(kind) for i, kind in enumerate(lateral)]
    return [paths[i] for i in sorted(range(len(paths)), key=lambda i: (turn[i], i))]


def shown(splits: manifest.Splits) -> list[str]:
    """Return every image that a row of `splits` lists, once: what their cache holds, however many are trained on."""
    return list(
        dict.fromkeys(p for table in splits.tables.values() for row in table["path"] for p in str(row).split("|"))
    )


def plan(root: Path, paths: Sequence[str], size: int) -> list[Shard]:
    """Return the shards of the files at `paths` (each once, in this order), whether they are there or not.

    Raises:
        UsageError: where a file is gone, or the size is below 1.
    """
    return _shards(root, _distinct_files(root, paths), size)


class _Files(NamedTuple):
    """The files of a cache: a path [F] and the state [F] of each, and by each path given the place of its file."""

    paths: list[str]
    states: list[str]
    places: dict[str, int]


def _distinct_files(root: Path, paths: Sequence[str]) -> _Files:
    """Return the files at `paths`, each once whatever its spellings and links, in the order of their first paths.

    Raises:
        UsageError: where a file is gone.
    """
    # A remote file is taken never to change, and is fetched by the process that decodes it.
    remote = locations.mirrored_url(root) is not None
    files = _Files([], [], {})
    known: dict[object, int] = {}
    for path in dict.fromkeys(paths):
        identity, state = (path_key(path), "") if remote else _identity_and_state(root / path)
        place = known.setdefault(identity, len(files.paths))
        if place == len(files.paths):
            files.paths.append(path)
            files.states.append(state)
        files.places[path] = place
    return files


def _shards(root: Path, files: _Files, size: int) -> list[Shard]:
    if size < 1:
        raise UsageError(f"size {size} of the cached images; it must be at least 1 pixel")
    folder = cache_folder().absolute() / "pixels" / _key(root, files, size)
    root = root.absolute()  # other processes may work in other folders
    return [
        Shard(
            folder / f"{start // PER_SHARD:05}.arrow",
            root,
            tuple(files.paths[start : start + PER_SHARD]),
            size,
            decoder(),
        )
        for start in range(0, len(files.paths), PER_SHARD)
    ]


def carry_out(shards: Sequence[Shard], outcomes: Callable[[Sequence[Shard]], Iterator[str]]) -> "Counter[str]":
    """Make shards under a bar; how many had which outcome.

    Args:
        shards: what to make.
        outcomes: makes shards and yields what `make` returned for each, in the order given.
    """
    _check_space([shard for shard in shards if not shard.file.exists()])
    # An order of its own for each process: two that make one cache then seldom take the same shard at the same time.
    order = random.sample(shards, len(shards))
    counts: Counter[str] = Counter()
    with bar("decoding images", sum(len(shard.paths) for shard in shards)) as progress:
        for shard, outcome in zip(order, outcomes(order), strict=True):
            counts[outcome] += 1
            progress.advance(len(shard.paths))
    return counts


def report(shards: Sequence[Shard], counts: "Counter[str]") -> Built:
    """Return what was done and what the whole cache still lacks; leftovers of killed processes go once nothing is."""
    missing = sum(not shard.file.exists() for shard in shards)
    if not missing:
        _tidy(shards)
    return Built(
        folder=shards[0].file.parent,
        images=sum(len(shard.paths) for shard in shards),
        shards=len(shards),
        whole=counts["whole"],
        made=counts["made"],
        mended=counts["mended"],
        missing=missing,
    )


def _key(root: Path, files: _Files, size: int) -> str:
    """Return a hash of all that decides what the cache holds.

    The time of the last change of a file's inode (ctime) is part of it: copying, unpacking and moving can set the time
    of its content (mtime) back, and two films of one detector have the same size.
    """
    digest = hashlib.sha256(f"{FORMAT}|{PER_SHARD}|{size}|{decoder()}|{root.resolve()}".encode())
    for path, state in zip(files.paths, files.states, strict=True):
        # Behind a link, `..` leads elsewhere than the text of the path says.
        digest.update(f"|{path if '..' in path else path_key(path)}|{state}".encode())
    return digest.hexdigest()[:32]


def _identity_and_state(file: Path) -> tuple[object, str]:
    """Return what is the same for every path of a file, and what changes where its content does."""
    try:
        stat = os.stat(file)  # noqa: PTH116  # a third of the time of Path.stat, for hundreds of thousands of files
    except OSError as error:
        raise UsageError(
            f"{file}: {error.strerror}; was the archive moved? Then use --set data.root=DIR, or --root DIR"
        ) from None
    # Some network drives number no file.
    identity = (stat.st_dev, stat.st_ino) if stat.st_ino else file
    return identity, f"{stat.st_size}|{stat.st_mtime_ns}|{stat.st_ctime_ns}"


def _check_space(missing: Sequence[Shard]) -> None:
    """Say before long work that the disk is too small."""
    if not missing:
        return
    folder = missing[0].file.parent
    make_folder(folder, private=True)
    # Pixels are stored uncompressed, so their size is known beforehand.
    needed, free = sum(len(shard.paths) * shard.size**2 for shard in missing), shutil.disk_usage(folder).free
    if needed > free:
        raise UsageError(
            f"{folder}: {needed / 1e9:.1f} GB of pixels do not fit into the {free / 1e9:.1f} GB that are free; "
            "free some space, or set CXR_FT_CACHE to a folder on a larger disk"
        )


def _tidy(shards: Sequence[Shard]) -> None:
    """Remove what killed processes left of shards that are finished by now."""
    for folder in {shard.file.parent for shard in shards}:
        for leftover in folder.glob(".*.arrow"):
            # Another process may tidy the same folder at this moment.
            leftover.unlink(missing_ok=True)
