"""Read any folder of radiographs: one sub-folder a class, or a table of paths and labels. PNG, JPEG, DICOM.

    archive/normal/a.png, archive/covid/b.dcm          the sub-folder's name is the class
    archive/index.csv (or .tsv, .parquet; also SOURCE itself): a column `path` relative to the table, and either
        `label` (one class an image), or one column a label that holds only 1, 0, -1 or nothing

A column `subject_id` says which images must stay together (`patient_id` and the like are taken as well); without one
each file is its own subject, and the manifest says "subjects unknown". Optional: `study_id`, `dicom_id`, `view`,
`split`, `sex`, `age`, and beside it a patients' table (`patients.csv`: subject_id, sex, age). Folder and table may be
URLs; a table may be in a database, with its images' folder behind `root=`.
"""

from pathlib import Path
from typing import TYPE_CHECKING

from cxr_ft.data.card import DatasetCard
from cxr_ft.data.layouts import _rows
from cxr_ft.data.records import Records
from cxr_ft.data.sources import address, locations, table_reader
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
SUBJECT_NAMES = ("subject_id", "patient_id", "PatientID", "patient", "subject")


def records(source: str) -> Records:
    """Return the records of a folder of classes, or of a table of paths and labels.

    Raises:
        UsageError: where there are no images, no usable table, or labels that fit no file.
    """
    where = locations.normalized(source)
    if table_reader.is_table(where):
        return _from_table(where)
    table = only_table(where)
    return _from_table(table) if table else _from_folders(where)


def demo(folder: Path) -> str:
    """Return a tiny folder of two classes for tests; the source to give to `records`."""
    import numpy as np
    from PIL import Image

    rng = np.random.default_rng(0)
    for name, shade in (("clear", 60), ("opaque", 150)):
        (folder / "classes" / name).mkdir(parents=True)
        for i in range(12):
            pixels = rng.normal(shade, 20, (40, 36)).clip(0, 255).astype(np.uint8)
            Image.fromarray(pixels).save(folder / "classes" / name / f"{i}.png")
    return str(folder / "classes")


def only_table(folder: str) -> str | None:
    """Return the table in a folder, a patients' table aside; None without one, UsageError with several."""
    if not address.is_url(folder) and Path(folder).is_file():
        raise UsageError(f"{folder} is no folder and no table ({', '.join(table_reader.TABLES)})")
    # Hidden files begin with a dot, so their first part is empty.
    tables = [n for n in table_reader.list_tables(folder) if n.partition(".")[0] not in {"patients", ""}]
    if len(tables) > 1:
        shown = ", ".join(tables[:5])
        raise UsageError(f"{folder} holds {len(tables)} tables ({shown}): give the one to read as SOURCE")
    return locations.join(folder, tables[0]) if tables else None


def _from_folders(root: str) -> Records:
    import pandas as pd

    files = [name for name in locations.list_files(root) if name.lower().endswith(IMAGES) and "/" in name]
    if not files:
        raise UsageError(f"{root} has no sub-folders with images ({', '.join(IMAGES)}) and no table with a column path")
    # The uppermost folder is the class; those below it may be patients or anything else.
    classes = [name.partition("/")[0] for name in files]
    # A folder of train/ and test/ would otherwise become a data set whose classes are its splits.
    if {name.lower() for name in classes} <= _rows.SPLIT_NAMES.keys():
        raise UsageError(
            f"{root}: its sub-folders are splits, not classes; give one of them, or a table with path, label, split"
        )
    table = pd.DataFrame({"path": files, "label": classes}, dtype="string")
    return _rows.assemble(table, root, CARD, (), [])


def _from_table(where: str) -> Records:
    root = table_reader.image_root(where)
    names = table_reader.column_names(where)
    # One class an image wins; the rest of such a table may hold anything, and is not read.
    known = {*_rows.KNOWN, *SUBJECT_NAMES, "label"}
    table = table_reader.read_table(where, [name for name in names if name in known] if "label" in names else None)
    if "path" not in table:
        raise UsageError(f"{where} has no column path; it has {', '.join(names[:20])}")
    labels = () if "label" in table else label_columns(table)
    if "label" not in table and not labels:
        raise UsageError(f"{where} has no column label, and no column of only 1, 0, -1 or nothing to take for a label")
    if table["path"].isna().any() or table.empty:
        raise UsageError(
            f"{where}: {int(table['path'].isna().sum())} of {len(table)} rows have a path missing; fill it"
        )
    # Only local files are looked at: of a remote archive each look is a request.
    if not address.is_url(root) and not any(Path(root, p).is_file() for p in table["path"]):
        raise UsageError(
            f"{where}: none of its {len(table)} paths is a file below {root}, for example {table['path'].iloc[0]}"
        )
    unused = [name for name in table.columns if name not in {*known, *labels}] if labels else []
    # A column with one stray value drops out of the labels; the note lets the user see it.
    notes = (
        [f"columns taken for no label, since they hold more than 1, 0, -1: {', '.join(unused[:20])}"] if unused else []
    )
    subject = next((name for name in SUBJECT_NAMES if name in table), "subject_id")
    table = table.rename(columns={subject: "subject_id"})
    return _rows.assemble(table, root, CARD, labels, notes, patients_folder=locations.split(where)[0])


def label_columns(table: "pd.DataFrame") -> tuple[str, ...]:
    """Return the columns that hold only 1, 0, -1 or nothing, and are not something else by their name."""

    def is_label(name: str) -> bool:
        values = table[name].dropna()
        # A column without any value would be a label of which nothing is known.
        return len(values) > 0 and bool(_rows.numbers(values).isin([1, 0, -1]).all())

    # A sex written as 0 and 1 is no label.
    reserved = {*_rows.KNOWN, *SUBJECT_NAMES}
    return tuple(name for name in table.columns if name not in reserved and is_label(name))
