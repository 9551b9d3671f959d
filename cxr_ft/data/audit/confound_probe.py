"""What can be told about a label without looking at the film: a warning that the sides of a label differ in more.

Sets put together from several sources often have one label from one hospital and another from the next: then the size
of the file says as much as the lungs. A logistic regression is given only such things and judged on subjects it has not
seen (DeGrave et al., AI for radiographic COVID-19 detection selects shortcuts over signal, 2021, shows why).
"""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from cxr_ft.data.records import IDS, OPTIONAL, REPORT_TEXTS, order_key

if TYPE_CHECKING:
    import pandas as pd

Floats = NDArray[np.float64]
#: The lower end of the interval from which on a label counts as told without the film.
FOUND = 0.7
FOLDS, REPLICATES, SHUFFLES = 5, 500, 5
#: Rows looked at, at most, whole subjects by chance; and subjects with and without a label, at least.
ROWS, LEAST = 6000, 20
#: Values of a category that get a column of their own, and the rows they need.
VALUES, COMMON = 20, 5
#: Columns of a table that say where a row comes from.
SOURCES = ("source", "site", "hospital", "institution", "dataset", "scanner", "origin", "source_width", "source_height")
#: Columns that are no label although they hold only 0 and 1.
NO_LABELS = {
    *IDS,
    *OPTIONAL,
    *REPORT_TEXTS,
    *SOURCES,
    "path",
    "view",
    "split",
    "weight",
    "label",
    "mini_report",
    "text",
}
#: What a feature belongs to, by the beginning of its name.
GROUPS = ("size", "file", "header", "source", "intensity")


@dataclass(frozen=True, kw_only=True)
class Confound:
    """How well one label is told from things that are not the film.

    Args:
        label: its name.
        auroc, low, high: area under the ROC curve over held-out subjects with all features, and its 95 % interval
            (bootstrap of subjects).
        shuffled: the same with the labels shuffled between subjects, the highest of SHUFFLES: what chance gives here.
        by: the area with one group of features alone.
        rows, positives: what it rests on.
    """

    label: str
    auroc: float
    low: float
    high: float
    shuffled: float
    by: dict[str, float]
    rows: int
    positives: int

    @property
    def found(self) -> bool:
        """Whether the label is told far better than chance."""
        return self.low > max(FOUND, self.shuffled)

    def __str__(self) -> str:
        by = ", ".join(f"{name} {value:.2f}" for name, value in self.by.items())
        return (
            f"{self.label}: AUROC {self.auroc:.2f} ({self.low:.2f} to {self.high:.2f}; "
            f"labels shuffled: {self.shuffled:.2f}); {by}"
        )


def probe(
    table: "pd.DataFrame", measured: "pd.DataFrame", path: str | None, group: str | None
) -> tuple[list[Confound], list[str]]:
    """How well each label of `table` is told without the film, the best told first; and what is to be said.

    Args:
        measured: of `acquisition.measure`, by path; may be empty.
        path, group: the columns of the files and of what must stand in one fold; None where there is none.
    """
    labels = _labels(table)
    if not labels:
        return [], ["no column of labels was found: the confound probe had nothing to predict"]
    groups = table[group] if group else table.index.astype(str).to_series(index=table.index)
    keep = _some(groups.to_numpy(dtype=object))
    table, groups = table[keep].reset_index(drop=True), groups[keep].reset_index(drop=True)
    features = _features(table, measured, path, set(labels))
    if not features:
        return [], ["nothing that could tell a label without the film stands in the tables: no confound probe"]
    subject = np.unique(groups.to_numpy(dtype=object), return_inverse=True)[1]
    found, few = [], []
    for label, values in labels.items():
        truth = values[keep]
        stated = ~np.isnan(truth)
        if min(len(set(subject[stated & (truth == value)])) for value in (0, 1)) < LEAST:
            few.append(label)
            continue
        found.append(_confound(label, truth[stated] == 1, {k: x[stated] for k, x in features.items()}, subject[stated]))
    notes = [f"too few subjects with and without it for the confound probe: {', '.join(few)}"] if few else []
    return sorted(found, key=lambda one: (-one.auroc, one.label)), notes


def _confound(label: str, truth: NDArray[np.bool_], features: dict[str, Floats], subject: NDArray[Any]) -> Confound:
    rng = np.random.default_rng(0)
    everything = np.column_stack(list(features.values()))
    score = _held_out(everything, truth, subject)
    shuffled = [_shuffled(everything, truth, subject, rng) for _ in range(SHUFFLES)]
    low, high = _interval(truth, score, subject, rng)
    return Confound(
        label=label,
        auroc=_auroc(truth, score),
        low=low,
        high=high,
        shuffled=max(shuffled),
        by={name: _auroc(truth, _held_out(x, truth, subject)) for name, x in features.items()},
        rows=len(truth),
        positives=int(truth.sum()),
    )


def _held_out(x: Floats, truth: NDArray[np.bool_], subject: NDArray[Any]) -> Floats:
    """Scores of each row by a regression that has not seen its subject."""
    from sklearn.linear_model import LogisticRegression

    score = np.zeros(len(truth))
    # Folds by a hash: the same whatever order the rows come in.
    names = np.unique(subject)
    fold = np.array([order_key(0, str(name))[0] % FOLDS for name in names])[np.searchsorted(names, subject)]
    for k in range(FOLDS):
        train, test = fold != k, fold == k
        if test.any() and len(set(truth[train])) == 2:
            model = LogisticRegression(C=0.1, solver="newton-cholesky", class_weight="balanced")
            model.fit(x[train], truth[train])
            score[test] = model.decision_function(x[test])
    return score


