"""MIMIC-CXR's own tree of DICOM files, as PhysioNet gives it (version 2.0.0 and 2.1.0).

    files/p10/p10000032/s50414267/<dicom_id>.dcm      images
    files/p10/p10000032/s50414267.txt                 reports (mimic-cxr-reports.zip, unpacked in place)
    cxr-record-list.csv.gz, cxr-study-list.csv.gz     paths of the images and of the reports
    mimic-cxr-2.0.0-{chexpert,negbio,metadata,split}.csv.gz   label tables (published with MIMIC-CXR-JPG)

Only `metadata` and one of the label tables must be there. The phantom archive has the same shape.
"""

from pathlib import Path
from typing import TYPE_CHECKING

from cxr_ft.data.card import DatasetCard
from cxr_ft.data.labels import CHEXPERT_14
from cxr_ft.data.records import Records, root_folder
from cxr_ft.errors import UsageError

if TYPE_CHECKING:
    import pandas as pd

CARD = DatasetCard(
    name="MIMIC-CXR",
    labels=CHEXPERT_14,
    normal="No Finding",
    sensitivity="credentialed",
    source="https://physionet.org/content/mimic-cxr/",
    terms="PhysioNet Credentialed Health Data License 1.5.0; data use agreement required",
    citation="Johnson et al., MIMIC-CXR, a de-identified publicly available database of chest radiographs with "
    "free-text reports, Scientific Data 6, 317 (2019)",
)
PHANTOM_CARD = DatasetCard(
    name="phantom",
    labels=CHEXPERT_14,
    normal="No Finding",
    sensitivity="synthetic",
    source="cxr-phantom",
    terms="synthetic, no patient; free",
)
#: Subjects of the phantom archive; MIMIC's own are below 20000000.
PHANTOM_SUBJECTS = 90_000_000
VIEWS = {"LL": "LATERAL", "LATERAL": "LATERAL", "PA": "PA", "AP": "AP"}
SPLIT_NAMES = {"train": "train", "validate": "val", "test": "test"}
IDS = {"subject_id": "string", "study_id": "string", "dicom_id": "string"}


def records(source: str) -> Records:
    """The records of a MIMIC-CXR tree (or a phantom's specification).

    Raises:
        UsageError: where a table is missing, lacks a column, or the tables do not belong together.
    """
    root = root_folder(source)
    if not root.is_dir():
        raise UsageError(f"{source} is a file: layout mimic_cxr reads the folder that holds files/ and the tables")
    notes: list[str] = []
    table = _read(root, "metadata", ["dicom_id", "subject_id", "study_id", "ViewPosition"])
    table["view"] = table.pop("ViewPosition").fillna("").str.upper().map(lambda view: VIEWS.get(view, view))
    labels = "chexpert" if _find(root, "chexpert") else "negbio"
    if labels == "negbio":
        notes.append("labels are NegBio's, since no chexpert table is there")
    values = _read(root, labels, ["subject_id", "study_id", *CHEXPERT_14])
    before = len(table)
    table = table.merge(values, on=["subject_id", "study_id"], how="inner", validate="many_to_one")
    if table.empty:
        raise UsageError(
            f"{root}: no study of the {labels} table stands in the metadata table; are they of one release?"
        )
    if before > len(table):
        notes.append(f"{before - len(table)} images of studies without labels are left out")
    table["official"] = _official(root, table)
    table["path"] = _paths(root, table)
    study = table["path"].str.rsplit("/", n=1).str[0]
    table["report"] = study + ".txt"
    if not (root / "files").is_dir():
        notes.append(f"no folder files/ in {root}: images are not at hand and were not checked")
    card = PHANTOM_CARD if _is_phantom(table) else CARD
    return Records(table=table, card=card, root=str(source), notes=tuple(notes))


def demo(folder: Path) -> str:
    """A tiny tree for tests; the source to give to `records`."""
    from cxr_ft.data.phantom import make_archive

    make_archive(folder / "mimic_cxr", subjects=12, seed=1, size=64)
    return str(folder / "mimic_cxr")


def _is_phantom(table: "pd.DataFrame") -> bool:
    import pandas as pd

    return bool((pd.to_numeric(table["subject_id"], errors="coerce") >= PHANTOM_SUBJECTS).all())


def _find(root: Path, name: str) -> Path | None:
    stem = name if name.startswith("cxr-") else f"mimic-cxr-2.0.0-{name}"
    return next((p for p in (root / f"{stem}.csv.gz", root / f"{stem}.csv") if p.is_file()), None)


def _read(root: Path, name: str, columns: list[str]) -> "pd.DataFrame":
    import pandas as pd

    path = _find(root, name)
    if path is None:
        raise UsageError(
            f"{root} has no mimic-cxr-2.0.0-{name}.csv.gz; it comes with MIMIC-CXR-JPG: put it beside files/"
        )
    try:
        header = pd.read_csv(path, nrows=0).columns
        if missing := [column for column in columns if column not in header]:
            raise UsageError(f"{path} has no column {', '.join(missing)}; it has {', '.join(header[:20])}")
        dtypes = {c: IDS.get(c, "float64" if c in CHEXPERT_14 else "string") for c in columns}
        return pd.read_csv(path, usecols=columns, dtype=dtypes)
    except (ValueError, EOFError, OSError) as error:
        raise UsageError(f"{path} cannot be read as a table: {str(error).splitlines()[0]}") from error


def _official(root: Path, table: "pd.DataFrame") -> "pd.Series[str]":
    import pandas as pd

    if _find(root, "split") is None:
        return pd.Series("", index=table.index)
    split = _read(root, "split", ["dicom_id", "split"]).drop_duplicates("dicom_id").set_index("dicom_id")["split"]
    return table["dicom_id"].map(split).map(SPLIT_NAMES).fillna("")


def _paths(root: Path, table: "pd.DataFrame") -> "pd.Series[str]":
    folder = "files/p" + table["subject_id"].str[:2] + "/p" + table["subject_id"] + "/s" + table["study_id"]
    derived = folder + "/" + table["dicom_id"] + ".dcm"
    if _find(root, "cxr-record-list") is None:
        return derived
    import pandas as pd

    path = _find(root, "cxr-record-list")
    assert path is not None
    listed = pd.read_csv(path, usecols=["dicom_id", "path"], dtype="string").drop_duplicates("dicom_id")
    return table["dicom_id"].map(listed.set_index("dicom_id")["path"]).fillna(derived)
