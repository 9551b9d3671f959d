"""Read any folder of DICOM files with one table of labels, which SOURCE may also be.

    archive/anything/below/it             DICOM files, whatever they are called
    archive/labels.csv (.tsv, .parquet)   `path` relative to it, or `file` (its name alone), or `SOPInstanceUID`; then
                                          `label` (one class an image), or one column a label: 1, 0, -1 or nothing

Subject and view, and sex and age if present, come from the headers. Subjects, studies and images are named by keyed
hashes of PatientID, StudyInstanceUID and SOPInstanceUID; the ids themselves are written nowhere, ages as bands of ten
years. Names of files and folders are kept: they should not tell who a patient is.

The key of the hashes is $CXR_FT_KEY, or else a random one made on first use and kept in the user's configuration folder
(`~/.config/cxr_ft/subject.key`, or below $XDG_CONFIG_HOME), readable by the user alone and never among the outputs.
With the same key a patient has the same name in every table; without the key nobody can try ids until one fits.
"""

import hashlib
import os
import secrets
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from cxr_ft.data import sameness
from cxr_ft.data.card import DatasetCard
from cxr_ft.data.demographics import bands, sexes
from cxr_ft.data.dicom import header_scan
from cxr_ft.data.layouts import _rows
from cxr_ft.data.layouts import folder as _folder
from cxr_ft.data.records import Records
from cxr_ft.data.sources import address, locations, table_reader
from cxr_ft.errors import UsageError
from cxr_ft.files import cannot_write, write_once
from cxr_ft.progress import track

if TYPE_CHECKING:
    import pandas as pd

CARD = DatasetCard(
    name="dicom",
    sensitivity="credentialed",
    source="the user's own archive",
    terms="unknown, so treated as credentialed: images and texts stay out of pages and trackers unless asked",
)
#: What may name a file in the table, the surest first: one name may be in several folders.
KEYS = ("path", "file", "SOPInstanceUID")
TAGS = ("SOPInstanceUID", "StudyInstanceUID", "PatientID", "ViewPosition", "PatientSex", "PatientAge")


def records(source: str) -> Records:
    """Return the records of a folder of DICOM files and its table.

    Raises:
        UsageError: where there is no table, it has no label or fits no file, or the source is a URL.
    """
    where = locations.normalized(source)
    if address.is_url(where):
        raise UsageError(f"{source}: headers may name patients, so layout dicom reads no URL; copy the folder first")
    file = where if table_reader.is_table(where) else _folder.only_table(where)
    if file is None:
        raise UsageError(f"{where} has no table of labels ({', '.join(table_reader.TABLES)})")
    root = locations.split(file)[0]
    notes: list[str] = []
    table = _joined(table_reader.read_table(file), _scanned(root, notes), file, notes)
    labels = () if "label" in table else _folder.label_columns(table.drop(columns=[*TAGS, *KEYS], errors="ignore"))
    if "label" not in table and not labels:
        raise UsageError(f"{file} has no column label, and no column of only 1, 0, -1 or nothing to take for a label")
    return _rows.assemble(_named(table, notes), root, CARD, labels, notes)


def demo(folder: Path) -> str:
    """Return a tiny archive of phantoms with a table for tests; the source to give to `records`."""
    from pydicom import dcmread

    from cxr_ft.data.phantom import make_archive

    root = folder / "dicom"
    make_archive(root / "films", subjects=24, seed=1, size=64)
    for extra in [p for p in (root / "films").iterdir() if p.is_file()]:
        extra.unlink()
    lines = ["SOPInstanceUID,Edema,Nodule"]
    for number, file in enumerate(sorted(root.rglob("*.dcm"))):
        header = dcmread(file)
        header.PatientID, header.PatientSex, header.PatientAge = file.parts[-3], "FM"[number % 2], "058Y"
        header.save_as(file)
        lines.append(f"{header.SOPInstanceUID},{number % 2},{number // 2 % 2}")
    (root / "labels.csv").write_text("\n".join(lines) + "\n")
    return str(root)


def _scanned(root: str, notes: list[str]) -> "pd.DataFrame":
    """Return the headers of all files below `root` that are DICOM, one row an image."""
    files = [name for name in locations.list_files(root) if not table_reader.is_table(name)]
    rows = header_scan.scan((Path(root, name) for name in track(files, "reading headers", len(files))), TAGS)
    # Relative paths in place of the scanned ones: the table must not name this machine's folders.
    rows["path"] = files
    headers = rows[rows["problem"].isna() & rows["SOPInstanceUID"].notna()].drop(columns="problem")
    if len(headers) < len(rows):
        notes.append(f"{len(rows) - len(headers)} of {len(rows)} files are no DICOM image and are left out")
    # One instance in two folders would be two rows, and could leak from train to test.
    copies = headers["SOPInstanceUID"].duplicated()
    if copies.any():
        notes.append(f"{int(copies.sum())} files are copies of others (one SOPInstanceUID) and are left out")
    headers = headers[~copies].astype("string")
    return headers.assign(file=headers["path"].str.rpartition("/")[2])


