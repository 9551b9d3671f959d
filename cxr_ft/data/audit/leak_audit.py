"""Audit splits of any origin: leaks between two splits, and what else is wrong with them.

Each table (CSV, TSV, Parquet) is one split, or a column `split` names the split of each row. Those of subject, study,
image id, path and text that all tables have are compared, texts also for near-duplicates; where the images are
available, so are their pixels. `confound_probe` then measures whether labels can be predicted without the image.
"""

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import combinations
from pathlib import Path
from typing import TYPE_CHECKING

from cxr_ft import csv_cells
from cxr_ft.data import sameness
from cxr_ft.data.audit import acquisition, confound_probe, table_checks
from cxr_ft.data.audit.near_texts import shared_texts
from cxr_ft.data.manifest import MANIFEST, Manifest, certified, recorded_root
from cxr_ft.data.records import first_outside
from cxr_ft.data.sources import table_reader
from cxr_ft.errors import UsageError
from cxr_ft.files import sha256

if TYPE_CHECKING:
    import pandas as pd

#: The kinds of values compared, and the column names each is known by.
KEYS = {
    "subject": ("subject_id", "patient_id", "PatientID", "Patient ID"),
    "study": ("study_id",),
    "image": ("dicom_id", "image_id", "Image Index"),
    "path": ("path", "Path", "image_path", "filename"),
    "text": (
        *("text", "findings", "report", "impression", "report_text", "caption", "Resume"),
        *("sentence", "review", "tweet", "premise", "sentence1"),
    ),
}
#: The kinds that are ids.
ID_KINDS = ("subject", "study", "image")
#: Of these a row may hold several, joined by |.
SEVERAL = ("image", "path", "pixels")
UNKNOWN = "subjects unknown, by the manifest of these files: two images of one patient may be in two splits"
#: The column of pixel hashes that `audit` adds where images are at hand.
PIXELS = "_pixels"


@dataclass(frozen=True)
class Leak:
    """Values that two splits share.

    Args:
        kind: what they are: "subject", "study", "image", "path", "text", "near-identical text" or "pixels".
        left, right: the two splits.
        count: values that both have.
        rows, total: rows of `right` with one of them, and all its rows.
        at: the first such row of `right`, and the first of `left` with the same value (None: only nearly the same).
        example: the same as a reader finds them.
    """

    kind: str
    left: str
    right: str
    count: int
    rows: int
    total: int
    at: tuple[int | None, int] | None = None
    example: str = ""

    def __str__(self) -> str:
        share = 100 * self.rows / self.total
        rows = f"{self.rows} of {self.total} rows of {self.right}, {share:.1f} %"
        return f"{self.kind}: {self.count} in both {self.left} and {self.right} ({rows})"


@dataclass(frozen=True, kw_only=True)
class Audit:
    """The result of an audit.

    Args:
        splits: rows of each split.
        compared: the kinds of values that all splits have.
        leaks: values in two splits.
        confounds: for each label how well it is predicted without the image; those `above_chance` are a finding.
        findings: what else is wrong.
        counts: by label the positive rows of each split; empty where there are no labels.
        notes: what was not compared, and why.
    """

    splits: dict[str, int]
    compared: list[str]
    leaks: list[Leak]
    confounds: list[confound_probe.Confound]
    findings: list[table_checks.Finding]
    counts: dict[str, dict[str, int]]
    notes: list[str]

    @property
    def clean(self) -> bool:
        """Return whether nothing was found: no leak, no label predicted without the image, nothing else."""
        return not (self.leaks or self.findings or self.confounded)

    @property
    def confounded(self) -> list[confound_probe.Confound]:
        """Return the labels that are predicted without the image."""
        return [confound for confound in self.confounds if confound.above_chance]

    @property
    def summary(self) -> str:
        """Return the numbers of what was found, as one line."""
        leaks, labels, others = (len(found) for found in (self.leaks, self.confounded, self.findings))
        return f"{_many(leaks, 'leak')} found, {_many(labels, 'label')} confounded, {_many(others, 'other finding')}"


def _many(number: int, noun: str) -> str:
    return f"{number or 'no'} {noun}{'' if number == 1 else 's'}"


