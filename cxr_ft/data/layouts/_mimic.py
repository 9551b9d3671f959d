"""Read the tables that MIMIC-CXR and MIMIC-CXR-JPG share, and build the paths of images and reports.

    cxr-record-list.csv.gz                                     paths of the DICOM files
    mimic-cxr-2.0.0-{metadata,chexpert,negbio,split}.csv.gz    published with MIMIC-CXR-JPG
    patients.csv.gz                                            optional: MIMIC-IV's hosp/patients, for sex and age

Only `metadata` and one of the label tables is needed. A database (`cxr_ft.data.sources.table_reader`) holds
the same tables by names like `metadata`, `chexpert`, `record_list`, `patients`, and the reports' texts as `reports`
(study_id, text). What
PhysioNet's own data set in BigQuery, physionet-data.mimic_cxr, holds was taken from public code that reads it
(`record_list`, `chexpert`, `dicom_metadata_string`); nobody has tried it here.
"""

import re
from typing import TYPE_CHECKING

from cxr_ft.data import phantom, sameness
from cxr_ft.data.card import DatasetCard
from cxr_ft.data.labels import CHEXPERT_14
from cxr_ft.data.layouts import _patients
from cxr_ft.data.phantom import signature
from cxr_ft.data.records import REPORT_TEXTS, Records, root_folder, views
from cxr_ft.data.reports.sections import mimic_sections, sections
from cxr_ft.data.reports.text_columns import contexts
from cxr_ft.data.sources import address, locations, table_reader
from cxr_ft.errors import UsageError
from cxr_ft.progress import track

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
#: PhysioNet's table of DICOM headers in BigQuery, used in place of `metadata`: its names for our columns.
HEADERS = "dicom_metadata_string"
OF_HEADERS = {"dicom_id": "dicom", "subject_id": "PatientID", "study_id": "StudyID"}
#: How the column of a report's text may be called.
TEXT = ("text", "report", "report_text")
#: The words of mimic-cxr-2.0.0-split: its validation split is "validate".
SPLIT_NAMES = {"train": "train", "validate": "val", "test": "test"}


def read(source: str, card: DatasetCard, end: str) -> Records:
    """Return the records of a tree whose images' names end with `end`.

    Args:
        source: its folder, a URL of it, a database of its tables, or a phantom's specification.

    Raises:
        UsageError: where a table is missing, lacks a column, or the tables do not belong together.
    """
    root = str(root_folder(source)) if phantom.is_spec(source) else locations.normalized(source)
    # One table is not enough: ids and labels are in two at least.
    if table_reader.is_table(root) or not (address.is_url(root) or root_folder(root).is_dir()):
        raise UsageError(f"{source} is one file or table: give the folder, or the database, that holds all tables")
    names = frozenset(locations.list_names(root))
    notes: list[str] = []
    # One row a film; the label tables have one a study, since labels are read off its report.
    table = _table(root, names, "metadata", ["dicom_id", "subject_id", "study_id", "ViewPosition"], ["StudyDate"])
    table["view"] = views(table.pop("ViewPosition"))
    table = _labelled(table, root, names, notes)
    table["official"] = _official(table, root, names)
    # PhysioNet sorts the subjects into folders by the first two digits of their numbers.
    folder = "files/p" + table["subject_id"].str[:2] + "/p" + table["subject_id"] + "/s" + table["study_id"]
    # The record list is optional: without it the path follows from the ids, as PhysioNet arranges them.
    table["path"] = _listed(table, root, names, end).fillna(folder + "/" + table["dicom_id"] + end)
    # A study's report lies beside its folder and has its name.
    table["report"] = table["path"].str.rsplit("/", n=1).str[0] + ".txt"
    # Shifted by de-identification, as anchor_year is: only their difference means anything.
    years = table.pop("StudyDate").str[:4] if "StudyDate" in table else None
    table = _patients.add(table, root, notes, years)
    images = table_reader.image_root(root)
    if "files" not in locations.list_names(images):
        notes.append(f"no folder files/ in {images}: images are not at hand and were not checked")
    # By what is in the rows, so that a phantom archive is also known where it was copied, renamed or put in a database.
    if _is_phantom(table, root):
        card = PHANTOM_CARD
    table = _with_reports(table, root, names, card)
    image_root = source if phantom.is_spec(source) else images
    return Records(table=table, card=card, root=image_root, notes=tuple(notes))


def _is_phantom(table: "pd.DataFrame", root: str) -> bool:
    """Return whether every row carries the phantom's signature."""
    rows = list(zip(*(table[name].tolist() for name in ("subject_id", "study_id", "dicom_id")), strict=True))
    return signature.is_signed(rows, phantom.recorded_seed(root))


def _find(names: frozenset[str], name: str) -> str | None:
    """Return the table of that name: a published file, or a database's table, without dots and with few prefixes."""
    stem = name if name.startswith("cxr-") else f"mimic-cxr-2.0.0-{name}"
    plain = re.sub(r"\W", "_", name)
    in_database = (re.sub(r"\W", "_", stem), plain, plain.removeprefix("cxr_"))
    headers = (HEADERS,) if name == "metadata" else ()
    return next((n for n in (f"{stem}.csv.gz", f"{stem}.csv", *in_database, *headers) if n in names), None)


