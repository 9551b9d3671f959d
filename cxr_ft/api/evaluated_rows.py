"""Check the arrays or texts that `cxr_ft.evaluate` takes, and bring the seeds of one model to the same rows.

Shapes: N rows, L labels, S seeds.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import cast

import numpy as np
import numpy.typing as npt

from cxr_ft.data import sameness
from cxr_ft.errors import UsageError
from cxr_ft.run.record.prediction_files import MISSING, ROUNDING

Floats = npt.NDArray[np.float64]
Texts = npt.NDArray[np.str_]


@dataclass(frozen=True, kw_only=True)
class EvaluatedRows:
    """Hold the rows that are evaluated.

    Args:
        subjects: [N] the key of each row's subject.
        labels: the L names; of texts, the names whose mentions are compared.
        groups: by variable the group of each row [N]; "" is none.
        truth: [N, L] 1, 0 or NaN; scores: [S, N, L] in [0, 1].
        references, generated: [N] and [S, N] texts, in place of `truth` and `scores`; None of scores.
        notes: what was assumed of the rows, one line each.
    """

    subjects: Texts
    labels: tuple[str, ...]
    groups: Mapping[str, Texts] = field(default_factory=dict)
    truth: Floats
    scores: Floats
    references: Sequence[str] | None = None
    generated: Sequence[Sequence[str]] = ()
    notes: tuple[str, ...] = ()


def read(  # noqa: PLR0917 (the arguments of `cxr_ft.evaluate`, in its order)
    truth: object, scores: object, subjects: object, groups: object, labels: Sequence[str] | None, seed: object
) -> EvaluatedRows:
    """Return the checked rows; the arguments are those of `cxr_ft.evaluate`.

    Raises:
        UsageError: one line, for what does not fit together or is no score, truth, subject or seed.
    """
    right, written = _texts(truth), _texts(scores)
    if (right is None) != (written is None):
        raise UsageError("truth and scores: one holds texts, the other numbers; give two lists of texts, or two arrays")
    if right is not None and written is not None:
        return _of_texts(right, written, subjects, groups, labels, seed)
    return _of_scores(truth, scores, subjects, groups, labels, seed)


def _of_scores(  # noqa: PLR0917 (as `read`)
    truth: object, scores: object, subjects: object, groups: object, labels: Sequence[str] | None, seed: object
) -> EvaluatedRows:
    truth, scores, names = _same_columns(truth, scores, labels)
    table, values = _numbers(truth, "truth"), _numbers(scores, "scores")
    if table.shape != values.shape or table.ndim not in (1, 2):
        raise UsageError(
            f"truth {table.shape} and scores {values.shape} do not fit; give [rows] or [rows, labels] for both"
        )
    rows = len(table)
    if not table.size:
        raise UsageError("truth has no rows; give one row an image or study")
    owners, notes = _subjects(subjects, rows)
    members = _groups(groups, rows)
    table, values = table.reshape(rows, -1), values.reshape(rows, -1)
    if names is None:
        names = tuple(str(i) for i in range(table.shape[1]))
    if len(names) != table.shape[1] or len(set(names)) < len(names):
        raise UsageError(f"labels: {len(set(names))} different names for {table.shape[1]} columns of truth")
    _check_scores(table, values)
    parts = _by_seed(seed, rows)
    first = parts[0]
    for part in parts[1:]:
        _check_same(owners, first, part, np.array_equal(table[part], table[first], equal_nan=True))
    # A score of what is not known counts nowhere; as 0 it is a number.
    known = np.where(np.isnan(values), 0.0, np.clip(values, 0, 1))
    return EvaluatedRows(
        subjects=_named(owners[first]),
        labels=names,
        groups={name: values[first] for name, values in members.items()},
        truth=table[first],
        scores=np.array([known[part] for part in parts]),
        notes=notes,
    )


def _check_scores(truth: Floats, scores: Floats) -> None:
    known = ~np.isnan(truth)
    if bad := sorted(set(np.unique(truth[known])) - {0.0, 1.0}):
        raise UsageError(f"truth: {bad[0]:g}; give 1 (positive), 0 (negative) or NaN (not known)")
    if missing := int((~np.isfinite(scores[known])).sum()):
        raise UsageError(f"scores: {missing} are no finite numbers; leave those rows out, or make their truth NaN")
    outside = scores[(scores < -ROUNDING) | (scores > 1 + ROUNDING)]
    if len(outside):
        raise UsageError(
            f"scores: {len(outside)} lie outside [0, 1], as {outside[0]:.4g}; give probabilities (of a logit x: "
            "1 / (1 + exp(-x)))"
        )


def _of_texts(  # noqa: PLR0917 (as `read`)
    right: list[str], written: list[str], subjects: object, groups: object, labels: Sequence[str] | None, seed: object
) -> EvaluatedRows:
    rows = len(right)
    if len(written) != rows:
        raise UsageError(f"truth: {rows} references, scores: {len(written)} generated texts; give one for each")
    if not rows:
        raise UsageError("truth has no rows; give one row a text")
    owners, notes = _subjects(subjects, rows)
    members = _groups(groups, rows)
    parts = _by_seed(seed, rows)
    first = parts[0]
    for part in parts[1:]:
        _check_same(owners, first, part, [right[i] for i in part] == [right[i] for i in first])
    # As on the page: a blank reference is no reference, and its pair is not scored.
    scored = [place for place, row in enumerate(first) if right[row].strip()]
    if blank := len(first) - len(scored):
        notes = (*notes, f"{blank} of {len(first)} references are blank: their texts are not scored")
    kept = first[scored]
    nothing = np.zeros((len(kept), 0))
    return EvaluatedRows(
        subjects=_named(owners[kept]),
        labels=tuple(map(str, labels or ())),
        groups={name: values[kept] for name, values in members.items()},
        truth=nothing,
        scores=nothing[None],
        references=[right[row] for row in kept],
        generated=[[written[part[place]] for place in scored] for part in parts],
        notes=notes,
    )


def _texts(values: object) -> list[str] | None:
    """Return values [N] as texts, a missing one as ""; None where they are no texts but numbers."""
    import pandas as pd

    if isinstance(values, pd.DataFrame) or not hasattr(values, "__iter__") or isinstance(values, str):
        return None
    column = pd.Series(list(values), dtype=object)
    words = [value for value in column if isinstance(value, str)]
    if not words or not all(isinstance(value, str) or value is None or value != value for value in column):  # noqa: PLR0124
        return None
    # Numbers that were read as text are numbers.
    if any(word.strip() for word in words) and pd.to_numeric(pd.Series(words), errors="coerce").notna().all():
        return None
    return [value if isinstance(value, str) else "" for value in column]


def _numbers(values: object, name: str) -> Floats:
    import pandas as pd

    try:
        if isinstance(values, pd.DataFrame | pd.Series):
            return np.asarray(values.to_numpy(dtype=float, na_value=np.nan))
        return np.asarray(values, float)
    except (TypeError, ValueError):
        raise UsageError(f"{name}: give numbers, [rows] or [rows, labels], each row as long as the others") from None


def _same_columns(
    truth: object, scores: object, labels: Sequence[str] | None
) -> tuple[object, object, tuple[str, ...] | None]:
    """Return both tables with the columns in one order, and the names of the labels; None where nobody named them."""
    import pandas as pd

    names = None if labels is None else tuple(map(str, labels))
    if not isinstance(truth, pd.DataFrame) or not isinstance(scores, pd.DataFrame):
        return truth, scores, tuple(map(str, truth.columns)) if isinstance(truth, pd.DataFrame) and not names else names
    # By name: the two tables may have their columns in different orders.
    if sorted(map(str, truth.columns)) != sorted(map(str, scores.columns)):
        other = sorted({*map(str, truth.columns)} ^ {*map(str, scores.columns)})
        raise UsageError(f"truth and scores have other columns: {', '.join(other) or 'a name stands twice'}")
    scores = scores.set_axis(scores.columns.map(str), axis=1)[list(map(str, truth.columns))]
    return truth, scores, names or tuple(map(str, truth.columns))


def _subjects(subjects: object, rows: int) -> tuple[npt.NDArray[np.object_], tuple[str, ...]]:
    """Return the key of each row's subject [N], None where it has none, and a note on those."""
    import pandas as pd

    if subjects is None:
        column = pd.Series([None] * rows, dtype=object)
    elif isinstance(subjects, str) or not hasattr(subjects, "__iter__"):
        raise UsageError("subjects: give one for each row, or None where nobody knows them")
    else:
        column = pd.Series(list(subjects), dtype=object)
    if len(column) != rows:
        raise UsageError(f"{rows} rows of truth and {len(column)} subjects do not fit; give a subject a row")
    if column.map(lambda value: isinstance(value, list | tuple | set | dict | np.ndarray)).any():
        raise UsageError("subjects: give one id a row, no lists")
    # The rule of the splits: 7, 7.0 and 00007 are one patient, and two halves of one would count as independent.
    # As text: ids of one patient may come as numbers in some rows and as words in others.
    words = column.where(column.notna(), None).map(lambda value: None if value is None else str(value))
    # An array of texts has the word nan for a missing one.
    keys = {word: _key(word) for word in words.dropna().unique()}
    out = np.array([keys.get(word) for word in words], dtype=object)
    missing = sum(key is None for key in out)
    if not missing:
        return out, ()
    start = "1 row has no subject: it counts" if missing == 1 else f"{missing} rows have no subject: each counts"
    return out, (f"{start} as a subject of its own",)


