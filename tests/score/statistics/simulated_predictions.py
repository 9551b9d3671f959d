"""Made-up comparisons of which the truth is known: subjects with several images, methods with several seeds."""

import math
from typing import NamedTuple

import numpy as np
from scipy.stats import norm


class PairedPredictions(NamedTuple):
    """What two methods answered: truth [N], first [S1, N], second [S2, N], subjects [N]."""

    truth: np.ndarray
    first: np.ndarray
    second: np.ndarray
    subjects: np.ndarray


def scores(rng, subjects=200, seeds=(1, 1), between=0.0, better=0.0):
    """Scores of one label.

    Images of a subject are alike, methods see subjects differently, each seed has noise of its own on every image.

    Args:
        rng: the chance of everything.
        subjects: each with one to four images.
        seeds: of the two methods.
        between: the standard deviation, over seeds, of how far positives stand above negatives (1.2 on average).
        better: how much farther the first method's do.
    """
    group = np.repeat(np.arange(subjects), rng.integers(1, 5, subjects))
    rows = len(group)
    truth = (rng.random(rows) < rng.choice([0.2, 0.6], subjects)[group]).astype(float)
    alike = rng.normal(0, 0.7, subjects)[group] + rng.normal(0, 0.5, rows)
    answers = []
    for many, extra in zip(seeds, (better, 0.0), strict=True):
        above = 1.2 + extra + rng.normal(0, between, (many, 1))
        answers.append(above * truth + alike + rng.normal(0, 0.4, subjects)[group] + rng.normal(0, 0.5, (many, rows)))
    return PairedPredictions(truth, *answers, group)


def true_gap(better, between=0.0):
    """The gap in AUROC, over all subjects and seeds, of two methods of `scores`."""
    apart = math.sqrt(2 * (0.7**2 + 0.5**2 + 0.4**2 + 0.5**2) + between**2)
    return float(norm.cdf((1.2 + better) / apart) - norm.cdf(1.2 / apart))


def decisions(world):
    """The same, decided at a threshold halfway: answers 1 or 0."""
    return world._replace(first=(world.first > 0.6).astype(float), second=(world.second > 0.6).astype(float))


def one_row_each(world):
    """The first row of each subject."""
    rows = np.unique(world.subjects, return_index=True)[1]
    return PairedPredictions(world.truth[rows], world.first[:, rows], world.second[:, rows], world.subjects[rows])
