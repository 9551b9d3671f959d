"""Check what tables of splits say of themselves: labels, copies, an official split, subjects enough to test on.

Each check returns findings: what is wrong, how often, and where to look, as row numbers (from 1 below the header) and
names of the tables. No finding holds an id, a path or a text of a row.
"""

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from cxr_ft.data import sameness
from cxr_ft.data.audit import confound_probe

if TYPE_CHECKING:
    import pandas as pd

Floats = NDArray[np.float64]
#: From this ratio of the most frequent label to the rarest one on, labels count as unbalanced where nothing was asked.
RATIO = 10.0
#: Fewer positive subjects of a label than this in test say next to nothing of it.
LEAST = 10
#: Columns that may hold the data's own split, by the name of the split in them.
OFFICIAL = ("split", "Split", "official", "official_split")
#: Columns of texts that a model reads, as opposed to reports that go with an image.
INPUTS = ("text", "Resume", "sentence", "review", "tweet", "premise", "sentence1")
_ROLES = {"train": "train", "val": "val", "dev": "val", "test": "test"}
_ROLE = re.compile(rf"(?<![a-z])({'|'.join(_ROLES)})")


@dataclass(frozen=True, kw_only=True)
class Finding:
    """Something wrong in the tables.

    Args:
        kind: a word: BALANCE, LABELS, SPLIT, COPIES, FEW or CHANGED.
        sentence: what is wrong.
        count: rows, labels or files that it is true of.
        example: where to look, as rows of tables; "" where the sentence says it all.
    """

    kind: str
    sentence: str
    count: int
    example: str = ""

    def __str__(self) -> str:
        return f"{self.kind} {self.sentence}{f'; for example {self.example}' if self.example else ''}"


@dataclass(frozen=True)
class Tables:
    """The tables of an audit.

    Args:
        splits: a table a split, rows named as in their file, from 0.
        files: the name of each split's file.
        columns: by kind of value ("subject", "image", "path", "text", "pixels") the column that all tables have.
        exact_ids: ids are the same only where every character is.
    """

    splits: "Mapping[str, pd.DataFrame]"
    files: Mapping[str, str]
    columns: Mapping[str, str | None]
    exact_ids: bool = False

    @cached_property
    def names(self) -> list[str]:
        """Return the splits without natural ones, whose rows are rows of another split a second time."""
        return [name for name in self.splits if not name.endswith("_natural")]

    @cached_property
    def whole(self) -> "pd.DataFrame":
        """Return the rows of `names`, one below the other, with the split and the place of each as `_split`, `_row`."""
        import pandas as pd

        parts = [self.splits[name].assign(_split=name, _row=self.splits[name].index) for name in self.names]
        return pd.concat(parts, ignore_index=True)

    @cached_property
    def labels(self) -> dict[str, Floats]:
        """Return each label of the rows of `whole`: 1, 0, NaN for uncertain [N]."""
        return confound_probe.label_columns(self.whole, each_class=True)

    @cached_property
    def counts(self) -> dict[str, dict[str, int]]:
        """Return by label the positive rows of each split."""
        rows = {name: self.rows_of(name) for name in self.names}
        return {label: {name: int((x[rows[name]] == 1).sum()) for name in rows} for label, x in self.labels.items()}

    @property
    def reads_text(self) -> bool:
        """Return whether a text is what a model reads of a row."""
        path, text = self.columns.get("path"), self.columns.get("text")
        return text in INPUTS and (path is None or not bool((self.whole[path] != "").any()))

    def rows_of(self, split: str) -> NDArray[np.bool_]:
        """Return which rows of `whole` are of a split [N]."""
        return np.asarray(self.whole["_split"] == split)

    def keys(self, kind: str) -> "pd.Series[str]":
        """Return what makes the values of a kind comparable, of the rows of `whole` [N]."""
        column = self.whole[self.columns[kind]].astype("string").fillna("")
        if kind == "text":
            return column.map(sameness.text_key)
        return column if self.exact_ids or kind not in ("subject", "image") else sameness.id_keys(column).fillna("")

    def place(self, *positions: int) -> str:
        """Return some rows of `whole` as a reader finds them."""
        rows = self.whole[["_split", "_row"]].iloc[list(positions)]
        return " and ".join(place(self.files[split], row) for split, row in rows.itertuples(index=False))


