"""Made-up pages of several variants with several seeds: numbers with known variances, and scores of one label."""

import math

import numpy as np
from scipy.stats import norm

from cxr_ft.score.statistics import variance_components
from cxr_ft.score.statistics.pairs import Pair, compare_values

#: Variance over 200 subjects: what all seeds of a variant share, and what is each run's own.
SHARED, OWN = 1e-4, 0.5e-4


def numbers(rng, seeds, subjects, deviations, better=0.0):
    """The metric of each run and the covariance over subjects, by variant; the first is `better` than all others."""
    scale = 200 / subjects
    points, blocks = [], np.zeros((sum(seeds), sum(seeds)))
    start = 0
    for variant, (many, deviation) in enumerate(zip(seeds, deviations, strict=True)):
        level = rng.normal(0, math.sqrt(SHARED * scale)) + (better if variant == 0 else 0.0)
        points.append(level + rng.normal(0, math.sqrt(deviation**2 + OWN * scale), many))
        blocks[start : start + many, start : start + many] = SHARED * scale
        start += many
    return points, blocks + np.eye(len(blocks)) * OWN * scale


def pages(rng, seeds, subjects, deviations, better=0.0):
    """All pairs of such a page."""
    return compare_values(*numbers(rng, seeds, subjects, deviations, better), int(subjects), "drawn")


def page(rng, seeds, subjects, deviation, better=0.0):
    """The first pair of such a page, whose variants vary alike."""
    points, covariance = numbers(rng, seeds, subjects, [deviation] * len(seeds), better)
    spread = variance_components.estimate_spread(points, covariance, [False] * len(seeds)).pair(0, 1)
    gap = float(points[0].mean() - points[1].mean())
    p = variance_components.p_value(gap, *spread.total)
    return Pair(gap, None, p, "drawn", int(subjects), spread)


def known_power(seeds, deviations, better):
    """The power, for the first two variants, of the test that knows all variances."""
    variance = 2 * SHARED + sum((d**2 + OWN) / n for d, n in zip(deviations[:2], seeds[:2], strict=True))
    return float(norm.sf(norm.isf(0.025) - better / math.sqrt(variance)))


def scores(rng, seeds, areas, deviation=0.1, positives=100, negatives=100):
    """Truth, the scores of each variant's seeds, subjects: one row a subject, AUROCs as given, on one normal scale."""
    truth = np.r_[np.ones(positives), np.zeros(negatives)]
    alike = rng.normal(size=len(truth))
    variants = []
    for many, area in zip(seeds, areas, strict=True):
        apart = math.sqrt(2) * norm.ppf(area) + rng.normal(0, deviation, (many, 1))
        own = math.sqrt(0.15) * rng.normal(size=len(truth))
        noise = math.sqrt(0.35) * rng.normal(size=(many, len(truth)))
        variants.append(apart * truth + math.sqrt(0.5) * alike + own + noise)
    return truth, variants, np.arange(len(truth))