def _shuffled(x: Floats, truth: NDArray[np.bool_], subject: NDArray[Any], rng: np.random.Generator) -> float:
    names, where = np.unique(subject, return_inverse=True)
    first = truth[np.unique(where, return_index=True)[1]]
    other = rng.permutation(first)[where] if len(names) < len(truth) else rng.permutation(truth)
    return _auroc(other, _held_out(x, other, subject))


def _auroc(truth: NDArray[np.bool_], score: Floats) -> float:
    from scipy.stats import rankdata

    positive = int(truth.sum())
    negative = len(truth) - positive
    if not positive or not negative:
        return float("nan")
    return float((rankdata(score)[truth].sum() - positive * (positive + 1) / 2) / (positive * negative))


def _interval(
    truth: NDArray[np.bool_], score: Floats, subject: NDArray[Any], rng: np.random.Generator
) -> tuple[float, float]:
    """The middle 95 % over bootstraps of subjects."""
    order = np.argsort(subject, kind="stable")
    rows = np.split(order, np.flatnonzero(np.diff(subject[order])) + 1)
    areas = []
    for _ in range(REPLICATES):
        drawn = np.concatenate([rows[i] for i in rng.integers(0, len(rows), len(rows))])
        areas.append(_auroc(truth[drawn], score[drawn]))
    low, high = np.nanpercentile(areas, [2.5, 97.5])
    return float(low), float(high)


def _labels(table: "pd.DataFrame") -> dict[str, Floats]:
    """The label columns as 1, 0, NaN (uncertain): of one column `label` each class, else columns of only 1, 0, -1."""
    import pandas as pd

    if "label" in table:
        classes = sorted(set(table["label"]) - {""})
        names = {f"{classes[1]} (not {classes[0]})": classes[1]} if len(classes) == 2 else {c: c for c in classes}
        return {name: np.array((table["label"] == label).tolist(), dtype=np.float64) for name, label in names.items()}
    found: dict[str, Floats] = {}
    for name in [column for column in table if column not in NO_LABELS and not str(column).startswith("_")]:
        values = pd.to_numeric(table[name], errors="coerce").astype("float64")
        if (table[name] != "").any() and (values.isin([1, 0, -1]) | (table[name] == "")).all():
            found[str(name)] = np.array(values.fillna(0).where(values != -1).tolist(), dtype=np.float64)
    return found


def _some(groups: NDArray[np.object_]) -> NDArray[np.bool_]:
    """Whole groups by chance, about ROWS rows of them."""
    names, where, rows = np.unique(groups, return_inverse=True, return_counts=True)
    order = sorted(range(len(names)), key=lambda i: order_key(0, str(names[i])))
    taken = np.zeros(len(names), dtype=bool)
    taken[np.array(order)[np.cumsum(rows[order]) <= max(ROWS, rows[order[0]])]] = True
    return np.asarray(taken[where])


def _features(table: "pd.DataFrame", measured: "pd.DataFrame", path: str | None, labels: set[str]) -> dict[str, Floats]:
    """The features [N, F] of each group that has any."""
    import pandas as pd

    raw: dict[str, pd.Series[Any]] = {f"source {c}": table[c] for c in table if str(c).lower() in SOURCES}
    if "view" in table:
        raw["header view"] = table["view"]
    if path:
        first = table[path].str.split("|").str[0]
        folders = first.str.split("/").str[:-1]
        for depth in range(min(int(folders.str.len().max()), 3)):
            raw[f"source folder {depth}"] = folders.str[depth].fillna("")
        if "label" in table:  # a folder that is the class itself is the label, not a source
            raw = {k: v for k, v in raw.items() if not (k.startswith("source folder") and (v == table["label"]).all())}
        for column in [c for c in measured if c != "pixels"]:
            raw[str(column)] = first.map(measured[str(column)])
    columns = {name: _columns(values) for name, values in raw.items()}
    found: dict[str, Floats] = {}
    for group in GROUPS:
        parts = [x for name, x in columns.items() if name.startswith(group) and x.shape[1]]
        if parts:
            found[group] = np.concatenate(parts, axis=1)
    return found


def _columns(values: "pd.Series[Any]") -> Floats:
    """A feature as columns: a number as itself and as tenths, a category as its frequent values."""
    import pandas as pd

    numbers = pd.to_numeric(values, errors="coerce").astype("float64")
    if numbers.notna().sum() > 0.5 * len(values) and numbers.nunique() > VALUES:
        filled = numbers.fillna(numbers.median())
        tenths = pd.get_dummies(pd.qcut(filled, 10, labels=False, duplicates="drop"), dtype="float64")
        spread_ = float(filled.std())
        return np.column_stack([(filled - filled.mean()) / spread_, tenths])
    words = values.astype("string").fillna("").str.strip().str.lower()
    counts = words.value_counts()
    common = sorted(counts[counts >= COMMON].index[:VALUES])
    # Of one value only nothing can be told.
    kept = common if counts.size > 1 else []
    return np.column_stack([(words == value).to_numpy(dtype=np.float64) for value in kept]) if kept else _none(words)


def _none(values: "pd.Series[str]") -> Floats:
    return np.zeros((len(values), 0))
