"""Baselines on a matrix of features: scikit-learn as reference, the majority, masked labels."""

import numpy as np
import pytest
from sklearn.decomposition import PCA
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from cxr_ft.score.metrics import label_regression


def world(rows, seed, features=5):
    """Features, and two labels that they predict in part; the second label is masked in some rows."""
    rng = np.random.default_rng(seed)
    x = rng.normal(3.0, [1.0, 20.0, 1.0, 0.1, 1.0] + [1.0] * (features - 5), (rows, features))
    logit = np.stack([x[:, 0] - 3 + (x[:, 3] - 3) * 10, (3 - x[:, 2])], axis=1)
    y = (rng.random((rows, 2)) < 1 / (1 + np.exp(-logit))).astype(float)
    y[rng.random(rows) < 0.2, 1] = np.nan
    return x, y


@pytest.mark.parametrize("components", [None, 6])
def test_scores_are_those_of_scikit_learn_with_the_strength_that_val_prefers(components):
    (x, y), (x_val, y_val), (x_test, y_test) = (world(n, seed, 9) for seed, n in enumerate((150, 80, 200)))
    ours = label_regression.fit_features((x, y), (x_val, y_val), multi_label=True, components=components)
    assert label_regression.STRENGTHS == (0.1, 0.01, 1.0)
    areas, by_strength = [], []
    for strength in label_regression.STRENGTHS:
        scores, area = np.empty(y_test.shape), []
        # Standardised by all rows of train, those with a masked label too.
        steps = [StandardScaler(), *([PCA(6, random_state=0)] if components else [])]
        prepare = make_pipeline(*steps).fit(x)
        for label in range(2):
            known, known_val = ~np.isnan(y[:, label]), ~np.isnan(y_val[:, label])
            model = LogisticRegression(C=strength, max_iter=1000).fit(prepare.transform(x[known]), y[known, label])
            area.append(
                roc_auc_score(y_val[known_val, label], model.decision_function(prepare.transform(x_val[known_val])))
            )
            scores[:, label] = model.predict_proba(prepare.transform(x_test))[:, 1]
        areas.append(np.mean(area))
        by_strength.append(scores)
    np.testing.assert_allclose(ours.scores(x_test), by_strength[int(np.argmax(areas))], atol=1e-4)
    assert roc_auc_score(y_test[:, 0], ours.scores(x_test)[:, 0]) > 0.65


def test_without_features_the_scores_are_trains_prevalences():
    _, y = world(150, 0)
    nothing = np.zeros((150, 0))
    ours = label_regression.fit_features((nothing, y), (nothing[:40], y[:40]), multi_label=True)
    np.testing.assert_allclose(ours.scores(np.zeros((3, 0))), np.tile(np.nanmean(y, axis=0), (3, 1)))


def test_exclusive_labels_have_scores_that_add_up_to_one_and_a_class_without_rows_has_none():
    x, y = world(150, 0)
    one_hot = np.stack([y[:, 0], 1 - y[:, 0], np.zeros(150)], axis=1)
    ours = label_regression.fit_features((x, one_hot), (x[:50], one_hot[:50]), multi_label=False)
    scores = ours.scores(x)
    np.testing.assert_allclose(scores.sum(axis=1), 1)
    assert (scores[:, 2] == 0).all() and roc_auc_score(y[:, 0], scores[:, 0]) > 0.65


def test_a_label_of_one_class_or_unknown_gets_its_prevalence_or_a_half():
    x, y = world(60, 0)
    y = np.stack([y[:, 0], np.ones(60), np.full(60, np.nan)], axis=1)
    scores = label_regression.fit_features((x, y), (x, y), multi_label=True).scores(x[:4])
    assert (scores[:, 1] == 1).all() and (scores[:, 2] == 0.5).all() and len(set(scores[:, 0])) == 4


def test_the_most_frequent_answer_is_not_turned_around_by_a_threshold():
    """Of a label in a fifth of the rows it is no, and of one in four fifths yes."""
    truth = np.array([[1.0, 0.0], [0.0, 1.0], [0.0, 1.0], [0.0, 1.0], [0.0, 1.0]])
    scores = np.tile(truth.mean(axis=0), (5, 1))
    levels = label_regression.best_thresholds(truth, scores)
    assert (scores > levels).tolist() == [[False, True]] * 5
    varying = np.array([[0.4], [0.1], [0.1], [0.2], [0.1]])
    assert 0.2 < label_regression.best_thresholds(truth[:, :1], varying)[0] < 0.4
