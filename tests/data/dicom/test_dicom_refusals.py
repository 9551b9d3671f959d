"""Files that read_xray refuses, each with its reason and without a value that could name a patient."""

import errno
import io
import os
import pickle
import struct
from pathlib import Path

import numpy as np
import pydicom
import pytest
from dicom_checks import RAMP, refusal
from dicom_files import write_dicom
from PIL import Image
from pydicom import DataElement, uid
from pydicom.encaps import encapsulate

from cxr_ft.data.dicom import DicomError, Reason, header_scan, read_xray
from cxr_ft.data.dicom.bounded_file import BoundedFile


@pytest.mark.parametrize("content", [b"", b"hello", b"%PDF-1.7" * 100, b"\0" * 1000, b"\x08\0\x05\0" + b"\xff" * 500])
def test_not_dicom(file, content):
    file.write_bytes(content)
    refusal(file, Reason.NOT_DICOM)


def test_a_bare_data_set_that_is_no_image_is_not_dicom(file):
    write_dicom(file, RAMP, meta=False, Rows=None, Columns=None)
    refusal(file, Reason.NOT_DICOM)


@pytest.mark.parametrize("name", ["film.dcm", "FILM.DCM", "film.dicom", "film.png.ima"])
@pytest.mark.parametrize("kind", ["PNG", "JPEG"])
def test_a_picture_under_a_dicom_files_name(tmp_path, name, kind):
    Image.fromarray(np.full((8, 8), 7, np.uint8)).save(tmp_path / "film", format=kind)
    assert read_xray(tmp_path / "film").shape == (8, 8)
    (tmp_path / "film").rename(tmp_path / name)
    refusal(tmp_path / name, Reason.NOT_DICOM)


@pytest.mark.parametrize("name", ["film.png", "film.jpg", "film"])
def test_dicom_under_another_name_reads(tmp_path, name):
    write_dicom(tmp_path / name, RAMP)
    assert read_xray(tmp_path / name).shape == RAMP.shape


def data_set(path, media, **tags):
    """Write a DICOM file with a preamble whose data set has these tags alone."""
    data = pydicom.Dataset()
    for keyword, value in tags.items():
        data.add(DataElement(keyword, *value))
    data.file_meta = pydicom.dataset.FileMetaDataset()
    data.file_meta.TransferSyntaxUID = uid.ExplicitVRLittleEndian
    data.file_meta.MediaStorageSOPClassUID = media
    data.file_meta.MediaStorageSOPInstanceUID = "1.2.3"
    data.save_as(path, enforce_file_format=True)


@pytest.mark.parametrize(
    "tags",
    [
        {},
        {"FileSetID": ("CS", "ARCHIVE")},
        {"SOPClassUID": ("UI", "1.2.826.0.1.3680043.9.1")},
        {"Modality": ("CS", "OT"), "PatientName": ("PN", "Doe^Jane")},
    ],
)
def test_what_describes_no_image(tmp_path, tags):
    data_set(tmp_path / "DICOMDIR", uid.MediaStorageDirectoryStorage, **tags)
    data_set(tmp_path / "other.dcm", "1.2.826.0.1.3680043.9.1", **tags)
    refusal(tmp_path / "other.dcm", Reason.NO_IMAGE)
    refusal(tmp_path / "DICOMDIR", Reason.NO_IMAGE)


def test_an_image_cut_before_its_first_image_tag_is_truncated(tmp_path):
    data_set(tmp_path / "cut.dcm", uid.ComputedRadiographyImageStorage, Modality=("CS", "CR"))
    refusal(tmp_path / "cut.dcm", Reason.TRUNCATED)
    data_set(tmp_path / "cut.dcm", uid.ComputedRadiographyImageStorage)
    refusal(tmp_path / "cut.dcm", Reason.TRUNCATED)


@pytest.mark.parametrize("frames", [0, -1, -3])
def test_a_number_of_frames_below_one(file, frames):
    write_dicom(file, RAMP, NumberOfFrames=frames)
    refusal(file, Reason.BAD_HEADER)