def audit(files: Sequence[Path], root: str | None = None, *, exact_ids: bool = False) -> Audit:
    """Compare the splits in `files`, check their tables, and measure how well labels are predicted without the image.

    Args:
        exact_ids: ids are the same only where every character is; otherwise as `cxr_ft.data.sameness.id_key` says.
        root: the folder that paths are relative to; None: what a manifest beside the first file says, or its folder.

    Raises:
        UsageError: where a file cannot be read, there are fewer than two splits, or nothing can be compared.
    """
    import pandas as pd

    splits, places = _splits(files)
    if len(splits) < 2:
        raise UsageError(f"{files[0]}: only one split; give one CSV a split, or a CSV with a column split")
    if empty := [name for name, table in splits.items() if table.empty]:
        raise UsageError(f"{empty[0]} has no rows: nothing to compare")
    # Before anything else is compared: two files may call the same thing by two names.
    splits, unlike = _aligned(splits)
    if not any(_column(splits, names) for names in KEYS.values()):
        raise UsageError(f"{', '.join(map(str, files))}: nothing to compare; {'; '.join(unlike)}")
    names = {key: _column(splits, known) for key, known in KEYS.items()}
    seen, notes = _measured(splits, names["path"], root, files[0].parent)
    measured = seen.measured()
    if not measured.empty:
        hashes = {str(path): str(digest) for path, digest in measured["pixels"].items()}
        splits = with_pixels(splits, str(names["path"]), hashes)
    # Links are resolved only where images are at hand; elsewhere a path is only a text.
    folder = None if measured.empty else _root(root, files[0].parent)
    compared, leaks = compare(splits, exact_ids=exact_ids, root=folder)
    made = _manifest_of(files)
    # Where subjects are unknown each image stands for one, and to count them would claim that they are known.
    unknown = made is not None and made["card"].get("group") == "unknown"
    columns = {**names, "subject": None if unknown else names["subject"], "pixels": None if measured.empty else PIXELS}
    tables = table_checks.Tables(splits, places, columns, exact_ids)
    if names["subject"] and not exact_ids:  # the probe holds out whole subjects
        key = names["subject"]
        splits = {name: table.assign(**{key: sameness.id_keys(table[key])}) for name, table in splits.items()}
    # The natural test holds rows of test a second time, which would count twice in the probe.
    whole = pd.concat([table for name, table in splits.items() if not name.endswith("_natural")], ignore_index=True)
    confounds, probe_notes = confound_probe.probe(
        whole,
        measured,
        path=names["path"],
        group=names["subject"] or names["image"],
        thumbnails=seen.thumbnails,
    )
    return Audit(
        splits={name: len(table) for name, table in splits.items()},
        compared=compared,
        leaks=[_placed(leak, places) for leak in leaks],
        confounds=confounds,
        findings=[*_changed(files, made), *table_checks.checked(tables, None if made is None else _recorded(made))],
        counts=tables.counts,
        notes=[*([UNKNOWN] if unknown else []), *unlike, *notes, *probe_notes],
    )


def with_pixels(
    splits: Mapping[str, "pd.DataFrame"], path: str, hashes: Mapping[str, str]
) -> dict[str, "pd.DataFrame"]:
    """Return the splits with the column PIXELS: the hashes of the images that each row's column `path` lists."""
    import pandas as pd

    out = {}
    for name, table in splits.items():
        joined = ["|".join(hashes.get(one, "") for one in row.split("|")) for row in table[path]]
        out[name] = table.assign(**{PIXELS: pd.array(joined, dtype="string")})
    return out


