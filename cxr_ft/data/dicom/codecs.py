"""Decode compressed streams with imagecodecs, after the checks that its decoders leave out.

Of the maintained packages (pylibjpeg, pyjpegls, pillow, OpenCV, gdcm) imagecodecs was the fastest, or within a tenth of
it, in every syntax, and it refuses what is cut short in all but JPEG, where none does. Its OpenJPH is twice as fast for
HTJ2K, but takes half a stream for a whole one, so OpenJPEG decodes that too. gdcm ends the process on a wrong size.

A whole stream with wrong bytes in it may become a wrong picture: the formats have no checksum, and nearly any bits are
codes of something. Of 512 bytes zeroed in lossless JPEG neither libjpeg-turbo nor jpegsof3 nor liblj92 takes notice, of
as many in JPEG 2000 OpenJPEG does not either. Bytes left over at the end would betray most in lossless JPEG, but cost
one more decoding of every file, and refuse a sound one with junk before its end, which decoders skip.
"""

import atexit
import os
import signal
import struct
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
from pydicom import uid

from cxr_ft.data.dicom import decoder_process
from cxr_ft.data.dicom.dicom_error import DicomError, Reason
from cxr_ft.data.dicom.greyscale import Image
from cxr_ft.data.dicom.header import Layout
from cxr_ft.data.dicom.jpeg_2000 import check_jpeg_2000, size_in_jpeg_2000
from cxr_ft.data.dicom.jpeg_restarts import check_restarts

#: Seconds, in addition to ten times its processor time, after which a worker that does not answer is ended.
PATIENCE = 60.0
#: The coding process that each syntax means, by its frame header's marker (ITU-T T.81 B.1.1.3, T.87 C.1.1).
FRAMES = {
    uid.JPEGBaseline8Bit: (0xC0, 0xC1),
    uid.JPEGExtended12Bit: (0xC0, 0xC1),
    uid.JPEGLossless: (0xC3,),
    uid.JPEGLosslessSV1: (0xC3,),
    uid.JPEGLSLossless: (0xF7,),
    uid.JPEGLSNearLossless: (0xF7,),
}
#: The others, and the markers before which a frame header must have come.
OTHER_FRAMES = {*range(0xC0, 0xD0), 0xF7, 0xD9, 0xDA} - {0xC4, 0xC8, 0xCC}
JPEG_LS = (uid.JPEGLSLossless, uid.JPEGLSNearLossless)
JPEG_2000 = (
    uid.JPEG2000Lossless,
    uid.JPEG2000,
    uid.HTJ2KLossless,
    uid.HTJ2KLosslessRPCL,
    uid.HTJ2K,
)
SYNTAXES = (uid.RLELossless, *FRAMES, *JPEG_2000)

#: An image of more than LARGE bytes is compressed to a MAX_RATIO-th of them by nothing but emptiness.
LARGE, MAX_RATIO = 2**24, 1000
END = b"\xff\xd9"
#: Put where a scan ends, this changes the picture if the scan was not over. Without an 0xFF it is no marker.
NONSENSE = b"\xaa\x55\xa9" * 64


def decode(stream: bytes, layout: Layout, syntax: uid.UID) -> Image:
    """Decode one frame to words [H, W], or colours [H, W, 3]; DicomError if cut short, broken or of another size."""
    if syntax == uid.RLELossless:
        return decode_rle(stream, layout)
    check_stream(stream, layout, syntax)
    # Before anything is allocated: a few bytes can claim gigabytes of pixels.
    if layout.size > max(LARGE, MAX_RATIO * len(stream)):
        raise DicomError(Reason.TOO_LARGE, f"{layout.size} bytes of pixels out of {len(stream)}, as in no radiograph")
    if syntax in JPEG_2000 or syntax in JPEG_LS:
        array = _decode_in_process(b"jls" if syntax in JPEG_LS else b"j2k", stream, layout)
    else:
        array = _decode_jpeg(stream, layout)
    shape = (layout.rows, layout.columns) + ((layout.samples,) if layout.samples > 1 else ())
    if array is None or array.shape not in (shape, shape[:2]):
        raise DicomError(Reason.BAD_PIXELS, f"{syntax.keyword} cannot be decoded")
    # A codec returns signed values for some streams; the words are read as bit patterns, and `Bits` applies the sign.
    return array.view(f"u{array.dtype.itemsize}")


