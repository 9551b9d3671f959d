"""Any folder of radiographs: one sub-folder a class, or a table of paths and labels. PNG, JPEG, DICOM.

    archive/normal/a.png, archive/covid/b.dcm          the sub-folder's name is the class
    archive/index.csv (or .tsv, .parquet; also given itself): a column `path` relative to the table, and either
        `label` (one class an image), or one column a label that holds only 1, 0, -1 or nothing

A column `subject_id` says which images must stay together (`patient_id` and the like are taken as well); without one
each file is its own subject, and the manifest says "subjects unknown". Optional: `study_id`, `dicom_id`, `view`,
`split`, `sex`, `age`.
"""

from pathlib import Path
from typing import TYPE_CHECKING

from cxr_ft.data.card import DatasetCard
from cxr_ft.data.records import IDS, OPTIONAL, Records, root_folder
from cxr_ft.errors import UsageError

if TYPE_CHECKING:
    import pandas as pd

CARD = DatasetCard(
    name="folder",
    multi_label=False,
    group="unknown",
    sensitivity="credentialed",
    source="the user's own folder",
    terms="unknown, so treated as credentialed: images and texts stay out of pages and trackers unless asked",
)
IMAGES = (".png", ".jpg", ".jpeg", ".dcm", ".dicom")
TABLES = (".csv", ".tsv", ".parquet")
SUBJECT_NAMES = ("subject_id", "patient_id", "PatientID", "patient", "subject")
SPLIT_NAMES = {"train": "train", "val": "val", "validate": "val", "validation": "val", "valid": "val", "test": "test"}
UNKNOWN = "subjects unknown: each file is taken for its own subject; two films of one patient may stand on two sides"


def records(source: str) -> Records:
    """The records of a folder of classes, or of a table of paths and labels.

    Raises:
        UsageError: where there are no images, no usable table, or labels that fit no file.
    """
    path = root_folder(source)
    table_file = path if path.is_file() else _only_table(path)
    if table_file is None:
        return _from_folders(path)
    if table_file.suffix.lower() not in TABLES:
        raise UsageError(f"{path} is no folder and no table ({', '.join(TABLES)})")
    return _from_table(table_file)


def demo(folder: Path) -> str:
    """A tiny folder of two classes for tests; the source to give to `records`."""
    import numpy as np
    from PIL import Image

    rng = np.random.default_rng(0)
    for name, shade in (("clear", 60), ("opaque", 150)):
        (folder / "classes" / name).mkdir(parents=True)
        for i in range(12):
            pixels = rng.normal(shade, 20, (40, 36)).clip(0, 255).astype(np.uint8)
            Image.fromarray(pixels).save(folder / "classes" / name / f"{i}.png")
    return str(folder / "classes")


def _only_table(folder: Path) -> Path | None:
    tables = sorted(p for p in folder.iterdir() if p.suffix.lower() in TABLES and p.is_file())
    if len(tables) > 1:
        names = ", ".join(p.name for p in tables[:5])
        raise UsageError(f"{folder} holds {len(tables)} tables ({names}): give the one to read as SOURCE")
    return tables[0] if tables else None


def _from_folders(root: Path) -> Records:
    import pandas as pd

    files = sorted(p.relative_to(root) for p in root.rglob("*") if p.suffix.lower() in IMAGES)
    files = [p for p in files if len(p.parts) > 1]
    if not files:
        raise UsageError(f"{root} has no sub-folders with images ({', '.join(IMAGES)}) and no table with a column path")
    if {p.parts[0].lower() for p in files} <= SPLIT_NAMES.keys():
        raise UsageError(
            f"{root}: its sub-folders are splits, not classes; give one of them, or a table with path, label, split"
        )
    table = pd.DataFrame({"path": [p.as_posix() for p in files], "label": [p.parts[0] for p in files]}, dtype="string")
    return _records(table, root, label_columns=())


