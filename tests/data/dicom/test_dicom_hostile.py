"""Files that ask for gigabytes, for minutes, or for the life of the process."""

import os
import struct
import subprocess
import sys
import time
import types

import jpeg_ls
import numpy as np
import pytest
from dicom_checks import BITS_12, RAMP, assert_shows, minmax, refusal, shade
from dicom_files import compress, lut, write_dicom
from pydicom import uid
from pydicom.encaps import encapsulate

from cxr_ft.data.dicom import Reason, codecs, decoder_process, read_xray
from cxr_ft.data.dicom.bounded_file import BoundedFile


def test_a_huge_image_is_refused_before_anything_is_allocated(file):
    for syntax in (uid.ExplicitVRLittleEndian, uid.RLELossless):
        write_dicom(file, RAMP, syntax=syntax, Rows=20000, Columns=20000, PixelData=encapsulate([b"\0" * 64]))
        refusal(file, Reason.TOO_LARGE)


def test_a_huge_spacing_is_refused_before_anything_is_allocated(file):
    write_dicom(file, RAMP, PixelSpacing=["1e-150", "1e150"])
    refusal(file, Reason.TOO_LARGE)
    refusal(file, Reason.TOO_LARGE, 64)


@pytest.mark.parametrize("syntax", [uid.JPEGLSLossless, uid.JPEG2000Lossless], ids=lambda syntax: syntax.keyword)
def test_a_few_bytes_that_become_a_huge_image(file, syntax):
    array = np.zeros((3000, 3000), dtype=np.uint16)
    write_dicom(file, array, syntax=syntax)
    assert file.stat().st_size < 5000
    refusal(file, Reason.TOO_LARGE)


def coding(layers=1, blocks=0x0404, precincts=b""):
    """A JPEG 2000 coding style of five levels (ITU-T T.800 A.6.1)."""
    body = struct.pack(">BBHBBHBB", bool(precincts), 0, layers, 0, 5, blocks, 0, 1) + precincts
    return struct.pack(">HH", 0xFF52, len(body) + 2) + body


@pytest.mark.parametrize("part", ["tiles", "layers", "precincts", "blocks", "other components"])
def test_a_jpeg_2000_stream_in_too_many_pieces(file, part, monkeypatch):
    """OpenJPEG would allocate for each of them, gigabytes for a stream of some hundred bytes."""
    array = shade(512, 512)
    stream = bytearray(compress(array, 12, uid.JPEG2000Lossless))
    at = stream.index(b"\xff\x52")
    end = at + 2 + int.from_bytes(stream[at + 2 : at + 4], "big")
    if part == "tiles":
        stream[24:32] = struct.pack(">LL", 1, 1)
    elif part == "other components":
        stream[end:end] = bytes.fromhex("ff53 0009 00 00 05 04 04 00 01")
    else:
        stream[at:end] = {
            "layers": coding(layers=65535),
            "precincts": coding(layers=99, precincts=b"\0" * 6),
            "blocks": coding(blocks=0),
        }[part]
    if part == "blocks":
        monkeypatch.setattr("cxr_ft.data.dicom.jpeg_2000.MAX_BLOCKS", 2**13)
    write_dicom(file, array, syntax=uid.JPEG2000Lossless, PixelData=encapsulate([bytes(stream)], has_bot=False))
    monkeypatch.setattr("cxr_ft.data.dicom.codecs._decode_in_process", None)
    refusal(file, Reason.UNSUPPORTED if part in ("tiles", "other components") else Reason.TOO_LARGE)


@pytest.mark.parametrize("end", ["time", "memory", "crash"])
def test_a_decoder_that_dies_takes_nothing_with_it(file, monkeypatch, end):
    pack, start = decoder_process.REQUEST.pack, codecs._worker

    def tight(codec, seconds, memory, length):
        return pack(codec, 1e-6 if end == "time" else seconds, 2**12 if end == "memory" else memory, length)

    def killed():
        process = start()
        process.kill()
        process.wait()
        return process

    array = shade(1200, 900)
    write_dicom(file, array, syntax=uid.JPEG2000Lossless, **BITS_12)
    request = types.SimpleNamespace(pack=tight)
    monkeypatch.setattr(
        codecs, "decoder_process", types.SimpleNamespace(**vars(decoder_process) | {"REQUEST": request})
    )
    if end == "crash":
        monkeypatch.setattr(codecs, "_worker", killed)
    refusal(file, Reason.DECODER_FAILED if end == "crash" else Reason.BAD_PIXELS)
    monkeypatch.undo()
    assert_shows(file, minmax(array))