def decode_rle(stream: bytes, layout: Layout) -> Image:
    """Decode RLE (PS3.5 G): one segment a byte of a word and sample, the high bytes first."""
    import imagecodecs

    size, depth = layout.rows * layout.columns, layout.allocated // 8
    # The header is 64 bytes (PS3.5 G.5); padded, a stream cut within it is refused as broken, and not by struct's
    # error.
    count, *offsets = struct.unpack("<16L", stream[:64].ljust(64, b"\0"))
    if count != layout.samples * depth:
        raise DicomError(Reason.BAD_PIXELS, f"{count} RLE segments where {layout.samples * depth} are needed")
    # Of the header's size, so a stream that unpacks to more raises instead of taking memory.
    planes = np.empty((count, size), dtype=np.uint8)
    for plane, start, end in zip(planes, offsets, [*offsets[1:count], len(stream)], strict=False):
        try:
            length = len(imagecodecs.packbits_decode(stream[start:end], out=plane.data))
        except (RuntimeError, ValueError):
            raise DicomError(Reason.BAD_PIXELS, "an RLE segment is broken or of another size") from None
        # imagecodecs fills less than the buffer without an error; the rest would be whatever the memory held.
        if length != size:
            raise DicomError(Reason.BAD_PIXELS, f"an RLE segment of {length} bytes where {size} are needed")
    # Segments hold the most significant byte first, while words here are little endian: hence the turn by bytes.
    words = planes.reshape(layout.samples, depth, size)[:, ::-1].transpose(2, 0, 1)
    array = np.ascontiguousarray(words).view(f"<u{depth}").reshape(layout.rows, layout.columns, layout.samples)
    return array[..., 0] if layout.samples == 1 else array


def check_stream(stream: bytes, layout: Layout, syntax: uid.UID) -> None:
    """Refuse a JPEG of any kind that is cut short, or whose size is not the header's, before anything is allocated."""
    jpeg_2000 = syntax in JPEG_2000
    try:
        coded, precision = size_in_jpeg_2000(stream) if jpeg_2000 else _size_in_jpeg(stream, FRAMES[syntax])
    except (struct.error, IndexError):
        raise DicomError(Reason.BAD_PIXELS, "the compressed image has no frame header") from None
    expected = (layout.rows, layout.columns, layout.samples)
    if coded != expected or precision > layout.allocated:
        difference = f"header {expected} of {layout.allocated} bits, compressed image {coded} of {precision}"
        raise DicomError(Reason.BAD_PIXELS, f"(rows, columns, samples) disagree: {difference}")
    # The end must follow the last scan (JPEG, JPEG-LS) or tile-part (JPEG 2000): a thumbnail has an end of its own
    # before.
    if stream.rfind(END) < stream.rfind(b"\xff\x93" if jpeg_2000 else b"\xff\xda"):
        raise DicomError(Reason.TRUNCATED, "the compressed image has no end")
    if jpeg_2000:
        check_jpeg_2000(stream, layout.rows, layout.columns)


def _size_in_jpeg(stream: bytes, frames: tuple[int, ...]) -> tuple[tuple[int, int, int], int]:
    """Return ((rows, columns, samples), precision) of a JPEG or JPEG-LS stream."""
    at = 2
    # Segment by segment and not by a search: an application segment may hold a whole thumbnail with a frame of its own.
    while (marker := stream[at + 1]) not in frames:
        if stream[at] != 0xFF or marker in OTHER_FRAMES:
            raise DicomError(Reason.BAD_PIXELS, "the compressed image is of another kind than the transfer syntax says")
        # Any marker may be preceded by fill bytes.
        at += 1 if marker == 0xFF else 2 + int(struct.unpack_from(">H", stream, at + 2)[0])
    precision, rows, columns, samples = struct.unpack_from(">BHHB", stream, at + 4)
    return (rows, columns, samples), precision


def _decode_jpeg(stream: bytes, layout: Layout) -> Image | None:
    """Decode with libjpeg-turbo, twice, since like all decoders tried it fills in a missing end silently.

    The second time nonsense is put where the stream ends: if that changes a pixel, the scan was not over."""
    import imagecodecs

    # First, since a stream without some intervals still ends in a whole scan and would pass the second decoding.
    check_restarts(stream)
    end = stream.rfind(END)
    # Fill bytes may come before any marker (ITU-T T.81 B.1.1.2). Data never end in 0xFF: there it is followed by 0.
    data = stream[:end].rstrip(b"\xff")
    colours: str | None = None
    shown: str | None = None
    if layout.samples == 3:
        # A stream that says nothing of its colours has those of the header.
        # libjpeg takes three components for YCbCr where no marker says otherwise, so RGB of a DICOM file would be
        # converted.
        named = b"JFIF\0" in stream[:1024] or b"Adobe" in stream[:1024]
        shown = "YCBCR" if layout.photometric.startswith("YBR") else "RGB"
        colours = None if named else shown
    try:
        array: Image = imagecodecs.jpeg8_decode(stream[: end + 2], colorspace=colours, outcolorspace=shown)
        again = imagecodecs.jpeg8_decode(data + NONSENSE + END, colorspace=colours, outcolorspace=shown)
    except (RuntimeError, ValueError):
        return None
    # A scan that was complete ignores what follows, so both decodings agree bit for bit.
    if not np.array_equal(array, again):
        raise DicomError(Reason.TRUNCATED, "the compressed image ends before its last pixel")
    return array