def test_not_readable(tmp_path):
    refusal(tmp_path / "missing.dcm", Reason.NOT_READABLE)
    refusal(tmp_path, Reason.NOT_READABLE)


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="there are no named pipes")
def test_a_named_pipe_is_not_waited_for(tmp_path):
    os.mkfifo(tmp_path / "pipe.dcm")
    (tmp_path / "link.dcm").symlink_to(tmp_path / "pipe.dcm")
    for path in (tmp_path / "pipe.dcm", tmp_path / "link.dcm"):
        refusal(path, Reason.NOT_READABLE)
        with pytest.raises(DicomError) as caught:
            header_scan.read(path)
        assert (caught.value.reason, caught.value.path) == (Reason.NOT_READABLE, path)


def test_a_disk_that_fails_in_the_middle_of_a_header(file, monkeypatch):
    """The file may be sound, so it is not called broken."""

    def read_a_little(self, size=-1):
        if self.tell() > 200:
            raise OSError(errno.EIO, "Input/output error")
        return io.BufferedReader.read(self, size)

    write_dicom(file, RAMP)
    monkeypatch.setattr(BoundedFile, "read", read_a_little)
    monkeypatch.setattr("cxr_ft.data.dicom.pixel_data.inflate", lambda file: file)
    refusal(file, Reason.NOT_READABLE)


@pytest.mark.parametrize(
    ("tags", "reason"),
    [
        ({"Modality": "CT"}, Reason.WRONG_MODALITY),
        ({"Modality": "XA"}, Reason.WRONG_MODALITY),
        ({"Modality": "MG"}, Reason.WRONG_MODALITY),
        ({"Modality": "RF"}, Reason.WRONG_MODALITY),
        ({"Modality": None, "SOPClassUID": uid.CTImageStorage}, Reason.WRONG_MODALITY),
        ({"Modality": None, "SOPClassUID": uid.XRayRadiofluoroscopicImageStorage}, Reason.WRONG_MODALITY),
        ({"Modality": "OT", "SOPClassUID": uid.XRayAngiographicImageStorage}, Reason.WRONG_MODALITY),
        (
            {"Modality": "DX", "SOPClassUID": uid.DigitalMammographyXRayImageStorageForPresentation},
            Reason.WRONG_MODALITY,
        ),
        ({"SOPClassUID": uid.RawDataStorage}, Reason.NOT_AN_IMAGE),
        ({"BodyPartExamined": "HAND"}, Reason.NOT_CHEST),
        ({"BodyPartExamined": "EXTREMETY"}, Reason.NOT_CHEST),
        ({"BodyPartExamined": DataElement("BodyPartExamined", "LO", "Abdomen")}, Reason.NOT_CHEST),
        ({"Modality": "SR"}, Reason.NOT_AN_IMAGE),
        ({"SOPClassUID": uid.BasicTextSRStorage, "PixelData": None}, Reason.NOT_AN_IMAGE),
        ({"SOPClassUID": uid.GrayscaleSoftcopyPresentationStateStorage, "PixelData": None}, Reason.NOT_AN_IMAGE),
        ({"SOPClassUID": uid.KeyObjectSelectionDocumentStorage, "PixelData": None}, Reason.NOT_AN_IMAGE),
        ({"SOPClassUID": uid.EncapsulatedPDFStorage, "PixelData": None, "Modality": "OT"}, Reason.NOT_AN_IMAGE),
        ({"PresentationIntentType": "FOR PROCESSING", "Modality": "DX"}, Reason.FOR_PROCESSING),
        ({"SOPClassUID": uid.DigitalXRayImageStorageForProcessing, "Modality": "DX"}, Reason.FOR_PROCESSING),
        ({"NumberOfFrames": 2}, Reason.MULTI_FRAME),
        ({"PixelData": None}, Reason.NO_PIXELS),
        ({"PixelData": None, "FloatPixelData": b"\0" * 4 * 4096}, Reason.NO_PIXELS),
        ({"Rows": None}, Reason.BAD_HEADER),
        ({"Rows": 0}, Reason.BAD_HEADER),
        ({"Columns": 0}, Reason.BAD_HEADER),
        ({"BitsStored": 17}, Reason.BAD_HEADER),
        ({"BitsStored": None}, Reason.BAD_HEADER),
        ({"BitsStored": 12, "HighBit": 3}, Reason.BAD_HEADER),
        ({"HighBit": 16}, Reason.BAD_HEADER),
        ({"PixelRepresentation": 2}, Reason.BAD_HEADER),
        ({"PixelRepresentation": None}, Reason.BAD_HEADER),
        ({"PhotometricInterpretation": None}, Reason.BAD_HEADER),
        ({"PhotometricInterpretation": "PALETTE COLOR"}, Reason.UNSUPPORTED),
        ({"PhotometricInterpretation": "RGB"}, Reason.UNSUPPORTED),
        ({"SamplesPerPixel": 3}, Reason.UNSUPPORTED),
        ({"BitsAllocated": 12, "BitsStored": 12, "HighBit": 11}, Reason.UNSUPPORTED),
        ({"BitsAllocated": 1, "BitsStored": 1, "HighBit": 0}, Reason.UNSUPPORTED),
        ({"BitsAllocated": None}, Reason.BAD_HEADER),
        ({"PixelData": RAMP.tobytes()[:-2]}, Reason.TRUNCATED),
    ],
    ids=str,
)
def test_refused_by_the_header(file, tags, reason):
    write_dicom(file, RAMP, **tags)
    refusal(file, reason)