def place(file: str, row: int) -> str:
    """Return a row, from 0, as a reader finds it."""
    return f"row {row + 1} of {file}"


def checked(tables: Tables, recorded: Mapping[str, Mapping[str, int]] | None = None) -> list[Finding]:
    """Return all findings.

    Args:
        recorded: by label the rows of each split as the manifest of the tables has them; None: there is none.
    """
    balanced = unbalanced(tables) if recorded is None else uncounted(tables, recorded)
    # Texts that stay together in one split are counted in their manifest.
    copied = [] if recorded is not None and tables.reads_text else copies(tables)
    return [*balanced, *absent(tables), *contradicted(tables), *unlike_labels(tables), *copied, *few(tables)]


def unbalanced(tables: Tables) -> list[Finding]:
    """Find labels of which one has RATIO times as many rows as another."""
    totals = {label: sum(by.values()) for label, by in tables.counts.items()}
    totals = {label: many for label, many in totals.items() if many}
    if len(totals) < 2:
        return []
    least, most = min(totals, key=lambda label: totals[label]), max(totals, key=lambda label: totals[label])
    ratio = totals[most] / totals[least]
    if ratio < RATIO:
        return []
    sentence = (
        f"labels have from {totals[least]:,} ({least}) to {totals[most]:,} ({most}) positive rows, {ratio:.1f} to 1"
    )
    return [Finding(kind="BALANCE", sentence=sentence, count=len(totals))]


def uncounted(tables: Tables, recorded: Mapping[str, Mapping[str, int]]) -> list[Finding]:
    """Find labels that have fewer rows than their manifest says."""
    wrong = [
        f"{label} {by[split]:,} of {recorded[label][split]:,} in {split}"
        for label, by in tables.counts.items()
        for split in by
        if by[split] < recorded.get(label, {}).get(split, 0)
    ]
    if not wrong:
        return []
    sentence = f"fewer positive rows than the manifest says: {_some(wrong)}"
    return [Finding(kind="BALANCE", sentence=sentence, count=len(wrong))]


def absent(tables: Tables) -> list[Finding]:
    """Find splits without any positive row of a label that another split has."""
    by_label, findings = tables.counts, []
    for name in tables.names:
        lacking = [label for label, by in by_label.items() if not by[name] and any(by.values())]
        if lacking:
            sentence = f"{name} has no positive row of {_some(lacking)}"
            findings.append(Finding(kind="BALANCE", sentence=sentence, count=len(lacking)))
    return findings


def role(name: str) -> str | None:
    """Return the split that a name says: "train", "val" or "test"; None where it says none, or several."""
    said = {_ROLES[word] for word in _ROLE.findall(name.lower())}
    return said.pop() if len(said) == 1 else None


def contradicted(tables: Tables) -> list[Finding]:
    """Find rows of which a column names another split than the one that their table is."""
    findings = []
    for name in tables.names:
        table = tables.splits[name]
        # The file's own name first: the name of the split may be what the column says.
        own = role(tables.files[name]) or role(name)
        for column in [column for column in OFFICIAL if own and column in table]:
            said = {value: role(value) for value in table[column].unique()}
            others = np.array([said[value] not in (None, own) for value in table[column]], dtype=bool)
            if others.any():
                by = Counter(said[value] for value in table[column][others])
                roles = ", ".join(f"{one!s} {many:,}" for one, many in sorted(by.items(), key=lambda item: -item[1]))
                sentence = (
                    f"{others.sum():,} of {len(table):,} rows of {tables.files[name]} are of another split by its "
                    f"column {column} ({roles})"
                )
                at = int(table.index[np.flatnonzero(others)[0]])
                findings.append(
                    Finding(
                        kind="SPLIT", sentence=sentence, count=int(others.sum()), example=place(tables.files[name], at)
                    )
                )
    return findings