#: What a worker that misbehaves may do, as the end of a script that has read a request.
BAD_ANSWERS = {
    "dead": "sys.exit(1)",
    "empty": "os.close(1); time.sleep(60)",
    "short head": "out.write(b'<u2'); out.flush(); os.close(1); time.sleep(60)",
    "short data": "out.write(answer(b'<u2', 9, 8, 1, 144) + bytes(100)); out.flush(); sys.exit()",
    "other length": "out.write(answer(b'<u2', 9, 8, 1, 20) + bytes(20)); out.flush(); time.sleep(60)",
    "no dtype": "out.write(answer(b'?!', 9, 8, 1, 144) + bytes(144)); out.flush(); time.sleep(60)",
    "objects": "out.write(answer(b'|O', 9, 2, 1, 144) + bytes(144)); out.flush(); time.sleep(60)",
    "late": "time.sleep(60)",
}
BAD_WORKER = """
import os, struct, sys, time
from pathlib import Path
out = os.fdopen(1, "wb", closefd=False)
answer = struct.Struct("<4sLLLQ").pack
sys.stdin.buffer.read(4)
with Path(sys.argv[1]).open("a") as requests:
    requests.write("x")
"""


@pytest.mark.parametrize("bad_answer", BAD_ANSWERS)
@pytest.mark.parametrize("failures", [1, 2])
def test_a_worker_with_a_bad_answer_is_replaced_once(file, tmp_path, monkeypatch, bad_answer, failures):
    """After one bad answer a fresh worker decodes, after two the file is refused; the next file reads either way."""
    script, requests, honest = tmp_path / "bad_worker.py", tmp_path / "requests", codecs._worker
    script.write_text(BAD_WORKER + BAD_ANSWERS[bad_answer])
    requests.write_text("")

    def worker():
        if len(requests.read_text()) >= failures:
            # An honest worker has to start first, which takes seconds on a busy machine.
            monkeypatch.setattr(codecs, "PATIENCE", 20.0)
            return honest()
        command = [sys.executable, str(script), str(requests)]
        pipe = subprocess.PIPE
        codecs._workers[os.getpid()] = subprocess.Popen(command, stdin=pipe, stdout=pipe, stderr=subprocess.DEVNULL)
        return codecs._workers[os.getpid()]

    array = shade(64, 48)
    write_dicom(file, array, syntax=uid.JPEG2000Lossless, **BITS_12)
    codecs._stop()
    monkeypatch.setattr(codecs, "_worker", worker)
    monkeypatch.setattr(codecs, "PATIENCE", -9.0 if bad_answer == "late" else 20.0)
    if failures == 2:
        refusal(file, Reason.DECODER_FAILED)
    assert_shows(file, minmax(array))
    assert requests.read_text() == "x" * failures


@pytest.mark.parametrize("interleave", [0, 1, 2])
def test_a_colour_jpeg_ls_reads_and_spoils_no_other_file(file, tmp_path, interleave):
    """Planes one after another, line by line, and pixel by pixel (ITU-T T.87, ILV)."""
    rng = np.random.default_rng(0)
    colour = rng.integers(0, 255, (40, 36, 3), dtype=np.uint8)
    planes = colour if interleave else np.ascontiguousarray(colour.transpose(2, 0, 1))
    stream = bytes(jpeg_ls.encode_array(planes, interleave_mode=interleave))
    write_dicom(
        file,
        colour,
        syntax=uid.JPEGLSLossless,
        PixelData=encapsulate([stream], has_bot=False),
    )
    other, array = tmp_path / "other.dcm", shade(64, 48)
    write_dicom(other, array, syntax=uid.JPEG2000Lossless, **BITS_12)
    codecs._stop()
    shown = read_xray(file)
    write_dicom(file, colour)
    np.testing.assert_array_equal(shown, read_xray(file))
    assert_shows(other, minmax(array))


