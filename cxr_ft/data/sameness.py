"""Decide which values are the same: the one rule for ids, paths, texts and labels.

Everything that compares rows compares these keys: the split compiler and its certificate, the audit, the joins of an
archive's tables, and what counts subjects. Two values are the same where their keys are equal:

    ids      Unicode NFKC, case folded, without space at the ends and without characters that print nothing (Cf);
             of a whole number its value, so 7, 7.0, 00007 and its digits in other scripts are one
    paths    the real file: `./`, `//`, `..` and links resolved; case counts
    texts    Unicode NFKC, case folded, every run of white space one space
    labels   without space at the ends, nothing else: Normal and normal are two

Sources: Unicode Standard Annex 15 (NFKC) and section 3.13 (caseless matching: fold, then normalise again).
"""

import os
import posixpath
import re
import unicodedata
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    import pandas as pd

#: A whole number, in any script's decimal digits; spreadsheets and data frames add the point.
_WHOLE = re.compile(r"(-?)(\d+)(?:\.0*)?")
#: What the number of an ASCII id may begin with.
_NUMERIC_START = frozenset("-0123456789")


def id_key(value: str) -> str:
    """Return the key of a subject, study or image id; "" for an empty one."""
    if value.isascii():
        # Nearly all ids; the general way below gives the same.
        # For ASCII, NFKC changes nothing and case folding is lower().
        plain = value.strip().lower()
        if plain.isdigit():
            return plain.lstrip("0") or "0"
        return plain if plain[:1] not in _NUMERIC_START else _number(plain)
    # Folding can bring back what NFKC had composed, so it is normalised again (Unicode 3.13, D146).
    folded = unicodedata.normalize("NFKC", unicodedata.normalize("NFKC", value).casefold())
    return _number("".join(c for c in folded if unicodedata.category(c) != "Cf").strip())


def id_keys(values: "pd.Series[str]") -> "pd.Series[str]":
    """Return the key of each id of a column [N], under its index; missing stays missing."""
    known = values.dropna().unique().tolist()
    # Returned as it is: a dictionary of a million subjects would be built to map each id to itself.
    if _plain_ids(known):
        return values.astype("string")
    # Distinct ids only: an archive has several rows a subject.
    keys = {value: id_key(value) for value in known}
    return values.map(keys).astype("string")


def _plain_ids(values: Sequence[str]) -> bool:
    """Return True only if each value is its own key: one look at all of them, as nearly every archive's ids are so."""
    # A line feed at both ends lets one search see the beginning and end of every id.
    joined = "\n" + "\n".join(values) + "\n"
    if not joined.isascii() or joined != joined.lower():
        return False
    return not any(part in joined for part in ("\n0", "\n-", "\n ", " \n", "\t", ".0", ".\n", "\r", "\v", "\f", "\x1c"))


def tidy_id(value: str) -> str:
    """Return an id as it is shown and written: with its own case and zeros, without spaces at its ends or a point.

    `P1 ` is written `P1`, and 7.0 is written 7.
    """
    plain = value
    if not value.isascii():
        plain = "".join(c for c in unicodedata.normalize("NFKC", value) if unicodedata.category(c) != "Cf")
    plain = plain.strip()
    return plain.partition(".")[0] if "." in plain and _WHOLE.fullmatch(plain) else plain


def tidy_ids(values: "pd.Series[str]") -> "pd.Series[str]":
    """Return `tidy_id` of each id of a column [N], under its index; missing stays missing."""
    tidy = {value: tidy_id(value) for value in values.dropna().unique().tolist()}
    return values.map(tidy).astype("string")


def one_spelling(values: "pd.Series[str]") -> "tuple[pd.Series[str], int]":
    """Return a column of ids [N] with one spelling for each key, and the number of keys that had several.

    The spelling is the shortest tidy one, of those the first in order: it does not depend on the order of the rows.
    """
    spellings: dict[str, list[str]] = {}
    for value in values.dropna().unique().tolist():
        spellings.setdefault(id_key(value), []).append(value)
    several = sum(len(known) > 1 for known in spellings.values())
    # The tidy form with the fewest characters: of 7, 07 and 7.0 the one that a person would write.
    shortest = {
        value: min(map(tidy_id, known), key=lambda tidy: (len(tidy), tidy))
        for known in spellings.values()
        for value in known
    }
    return values.map(shortest).astype("string"), several