def compare(
    splits: Mapping[str, "pd.DataFrame"], *, exact_ids: bool = False, root: Path | None = None
) -> tuple[list[str], list[Leak]]:
    """Return the kinds of values that all `splits` have, and the leaks between every two splits.

    Args:
        exact_ids: ids are the same only where every character is.
        root: the local folder that paths are relative to; None: paths are compared as they are written.
    """
    columns = {key: _column(splits, names) for key, names in {**KEYS, "pixels": (PIXELS,)}.items()}
    compared = {key: column for key, column in columns.items() if column}
    # The natural test set is a second view of the test subjects: it may share rows with test.
    pairs = [
        (left, right)
        for left, right in combinations(splits, 2)
        if left.removesuffix("_natural") != right.removesuffix("_natural")
    ]
    leaks = []
    for key, column in compared.items():
        key_of = _key_of(key, exact_ids, root)
        values = {name: _values(table[column], key_of, several=key in SEVERAL) for name, table in splits.items()}
        if key == "text":
            subject, owner_key = columns["subject"], _key_of("subject", exact_ids, root)
            owners = {name: table[subject].map(owner_key) if subject else None for name, table in splits.items()}
            texts = shared_texts({name: (values[name], owners[name]) for name in splits}, pairs)
        for left, right in pairs:
            # An empty cell is no value: two rows without a study share nothing.
            shared = texts[left, right] if key == "text" else {key: (set(values[left]) & set(values[right])) - {""}}
            for kind, both in shared.items():
                # Rows and not values: a row that lists several shared images counts once.
                rows = values[right].index[values[right].isin(both)].nunique()
                if both:
                    at = _first_pair(values[left], values[right], both)
                    leaks.append(Leak(kind, left, right, count=len(both), rows=rows, total=len(splits[right]), at=at))
    return list(compared), leaks


def _first_pair(left: "pd.Series[str]", right: "pd.Series[str]", both: Collection[str]) -> tuple[int | None, int]:
    """Return the first row of `left` and of `right` with the first value that both have."""
    shared = right[right.isin(both)]
    same = left.index[left == shared.iloc[0]]
    return (int(same[0]) if len(same) else None), int(shared.index[0])


def _placed(leak: Leak, files: Mapping[str, str]) -> Leak:
    """Return a leak with its example, as rows of files."""
    if leak.at is None:
        return leak
    left, right = leak.at
    places = [] if left is None else [table_checks.place(files[leak.left], left)]
    return replace(leak, example=" and ".join([*places, table_checks.place(files[leak.right], right)]))


def _manifest_of(files: Sequence[Path]) -> Manifest | None:
    """Return the manifest beside the files, where it names all of them."""
    made = certified(files[0].parent)
    if made is None or any(file.name not in made["files"] or file.parent != files[0].parent for file in files):
        return None
    return made


def _changed(files: Sequence[Path], made: Manifest | None) -> list[table_checks.Finding]:
    """Return the files that are not those that their manifest certifies."""
    changed = [] if made is None else [file.name for file in files if sha256(file) != made["files"][file.name]]
    sentence = f"not the files that their manifest certifies: {', '.join(changed)}"
    return [table_checks.Finding(kind="CHANGED", sentence=sentence, count=len(changed))] if changed else []


def _recorded(made: Manifest) -> dict[str, dict[str, int]]:
    """Return by label the positive rows of each split, as the manifest says; {} where uncertain ones count as such."""
    if made["request"]["uncertain"] == "positive":
        return {}
    return {
        label: {"train": row["train"], "val": row["val"], "test": row["test"]} for label, row in made["labels"].items()
    }


def _key_of(kind: str, exact_ids: bool, root: Path | None) -> Callable[[str], str]:
    """Return what makes a value of that kind comparable (`cxr_ft.data.sameness`)."""
    if kind in ID_KINDS:
        return str if exact_ids else sameness.id_key
    if kind == "path":
        return lambda path: sameness.path_key(path, root)
    return sameness.text_key if kind == "text" else str


def _values(column: "pd.Series[str]", key_of: Callable[[str], str], *, several: bool) -> "pd.Series[str]":
    """Return the keys of a column's values, indexed by row; a row of `several` joined by | has as many."""
    import pandas as pd

    # Python's own strings: sets of them are made many times faster.
    values = pd.Series(column.astype("string").fillna("").tolist(), dtype=object)
    if several and values.str.contains("|", regex=False).any():
        values = values.str.split("|").explode()
    # Each distinct value once: a subject's id occurs in as many rows as the subject has films.
    keys = {value: key_of(value) for value in values.unique()}
    return values.map(keys)