def _from_table(file: Path) -> Records:
    table = _read(file)
    if "path" not in table:
        raise UsageError(f"{file} has no column path; it has {', '.join(table.columns[:20])}")
    labels = () if "label" in table else _label_columns(table)
    if "label" not in table and not labels:
        raise UsageError(f"{file} has no column label, and no column of only 1, 0, -1 or nothing to take for a label")
    if table["path"].isna().any() or table.empty:
        raise UsageError(f"{file}: {int(table['path'].isna().sum())} of {len(table)} rows have a path missing; fill it")
    there = [(file.parent / p).is_file() for p in table["path"]]
    if not any(there):
        raise UsageError(
            f"{file}: none of its {len(table)} paths is a file below {file.parent}, for example {table['path'].iloc[0]}"
        )
    return _records(table, file.parent, labels)


def _records(table: "pd.DataFrame", root: Path, label_columns: tuple[str, ...]) -> Records:
    import dataclasses

    import pandas as pd

    notes = []
    subject = next((name for name in SUBJECT_NAMES if name in table), None)
    if subject is None:
        notes.append(UNKNOWN)
    stem = table["path"].str.replace(r"\.[^./]+$", "", regex=True)
    unique = stem if not stem.duplicated().any() else table["path"]
    defaults = {"dicom_id": unique, "study_id": unique, "subject_id": table[subject] if subject else unique}
    out = pd.DataFrame({name: table[name] if name in table else defaults[name] for name in IDS}, dtype="string")
    out["path"] = table["path"]
    out["view"] = table["view"].fillna("").str.strip().str.upper() if "view" in table else ""
    out["official"] = table["split"].str.lower().map(SPLIT_NAMES).fillna("") if "split" in table else ""
    out["report"] = ""
    for name in OPTIONAL:
        if name in table:
            out[name] = table[name]
    card = dataclasses.replace(CARD, group="subject" if subject else "unknown", multi_label=bool(label_columns))
    if label_columns:
        out[list(label_columns)] = table[list(label_columns)].apply(pd.to_numeric)
        card = dataclasses.replace(
            card, labels=label_columns, normal="No Finding" if "No Finding" in label_columns else None
        )
        known = {"path", "view", "split", "label", *IDS, *OPTIONAL, *SUBJECT_NAMES, *label_columns}
        if unused := [name for name in table.columns if name not in known]:
            notes.append(f"columns taken for no label, since they hold more than 1, 0, -1: {', '.join(unused[:20])}")
    else:
        if blank := int(table["label"].isna().sum()):
            notes.append(f"{blank} images without a label are left out")
        out = out[table["label"].notna()].assign(label=table["label"])
        card = dataclasses.replace(card, labels=tuple(sorted(set(out["label"]))))
        if len(card.labels) < 2:
            raise UsageError(f"{root}: all images have one class ({', '.join(card.labels)}); two or more are needed")
    return Records(table=out.reset_index(drop=True), card=card, root=str(root), notes=tuple(notes))


def _read(file: Path) -> "pd.DataFrame":
    import pandas as pd

    try:
        if file.suffix.lower() == ".parquet":
            return pd.read_parquet(file).astype("string")
        separator = "\t" if file.suffix.lower() == ".tsv" else ","
        # Only an empty cell is missing: a class may be called None, a subject NA.
        return pd.read_csv(file, sep=separator, dtype="string", keep_default_na=False, na_values=[""])
    except (ValueError, OSError, EOFError) as error:
        raise UsageError(f"{file} cannot be read as a table: {str(error).splitlines()[0]}") from error


def _label_columns(table: "pd.DataFrame") -> tuple[str, ...]:
    import pandas as pd

    reserved = {"path", "view", "split", *IDS, *OPTIONAL, *SUBJECT_NAMES}

    def is_label(name: str) -> bool:
        values = table[name].dropna()
        return len(values) > 0 and bool(pd.to_numeric(values, errors="coerce").isin([1, 0, -1]).all())

    return tuple(name for name in table.columns if name not in reserved and is_label(name))
