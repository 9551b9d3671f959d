"""Fit logistic regressions to labels from a matrix of features, for baselines: one a label, or one over all classes.

Shapes: N rows of train, M rows evaluated, L labels, F features.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from cxr_ft.score.arrays import Metrics
from cxr_ft.score.metrics import classification, registry

if TYPE_CHECKING:
    from scipy.sparse import csr_matrix
    from sklearn.decomposition import PCA
    from sklearn.linear_model import LogisticRegression
    from sklearn.preprocessing import StandardScaler

Floats = NDArray[np.float64]
#: Steps of the solver, at most.
STEPS = 300
#: Inverse strengths of the ridge, of which the one that is best on val is taken; the first of equals.
STRENGTHS = (0.1, 0.01, 1.0)
#: What is recorded of a baseline's metrics.
RECORDED = ("n", "accuracy", "macro", "micro", "undefined")


@dataclass(frozen=True, kw_only=True)
class LabelRegression:
    """Logistic regressions of labels.

    Args:
        prevalence: of each label in train [L], None where nothing is known of it.
        multi_label: whether a row may have several labels.
        models: scikit-learn's: one, or one a label; None where train has one class only, or there is no feature.
    """

    prevalence: tuple[float | None, ...]
    multi_label: bool
    models: "tuple[LogisticRegression | None, ...]"

    def majority(self, rows: int) -> Floats:
        """Return the same scores for every row [M, L]: how often train has each label, 0.5 where that is not known."""
        return np.tile([0.5 if share is None else share for share in self.prevalence], (rows, 1))

    def scores(self, features: "Floats | csr_matrix") -> Floats:
        """Return the scores [M, L] of rows with `features` [M, F]."""
        # Labels without a model keep the majority's scores, which are then all that train teaches.
        out = self.majority(features.shape[0])
        if not self.multi_label:
            (model,) = self.models
            # A class that train lacks has no column in the model; its score is 0.
            if model is not None:
                out = np.zeros_like(out)
                out[:, model.classes_] = model.predict_proba(features)
            return out
        for label, model in enumerate(self.models):
            if model is not None:
                out[:, label] = model.predict_proba(features)[:, 1]
        return out


def fit(features: "Floats | csr_matrix", targets: Floats, *, multi_label: bool, strength: float) -> LabelRegression:
    """Fit regressions to `features` [N, F] and `targets` [N, L] 1, 0 or NaN (masked); one-hot for single-label data.

    Args:
        strength: inverse strength of the ridge, scikit-learn's C.
    """
    targets = np.asarray(targets, float)
    known = ~np.isnan(targets)
    if not multi_label:
        # Of a row with one label a masked class could be the true one.
        known[~known.all(axis=1)] = False
    share = [
        float(column[rows].mean()) if rows.any() else None for column, rows in zip(targets.T, known.T, strict=True)
    ]
    if multi_label:
        pairs = [(features[k], column[k] > 0.5) for column, k in zip(targets.T, known.T, strict=True)]
    else:
        whole = known.all(axis=1)
        # One model over all classes, so that the scores of a row add up to 1.
        pairs = [(features[whole], targets[whole].argmax(axis=1))]
    models = tuple(_regression(rows, classes, strength) for rows, classes in pairs)
    return LabelRegression(prevalence=tuple(share), multi_label=multi_label, models=models)


def _regression(rows: "Floats | csr_matrix", classes: Floats, strength: float) -> "LogisticRegression | None":
    """Fit a logistic regression of some classes; None where there is one class, or nothing to learn from."""
    from sklearn.linear_model import LogisticRegression

    if rows.shape[1] == 0 or len(np.unique(classes)) < 2:
        return None
    return LogisticRegression(C=strength, max_iter=STEPS).fit(rows, classes)


@dataclass(frozen=True, kw_only=True)
class Projection:
    """Features standardised by train, and their principal components where they are many.

    Args:
        scaler, components: scikit-learn's; None: this step is left out.
    """

    scaler: "StandardScaler | None" = None
    components: "PCA | None" = None

    @classmethod
    def fit(cls, features: Floats, components: int | None) -> "Projection":
        """Learn from train's `features` [N, F], F above 0; no more than `components` are kept, None: all of F."""
        from sklearn.decomposition import PCA
        from sklearn.preprocessing import StandardScaler

        scaler = StandardScaler().fit(features)
        if components is None or features.shape[1] <= components:
            return cls(scaler=scaler)
        # A fixed seed: the solver for many features is a random one.
        pca = PCA(min(components, len(features)), random_state=0).fit(scaler.transform(features))
        return cls(scaler=scaler, components=pca)

    def columns(self, features: Floats) -> Floats:
        """Return what the regression gets of rows with `features` [M, F]."""
        scaled = features if self.scaler is None else self.scaler.transform(features)
        return np.asarray(scaled if self.components is None else self.components.transform(scaled))


@dataclass(frozen=True, kw_only=True)
class FeatureBaseline:
    """A baseline on a matrix of features: a regression of their projection."""

    projection: Projection
    regression: LabelRegression

    def scores(self, features: Floats) -> Floats:
        """Return the scores [M, L] of rows with `features` [M, F]."""
        return self.regression.scores(self.projection.columns(features))


def fit_features(
    train: tuple[Floats, Floats],
    val: tuple[Floats, Floats],
    *,
    multi_label: bool,
    components: int | None = None,
) -> FeatureBaseline:
    """Fit a baseline: everything to train, but for the strength of the ridge, which val chooses.

    Args:
        train: features [N, F] and targets [N, L] 1, 0 or NaN; `val`: the same of val.
        multi_label: whether a row may have several labels.
        components: how many principal components are used, at most; None: the features themselves.

    Returns:
        Without features (F = 0) the majority: the prevalences of train for every row.
    """
    (features, targets), (others, truth) = train, val
    # A scaler refuses a table without columns.
    projection = Projection.fit(features, components) if features.shape[1] else Projection()
    columns, columns_of_val = projection.columns(features), projection.columns(others)
    strengths = STRENGTHS if features.shape[1] else STRENGTHS[:1]
    fitted = [fit(columns, targets, multi_label=multi_label, strength=strength) for strength in strengths]
    primary = registry.primary("scores")
    values = [float(primary.over_rows(truth, regression.scores(columns_of_val))) for regression in fitted]
    # Where val says nothing all are equal, and the first is taken.
    best = int(np.argmax(np.nan_to_num(values, nan=-1.0)))
    return FeatureBaseline(projection=projection, regression=fitted[best])


def best_thresholds(truth: Floats, scores: Floats) -> list[float]:
    """Return `classification.best_thresholds` [L]; 0.5 for a label whose scores are all equal.

    The best F1 of one score for every row is that of calling every row positive, however rare the label is: the most
    frequent answer would be turned around.
    """
    chosen = classification.best_thresholds(truth, scores)
    return [0.5 if equal else level for level, equal in zip(chosen, np.ptp(scores, axis=0) == 0, strict=True)]


def metrics(
    scores: Floats, truth: Floats, labels: Sequence[str], thresholds: Sequence[float] | None, *, multi_label: bool
) -> Metrics:
    """Return what is recorded of a baseline's `scores` [M, L]: the metrics of `classification.evaluate`, JSON-ready."""
    levels = None if thresholds is None else list(thresholds)
    measured = classification.evaluate(truth, scores, labels, levels, multi_label)
    return {key: measured[key] for key in RECORDED if key in measured}