class _NoAnswer(Exception):  # noqa: N818 - it never leaves this file
    """The worker died, or gave a short, impossible or late answer."""


def _decode_in_process(codec: bytes, stream: bytes, layout: Layout) -> Image | None:
    """Decode in this process's worker; None if the stream cannot be decoded or takes more processor time than any does.

    Raises:
        DicomError: "decoder_failed", where a fresh worker failed too: nothing is known of the file then.
    """
    pixels = layout.rows * layout.columns * layout.samples
    seconds = 1.0 + pixels * 5e-7  # twice what the slowest of sound streams took
    request = decoder_process.REQUEST.pack(codec, seconds, 2**27 + 12 * pixels, len(stream))
    # One request at a time: two threads' bytes must not mix in one pipe.
    with _lock:
        for _ in range(2):
            process = _worker()
            # Processor time ends a worker that works too long; this clock ends one that does nothing.
            watch = threading.Timer(PATIENCE + 10 * seconds, process.kill)
            watch.start()
            try:
                # One write: a worker that died is then noticed by its closed pipe, and not between two halves of a
                # request.
                return _answer(process, request + stream)
            except (_NoAnswer, OSError):
                # What was wrong with this worker must not reach the next file.
                # The kernel's timer ended it: the stream is at fault, and a second try would take as long.
                if _stop() == -signal.SIGPROF:
                    return None
            finally:
                watch.cancel()
    raise DicomError(Reason.DECODER_FAILED, "the decoding process failed twice; try the file again")


def _answer(process: "subprocess.Popen[bytes]", request: bytes) -> Image | None:
    """Return what the worker answers to a request; None if it could not decode the stream.

    Raises:
        _NoAnswer: where it ends before a whole answer, or the answer's length is not that of its shape and dtype.
        OSError: where it takes no request any more.
    """
    assert process.stdin is not None and process.stdout is not None
    process.stdin.write(request)
    process.stdin.flush()
    head = process.stdout.read(decoder_process.ANSWER.size)
    if len(head) < decoder_process.ANSWER.size:
        raise _NoAnswer
    kind, rows, columns, samples, length = decoder_process.ANSWER.unpack(head)
    if not length:
        return None
    try:
        dtype = np.dtype(kind.rstrip(b"\0").decode("ascii"))
    except (TypeError, ValueError, UnicodeDecodeError):
        raise _NoAnswer from None
    # A worker that misbehaves must not make this process allocate what its answer claims.
    if dtype.kind not in "iu" or length != rows * columns * samples * dtype.itemsize:
        raise _NoAnswer
    data = process.stdout.read(length)
    if len(data) < length:
        raise _NoAnswer
    array = np.frombuffer(data, dtype).reshape(rows, columns, samples)
    return array[..., 0] if samples == 1 else array


_lock = threading.Lock()
#: By process, since a fork must not share its parent's pipes.
_workers: dict[int, subprocess.Popen[bytes]] = {}


def _worker() -> subprocess.Popen[bytes]:
    here = os.getpid()
    # Started on first use, and again after a death: only JPEG-LS and JPEG 2000 need it.
    if here not in _workers or _workers[here].poll() is not None:
        _workers[here] = subprocess.Popen(
            # -P: the script's own folder is not searched, where a module of ours could take the place of a package's.
            [sys.executable, "-P", str(Path(decoder_process.__file__))],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            # One thread each: several workers run at a time, one for each process of a pool.
            env=os.environ | {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"},
        )
    return _workers[here]


@atexit.register
def _stop() -> int | None:
    """End this process's worker; return its exit code, None where there is none."""
    process = _workers.pop(os.getpid(), None)
    if process is None:
        return None
    # One that ended by itself keeps its own exit code.
    process.kill()
    # Reads what is left, closes the pipes and waits: no zombie and no open file stays behind.
    process.communicate()
    return process.returncode
