"""Give each patient one id, and each row the group whose rows must stay in one split.

A group is a patient and everyone joined to that patient: by an id, a file or pixels that are the same by
`cxr_ft.data.sameness`. So no two splits share any of these, whatever way a table writes them.
"""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from cxr_ft.data import sameness
from cxr_ft.data.records import IDS, OWNER
from cxr_ft.errors import UsageError

if TYPE_CHECKING:
    import pandas as pd

#: The column of a row's group, for as long as splits are compiled.
GROUP = "_group"
#: How ids are compared: as `sameness.id_key` says, or character by character.
COMPARISONS = ("normal", "exact")
WHAT = {"subject_id": "subjects", "study_id": "studies", "dicom_id": "images"}


def grouped(table: "pd.DataFrame", root: str, ids: str, notes: list[str]) -> "pd.DataFrame":
    """Return the table with one spelling for each subject and study, and the column GROUP.

    Args:
        table: the records [N].
        root: what messages name.
        ids: one of COMPARISONS.
        notes: gets a line on ids that are equal only in normal form, and one on files with several paths.

    Raises:
        UsageError: where ids are compared exactly and a study belongs to two subjects.
    """
    import pandas as pd

    exact = ids == "exact"
    keys = {name: table[name] if exact else sameness.id_keys(table[name]) for name in IDS}
    if not exact:
        table = _one_spelling(table, keys, notes)
    # Without a root: the paths are compared as they are written, and no file is touched.
    files = pd.Series(sameness.path_keys(table["path"].tolist()), dtype="string", index=table.index)
    if several := int((files.duplicated() & (files != "")).sum()):
        notes.append(f"{several} rows name a file that another row names too, by another path; they stay in one split")
    columns = [keys["subject_id"], keys["study_id"], keys["dicom_id"], files]
    if OWNER in table:
        columns.append(table[OWNER] if exact else sameness.id_keys(table[OWNER]))
    # Only columns that really join two subjects enter the graph. In nearly every archive none does, and the subjects
    # are the groups as they are.
    subject, joining = columns[0], [column for column in columns[1:] if _joins_subjects(columns[0], column)]
    # With exact ids nothing may be corrected: a study of two subjects is then an error of the archive.
    if exact and any(column is keys["study_id"] for column in joining):
        raise UsageError(f"{root}: with --ids exact a study belongs to two subjects; ids must be unique")
    return table.assign(**{GROUP: named_groups([subject, *joining]) if joining else subject})


def named_groups(columns: "Sequence[pd.Series[str]]") -> "pd.Series[str]":
    """Return the name of each row's group [N]: the first in order of the names in the group's first column.

    So it does not depend on the order of the rows, and rows of other groups do not change it.
    """
    group = sameness.groups(columns)
    return columns[0].groupby(group).transform("min").astype("string")


def same_pixels(table: "pd.DataFrame", pixels: Mapping[str, str]) -> "tuple[pd.Series[str], int] | None":
    """Return the groups [N] after joining those that show an image with the same pixels, and the number of such images.

    None where no two groups do.

    Args:
        table: `path` and GROUP of rows [N].
        pixels: a hash of the pixels of some paths; a row that names none of them is joined to no other.
    """
    import pandas as pd

    shown = [
        (group, pixels[path])
        for group, row in zip(table[GROUP].tolist(), table["path"].tolist(), strict=True)
        for path in row.split("|")
        if path in pixels
    ]
    # Each group counts once for a hash, else two identical images of one patient would look like two patients.
    pairs = pd.DataFrame(sorted(set(shown)), columns=["group", "pixels"], dtype="string")
    shared = pairs[pairs["pixels"].duplicated(keep=False)]
    if shared.empty:
        return None
    names = named_groups([shared["group"], shared["pixels"]])
    joined = dict(zip(shared["group"].tolist(), names.tolist(), strict=True))
    return table[GROUP].map(lambda group: joined.get(group, group)).astype("string"), len(shared)


def _one_spelling(table: "pd.DataFrame", keys: "Mapping[str, pd.Series[str]]", notes: list[str]) -> "pd.DataFrame":
    """Return the table with subjects and studies each written one way; `notes` gets how many had several spellings.

    An image keeps its id as it is: two images whose ids are one in normal form are still two files.
    """
    counts = {}
    for name in ("subject_id", "study_id"):
        if not keys[name].equals(table[name]):
            spelled, counts[name] = sameness.one_spelling(table[name])
            table = table.assign(**{name: spelled})
    counts["dicom_id"] = int(keys["dicom_id"].duplicated().sum())
    if several := [f"{count} {WHAT[name]}" for name, count in counts.items() if count]:
        notes.append(
            f"ids that differ only in case, spaces, zeros or a point (7, 7.0, 00007) are one: {', '.join(several)} are "
            "written in several ways; --ids exact keeps them apart"
        )
    return table


def _joins_subjects(subject: "pd.Series[str]", other: "pd.Series[str]") -> bool:
    """Return whether a value of `other` [N], "" aside, goes with two subjects."""
    import pandas as pd

    # Image ids and paths are unique in a sound archive, so most columns end here without a table of pairs.
    if other.is_unique:
        return False
    # Cheaper than counting subjects for each value: after the duplicates are gone, a value that occurs twice has two
    # subjects.
    pairs = pd.DataFrame({"subject": subject, "other": other}).drop_duplicates()
    return bool((pairs["other"].duplicated() & (pairs["other"] != "")).any())
