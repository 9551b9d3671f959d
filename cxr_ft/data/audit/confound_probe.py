"""Measure how well a label is predicted without the content of the image: a confound that models may learn instead.

Sets put together from several sources often have one label from one hospital and another from the next: then the size
of the file says as much as the lungs. A logistic regression gets only such features and is evaluated on subjects it was
not fitted on (DeGrave et al., AI for radiographic COVID-19 detection selects shortcuts over signal, 2021, shows why).

Shapes: N rows, F features.
"""

import dataclasses
import math
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from cxr_ft.data.audit.column_encoder import ColumnEncoder
from cxr_ft.data.manifest import ConfoundJson
from cxr_ft.data.records import IDS, OPTIONAL, REPORT_TEXTS, order_key

if TYPE_CHECKING:
    import pandas as pd

Floats = NDArray[np.float64]
Ints = NDArray[np.intp]
#: A label whose interval lies above this counts as predicted without the image.
CONFOUNDED = 0.7
FOLDS, REPLICATES, SHUFFLES = 5, 500, 5
#: Replicates at a time, which bounds memory.
CHUNK = 50
#: Principal components of the thumbnails that are used, and the name they go by in `Confound.by`.
COMPONENTS, THUMBNAIL = 40, "thumbnail"
#: Rows used, at most (whole subjects at random), and the fewest subjects with and without a label.
ROWS, LEAST = 6000, 20
#: Classes of a column `label`, at most, and the longest name of one.
CLASSES, LONGEST = 200, 60
#: Columns of a table that say where a row comes from.
SOURCES = ("source", "site", "hospital", "institution", "dataset", "scanner", "origin", "source_width", "source_height")
#: Columns of a table that hold what headers say, by the feature they are.
TABLE_HEADERS = {
    "view": "header view",
    "ViewPosition": "header view",
    "Manufacturer": "header manufacturer",
    "Rows": "size rows",
    "Columns": "size columns",
}
#: Columns that are no label although they hold only 0 and 1.
NO_LABELS = {
    *IDS,
    *OPTIONAL,
    *REPORT_TEXTS,
    *SOURCES,
    *TABLE_HEADERS,
    "path",
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
            None: not computed, since the area is below CONFOUNDED.
        by: the area with one group of features alone, and by THUMBNAIL with small images alone; these show the content
            of the image, and are no part of `auroc`. Empty where it is below CONFOUNDED in a quick probe.
        rows, positives: rows with a known label, and those of them where it is positive.
    """

    label: str
    auroc: float
    low: float
    high: float
    shuffled: float | None
    by: dict[str, float]
    rows: int
    positives: int

    @property
    def above_chance(self) -> bool:
        """Return whether the label is predicted far better than chance."""
        return self.low > max(CONFOUNDED, self.shuffled or 0.0)

    @property
    def signal(self) -> str:
        """Return the group of features that predicts it best by itself; "" where none was tried alone."""
        alone = {name: area for name, area in self.by.items() if name != THUMBNAIL and not math.isnan(area)}
        return max(alone, key=lambda name: alone[name], default="")

    def to_json(self) -> ConfoundJson:
        """Return the record of the manifest."""
        return {
            "label": self.label,
            "auroc": round(self.auroc, 3),
            "low": round(self.low, 3),
            "high": round(self.high, 3),
            "shuffled": None if self.shuffled is None else round(self.shuffled, 3),
            "by": {name: round(area, 3) for name, area in self.by.items() if not math.isnan(area)},
            "signal": self.signal,
            "rows": self.rows,
            "positives": self.positives,
            "confounded": self.above_chance,
        }

    def __str__(self) -> str:
        by = ", ".join(f"{name} {value:.2f}" for name, value in self.by.items())
        chance = "" if self.shuffled is None else f"; labels shuffled: {self.shuffled:.2f}"
        return (
            f"{self.label}: AUROC {self.auroc:.2f} ({self.low:.2f} to {self.high:.2f}{chance}){f'; {by}' if by else ''}"
        )


@dataclass(frozen=True, kw_only=True)
class ProbeOptions:
    """Limit the work of a probe.

    Args:
        quick: try single groups of features and shuffled labels only for a label whose area is above CONFOUNDED.
        seconds: processor time after which no further label begins; None: no limit.
    """

    quick: bool = False
    seconds: float | None = None


def probe(
    table: "pd.DataFrame",
    measured: "pd.DataFrame",
    path: str | None,
    group: str | None,
    *,
    labels: Mapping[str, Floats] | None = None,
    thumbnails: Mapping[str, NDArray[np.uint8]] | None = None,
    options: ProbeOptions | None = None,
) -> tuple[list[Confound], list[str]]:
    """Return how well each label of `table` is predicted without the image, the best first; and notes.

    Args:
        measured: the result of `acquisition.Acquisitions.measured`, by path; may be empty.
        path: the column of file names; None: there is none.
        group: the column of values that must stay in one fold, as subjects; None: each row is its own.
        labels: 1, 0 or NaN (unknown) of each row [N]; None: what columns of the table look like labels.
        thumbnails: small images of some of the paths.
        options: None: the defaults.
    """
    options, began = options or ProbeOptions(), time.process_time()
    labels = label_columns(table) if labels is None else labels
    if not labels:
        return [], ["the tables have no column of labels: the confound probe had nothing to predict"]
    groups = table[group] if group else table.index.astype(str).to_series(index=table.index)
    keep = _sample(groups.to_numpy(dtype=object))
    table, groups = table[keep].reset_index(drop=True), groups[keep].reset_index(drop=True)
    features = _features(table, measured, path, set(labels))
    if not features:
        return [], ["the tables have no feature besides the image itself: no confound probe"]
    subject = np.unique(groups.to_numpy(dtype=object), return_inverse=True)[1]
    small = _Thumbnails(table[path], thumbnails or {}) if path else None
    confounds, few, late = [], [], []
    for label, values in labels.items():
        # The processor's time: a busy machine must not change what is recorded.
        if options.seconds is not None and time.process_time() - began > options.seconds:
            late.append(label)
            continue
        truth = values[keep]
        known = ~np.isnan(truth)
        # Subjects and not rows: a hundred films of two patients say nothing of others.
        if min(len(set(subject[known & (truth == value)])) for value in (0, 1)) < LEAST:
            few.append(label)
            continue
        parts = {name: x[known] for name, x in features.items()}
        confound = _confound(label, truth[known] == 1, parts, subject[known], quick=options.quick)
        if confound.by and small is not None and (area := small.area(truth, subject)) is not None:
            confound = dataclasses.replace(confound, by={**confound.by, THUMBNAIL: area})
        confounds.append(confound)
    notes = [f"too few subjects with and without it for the confound probe: {', '.join(few)}"] if few else []
    notes += [f"not probed for confounds, for want of time: {', '.join(late)} (cxr-split --audit does)"] if late else []
    return sorted(confounds, key=lambda confound: (-confound.auroc, confound.label)), notes


def _confound(
    label: str, truth: NDArray[np.bool_], features: dict[str, Floats], subject: Ints, *, quick: bool
) -> Confound:
    # A generator of its own for each label, so that labels added or left out change no other label's interval.
    rng = np.random.default_rng(0)
    everything = np.column_stack(list(features.values()))
    score = _held_out(everything, truth, subject)
    area = _auroc(truth, score)
    low, high = _interval(truth, score, subject, rng)
    # Below that level no shuffled label could make a finding of it.
    whole = not quick or area > CONFOUNDED
    return Confound(
        label=label,
        auroc=area,
        low=low,
        high=high,
        shuffled=max(_shuffled(everything, truth, subject, rng) for _ in range(SHUFFLES)) if whole else None,
        by={name: _auroc(truth, _held_out(x, truth, subject)) for name, x in features.items()} if whole else {},
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
    names, where = np.unique(subject, return_inverse=True)
    order = np.argsort(score, kind="stable")
    # Rows of one score are one step of the ROC curve: half of their pairs count.
    steps = np.flatnonzero(np.diff(score[order], prepend=-np.inf))
    where, positive = where[order], truth[order]
    areas: list[float] = []
    for _ in range(0, REPLICATES, CHUNK):
        # Whole subjects are drawn with replacement, since a subject's rows are not independent.
        drawn = rng.integers(0, len(names), (CHUNK, len(names))) + len(names) * np.arange(CHUNK)[:, None]
        times = np.bincount(drawn.ravel(), minlength=CHUNK * len(names)).reshape(CHUNK, -1)[:, where].astype(np.float64)
        pos = np.add.reduceat(times * positive, steps, axis=1)
        neg = np.add.reduceat(times * ~positive, steps, axis=1)
        won = (pos * (neg.cumsum(axis=1) - neg / 2)).sum(axis=1)
        pairs = pos.sum(axis=1) * neg.sum(axis=1)
        # A replicate without one of the classes has no area.
        areas += (won[pairs > 0] / pairs[pairs > 0]).tolist()
    low, high = np.percentile(areas, [2.5, 97.5])
    return float(low), float(high)


class _Thumbnails:
    """The small images of a table's rows, as principal components; computed when the first label asks."""

    def __init__(self, paths: "pd.Series[str]", thumbnails: Mapping[str, NDArray[np.uint8]]) -> None:
        first = paths.str.split("|").str[0].tolist()
        self.shown = np.array([path in thumbnails for path in first], dtype=bool)
        self._images = [thumbnails[path].ravel() for path in first if path in thumbnails]
        self._columns: Floats | None = None

    def area(self, truth: Floats, subject: Ints) -> float | None:
        """Return the area with thumbnails alone, over the rows that have one; None where too few have."""
        known = ~np.isnan(truth) & self.shown
        if min(len(set(subject[known & (truth == value)])) for value in (0, 1)) < LEAST:
            return None
        columns = self._components()[known[self.shown]]
        return _auroc(truth[known] == 1, _held_out(columns, truth[known] == 1, subject[known]))

    def _components(self) -> Floats:
        """Return the first COMPONENTS principal components, each of variance 1 [rows with a thumbnail, C]."""
        from scipy.linalg import eigh

        if self._columns is None:
            x = np.stack(self._images).astype(np.float64)
            x -= x.mean(axis=0)
            last = x.shape[1] - 1
            values, vectors = eigh(x.T @ x / len(x), subset_by_index=[last - COMPONENTS + 1, last])
            real = values > values[-1] * 1e-9
            self._columns = (x @ vectors[:, real]) / np.sqrt(values[real])
        return self._columns


def label_columns(table: "pd.DataFrame", *, each_class: bool = False) -> dict[str, Floats]:
    """Return the labels as 1, 0, NaN (uncertain) [N]: each class of a column `label`, else columns of only 1, 0, -1.

    Args:
        each_class: of two classes return both, and not one as the contrary of the other.
    """
    import pandas as pd

    if "label" in table:
        classes = sorted(set(table["label"]) - {""})
        # A column of free text or of numbers is no column of classes, and no text of a row is ever shown.
        if len(classes) > CLASSES or any(len(name) > LONGEST for name in classes):
            return {}
        pair = len(classes) == 2 and not each_class
        names = {f"{classes[1]} (not {classes[0]})": classes[1]} if pair else {c: c for c in classes}
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
    raw |= {name: table[column] for column, name in TABLE_HEADERS.items() if column in table}
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
    columns = {name: ColumnEncoder.fit(values).encode(values) for name, values in raw.items()}
    features: dict[str, Floats] = {}
    for group in GROUPS:
        parts = [x for name, x in columns.items() if name.startswith(group) and x.shape[1]]
        if parts:
            features[group] = np.concatenate(parts, axis=1)
    return features
