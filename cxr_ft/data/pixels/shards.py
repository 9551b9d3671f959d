"""The pixel cache's files: some images each, as an Arrow IPC stream that is read by mapping it into memory.

A shard is one record batch of `image` (uint8 [S, S] as nested fixed-size lists), `height`, `width` and `path` (as in
the split CSVs); no field of a header. `datasets.Dataset.from_file` opens it. The schema's metadata hold the SHA-256 of
the pixels, so that a shard is checked without any other file. Format: Arrow Columnar Format, "IPC Streaming Format".
"""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from cxr_ft.data.dicom import DicomError
from cxr_ft.data.pixels.image_decode import Pixels, decoder, square
from cxr_ft.data.sources.locations import local_copy
from cxr_ft.errors import UsageError
from cxr_ft.files import atomic

if TYPE_CHECKING:
    import pyarrow as pa

#: Images in a shard (16 MiB at 512 pixels): what a kill can cost, and the unit that processes and machines share.
PER_SHARD = 64
SHA256 = b"sha256"


@dataclass(frozen=True)
class Shard:
    """All that is needed to make one shard anywhere: names, no pixels.

    Args:
        file: where it goes.
        root: what `paths` are relative to.
        paths: its images, in order.
        size: side of an image in pixels.
        decoder: `pixels.decoder()` of the process that planned it.
    """

    file: Path
    root: Path
    paths: tuple[str, ...]
    size: int
    decoder: str


