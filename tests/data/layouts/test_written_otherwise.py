"""Ids written otherwise in one table of a release, or in all of them: the same records."""

import gzip
import shutil

import pandas as pd
import pytest

from cxr_ft import plugins
from cxr_ft.data.records import root_folder

TABLES = ("metadata", "chexpert", "split")
#: How a spreadsheet, a data frame or a typist may write a number.
WAYS = {
    "float": lambda ids: ids + ".0",
    "padded": lambda ids: "00" + ids,
    "spaces": lambda ids: " " + ids + "\u00a0",
}


def rewritten(folder, stems, columns, way):
    """Write the ids of some tables of a folder in another way."""
    changed = 0
    for file in folder.glob("*.csv.gz"):
        if any(stem in file.name for stem in stems):
            table = pd.read_csv(file, dtype=str)
            for column in {*columns}.intersection(table.columns):
                table[column] = way(table[column])
                changed += 1
            with gzip.open(file, "wt") as out:
                table.to_csv(out, index=False)
    assert changed


@pytest.fixture(scope="module")
def release(tmp_path_factory):
    folder = tmp_path_factory.mktemp("release")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("CXR_FT_CACHE", str(folder / "cache"))
        shutil.copytree(root_folder("phantom:subjects=8,size=32"), folder / "whole")
    plain = plugins.load(plugins.LAYOUTS, "mimic_cxr").records(str(folder / "whole")).table
    people = pd.DataFrame({"subject_id": plain["subject_id"].unique(), "gender": "F", "anchor_age": "60"})
    people.to_csv(folder / "whole" / "patients.csv.gz", index=False)
    return folder / "whole"


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("stems", [*((stem,) for stem in TABLES), ("patients",), (*TABLES, "patients")])
def test_mimic_is_the_same_however_its_ids_are_written(release, tmp_path, stems, way):
    layout = plugins.load(plugins.LAYOUTS, "mimic_cxr")
    shutil.copytree(release, tmp_path / "a")
    # The films' ids are hashes: of them spaces alone can be added.
    columns = ("subject_id", "study_id", *(("dicom_id",) if way == "spaces" else ()))
    rewritten(tmp_path / "a", stems, columns, WAYS[way])
    left, right = (layout.records(str(folder)).table for folder in (release, tmp_path / "a"))
    pd.testing.assert_frame_equal(left, right)


@pytest.mark.parametrize("way", WAYS)
def test_nih_patients_are_the_same_however_they_are_written(tmp_path, way):
    layout = plugins.load(plugins.LAYOUTS, "nih")
    source = layout.demo(tmp_path)
    left = layout.records(source).table
    (file,) = [file for file in tmp_path.rglob("*.csv") if "Patient ID" in file.read_text(encoding="utf-8")[:2000]]
    table = pd.read_csv(file, dtype=str)
    table["Patient ID"] = WAYS[way](table["Patient ID"])
    table.to_csv(file, index=False)
    pd.testing.assert_frame_equal(left, layout.records(source).table)