def several_subjects(table: "pd.DataFrame") -> bool:
    """Return whether a study, by its exact id, belongs to two subjects of other keys."""
    pairs = table[["study_id"]].assign(subject=id_keys(table["subject_id"])).drop_duplicates()
    return bool(pairs["study_id"].duplicated().any())


def control_character(value: str) -> str:
    """Return the first control character (Cc) of an id as U+0009, or "" where it has none."""
    if value.isascii() and value.isprintable():
        return ""
    return next((f"U+{ord(c):04X}" for c in value if unicodedata.category(c) == "Cc"), "")


def path_key(path: str, root: Path | None = None) -> str:
    """Return the key of a path: with a local `root` the real file, else the path without `./`, `//` and `..`."""
    if not path:
        return ""
    # posixpath also on Windows: the paths in tables have forward slashes.
    return posixpath.normpath(path) if root is None else os.path.realpath(root / path)


def path_keys(paths: Sequence[str], root: Path | None = None) -> list[str]:
    """Return `path_key` of each path [N]."""
    if root is None:
        joined = "\n".join(paths)
        # One look at all of them: nearly every archive's paths are plain.
        if not any(part in joined for part in ("//", "./", "/.", "/\n")) and not joined.endswith("/"):
            return list(paths)
    return [path_key(path, root) for path in paths]


def text_key(text: str) -> str:
    """Return the key of a text; "" for one of white space alone."""
    if text.isascii():
        return " ".join(text.lower().split())
    return " ".join(unicodedata.normalize("NFKC", unicodedata.normalize("NFKC", text).casefold()).split())


def label_key(label: str) -> str:
    """Return the key of a label, which is also what is shown: the label without space at its ends."""
    return label.strip()


def groups(columns: "Iterable[Sequence[str] | pd.Series[str]]") -> NDArray[np.int64]:
    """Return the group of each row [N]: rows with an equal value in any of the columns are in one, and so on.

    Args:
        columns: keys [N] each; a row without a value ("") is joined to no other by that column.

    Returns:
        Numbers from 0. Which rows share one does not depend on their order.
    """
    import pandas as pd
    from scipy.sparse import coo_matrix
    from scipy.sparse.csgraph import connected_components

    # A graph of rows and values: a row and each of its values are joined.
    rows, values, total = [], [], 0
    length = 0
    for column in columns:
        codes, distinct = pd.factorize(np.asarray(column, dtype=object))
        # Missing values have the code -1 already; an empty one must join nothing either.
        codes = np.where(np.asarray(column, dtype=object) == "", -1, codes)
        length = len(codes)
        with_value = np.flatnonzero(codes >= 0)
        rows.append(with_value)
        # Each column's values get numbers of their own: a study 7 is not a subject 7.
        values.append(codes[with_value] + total)
        total += len(distinct)
    left, right = np.concatenate(rows), np.concatenate(values) + length
    # Rows joined by way of a value: joining rows with each other would need a pair for every two films of a subject.
    graph = coo_matrix((np.ones(len(left), dtype=np.int8), (left, right)), shape=(length + total, length + total))
    _, component = connected_components(graph, directed=False)
    _, group = np.unique(component[:length], return_inverse=True)
    return group.astype(np.int64)


def _number(plain: str) -> str:
    """Return the value of a whole number in ASCII digits, and any other text as it is."""
    match = _WHOLE.fullmatch(plain)
    if match is None:
        return plain
    # Not int(): it refuses numbers of more than 4,300 digits.
    digits = "".join(str(unicodedata.decimal(digit)) for digit in match[2]).lstrip("0") or "0"
    return f"{match[1]}{digits}" if digits != "0" else digits
