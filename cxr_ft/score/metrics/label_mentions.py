"""Find the labels that a text states in their own words, and compare generated texts with references.

A sentence states a label where it holds the label's name as whole words and neither denies nor doubts it. So this reads
mini-reports exactly; free reports state most findings in other words, which it does not recognise.
"""

import re
from collections.abc import Sequence

import numpy as np

from cxr_ft.score.arrays import Floats, Mask
from cxr_ft.score.metrics.word_tokens import spaced

#: Full stops and semicolons of any script.
_SENTENCE = re.compile(r"[.;。；।؛۔]")
_NOT_STATED = re.compile(r"\b(no|not|without|neither|nor|possible|possibly|may|might|cannot)\b")


def stated(texts: Sequence[str], labels: Sequence[str]) -> Mask:
    """Return whether each text states each label, case and spacing aside: bool [N, L]."""
    # Escaped, since labels come from data: a bracket in a name must not become a group of the pattern. No `\b`, which
    # would ask for a letter beside the bracket at a name's end.
    names = [re.compile(rf"(?<!\w){re.escape(' '.join(spaced(label).split()))}(?!\w)") for label in labels]
    out = np.zeros((len(texts), len(names)), dtype=bool)
    rows: dict[str, Mask] = {}
    for row, text in enumerate(texts):
        # Generated texts repeat: each distinct one is searched once.
        if text not in rows:
            sentences = (" ".join(part.split()) for part in _SENTENCE.split(spaced(text)))
            plain = [sentence for sentence in sentences if sentence and not _NOT_STATED.search(sentence)]
            rows[text] = np.array([any(name.search(sentence) for sentence in plain) for name in names], dtype=bool)
        out[row] = rows[text]
    return out


def f1(truth: Mask, written: Mask) -> tuple[Floats, float]:
    """Return F1 of each label [L], NaN where neither states it, and over all labels together (micro)."""
    both, either = (truth & written).sum(axis=0), truth.sum(axis=0) + written.sum(axis=0)
    # A label that neither text states is 0 / 0, which the docstring promises as NaN.
    with np.errstate(invalid="ignore"):
        return 2 * both / either, float(2 * both.sum() / either.sum()) if either.sum() else float("nan")


def counts(truth: Mask, written: Mask) -> Floats:
    """Return which labels both texts of a pair state, the reference, the generated one, as numbers: [N, 3 L]."""
    return np.concatenate([truth & written, truth, written], axis=1).astype(float)


def mean_f1(sums: Floats) -> Floats:
    """Return the mean F1 [...] over the labels that a reference states, from sums [..., 3 L] of `counts`; else NaN."""
    both, truth, written = np.split(sums, 3, axis=-1)
    stated = truth > 0
    # A label that no reference states would pull the mean to 0 whatever the model writes.
    with np.errstate(invalid="ignore"):
        each = np.where(stated, 2 * both / (truth + written), 0.0)
        return np.asarray(each.sum(axis=-1) / stated.sum(axis=-1))


def best_constant(truth: Mask) -> int:
    """Return the first row of `truth` [N, L], N > 0, of the best macro F1 if it is written for every image."""
    positive = truth.sum(axis=0)
    # Written for every image, a label's F1 is 2 p / (n + p); one that is not written has 0.
    worth = np.where(positive > 0, 2 * positive / (len(truth) + positive), 0.0)
    return int(np.argmax(truth @ worth))
