"""Fit the baselines of every model that reads texts: the majority of train, and TF-IDF with logistic regression.

A fine-tuned model that does not beat them has learnt nothing that counting words would not give. Both are fitted on
train alone and evaluated like the model, by `classification.evaluate`, with thresholds chosen on val where labels are
several. Same input, same numbers: nothing is drawn by chance.

Shapes: N rows of train, M rows evaluated, L labels.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from cxr_ft.score.arrays import Metrics
from cxr_ft.score.metrics import label_regression, labeler
from cxr_ft.score.metrics.label_regression import LabelRegression

if TYPE_CHECKING:
    from scipy.sparse import csr_matrix
    from sklearn.feature_extraction.text import TfidfVectorizer

Floats = NDArray[np.float64]
#: Words and pairs of words that are counted, at most, of the texts and of the second texts each.
WORDS = 100_000
#: The inverse strength of the ridge, larger than scikit-learn's 1: TF-IDF rows have length 1, so weights are large.
STRENGTH = 10.0
_PIECE = re.compile(r"\w+|[^\w\s]+")


@dataclass(frozen=True, kw_only=True)
class TextBaselines:
    """Baselines fitted on the texts of train.

    Args:
        counters: scikit-learn's TF-IDF of the texts, and of the second texts where there are some.
        regression: of their rows; it has the prevalences, too.
    """

    counters: "tuple[TfidfVectorizer | None, ...]"
    regression: LabelRegression

    def majority(self, rows: int) -> Floats:
        """Return the same scores for every row [M, L]: how often train has each label, 0.5 where that is not known."""
        return self.regression.majority(rows)

    def tfidf_logreg(self, texts: Sequence[str], pairs: Sequence[str] = ()) -> Floats:
        """Return the scores [M, L] of logistic regression."""
        return self.regression.scores(_counts(self.counters, texts, pairs))


def fit(texts: Sequence[str], targets: Floats, *, multi_label: bool, pairs: Sequence[str] = ()) -> TextBaselines:
    """Fit the baselines to training texts.

    Args:
        texts: N texts.
        targets: [N, L] 1, 0 or NaN (masked); one-hot for single-label data.
        pairs: their second texts, or nothing at all.

    Raises:
        ValueError: where there are no texts, or the lengths differ.
    """
    from scipy.sparse import hstack

    targets = np.asarray(targets, float)
    if not len(texts) == len(targets) > 0 or len(pairs) not in (0, len(texts)):
        raise ValueError(f"{len(texts)} texts, {len(pairs)} second texts and targets {targets.shape} do not fit")
    counters, columns = zip(*(_counter(column) for column in (texts, pairs) if len(column)), strict=True)
    rows = hstack(columns, format="csr")
    regression = label_regression.fit(rows, targets, multi_label=multi_label, strength=STRENGTH)
    return TextBaselines(counters=counters, regression=regression)


def thresholds(
    baselines: TextBaselines,
    texts: Sequence[str],
    truth: Floats,
    *,
    pairs: Sequence[str] = (),
    ruled: Floats | None = None,
) -> dict[str, list[float]]:
    """Return the thresholds of each baseline that are best on val, for `evaluate`; the arguments as there."""
    found = scores(baselines, texts, pairs=pairs, ruled=ruled)
    return {name: label_regression.best_thresholds(truth, score) for name, score in found.items()}


def evaluate(
    baselines: TextBaselines,
    texts: Sequence[str],
    truth: Floats,
    labels: Sequence[str],
    *,
    pairs: Sequence[str] = (),
    ruled: Floats | None = None,
    chosen: Mapping[str, Sequence[float]] | None = None,
) -> dict[str, Metrics]:
    """Score the baselines on some texts.

    Args:
        truth: [M, L] 1, 0 or NaN.
        labels: the L names.
        pairs: the second texts, where train had some.
        ruled: the labels that a rule-based labeler reads from the texts [M, L], see `by_rules`; None: no such baseline.
        chosen: each baseline's `thresholds`; None: 0.5. Unused when single-label.

    Returns:
        JSON-ready: "majority", "tfidf_logreg" and, with `ruled`, "rule_labeler", each with "n", "macro", "micro",
        "undefined" and, single-label, "accuracy", as `classification.evaluate` gives them.

    Raises:
        ValueError: where the shapes disagree.
    """
    multi_label = baselines.regression.multi_label
    return {
        name: label_regression.metrics(
            score, truth, labels, None if chosen is None else chosen[name], multi_label=multi_label
        )
        for name, score in scores(baselines, texts, pairs=pairs, ruled=ruled).items()
    }


def scores(
    baselines: TextBaselines, texts: Sequence[str], *, pairs: Sequence[str] = (), ruled: Floats | None = None
) -> dict[str, Floats]:
    """Return the scores [M, L] of each baseline; the arguments as for `evaluate`."""
    found = {"majority": baselines.majority(len(texts)), "tfidf_logreg": baselines.tfidf_logreg(texts, pairs)}
    return found if ruled is None else {**found, "rule_labeler": ruled_scores(ruled)}


def by_rules(texts: Sequence[str], labels: Sequence[str]) -> Floats | None:
    """Return the labels that the rule-based labeler reads from each text [M, L]: 1, 0, -1, or NaN for no mention.

    None where it does not know all of the labels: it is a baseline for CheXpert's labels alone.
    """
    if not set(labels) <= set(labeler.LABELS):
        return None
    return labeler.table(texts)[:, [labeler.LABELS.index(name) for name in labels]]


def ruled_scores(ruled: Floats) -> Floats:
    """Return a labeler's labels as scores [M, L]: positive 1, uncertain a half, negative or no mention 0."""
    return np.select([ruled == 1, ruled == -1], [1.0, 0.5], default=0.0)


def _terms(text: str) -> list[str]:
    """Return words, runs of signs, and pairs of neighbours. scikit-learn's own n-grams take ten times as long."""
    pieces = _PIECE.findall(text.lower())
    return [*pieces, *(f"{a} {b}" for a, b in pairwise(pieces))]


def _counter(texts: Sequence[str]) -> "tuple[TfidfVectorizer | None, csr_matrix]":
    """Return TF-IDF and its rows of the texts, sparse [N, W]; None and no columns where all texts are blank."""
    from scipy.sparse import csr_matrix
    from sklearn.feature_extraction.text import TfidfVectorizer

    # scikit-learn refuses an empty vocabulary.
    if not any(text.strip() for text in texts):
        return None, csr_matrix((len(texts), 0))
    # float32: 200,000 columns of every text in float64 would double the memory. The logarithm of counts, since ten
    # mentions are not ten times the evidence of one.
    counter = TfidfVectorizer(analyzer=_terms, sublinear_tf=True, max_features=WORDS, dtype=np.float32)
    return counter, counter.fit_transform(texts)


def _counts(counters: "Sequence[TfidfVectorizer | None]", texts: Sequence[str], pairs: Sequence[str]) -> "csr_matrix":
    """Return the TF-IDF rows, sparse [M, W]."""
    from scipy.sparse import csr_matrix, hstack

    columns = (texts, pairs) if len(counters) == 2 else (texts,)
    # A fitted counter of no text has no columns either: the weights of the regression stay in their places.
    fitted = zip(counters, columns, strict=True)
    rows = [csr_matrix((len(texts), 0)) if one is None else one.transform(column) for one, column in fitted]
    return hstack(rows, format="csr")