class Images:
    """Images uint8 [N, S, S] that lie in shards, indexed like an array; nothing is read before it is indexed.

    An integer gives a read-only view of the mapped file, [S, S]; a slice, a mask or integers [M] give a copy [M, S, S].

    Args:
        files: the shards, all of PER_SHARD images but the last.
        places: for each of the N images, its number in the shards.
        size: S.
    """

    dtype = np.dtype(np.uint8)

    def __init__(self, files: Sequence[Path], places: NDArray[np.int64], size: int) -> None:
        self._files, self._places, self._size = tuple(files), places, size
        # All shards are mapped at once: mapping costs no memory until a page is read.
        batches = [read(file) for file in files]
        self._shards = [_image_column(batch) for batch in batches]
        recorded = [(batch.schema.metadata or {}).get(SHA256) for batch in batches]
        # The checksum was taken when the shard was written; only one without it is read whole for that.
        self._checksums = [had or _checksum(images) for had, images in zip(recorded, self._shards, strict=True)]

    def __reduce__(self) -> tuple[type["Images"], tuple[tuple[Path, ...], NDArray[np.int64], int]]:
        # Another process maps the same files, instead of getting the pixels through a pipe.
        return Images, (self._files, self._places, self._size)

    @property
    def shape(self) -> tuple[int, int, int]:
        """Return (N, S, S)."""
        return len(self._places), self._size, self._size

    @property
    def digest(self) -> str:
        """Return a hash of the N images in their order, from the checksums that were taken when they were decoded."""
        digest = hashlib.sha256(f"{self._size}|{PER_SHARD}|".encode() + b"".join(self._checksums))
        digest.update(np.ascontiguousarray(self._places, dtype="<i8").tobytes())
        return digest.hexdigest()

    def __len__(self) -> int:
        return len(self._places)

    def __getitem__(self, index: "int | slice | Sequence[int] | NDArray[np.integer] | NDArray[np.bool_]") -> Pixels:
        # NumPy resolves the index, so every kind of index that an array takes works here too.
        places = np.asarray(self._places[index])
        if places.ndim == 0:
            return self._stored(int(places))
        out = np.empty((len(places), self._size, self._size), np.uint8)
        for into, place in zip(out, places.tolist(), strict=True):
            into[:] = self._stored(place)
        return out

    def __array__(self, dtype: np.dtype | None = None, copy: bool | None = None) -> NDArray[np.generic]:
        """Return all images as one array in memory: `np.asarray(images)`."""
        if copy is False:
            raise ValueError("images in shards cannot become one array without a copy")
        whole = self[:]
        return whole if dtype is None else whole.astype(dtype, copy=False)

    def _stored(self, place: int) -> Pixels:
        one: Pixels = self._shards[place // PER_SHARD][place % PER_SHARD]
        return one


def make(shard: Shard, *, thorough: bool = False) -> str:
    """Make one shard unless it is there: "whole", "made", or "mended" where a damaged file stood in its place.

    Any number of processes may do this at once: they write the same bytes under names of their own, and the last rename
    wins. So there is no lock, which a killed process would leave behind and a network's file system may not honour.

    Args:
        shard: what to make.
        thorough: also read the pixels of a shard that is there, against their checksum.

    Raises:
        UsageError: where an image cannot be read, the disk is full, or this process decodes otherwise than the planner.
    """
    if shard.decoder != decoder():
        raise UsageError(
            f"{shard.file}: planned with other versions of cxr_ft, NumPy, OpenCV or the decoders than are here, so "
            "pixels could differ; install the same on all"
        )
    if intact(shard, thorough=thorough):
        return "whole"
    # Before the work, since another process may put the shard there meanwhile.
    outcome = "mended" if shard.file.exists() else "made"
    # Decoded straight into the shard's own array: no second copy of its images is held.
    images = np.empty((len(shard.paths), shard.size, shard.size), np.uint8)
    for into, path in zip(images, shard.paths, strict=True):
        into[:] = _image(shard.root, path, shard.size)
    try:
        write(shard.file, images, shard.paths)
    except UsageError:
        # Another process finished the cache and removed what it took for leftovers, our temporary file among them.
        if not intact(shard):
            raise
    return outcome


def intact(shard: Shard, *, thorough: bool = False) -> bool:
    """Return True if the shard's file is whole and of these images; `thorough`: its pixels too are as written."""
    import pyarrow as pa

    try:
        batch = read(shard.file)
        images = _image_column(batch)
        lengths = [shard.size] * len(shard.paths)
        # Everything but the pixels is compared, which costs no page of them; `thorough` reads those too.
        expected = {"height": lengths, "width": lengths, "path": list(shard.paths)}
        if images.shape[1] != shard.size or batch.select(list(expected)).to_pydict() != expected:
            return False
    except (pa.ArrowException, OSError, ValueError, KeyError):
        return False
    return not thorough or (batch.schema.metadata or {}).get(SHA256) == _checksum(images)


def write(file: Path, images: Pixels, paths: Sequence[str]) -> None:
    """Write images uint8 [N, S, S] as one shard; the same bytes for the same images and paths.

    Raises:
        UsageError: where the file cannot be written.
    """
    import pyarrow as pa

    count, size, _ = images.shape
    # A view of the array's memory: Arrow copies no pixel of it.
    values = pa.array(images.reshape(-1))
    rows = pa.FixedSizeListArray.from_arrays(values, size)
    side = pa.array(np.full(count, size, np.int32))
    columns = {
        "image": pa.FixedSizeListArray.from_arrays(rows, size),
        "height": side,
        "width": side,
        "path": pa.array(paths, pa.string()),
    }
    batch = pa.record_batch(columns, metadata={SHA256: _checksum(images)})
    with (
        atomic(file, private=True) as temporary,
        pa.OSFile(str(temporary), "wb") as sink,
        pa.ipc.new_stream(sink, batch.schema) as stream,
    ):
        stream.write_batch(batch)


def read(file: Path) -> "pa.RecordBatch":
    """Return the one record batch of a shard, mapped.

    Raises:
        OSError, pyarrow.ArrowException: where the file is not there, or not a whole shard.
    """
    import pyarrow as pa

    # The batch keeps the mapping alive, not the open file: a thousand shards would meet the limit on open files.
    with pa.memory_map(str(file)) as source, pa.ipc.open_stream(source) as stream:
        batches = list(stream)
    if len(batches) != 1:
        raise pa.ArrowInvalid(f"{file} holds {len(batches)} record batches")
    batches[0].validate(full=True)  # or damaged offsets would send a reader out of the mapping
    return batches[0]


def _image_column(batch: "pa.RecordBatch") -> Pixels:
    """Return the images [N, S, S] of a shard, a view of the mapped file."""
    images = batch.column("image")
    size = images.type.list_size
    # flatten and not .values: it respects the offset of a column that is a slice.
    view: Pixels = images.flatten().flatten().to_numpy().reshape(-1, size, size)
    return view


def _image(root: Path, path: str, size: int) -> Pixels:
    try:
        return square(local_copy(root, path), size)
    except DicomError as error:
        raise UsageError(
            f"{root / path}: {error.reason.value}: {error.detail}; put the file back, or run cxr-split again, which "
            "leaves it out"
        ) from None


def _checksum(images: Pixels) -> bytes:
    return hashlib.sha256(images.data).hexdigest().encode()