def test_unsupported_syntax(file):
    write_dicom(file, RAMP, syntax=uid.MPEG2MPML, PixelData=encapsulate([b"\0" * 64]))
    refusal(file, Reason.UNSUPPORTED)
    write_dicom(file, RAMP)
    file.write_bytes(file.read_bytes().replace(b"1.2.840.10008.1.2.1\0", b"1.2.3.4.5.6.7.8.9.10"))
    refusal(file, Reason.UNSUPPORTED)


@pytest.mark.parametrize("keyword", ["TransferSyntaxUID", "Modality", "PhotometricInterpretation"])
def test_a_value_that_swallows_the_patients_name_is_not_quoted(file, keyword):
    """Guards against pydicom 3.0.2: its warning about a value too long quotes all of it."""
    write_dicom(file, RAMP, Modality="CT" if keyword == "Modality" else "CR")
    header = pydicom.dcmread(file)
    value = (header if keyword in header else header.file_meta)[keyword].value.encode()
    whole = file.read_bytes()
    if keyword == "PhotometricInterpretation":  # the name comes before it, so another one is put behind
        whole = whole.replace(b"MONOCHROME2 ", b"ROENTGEN^ANN")
    at = whole.find(value if value in whole else b"ROENTGEN^ANN")
    length = max(whole.find(b"ROENTGEN^ANNA", at) + 14 - at, 12)
    file.write_bytes(whole[: at - 2] + struct.pack("<H", length) + whole[at:])
    reason = Reason.WRONG_MODALITY if keyword == "Modality" else Reason.UNSUPPORTED
    refusal(file, reason)


def test_the_error_survives_a_worker_process(file):
    write_dicom(file, RAMP, Modality="CT")
    error = refusal(file, Reason.WRONG_MODALITY)
    again = pickle.loads(pickle.dumps(error))  # noqa: S301
    assert (str(again), again.reason, again.path, again.detail) == (str(error), error.reason, error.path, error.detail)


def test_every_reason_is_tested():
    here = Path(__file__).parent
    source = "".join(file.read_text(encoding="utf-8") for file in here.glob("test_dicom_*.py"))
    assert all(f"Reason.{reason.name}" in source for reason in Reason)
