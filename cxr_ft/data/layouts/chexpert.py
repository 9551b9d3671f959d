"""CheXpert as Stanford gives it, full size or "small".

    CheXpert-v1.0-small/train.csv, valid.csv (test.csv)               any of these; SOURCE may be one of them
    CheXpert-v1.0-small/train/patient00001/study1/view1_frontal.jpg

The labels are the labeler's on `train` and the radiologists' on `valid` and `test`. What the tables call Path begins
with the name of the archive's folder, whatever that is called now.
"""

from pathlib import Path
from typing import TYPE_CHECKING

from cxr_ft.data.card import DatasetCard
from cxr_ft.data.demographics import ages, sexes
from cxr_ft.data.labels import CHEXPERT_14
from cxr_ft.data.records import Records, views
from cxr_ft.data.sources import locations, table_reader
from cxr_ft.errors import UsageError

if TYPE_CHECKING:
    import pandas as pd

CARD = DatasetCard(
    name="CheXpert",
    labels=CHEXPERT_14,
    normal="No Finding",
    sensitivity="credentialed",
    source="https://stanfordmlgroup.github.io/competitions/chexpert/",
    terms="Stanford University Dataset Research Use Agreement: no redistribution",
    citation="Irvin et al., CheXpert: a large chest radiograph dataset with uncertainty labels and expert comparison, "
    "AAAI 2019",
)
TABLES = ("train", "valid", "test")
SPLIT_NAMES = {"train": "train", "valid": "val", "val": "val", "test": "test"}
#: train/patient00001/study1/view1_frontal.jpg, behind whatever the archive's folder is called.
PATH = r"(?P<split>train|valid|val|test)/(?P<subject>patient\d+)/(?P<study>study\d+)/(?P<view>view\d+_\w+)\.\w+$"


def records(source: str) -> Records:
    """Return the records of CheXpert's folder, or of one of its tables.

    Raises:
        UsageError: where there is no table, or one lacks a column or has a path of another form.
    """
    import pandas as pd

    where = locations.normalized(source)
    root, files = _files(where)
    numbers = dict.fromkeys(CHEXPERT_14, "float64")
    tables = [
        # Sex, age and projection are optional: the test table comes without them.
        table_reader.read_table(file, ["Path", *CHEXPERT_14], ["Sex", "Age", "Frontal/Lateral", "AP/PA"], numbers)
        for file in files
    ]
    notes: list[str] = []
    table = _identified(pd.concat(tables, ignore_index=True), where, notes)
    return Records(table=table, card=CARD, root=_folder_of_images(root, table), notes=tuple(notes))


def demo(folder: Path) -> str:
    """Return a tiny CheXpert for tests; the source to give to `records`."""
    import numpy as np
    from PIL import Image

    rng = np.random.default_rng(0)
    root = folder / "CheXpert-v1.0-small"
    columns = ["Path", "Sex", "Age", "Frontal/Lateral", "AP/PA", *CHEXPERT_14]
    for name, patients in (("train", range(1, 31)), ("valid", range(64541, 64546))):
        lines = [",".join(columns)]
        for patient in patients:
            for view in ("frontal", "lateral"):
                path = f"{root.name}/{name}/patient{patient:05}/study1/view1_{view}.jpg"
                (folder / path).parent.mkdir(parents=True, exist_ok=True)
                Image.fromarray(rng.integers(0, 256, (40, 36), dtype=np.uint8)).save(folder / path)
                view_cells = "Frontal,AP" if view == "frontal" else "Lateral,"
                values = rng.choice(["1.0", "0.0", "-1.0", ""], len(CHEXPERT_14), p=[0.3, 0.2, 0.1, 0.4])
                lines.append(
                    f"{path},{'Male' if patient % 2 else 'Female'},{patient % 91},{view_cells},{','.join(values)}"
                )
        (root / f"{name}.csv").write_text("\n".join(lines) + "\n")
    return str(root)


def _files(where: str) -> tuple[str, list[str]]:
    """Return the archive's folder, and the tables to read."""
    if table_reader.is_table(where):
        return table_reader.image_root(where), [where]
    present = set(table_reader.list_tables(where))
    known = [f"{name}{end}" for name in TABLES for end in (".csv", ".csv.gz", "")]
    if not (tables := [locations.join(where, name) for name in known if name in present]):
        raise UsageError(f"{where} has no train.csv or valid.csv: give the folder CheXpert-v1.0-small, or a table")
    return table_reader.image_root(where), tables


def _identified(table: "pd.DataFrame", where: str, notes: list[str]) -> "pd.DataFrame":
    parts = table["Path"].str.extract(PATH)
    if (odd := parts["subject"].isna()).any():
        one = table.loc[odd, "Path"].iloc[0]
        raise UsageError(f"{where}: path {one} is not of the form train/patient00001/study1/view1_frontal.jpg")
    table["subject_id"] = parts["subject"]
    # Every patient has a study1: it is unique with the patient alone.
    table["study_id"] = parts["subject"] + "/" + parts["study"]
    table["dicom_id"] = parts["subject"] + "_" + parts["study"] + "_" + parts["view"]
    # Without the archive's folder, which the tables name and users rename.
    table["path"] = table["Path"].str.extract(f"({PATH})")[0]
    table["official"] = parts["split"].map(SPLIT_NAMES)
    table["report"] = ""
    table["view"] = _views(table, parts["view"])
    if "Sex" in table:
        table["sex"] = sexes(table["Sex"], notes)
    if "Age" in table:
        table["age"] = ages(table["Age"], notes)
    return table.drop(columns=["Path", "Sex", "Age", "Frontal/Lateral", "AP/PA"], errors="ignore")


def _views(table: "pd.DataFrame", name: "pd.Series[str]") -> "pd.Series[str]":
    """Return AP or PA where the table has it; else what the file's name says, LATERAL or FRONTAL."""
    import pandas as pd

    named = name.str.partition("_")[2]
    projection = table["AP/PA"] if "AP/PA" in table else pd.Series(None, index=table.index, dtype="string")
    # A lateral has no AP/PA; the file's name is the only place that says so.
    return views(projection.where(projection.notna(), named).astype("string"))


def _folder_of_images(root: str, table: "pd.DataFrame") -> str:
    """Return the folder that holds train/ and valid/: the table's, or the archive's beside the table."""
    # One row is enough: the folders train/ and valid/ lie side by side.
    first = str(table["official"].iloc[0])
    folders = [name for name, split in SPLIT_NAMES.items() if split == first]
    present = locations.list_names(root)
    if any(name in present for name in folders):
        return root
    archives = [name for name in present if name.startswith("CheXpert-v1.0")]
    inside = [locations.join(root, name) for name in archives]
    return next((place for place in inside if set(folders).intersection(locations.list_names(place))), root)
