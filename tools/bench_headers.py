"""The header scan against pydicom: files a second on MIMIC-like headers, in one process, the two alternated.

    python tools/bench_headers.py [--files 2000] [--rounds 5]

The files are made first (about 60 elements, private tags and sequences, as MIMIC-CXR's have, and no pixels: neither
reader comes so far). pydicom is asked for the same tags, by its own fastest way: `specific_tags`, `stop_before_pixels`.
"""

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
from pydicom import DataElement, Dataset, FileMetaDataset, dcmread, uid

from cxr_ft.data.dicom import header_scan

TEXTS = {
    "StudyDate": "21800506", "SeriesDate": "21800506", "AcquisitionDate": "21800506", "ContentDate": "21800506",
    "StudyTime": "213014.531", "SeriesTime": "213014.531", "AcquisitionTime": "213014.531", "ContentTime": "213014",
    "AccessionNumber": "", "Modality": "DX", "PresentationIntentType": "FOR PRESENTATION", "Manufacturer": "MAKER",
    "InstitutionName": "", "ReferringPhysicianName": "", "StationName": "", "ProtocolName": "CHEST",
    "PatientName": "", "PatientID": "10000032", "PatientBirthDate": "", "PatientSex": "F", "PatientAge": "052Y",
    "BodyPartExamined": "CHEST", "KVP": "125", "SoftwareVersions": "1.0", "ImagerPixelSpacing": ["0.139", "0.139"],
    "Exposure": "4", "DistanceSourceToDetector": "1800", "FieldOfViewShape": "RECTANGLE", "ViewPosition": "PA",
    "DetectorType": "SCINTILLATOR", "DetectorID": "A1", "StudyID": "", "SeriesNumber": "1", "InstanceNumber": "1",
    "PatientOrientation": ["L", "F"], "ImageLaterality": "U", "PhotometricInterpretation": "MONOCHROME2",
    "PixelIntensityRelationship": "LOG", "RescaleIntercept": "0", "RescaleSlope": "1", "RescaleType": "US",
    "WindowCenter": "2047", "WindowWidth": "4095", "BurnedInAnnotation": "NO", "LossyImageCompression": "00",
    "PresentationLUTShape": "IDENTITY", "ImageType": ["DERIVED", "PRIMARY"],
}  # fmt: skip
WORDS = {"Rows": 3056, "Columns": 2544, "SamplesPerPixel": 1, "BitsAllocated": 16, "BitsStored": 12, "HighBit": 11,
         "PixelRepresentation": 0, "PixelIntensityRelationshipSign": -1}  # fmt: skip


def header(number: int) -> Dataset:
    """One file's header."""
    data = Dataset()
    for keyword, value in {**TEXTS, **WORDS}.items():
        setattr(data, keyword, value)
    data.SOPClassUID = uid.DigitalXRayImageStorageForPresentation
    for keyword in ("SOPInstanceUID", "StudyInstanceUID", "SeriesInstanceUID"):
        setattr(data, keyword, f"2.25.{number + 10**30}")
    for keyword, meaning in (("ViewCodeSequence", "postero-anterior"), ("ProcedureCodeSequence", "CHEST (PA AND LAT)")):
        code = Dataset()
        code.CodeValue, code.CodingSchemeDesignator, code.CodeMeaning = "R-10206", "SNM3", meaning
        setattr(data, keyword, [code])
    data["ViewCodeSequence"].is_undefined_length = True
    data.add(DataElement(0x00090010, "LO", "MAKER PRIVATE"))
    data.add(DataElement(0x00091001, "LO", "abc"))
    data.add(DataElement(0x00091002, "UN", b"\1\2\3\4"))
    data.file_meta = FileMetaDataset()
    data.file_meta.TransferSyntaxUID = uid.ExplicitVRLittleEndian
    data.preamble = b"\0" * 128
    data.PixelData = np.zeros(8, np.uint16).tobytes()
    data["PixelData"].VR = "OW"
    return data


def by_pydicom(path: Path) -> tuple[object, ...]:
    """The same values, read by pydicom alone."""
    data = dcmread(path, stop_before_pixels=True, specific_tags=list(header_scan.TAGS))
    meta: dict[str, uid.UID] = {"TransferSyntaxUID": data.file_meta.TransferSyntaxUID}
    return tuple(header_scan.plain(meta.get(tag) or data.get(tag)) for tag in header_scan.TAGS)


def seconds(read: Callable[[Path], object], files: list[Path]) -> float:
    """The time of reading all the files once."""
    start = time.perf_counter()
    for file in files:
        read(file)
    return time.perf_counter() - start


def main() -> None:
    """Make the files, check that both readers agree on them, time both."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--files", type=int, default=2000)
    parser.add_argument("--rounds", type=int, default=5)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        files = [Path(folder) / f"{i}.dcm" for i in range(args.files)]
        for i, file in enumerate(files):
            header(i).save_as(file, enforce_file_format=True)
        if any(header_scan.read(file) != by_pydicom(file) for file in files):
            raise AssertionError("the two readers differ")
        times = [(seconds(header_scan.read, files), seconds(by_pydicom, files)) for _ in range(args.rounds)]
    ours, theirs = (statistics.median(column) for column in zip(*times, strict=True))
    ratio = statistics.median(b / a for a, b in times)
    print(f"{len(header(0))} elements, {args.files} files, median of {args.rounds} rounds, files a second:")
    print(f"cxr_ft {args.files / ours:.0f}, pydicom {args.files / theirs:.0f}, ratio {ratio:.1f}")


if __name__ == "__main__":
    main()