def _table(
    root: str, names: frozenset[str], name: str, columns: list[str], optional: list[str] | None = None
) -> "pd.DataFrame":
    file = _find(names, name)
    if file is None:
        wanted = f"table {name}" if address.is_database(root) else f"mimic-cxr-2.0.0-{name}.csv.gz"
        raise UsageError(f"{root} has no {wanted}; it comes with MIMIC-CXR-JPG: put it beside the others")
    renamed = OF_HEADERS if file == HEADERS else {}
    # Types are given and not guessed: a rare label, as Pleural Other, is blank in all of the first rows.
    numbers = dict.fromkeys(CHEXPERT_14, "float64")
    needed = [renamed.get(column, column) for column in columns]
    table = table_reader.read_table(locations.join(root, file), needed, optional or (), numbers)
    table = table.rename(columns={own: ours for ours, own in renamed.items()})
    # One table may hold 90000000.0 where the other holds 90000000, or spaces around it.
    for column in {"subject_id", "study_id"}.intersection(table):
        table[column] = sameness.id_keys(table[column])
    if "dicom_id" in table:  # files are named after it: its case is kept
        table["dicom_id"] = sameness.tidy_ids(table["dicom_id"])
    return table


def _with_reports(table: "pd.DataFrame", root: str, names: frozenset[str], card: DatasetCard) -> "pd.DataFrame":
    """Return the table with the sections of its reports, where a database holds them."""
    if not address.is_database(root) or "reports" not in names:
        return table
    where = locations.join(root, "reports")
    raw = table_reader.read_table(where, ["study_id"], TEXT)
    raw = raw.assign(study_id=sameness.id_keys(raw["study_id"]))
    text = next((name for name in TEXT if name in raw), None)
    if text is None:
        raise UsageError(f"{where} has no column {' or '.join(TEXT)}, the text of a report")
    # Sorted before duplicates go: a database returns rows in any order, and the same report must win each time.
    texts = raw.dropna().sort_values(["study_id", text]).drop_duplicates("study_id").set_index("study_id")[text]
    # Some of MIMIC-CXR's reports have their sections marked by hand, by study id; ids of another archive may be the
    # same.
    mimic = card.name.startswith("MIMIC-CXR")
    sections_of_study = {}
    studies = [study for study in table["study_id"].unique() if study in texts.index]
    for study in track(studies, "reading reports", len(studies)):
        report = texts[study]
        sections_of_study[study] = {
            **(mimic_sections(study, report) if mimic else sections(report)),
            **contexts(report),
        }
    columns = {
        name: [sections_of_study.get(study, {}).get(name) or "" for study in table["study_id"]] for name in REPORT_TEXTS
    }
    return table.assign(**{name: texts for name, texts in columns.items() if any(texts)})


def _labelled(table: "pd.DataFrame", root: str, names: frozenset[str], notes: list[str]) -> "pd.DataFrame":
    # CheXpert's labeler first: it finds more of the uncertain mentions (Irvin et al., AAAI 2019).
    labels = "chexpert" if _find(names, "chexpert") else "negbio"
    if labels == "negbio":
        notes.append("labels are NegBio's, since the archive has no chexpert table")
    values = _table(root, names, labels, ["subject_id", "study_id", *CHEXPERT_14])
    if (twice := values.duplicated(["subject_id", "study_id"])).any():
        one = values.loc[twice, "study_id"].iloc[0]
        raise UsageError(f"{root}: study {one} is in two rows of the {labels} table; keep one")
    before = len(table)
    # By both ids, so that a study which two tables give to different subjects is not joined. All films of a study get
    # its labels; 227,827 of the 227,835 studies have some.
    table = table.merge(values, on=["subject_id", "study_id"], how="inner")
    if table.empty:
        raise UsageError(f"{root}: no study of the {labels} table is in the metadata table; are they of one release?")
    if before > len(table):
        notes.append(f"{before - len(table)} images of studies without labels are left out")
    return table


def _official(table: "pd.DataFrame", root: str, names: frozenset[str]) -> "pd.Series[str]":
    import pandas as pd

    if _find(names, "split") is None:
        return pd.Series("", index=table.index)
    split = _table(root, names, "split", ["dicom_id", "split"])
    # As above: one row a film, the same one whatever the order of rows.
    split = split.assign(dicom_id=sameness.id_keys(split["dicom_id"]))
    by_film = split.sort_values(["dicom_id", "split"]).drop_duplicates("dicom_id").set_index("dicom_id")["split"]
    return sameness.id_keys(table["dicom_id"]).map(by_film).map(SPLIT_NAMES).fillna("")


def _listed(table: "pd.DataFrame", root: str, names: frozenset[str], end: str) -> "pd.Series[str]":
    """Return the record list's paths, missing where it names none. It lists DICOM; a JPEG has its DICOM's name."""
    import pandas as pd

    if _find(names, "cxr-record-list") is None:
        return pd.Series(None, index=table.index, dtype="string")
    listed = _table(root, names, "cxr-record-list", ["dicom_id", "path"])
    listed = listed.assign(dicom_id=sameness.id_keys(listed["dicom_id"]))
    listed = listed.sort_values(["dicom_id", "path"]).drop_duplicates("dicom_id")
    paths = listed.set_index("dicom_id")["path"].str.removesuffix(".dcm") + end
    return sameness.id_keys(table["dicom_id"]).map(paths)
