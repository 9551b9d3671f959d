"""NIH ChestX-ray14 as the Clinical Center gives it.

    Data_Entry_2017.csv (or _v2020, gzipped or not; SOURCE may be it)     labels joined by |, patient, age, sex, view
    images/00000001_000.png, or images_001/images/00000001_000.png ...   as the twelve archives unpack
    train_val_list.txt, test_list.txt                                    optional: the data's own split

The own split has no val: its train_val_list.txt is taken for train.
"""

from pathlib import Path
from typing import TYPE_CHECKING

from cxr_ft.data import sameness
from cxr_ft.data.card import DatasetCard
from cxr_ft.data.demographics import ages, sexes
from cxr_ft.data.records import Records, views
from cxr_ft.data.sources import locations, table_reader
from cxr_ft.errors import UsageError, unknown

if TYPE_CHECKING:
    import pandas as pd

NORMAL = "No Finding"
#: As the table writes them, underscore included. Effusion is pleural; Mass and Nodule differ by size, at 3 cm.
FINDINGS = (
    "Atelectasis",
    "Cardiomegaly",
    "Consolidation",
    "Edema",
    "Effusion",
    "Emphysema",
    "Fibrosis",
    "Hernia",
    "Infiltration",
    "Mass",
    "Nodule",
    "Pleural_Thickening",
    "Pneumonia",
    "Pneumothorax",
)
CARD = DatasetCard(
    name="NIH ChestX-ray14",
    labels=(NORMAL, *FINDINGS),
    normal=NORMAL,
    sensitivity="public",
    source="https://nihcc.app.box.com/v/ChestXray-NIHCC",
    terms="no restriction on use; acknowledge the NIH Clinical Center and cite the paper",
    citation="Wang et al., ChestX-ray8: hospital-scale chest X-ray database and benchmarks on weakly-supervised "
    "classification and localization of common thorax diseases, CVPR 2017",
)
#: The data's own split keeps all images of a patient on one side.
LISTS = {"train_val_list.txt": "train", "test_list.txt": "test"}
NEEDED = ("Image Index", "Finding Labels", "Patient ID")
OPTIONAL = ("Patient Age", "Patient Gender", "Patient Sex", "View Position")


def records(source: str) -> Records:
    """Return the records of NIH's folder, or of its table.

    Raises:
        UsageError: where there is no table, it lacks a column, or a label is not among the 14.
    """
    where = locations.normalized(source)
    file = where if table_reader.is_table(where) else _table(where)
    root = table_reader.image_root(file)
    raw = table_reader.read_table(file, NEEDED, OPTIONAL)
    notes: list[str] = []
    table = _labelled(raw, file, notes)
    table["path"] = _paths(raw["Image Index"], root)
    table["official"] = _official(raw["Image Index"], root)
    table["report"] = ""
    return Records(table=table, card=CARD, root=root, notes=tuple(notes))


def demo(folder: Path) -> str:
    """Return a tiny ChestX-ray14 for tests; the source to give to `records`."""
    import numpy as np
    from PIL import Image

    rng = np.random.default_rng(0)
    root = folder / "nih"
    header = "Image Index,Finding Labels,Follow-up #,Patient ID,Patient Age,Patient Gender,View Position"
    lines = [f"{header},OriginalImage[Width,Height],OriginalImagePixelSpacing[x,y],"]
    for patient in range(1, 31):
        for follow_up in range(2):
            name = f"{patient:08}_{follow_up:03}.png"
            place = root / f"images_{1 + patient % 2:03}" / "images" / name
            place.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(rng.integers(0, 256, (40, 36), dtype=np.uint8)).save(place)
            findings = "|".join(sorted(rng.choice(FINDINGS, rng.integers(0, 3), replace=False))) or NORMAL
            view = "PA" if patient % 3 else "AP"
            lines.append(f"{name},{findings},{follow_up},{patient},{patient + 20:03}Y,M,{view},2682,2749,0.143,0.143,")
    (root / "Data_Entry_2017.csv").write_text("\n".join(lines) + "\n")
    return str(root)


def _table(folder: str) -> str:
    tables = [name for name in table_reader.list_tables(folder) if name.startswith("Data_Entry_2017")]
    if not tables:
        raise UsageError(
            f"{folder} has no Data_Entry_2017.csv: give the folder that holds it and images/, or the table"
        )
    return locations.join(folder, tables[-1])  # _v2020 before the first release


def _labelled(raw: "pd.DataFrame", file: str, notes: list[str]) -> "pd.DataFrame":
    import pandas as pd

    stem = raw["Image Index"].str.replace(r"\.[^.]+$", "", regex=True)
    # Padded to eight digits as in the file names, which begin with the patient's number.
    patient = sameness.id_keys(raw["Patient ID"]).str.zfill(8)
    # A follow-up of a patient is one film, so that film and study are one.
    table = pd.DataFrame({"subject_id": patient, "study_id": stem, "dicom_id": stem}, dtype="string")
    table["view"] = views(raw["View Position"]) if "View Position" in raw else ""
    indicators = raw["Finding Labels"].str.get_dummies("|")
    if other := sorted(set(map(str, indicators.columns)) - set(CARD.labels)):
        raise unknown("label", other[0], CARD.labels, file)
    for label in CARD.labels:
        # A table that was cut to a few rows may lack a label altogether.
        table[label] = indicators[label].astype("float64") if label in indicators else 0.0
    unlabelled = raw["Finding Labels"].isna()
    # get_dummies gives 0 for a blank cell; a blank says nothing of any label.
    table.loc[unlabelled, list(CARD.labels)] = float("nan")
    sex = next((name for name in ("Patient Sex", "Patient Gender") if name in raw), None)
    if sex:
        table["sex"] = sexes(raw[sex], notes)
    if "Patient Age" in raw:
        # Written 058Y or 58. The release has a few impossible ages, above 120, which `ages` takes for missing.
        table["age"] = ages(raw["Patient Age"], notes)
    return table


def _paths(names: "pd.Series[str]", root: str) -> "pd.Series[str]":
    """Return the path of each image: in images/, or in one of the folders of the twelve archives."""
    # A dot: images_001.tar.gz may still lie beside what was unpacked of it.
    folders = [name for name in locations.list_names(root) if name.startswith("images") and "." not in name]
    inside = [
        f"{folder}/images" if "images" in locations.list_names(locations.join(root, folder)) else folder
        for folder in folders
    ]
    if len(inside) < 2:
        return (inside[0] if inside else "images") + "/" + names
    # No name says in which of the twelve archives an image is, so the folders are listed.
    where = {name: folder for folder in inside for name in locations.list_names(locations.join(root, folder))}
    return names.map(where).fillna("images") + "/" + names


def _official(names: "pd.Series[str]", root: str) -> "pd.Series[str]":
    import pandas as pd

    present = locations.list_names(root)
    lists = {split: file for file, split in LISTS.items() if file in present}
    splits = {
        n: split for split, file in lists.items() for n in locations.read_text(locations.join(root, file)).split()
    }
    return names.map(splits).fillna("") if splits else pd.Series("", index=names.index, dtype="string")
