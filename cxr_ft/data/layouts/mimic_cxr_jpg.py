"""MIMIC-CXR-JPG's tree of JPEG files, as PhysioNet gives it (version 2.0.0 and 2.1.0), on disk or in its bucket.

    files/p10/p10000032/s50414267/<dicom_id>.jpg      images
    mimic-cxr-2.0.0-{chexpert,negbio,metadata,split}.csv.gz   label tables
    files/p10/p10000032/s50414267.txt                 optional: MIMIC-CXR's reports, unpacked in place
    patients.csv.gz                                   optional: MIMIC-IV's, for sex and age

The bucket's reader pays: CXR_FT_REQUESTER_PAYS=my-project cxr-split gs://mimic-cxr-jpg-2.1.0.physionet.org
--layout mimic_cxr_jpg ... (`cxr_ft.data.sources.table_reader`); only the images chosen are fetched.
"""

from pathlib import Path

from cxr_ft.data.card import DatasetCard
from cxr_ft.data.labels import CHEXPERT_14
from cxr_ft.data.layouts import _mimic
from cxr_ft.data.records import Records

CARD = DatasetCard(
    name="MIMIC-CXR-JPG",
    labels=CHEXPERT_14,
    normal="No Finding",
    sensitivity="credentialed",
    source="https://physionet.org/content/mimic-cxr-jpg/",
    terms="PhysioNet Credentialed Health Data License 1.5.0; data use agreement required",
    citation="Johnson et al., MIMIC-CXR-JPG, a large publicly available database of labeled chest radiographs, "
    "arXiv:1901.07042 (2019)",
)


def records(source: str) -> Records:
    """Return the records of a MIMIC-CXR-JPG tree.

    Raises:
        UsageError: where a table is missing, lacks a column, or the tables do not belong together.
    """
    return _mimic.read(source, CARD, ".jpg")


def demo(folder: Path) -> str:
    """Return a tiny tree for tests: a phantom archive with its films as JPEG; the source to give to `records`."""
    from PIL import Image

    from cxr_ft.data.dicom import read_xray
    from cxr_ft.data.phantom import make_archive

    root = folder / "mimic_cxr_jpg"
    make_archive(root, subjects=12, seed=1, size=64)
    for film in sorted(root.rglob("*.dcm")):
        Image.fromarray(read_xray(film)).save(film.with_suffix(".jpg"), quality=95)
        film.unlink()
    (root / "cxr-record-list.csv.gz").unlink()  # lists DICOM files: MIMIC-CXR-JPG has none
    return str(root)