def _key(word: str) -> str | None:
    return None if word.strip().lower() in MISSING else sameness.id_key(word)


def _named(owners: npt.NDArray[np.object_]) -> Texts:
    """Return the subject of each row [N]; a row without one is a subject of its own."""
    # A line feed is in no key, so that a made-up name equals none.
    return np.array([f"\n{row}" if key is None else str(key) for row, key in enumerate(owners)], dtype=str)


def _groups(groups: object, rows: int) -> dict[str, Texts]:
    import pandas as pd

    if groups is None:
        return {}
    if isinstance(groups, Mapping | pd.DataFrame):
        named = {str(name): groups[name] for name in groups}
    else:
        # One variable without a name.
        named = {str(getattr(groups, "name", None) or "group"): cast("Sequence[object]", groups)}
    out = {}
    for name, members in named.items():
        if isinstance(members, str) or not hasattr(members, "__iter__"):
            raise UsageError(f"groups: {name}: give the group of each row, as {{'sex': ['F', 'M', ...]}}")
        column = pd.Series(list(members), dtype=object)
        if len(column) != rows:
            raise UsageError(f"groups: {name} has {len(column)} values for {rows} rows")
        out[name] = np.array(["" if pd.isna(value) else str(value).strip() for value in column], dtype=str)
    return out


def _by_seed(seed: object, rows: int) -> list[npt.NDArray[np.intp]]:
    """Return the rows of each seed of training; one seed where none is named by row."""
    import pandas as pd

    if seed is None or isinstance(seed, int | np.integer):
        return [np.arange(rows)]
    if isinstance(seed, str | float) or not hasattr(seed, "__iter__"):
        raise UsageError(f"seed: {seed!r}; give the seed of training of each row, or none")
    column = pd.Series(list(seed), dtype=object)
    if len(column) != rows or column.isna().any():
        raise UsageError(f"seed: {int(column.notna().sum())} seeds of training for {rows} rows; give one for each")
    codes = pd.factorize(column.astype(str), sort=True)[0]
    return [np.flatnonzero(codes == code) for code in range(int(codes.max(initial=-1)) + 1)]


def _check_same(
    owners: npt.NDArray[np.object_], first: npt.NDArray[np.intp], other: npt.NDArray[np.intp], same_truth: bool
) -> None:
    if len(first) != len(other) or not np.array_equal(owners[first], owners[other]) or not same_truth:
        raise UsageError(
            "seed: each seed needs the same rows in the same order; subjects or truth of two seeds differ "
            f"({len(first)} and {len(other)} rows)"
        )