def unlike_labels(tables: Tables) -> list[Finding]:
    """Find images, or texts that are the whole input, with different labels in different rows."""
    if not tables.labels:
        return []
    # Uncertain is a value of its own; several labels of a row are compared together.
    rows = np.nan_to_num(np.column_stack([*tables.labels.values()]), nan=-1.0)
    labels = np.unique(rows, axis=0, return_inverse=True)[1].ravel()
    findings, seen = [], np.zeros(len(rows), dtype=bool)
    for kind in ("image", "path", "pixels", "text"):
        if tables.columns.get(kind) is None or (kind == "text" and not tables.reads_text):
            continue
        keys = tables.keys(kind)
        different = np.array((labels != _first(labels, keys)) & (keys != ""), dtype=bool)
        # By path and pixels the same rows would be found again.
        if (different & ~seen).any():
            values = keys[different].nunique()
            at = int(np.flatnonzero(different)[0])
            other = int(np.flatnonzero(np.asarray(keys == keys.iloc[at]))[0])
            what = {"path": "file", "pixels": "image by its pixels"}.get(kind, kind)
            sentence = f"{values:,} times one {what} has different labels in different rows"
            findings.append(
                Finding(kind="LABELS", sentence=sentence, count=int(different.sum()), example=tables.place(other, at))
            )
        seen |= different
    return findings


def copies(tables: Tables) -> list[Finding]:
    """Find images under two names, and texts in several rows, within a split or between two."""
    pixels, path = tables.columns.get("pixels"), tables.columns.get("path")
    if pixels and path:
        keys = tables.keys("pixels")
        named = np.array([sameness.path_key(one) for one in tables.whole[path]], dtype=object)
        copied = np.array((named != _first(named, keys)) & (keys.str.strip("|") != ""), dtype=bool)
        return _copies(tables, keys, copied, "rows show an image that another file shows, too")
    if tables.reads_text:
        keys = tables.keys("text")
        copied = np.array(keys.duplicated() & (keys != ""), dtype=bool)
        return _copies(
            tables, keys, copied, f"rows have a text of an earlier row ({keys.nunique():,} texts are distinct)"
        )
    return []


def _copies(tables: Tables, keys: "pd.Series[str]", copied: NDArray[np.bool_], what: str) -> list[Finding]:
    if not copied.any():
        return []
    at = int(np.flatnonzero(copied)[0])
    first = int(np.flatnonzero(np.asarray(keys == keys.iloc[at]))[0])
    sentence = f"{copied.sum():,} of {len(copied):,} {what}"
    return [Finding(kind="COPIES", sentence=sentence, count=int(copied.sum()), example=tables.place(first, at))]


def few(tables: Tables) -> list[Finding]:
    """Find labels of which test has fewer than LEAST positive subjects; rows where subjects are unknown."""
    subjects = tables.keys("subject") if tables.columns.get("subject") else None
    findings = []
    for name in [name for name in tables.names if role(name) == "test" or role(tables.files[name]) == "test"]:
        rows = tables.rows_of(name)
        many = {
            label: int((rows & (x == 1)).sum() if subjects is None else subjects[rows & (x == 1)].nunique())
            for label, x in tables.labels.items()
        }
        rare = [f"{label} {number}" for label, number in many.items() if 0 < number < LEAST]
        if rare:
            unit = "rows" if subjects is None else "subjects"
            sentence = f"fewer than {LEAST} positive {unit} of a label in {name}: {_some(rare)}"
            findings.append(Finding(kind="FEW", sentence=sentence, count=len(rare)))
    return findings


def _first(values: NDArray[np.generic], keys: "pd.Series[str]") -> NDArray[np.generic]:
    """Return for each row the value of the first row of the same key [N]."""
    import pandas as pd

    series = pd.Series(values)
    return np.asarray(series.groupby(keys.to_numpy(dtype=object)).transform("first"))


def _some(items: Sequence[str], most: int = 8) -> str:
    """Return the first items in one line, and how many more there are."""
    rest = len(items) - most
    return ", ".join(items[:most]) + (f" and {rest} more" if rest > 0 else "")