def test_a_header_of_a_million_elements(file):
    """pydicom would be busy for seconds, and for minutes with more."""
    write_dicom(file, RAMP)
    whole = file.read_bytes()
    at = whole.find(struct.pack("<HH", 0x0028, 0x0002))
    elements = b"".join(struct.pack("<HH2sH", 0x0019, 0x1001, b"LO", 0) for _ in range(1_000_000))
    file.write_bytes(whole[:at] + elements + whole[at:])
    start = time.perf_counter()
    refusal(file, Reason.TOO_LARGE)
    assert time.perf_counter() - start < 5


def test_a_value_far_too_long(file):
    write_dicom(file, RAMP, PixelSpacing=None, VOILUTSequence=lut(0, [0] * 4096, 16))
    whole = file.read_bytes()
    at = whole.find(struct.pack("<HH", 0x0028, 0x0002))
    long = struct.pack("<HH2sHL", 0x0028, 0x0001, b"UN", 0, 2**21) + b"\0" * 2**21
    file.write_bytes(whole[:at] + long.replace(b"\x28\0\1\0", struct.pack("<HH", 0x0018, 0x1164)) + whole[at:])
    refusal(file, Reason.BAD_HEADER)


def test_a_large_element_that_is_not_looked_at(file):
    write_dicom(file, RAMP, EncapsulatedDocument=b"\0" * 2**22)
    assert_shows(file, minmax(RAMP))


def test_a_deflated_bomb(file, monkeypatch):
    """Guards against pydicom 3.0.2: it inflates all there is."""
    monkeypatch.setattr("cxr_ft.data.dicom.bounded_file.MAX_BYTES", 10_000)
    write_dicom(file, np.zeros((200, 200), dtype=np.uint16), syntax=uid.DeflatedExplicitVRLittleEndian)
    assert file.stat().st_size < 10_000
    refusal(file, Reason.TOO_LARGE)


@pytest.mark.parametrize("length", [0x7FFFFFF0, 0xFFFFFFFE])
@pytest.mark.parametrize("place", ["header", "pixels"])
def test_an_element_longer_than_the_file(file, place, length):
    """Guards against pydicom 3.0.2: MemoryError, or gigabytes asked for."""
    write_dicom(file, RAMP, PixelData=RAMP.tobytes(), ModalityLUTSequence=lut(0, [1] * 300, 16))
    whole = file.read_bytes()
    tag = struct.pack("<HH2sH", 0x0028, 0x3006, b"OW", 0) if place == "header" else b"\xe0\x7f\x10\0OW\0\0"
    at = whole.find(tag) + 8
    if place == "header":  # of the sequence, of its item and of the element within it
        at = whole.find(struct.pack("<HH2sH", 0x0028, 0x3000, b"SQ", 0)) + 8
    file.write_bytes(whole[:at] + struct.pack("<L", length) + whole[at + 4 :])
    refusal(file, Reason.TRUNCATED)


def test_a_read_asks_for_no_more_than_there_is(file):
    file.write_bytes(b"0123456789")
    with BoundedFile.open(file) as opened:
        assert (opened.read(3), opened.read(2**62), opened.read(2**62)) == (b"012", b"3456789", b"")
        opened.seek(20)
        assert opened.read() == b""


def test_sequences_nested_beyond_reason(file):
    write_dicom(file, RAMP)
    whole = file.read_bytes()
    at = whole.find(struct.pack("<HH", 0x0028, 0x0002))
    opening = struct.pack("<HH2sHLHHL", 0x0018, 0x9346, b"SQ", 0, 0xFFFFFFFF, 0xFFFE, 0xE000, 0xFFFFFFFF)
    file.write_bytes(whole[:at] + opening * 5000 + whole[at:])
    refusal(file, Reason.BAD_HEADER)
