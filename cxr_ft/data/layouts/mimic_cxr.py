"""MIMIC-CXR's own tree of DICOM files, as PhysioNet gives it (version 2.0.0 and 2.1.0).

    files/p10/p10000032/s50414267/<dicom_id>.dcm      images
    files/p10/p10000032/s50414267.txt                 reports (mimic-cxr-reports.zip, unpacked in place)
    cxr-record-list.csv.gz, cxr-study-list.csv.gz     paths of the images and of the reports
    mimic-cxr-2.0.0-{chexpert,negbio,metadata,split}.csv.gz   label tables (published with MIMIC-CXR-JPG)
    patients.csv.gz                                   optional: MIMIC-IV's, for sex and age

Only `metadata` and one of the label tables must be there. The phantom archive has the same shape. The source may be a
URL (`cxr_ft.data.sources.table_reader`).
"""

from pathlib import Path

from cxr_ft.data.layouts import _mimic
from cxr_ft.data.records import Records

CARD = _mimic.CARD


def records(source: str) -> Records:
    """Return the records of a MIMIC-CXR tree (or a phantom's specification).

    Raises:
        UsageError: where a table is missing, lacks a column, or the tables do not belong together.
    """
    return _mimic.read(source, CARD, ".dcm")


def demo(folder: Path) -> str:
    """Return a tiny tree for tests; the source to give to `records`."""
    from cxr_ft.data.phantom import make_archive

    make_archive(folder / "mimic_cxr", subjects=12, seed=1, size=64)
    return str(folder / "mimic_cxr")