def _joined(table: "pd.DataFrame", headers: "pd.DataFrame", file: str, notes: list[str]) -> "pd.DataFrame":
    """Return the table's rows that have a file, with its header's values."""
    key = next((key for key in KEYS if key in table), None)
    if key is None:
        raise UsageError(f"{file} has no column {' or '.join(KEYS)}; it has {', '.join(table.columns[:20])}")
    # The header decides: columns of the table with a tag's name would clash with it in the join.
    table = table[[name for name in table.columns if name == key or name not in {*KEYS, *TAGS}]]
    # Only files that the table names must be told apart by the key.
    named = headers[headers[key].isin(table[key])]
    for what, rows in (("rows", table), ("files", named)):
        if twice := int(rows[key].duplicated().sum()):
            raise UsageError(f"{file}: {twice} {what} have the {key} of another; name each image once, or give paths")
    if named.empty:
        raise UsageError(f"{file}: none of its {len(table)} rows names one of {len(headers)} DICOM files by {key}")
    out = table.merge(named, on=key, how="inner")
    if missing := len(table) - len(out):
        notes.append(f"{missing} of {len(table)} rows of {Path(file).name} have no file and are left out")
    if unused := len(headers) - len(out):
        notes.append(f"{unused} of {len(headers)} DICOM files have no row in {Path(file).name} and are left out")
    return out


def _named(table: "pd.DataFrame", notes: list[str]) -> "pd.DataFrame":
    """Return the rows with the package's columns in place of the header's, no identifying value among them."""
    name = pseudonymizer()
    # Without a study UID each film is its own study, which joins nothing by mistake.
    study = table["StudyInstanceUID"].replace("", None).fillna(table["SOPInstanceUID"])
    patient = sameness.id_keys(table["PatientID"]).replace("", None)
    # One film of a study may lack what the others say.
    patient = patient.fillna(patient.groupby(study).transform("first"))
    if unknown := int(patient.isna().sum()):
        notes.append(f"{unknown} files name no patient: each of their studies is taken for its own subject")
    # The letters keep a patient's id and a study's UID of the same digits from being one subject.
    patient = ("P" + patient).fillna("S" + study)
    if (two := patient.groupby(study).transform("nunique") > 1).any():
        raise UsageError(f"{table.loc[two, 'path'].iloc[0]}: its study has films of two patients; which is it?")
    out = table.drop(columns=[*TAGS, "file"])
    out["subject_id"] = [name("subject", value) for value in patient]
    out["study_id"] = [name("study", value) for value in study]
    out["dicom_id"] = [name("image", value) for value in table["SOPInstanceUID"]]
    # The header is written at the film. It lacks the view in a third of Open-I's files, where the table may know it.
    in_header = table["ViewPosition"].replace("", None)
    out["view"] = in_header.fillna(table["view"]) if "view" in table else in_header
    if (table["PatientSex"].fillna("") != "").any():
        out["sex"] = sexes(table["PatientSex"], notes)
    if (table["PatientAge"].fillna("") != "").any():
        out["age"] = bands(table["PatientAge"])
    return out


def pseudonymizer() -> Callable[[str, str], str]:
    """Return a function from a kind ("subject") and a header's value to a pseudonym of 20 hexadecimal digits.

    Raises:
        UsageError: if no key is set and none can be written.
    """
    # Hashed first, since blake2b takes a key of at most 64 bytes and CXR_FT_KEY may be longer.
    key = hashlib.blake2b(_key()).digest()

    def name(kind: str, value: str) -> str:
        # Keyed, because ids are few enough to try all of them against a plain hash. `person` keeps a subject's
        # pseudonym from equalling a study's of the same value.
        # 80 bits: that two of ten million ids get one pseudonym has a chance of 1 in 24 billion.
        return hashlib.blake2b(value.encode(), key=key, person=kind.encode(), digest_size=10).hexdigest()

    return name


def _key_file() -> Path:
    """Return the path of the key file."""
    return Path(os.environ.get("XDG_CONFIG_HOME") or Path.home() / ".config") / "cxr_ft" / "subject.key"


def _key() -> bytes:
    if key := os.environ.get("CXR_FT_KEY"):
        return key.encode()
    file = _key_file()
    try:
        if not file.exists():
            write_once(file, secrets.token_hex(32))
        return file.read_bytes()
    except OSError as error:
        raise cannot_write(file, error) from error