def _measured(
    splits: dict[str, "pd.DataFrame"], path: str | None, root: str | None, tables_folder: Path
) -> tuple[acquisition.Acquisitions, list[str]]:
    """Return how each image was acquired, where images are available; and notes."""
    nothing = acquisition.Acquisitions(tables_folder)
    rows = [row for table in splits.values() for row in table[path].unique()] if path else []
    paths = sorted({one for row in rows for one in row.split("|")} - {""})
    # Others' tables name files of others' machines: nothing outside the folder is opened.
    inside = [one for one in paths if first_outside([one]) is None]
    outside = len(paths) - len(inside)
    notes = [f"{outside} of {len(paths)} paths lead out of the folder: these were not opened"] if outside else []
    if not inside:
        return nothing, notes or ["the tables name no files: pixels, sizes and headers were not compared"]
    folder = _root(root, tables_folder)
    # Some of the paths decide: looking for each of 100,000 files on a network's file system takes minutes.
    if not any((folder / one).is_file() for one in inside[:1000]):
        if root is not None:
            raise UsageError(f"--root {root}: none of the images is there, for example {inside[0]}")
        absent = "no image is available (give --root DIR): pixels, sizes and headers were not compared"
        return nothing, [*notes, absent]
    seen = acquisition.Acquisitions(folder)
    failed = len(seen.check(inside).unreadable)
    return seen, [*notes, *([f"{failed} of {len(inside)} images could not be read"] if failed else [])]


def _root(root: str | None, tables_folder: Path) -> Path:
    """Return the folder that paths are relative to: `root`, else that of the manifest in `tables_folder`, else it."""
    if root is not None:
        return Path(root).expanduser()
    if not (tables_folder / MANIFEST).is_file():
        return tables_folder
    try:
        return Path(recorded_root(tables_folder) or tables_folder)
    except UsageError as error:
        raise UsageError(f"{error}; give --root DIR") from None


def _splits(files: Sequence[Path]) -> tuple[dict[str, "pd.DataFrame"], dict[str, str]]:
    """Return a table a split, by the column `split` of a single file, else by file; and the name of each one's file."""
    splits: dict[str, pd.DataFrame] = {}
    places: dict[str, str] = {}
    for file in files:
        table = _table(file)
        # Of several files each is one split, whatever a column of theirs says.
        if len(files) == 1 and "split" in table:
            parts = {str(name): part for name, part in table.groupby("split", sort=True)}
            return parts, dict.fromkeys(parts, file.name)
        named = set(table["split"]) if "split" in table else set()
        name = named.pop() if len(named) == 1 else file.name
        # Two files may both be called train.csv, in two folders.
        name = name if name not in splits else str(file)
        splits[name], places[name] = table, file.name
    return splits, places


def _table(file: Path) -> "pd.DataFrame":
    """Read a table as text, "" where a cell is empty."""
    table = csv_cells.unescape_table(table_reader.read_table(str(file)))
    if any(table.index.names):  # a Parquet file may hold a column as the rows' names
        table = table.reset_index().astype("string")
    table = table.fillna("")
    known = [name for names in KEYS.values() for name in names]
    if not {*known}.intersection(table.columns):
        present = ", ".join(map(str, table.columns[:20]))
        hint = " (its columns seem to be separated by ; and not by commas)" if ";" in present else ""
        raise UsageError(
            f"{file}: nothing to compare{hint}; a column among {', '.join(known)} is needed, it has {present}"
        )
    return table


def _aligned(splits: dict[str, "pd.DataFrame"]) -> tuple[dict[str, "pd.DataFrame"], list[str]]:
    """Return the splits with one column name a kind of value, and notes."""
    splits, notes = dict(splits), []
    for kind, known in KEYS.items():
        own = {name: next((column for column in known if column in table), None) for name, table in splits.items()}
        lacking = [name for name, column in own.items() if column is None]
        if lacking and len(lacking) < len(own):
            notes.append(f"{kind} is not compared: {', '.join(lacking)} has no column of it ({', '.join(known)})")
        column = _column(splits, known)
        if column is None and not lacking:
            # The name that comes first in KEYS, so that the report does not depend on the order of the files.
            column = min(filter(None, own.values()), key=known.index)
            splits = {name: table.rename(columns={own[name]: column}) for name, table in splits.items()}
            notes.append(
                f"{kind} is compared by each file's own column: {', '.join(f'{k}: {v}' for k, v in own.items())}"
            )
    return splits, notes


def _column(splits: Mapping[str, "pd.DataFrame"], names: tuple[str, ...]) -> str | None:
    """Return the first of the names that is a column of all splits; None: there is none."""
    return next((name for name in names if all(name in table for table in splits.values())), None)
