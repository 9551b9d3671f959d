"""Measure how well a label is predicted without the content of the image: a confound that models may learn instead.

Sets put together from several sources often have one label from one hospital and another from the next: then the size
of the file says as much as the lungs. A logistic regression gets only such features and is evaluated on subjects it was
not fitted on (DeGrave et al., AI for radiographic COVID-19 detection selects shortcuts over signal, 2021, shows why).

Shapes: N rows, F features.
"""

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from cxr_ft.data.records import IDS, OPTIONAL, REPORT_TEXTS, order_key

if TYPE_CHECKING:
    import pandas as pd

Floats = NDArray[np.float64]
Ints = NDArray[np.intp]
#: A label whose interval lies above this counts as predicted without the image.
CONFOUNDED = 0.7
FOLDS, REPLICATES, SHUFFLES = 5, 500, 5
#: Rows used, at most (whole subjects at random), and the fewest subjects with and without a label.
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
#: Groups of features: the beginning of a feature's name.
GROUPS = ("size", "file", "header", "source", "intensity")


@dataclass(frozen=True, kw_only=True)
class Confound:
    """The accuracy of predicting one label from features that are not the content of the image.

    Args:
        label: its name.
        auroc, low, high: area under the ROC curve over held-out subjects with all features, and its 95 % interval
            (bootstrap of subjects).
        shuffled: the area with labels shuffled between subjects, the highest of SHUFFLES: the level of chance here.
        by: the area with one group of features alone.
        rows, positives: rows with a known label, and those of them where it is positive.
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
    def above_chance(self) -> bool:
        """Return whether the label is predicted far better than chance."""
        return self.low > max(CONFOUNDED, self.shuffled)

    def __str__(self) -> str:
        by = ", ".join(f"{name} {value:.2f}" for name, value in self.by.items())
        return (
            f"{self.label}: AUROC {self.auroc:.2f} ({self.low:.2f} to {self.high:.2f}; "
            f"labels shuffled: {self.shuffled:.2f}); {by}"
        )


def probe(
    table: "pd.DataFrame", measured: "pd.DataFrame", path: str | None, group: str | None
) -> tuple[list[Confound], list[str]]:
    """Return how well each label of `table` is predicted without the image, the best first; and notes.

    Args:
        measured: the result of `acquisition.measure`, by path; may be empty.
        path: the column of file names; None: there is none.
        group: the column of values that must stay in one fold, as subjects; None: each row is its own.
    """
    labels = _labels(table)
    if not labels:
        return [], ["the tables have no column of labels: the confound probe had nothing to predict"]
    groups = table[group] if group else table.index.astype(str).to_series(index=table.index)
    keep = _sample(groups.to_numpy(dtype=object))
    table, groups = table[keep].reset_index(drop=True), groups[keep].reset_index(drop=True)
    features = _features(table, measured, path, set(labels))
    if not features:
        return [], ["the tables have no feature besides the image itself: no confound probe"]
    subject = np.unique(groups.to_numpy(dtype=object), return_inverse=True)[1]
    confounds, few = [], []
    for label, values in labels.items():
        truth = values[keep]
        known = ~np.isnan(truth)
        # Subjects and not rows: a hundred films of two patients say nothing of others.
        if min(len(set(subject[known & (truth == value)])) for value in (0, 1)) < LEAST:
            few.append(label)
            continue
        parts = {name: x[known] for name, x in features.items()}
        confounds.append(_confound(label, truth[known] == 1, parts, subject[known]))
    notes = [f"too few subjects with and without it for the confound probe: {', '.join(few)}"] if few else []
    return sorted(confounds, key=lambda confound: (-confound.auroc, confound.label)), notes


def _confound(label: str, truth: NDArray[np.bool_], features: dict[str, Floats], subject: Ints) -> Confound:
    # A generator of its own for each label, so that labels added or left out change no other label's interval.
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


def _held_out(x: Floats, truth: NDArray[np.bool_], subject: Ints) -> Floats:
    """Return the score of each row [N] by a regression that was not fitted on its subject."""
    from sklearn.linear_model import LogisticRegression

    score = np.zeros(len(truth))
    # Folds by a hash: the same whatever order the rows come in.
    names = np.unique(subject)
    fold = np.array([order_key(0, str(name))[0] % FOLDS for name in names])[np.searchsorted(names, subject)]
    for k in range(FOLDS):
        train, test = fold != k, fold == k
        # With few subjects a fold can lack a class; its rows keep the score 0, and favour neither.
        if test.any() and len(set(truth[train])) == 2:
            # Strong regularisation and balanced classes: the probe should find a shortcut, not overfit rare categories.
            model = LogisticRegression(C=0.1, solver="newton-cholesky", class_weight="balanced")
            model.fit(x[train], truth[train])
            score[test] = model.decision_function(x[test])
    return score


def _shuffled(x: Floats, truth: NDArray[np.bool_], subject: Ints, rng: np.random.Generator) -> float:
    """Return the area with labels exchanged between subjects, each with that of its first row."""
    names, where = np.unique(subject, return_inverse=True)
    first = truth[np.unique(where, return_index=True)[1]]
    # Labels are exchanged between subjects: exchanged between rows they would lose what a subject's films share, and
    # the level of chance would come out too low.
    other = rng.permutation(first)[where] if len(names) < len(truth) else rng.permutation(truth)
    return _auroc(other, _held_out(x, other, subject))


def _auroc(truth: NDArray[np.bool_], score: Floats) -> float:
    """Return the area under the ROC curve by the ranks of the positives (Mann-Whitney); NaN where a class is empty."""
    from scipy.stats import rankdata

    positive = int(truth.sum())
    negative = len(truth) - positive
    if not positive or not negative:
        return float("nan")
    return float((rankdata(score)[truth].sum() - positive * (positive + 1) / 2) / (positive * negative))


def _interval(truth: NDArray[np.bool_], score: Floats, subject: Ints, rng: np.random.Generator) -> tuple[float, float]:
    """Return the middle 95 % of the area over bootstraps of subjects."""
    order = np.argsort(subject, kind="stable")
    rows = np.split(order, np.flatnonzero(np.diff(subject[order])) + 1)
    areas = []
    for _ in range(REPLICATES):
        # Whole subjects are drawn with replacement, since a subject's rows are not independent.
        drawn = np.concatenate([rows[i] for i in rng.integers(0, len(rows), len(rows))])
        areas.append(_auroc(truth[drawn], score[drawn]))
    # A replicate without one of the classes has no area.
    low, high = np.nanpercentile(areas, [2.5, 97.5])
    return float(low), float(high)


def _labels(table: "pd.DataFrame") -> dict[str, Floats]:
    """Return the labels as 1, 0, NaN (uncertain) [N]: each class of a column `label`, else columns of only 1, 0, -1."""
    import pandas as pd

    if "label" in table:
        classes = sorted(set(table["label"]) - {""})
        names = {f"{classes[1]} (not {classes[0]})": classes[1]} if len(classes) == 2 else {c: c for c in classes}
        return {name: np.array((table["label"] == label).tolist(), dtype=np.float64) for name, label in names.items()}
    columns: dict[str, Floats] = {}
    for name in [column for column in table if column not in NO_LABELS and not str(column).startswith("_")]:
        values = pd.to_numeric(table[name], errors="coerce").astype("float64")
        if (table[name] != "").any() and (values.isin([1, 0, -1]) | (table[name] == "")).all():
            # A blank counts as negative and an uncertain one as unknown, as in the splits' own defaults.
            columns[str(name)] = np.array(values.fillna(0).where(values != -1).tolist(), dtype=np.float64)
    return columns


def _sample(groups: NDArray[np.object_]) -> NDArray[np.bool_]:
    """Return which rows are used [N]: whole groups at random, about ROWS rows."""
    names, where, rows = np.unique(groups, return_inverse=True, return_counts=True)
    order = sorted(range(len(names)), key=lambda i: order_key(0, str(names[i])))
    taken = np.zeros(len(names), dtype=bool)
    # At least one group, even where the first alone has more than ROWS rows.
    taken[np.array(order)[np.cumsum(rows[order]) <= max(ROWS, rows[order[0]])]] = True
    return np.asarray(taken[where])


def _features(table: "pd.DataFrame", measured: "pd.DataFrame", path: str | None, labels: set[str]) -> dict[str, Floats]:
    """Return the features [N, F] of each group of GROUPS that has any."""
    import pandas as pd

    raw: dict[str, pd.Series[str]] = {f"source {c}": table[c] for c in table if str(c).lower() in SOURCES}
    if "view" in table:
        raw["header view"] = table["view"]
    if path:
        first = table[path].str.split("|").str[0]
        folders = first.str.split("/").str[:-1]
        # Only the upper folders: they often name a hospital or a release, deeper ones a patient.
        for depth in range(min(int(folders.str.len().max()), 3)):
            raw[f"source folder {depth}"] = folders.str[depth].fillna("")
        if "label" in table:  # a folder that is the class itself is the label, not a source
            raw = {k: v for k, v in raw.items() if not (k.startswith("source folder") and (v == table["label"]).all())}
        for column in [c for c in measured if c != "pixels"]:
            raw[str(column)] = first.map(measured[str(column)])
    columns = {name: _columns(values) for name, values in raw.items()}
    features: dict[str, Floats] = {}
    for group in GROUPS:
        parts = [x for name, x in columns.items() if name.startswith(group) and x.shape[1]]
        if parts:
            features[group] = np.concatenate(parts, axis=1)
    return features


def _columns(values: "pd.Series[str]") -> Floats:
    """Return a feature as columns [N, F]: a number as itself and as tenths, a category as its frequent values."""
    import pandas as pd

    numbers = pd.to_numeric(values, errors="coerce").astype("float64")
    # Few distinct numbers are codes and not amounts, such as the bits stored.
    if numbers.notna().sum() > 0.5 * len(values) and numbers.nunique() > VALUES:
        filled = numbers.fillna(numbers.median())
        # Tenths let a linear model use a value in the middle of a range, such as one detector's width.
        tenths = pd.get_dummies(pd.qcut(filled, 10, labels=False, duplicates="drop"), dtype="float64")
        spread_ = float(filled.std())
        return np.column_stack([(filled - filled.mean()) / spread_, tenths])
    words = values.astype("string").fillna("").str.strip().str.lower()
    counts = words.value_counts()
    common = sorted(counts[counts >= COMMON].index[:VALUES])
    # A feature of one value alone says nothing.
    columns_for = common if counts.size > 1 else []
    return (
        np.column_stack([(words == value).to_numpy(dtype=np.float64) for value in columns_for])
        if columns_for
        else _none(words)
    )


def _none(values: "pd.Series[str]") -> Floats:
    """Return no column for as many rows [N, 0]."""
    return np.zeros((len(values), 0))
