"""Measure how often the 95 % intervals of metrics hold the truth, in made-up worlds of which the truth is known.

    python tools/interval_coverage.py [--draws 2000] [--metrics auroc,f1] [--rejected] [--macro] [--seeds] [--texts]

A world has a number of subjects, a prevalence, an AUROC (two normal distributions), and one or several rows a subject
(one to five; a subject's rows are alike: their scores correlate by 0.5, and its labels too). Scores are calibrated
probabilities; the threshold is that of the best F1 in truth. Printed are, over the draws in which an interval is given
(10 or more positive and negative subjects): the share of intervals that hold the truth, the share wholly above it, and
their mean width. `--rejected` prints the other methods, too; `--macro` the mean over 14 labels; `--seeds` a variant of
one to five seeds; `--texts` metrics of texts.
"""

import argparse
import itertools
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.special import expit, logit, ndtri
from scipy.stats import norm

from cxr_ft.errors import UsageError
from cxr_ft.score.metrics import registry
from cxr_ft.score.statistics import estimates, intervals
from cxr_ft.score.statistics.estimates import Answers
from cxr_ft.score.statistics.spread import LabelRows, SpreadFunction, Z, on_logit

Floats = NDArray[np.float64]
METRICS = ("auroc", "ap", "f1", "precision", "recall", "accuracy", "brier")
#: Draws that give no interval are drawn again, up to so many times the number that is wanted.
TRIES = 4
#: Bootstrap replicates of a rejected method.
REPLICATES = 500


@dataclass(frozen=True)
class World:
    """The chances of one label: see the module."""

    subjects: int
    prevalence: float
    auroc: float
    several: bool = False

    @property
    def apart(self) -> float:
        """Return how far the means of the two classes lie apart, in standard deviations."""
        return float(ndtri(self.auroc) * np.sqrt(2))

    @property
    def name(self) -> str:
        """Return the world in words."""
        rows = "several rows" if self.several else "one row"
        return f"{self.subjects} subjects, {100 * self.prevalence:g} %, AUROC {self.auroc:g}, {rows}"

    def truths(self) -> tuple[dict[str, float], float]:
        """Return the value of each metric, and the threshold on the scores (probabilities)."""
        p, mu = self.prevalence, self.apart
        at = np.linspace(-4, 6, 4001)
        found, false = norm.sf(at - mu), norm.sf(at)
        best = int(np.argmax(2 * p * found / (p * found + p + (1 - p) * false)))
        r, f = float(found[best]), float(false[best])
        x, step = np.linspace(-8, 10, 200_001, retstep=True)
        positive, negative = norm.pdf(x - mu), norm.pdf(x)
        above = p * norm.sf(x - mu)
        precision = np.where(above > 0, above / np.maximum(above + (1 - p) * norm.sf(x), 1e-300), 1.0)
        score = self.score(x)
        values = {
            "auroc": self.auroc,
            "ap": float((positive * precision).sum() * step),
            "f1": 2 * p * r / (p * r + p + (1 - p) * f),
            "precision": p * r / (p * r + (1 - p) * f),
            "recall": r,
            "accuracy": p * r + (1 - p) * (1 - f),
            "brier": float((p * positive * (1 - score) ** 2 + (1 - p) * negative * score**2).sum() * step),
        }
        return values, float(self.score(at[best]))

    def score(self, x: Floats) -> Floats:
        """Return the probability of a positive at x."""
        out: Floats = expit(logit(self.prevalence) + self.apart * x - self.apart**2 / 2)
        return out


class Sample(NamedTuple):
    """The subjects [n] and, of one label, truth [n] and latent score [n]."""

    subjects: NDArray[np.intp]
    truth: NDArray[np.bool_]
    latent: Floats


def owners(rng: np.random.Generator, world: World) -> NDArray[np.intp]:
    """Return the subject of each row."""
    return np.repeat(np.arange(world.subjects), rng.integers(1, 6, world.subjects) if world.several else 1)


def draw(rng: np.random.Generator, world: World, group: NDArray[np.intp]) -> Sample:
    """Draw the rows of one label."""
    own = rng.standard_normal(len(group))
    if not world.several:
        truth = rng.random(len(group)) < world.prevalence
        return Sample(group, truth, own + world.apart * truth)
    # Four rows in five of a positive subject are positive.
    truth = (rng.random(world.subjects) < world.prevalence / 0.8)[group] & (rng.random(len(group)) < 0.8)
    alike = rng.standard_normal(world.subjects)[group]
    return Sample(group, truth, np.sqrt(0.5) * (alike + own) + world.apart * truth)


def rows_of(world: World, sample: Sample, threshold: float) -> LabelRows:
    """Return a sample as the families take it."""
    scores = world.score(sample.latent)[None]
    return LabelRows(
        truth=sample.truth,
        scores=scores,
        predicted=scores >= threshold,
        subjects=sample.subjects,
        size=world.subjects,
    )


def samples(world: World, draws: int, seed: int = 0) -> Iterator[LabelRows]:
    """Draw until `draws` samples have enough subjects of both classes."""
    rng, threshold, given = np.random.default_rng(seed), world.truths()[1], 0
    for _ in range(TRIES * draws):
        sample = draw(rng, world, owners(rng, world))
        rows = rows_of(world, sample, threshold)
        if min(rows.count(rows.truth), rows.count(~rows.truth)) >= estimates.LEAST:
            given += 1
            yield rows
            if given == draws:
                return


class Coverage(NamedTuple):
    """Intervals given, the share that hold the truth, the share wholly above it, the mean width."""

    given: int
    covers: float
    above: float
    width: float

    def __str__(self) -> str:
        return f"{self.covers:.3f} ({self.above:.3f}, {self.width:.3f})"


def coverage(ends: Sequence[tuple[float, float] | None], truth: float) -> Coverage:
    """Return the coverage of the intervals that are there."""
    known = np.array([pair for pair in ends if pair is not None]).reshape(-1, 2)
    low, high = known.T
    if not len(known):
        return Coverage(0, np.nan, np.nan, np.nan)
    inside = (low <= truth) & (truth <= high)
    return Coverage(len(known), float(inside.mean()), float((low > truth).mean()), float((high - low).mean()))


def family_of(name: str) -> SpreadFunction:
    """Return the family of intervals that a metric of scores names."""
    family = registry.metric(name, "scores").interval
    if family is None:
        raise UsageError(f"--metrics {name}: this metric has no interval")
    return family


def sums_of(name: str) -> registry.SumsFunction:
    """Return the function that gives a metric of texts from sums of counts."""
    function = registry.metric(name, "text").of_sums
    if function is None:
        raise UsageError(f"{name}: this metric has no interval")
    return function


def of_label(world: World, metrics: Sequence[str], draws: int) -> dict[str, Coverage]:
    """Return the coverage of the intervals of one label."""
    families = {name: family_of(name) for name in metrics}
    ends: dict[str, list[tuple[float, float] | None]] = {name: [] for name in metrics}
    for rows in samples(world, draws):
        for name, family in families.items():
            ends[name].append(estimates.by_label(family, [rows])[0].interval)
    return {name: coverage(ends[name], world.truths()[0][name]) for name in metrics}


def worlds() -> list[World]:
    """Return the worlds of the documentation's table."""
    return [
        World(subjects, prevalence, auroc, several)
        for several in (False, True)
        for subjects in (40, 100, 400, 1000)
        for prevalence in (0.02, 0.1, 0.5)
        for auroc in (0.6, 0.85, 0.97)
    ]


#: Fourteen labels as in chest X-rays: some in one subject in fifty, some in half of them.
MACRO = tuple(
    (prevalence, auroc)
    for prevalence, auroc in zip(
        (0.02, 0.03, 0.04, 0.05, 0.06, 0.08, 0.1, 0.12, 0.15, 0.2, 0.25, 0.3, 0.4, 0.5),
        (0.6, 0.85, 0.97, 0.75, 0.9, 0.8, 0.7, 0.85, 0.95, 0.65, 0.9, 0.8, 0.97, 0.75),
        strict=True,
    )
)


def macro_answers(rng: np.random.Generator, subjects: int, several: bool) -> Answers:
    """Draw 14 labels of the same subjects, whose scores share a part of their errors."""
    group = owners(rng, World(subjects, 0.5, 0.5, several))
    shared = 0.5 * rng.standard_normal(subjects)[group]
    truth, scores, predicted = [], [], []
    for prevalence, auroc in MACRO:
        world = World(subjects, prevalence, auroc, several)
        sample = draw(rng, world, group)
        # Scaled back, so that the label keeps its AUROC.
        own = sample.latent - world.apart * sample.truth
        score = world.score((own + shared) / np.sqrt(1.25) + world.apart * sample.truth)
        truth.append(sample.truth.astype(float))
        scores.append(score)
        predicted.append(score >= THRESHOLDS[prevalence, auroc])
    return Answers(
        truth=np.stack(truth, axis=1),
        scores=np.stack(scores, axis=1)[None],
        predicted=np.stack(predicted, axis=1)[None],
        subjects=group,
    )


THRESHOLDS = {pair: World(1, *pair).truths()[1] for pair in MACRO}


def of_macro(subjects: int, several: bool, metrics: Sequence[str], draws: int) -> dict[str, tuple[Coverage, float]]:
    """Return the coverage of the mean over the labels that have both classes, and how many these are on average."""
    rng = np.random.default_rng(0)
    true = {pair: World(1, *pair).truths()[0] for pair in MACRO}
    ends: dict[str, list[tuple[float, float] | None]] = {name: [] for name in metrics}
    labels: dict[str, list[int]] = {name: [] for name in metrics}
    for _ in range(draws):
        rows = macro_answers(rng, subjects, several).labels()
        for name in metrics:
            family = family_of(name)
            here = [pair for pair, one in zip(MACRO, rows, strict=True) if one.truth.any() and family(one) is not None]
            result = estimates.macro(family, rows)
            # The truth is that of the labels which are in the mean: which these are, the page says.
            target = float(np.mean([true[pair][name] for pair in here]))
            ends[name].append(result.interval and (result.interval[0] - target, result.interval[1] - target))
            labels[name].append(result.labels or 0)
    return {name: (coverage(ends[name], 0.0), float(np.mean(labels[name]))) for name in metrics}


def of_seeds(seeds: int, between: float, draws: int) -> Coverage:
    """Return the coverage of the mean AUROC of a variant whose seeds differ in the strength of their scores."""
    world, rng, ends = World(200, 0.3, 0.85), np.random.default_rng(0), []
    family = family_of("auroc")
    for _ in range(draws):
        sample = draw(rng, world, owners(rng, world))
        strength = world.apart + between * rng.standard_normal((seeds, 1))
        own = np.sqrt(0.7) * (sample.latent - world.apart * sample.truth) + np.sqrt(0.3) * rng.standard_normal(
            (seeds, len(sample.truth))
        )
        scores = expit(own + strength * sample.truth)
        rows = LabelRows(
            truth=sample.truth, scores=scores, predicted=scores > 0.5, subjects=sample.subjects, size=world.subjects
        )
        ends.append(estimates.by_label(family, [rows])[0].interval)
    truth = float(norm.cdf(world.apart / np.sqrt(2 + between**2)))
    return coverage(ends, truth)


def text_population(several: bool, size: int = 3000) -> tuple[dict[str, Floats], NDArray[np.intp]]:
    """Return the counts by metric of made-up reports, and the subject of each; a subject's are written alike well."""
    rng = np.random.default_rng(7)
    words = [f"word{i}" for i in range(60)]
    pool = [" ".join(rng.choice(words, rng.integers(4, 11))) for _ in range(25)]
    findings = ("Edema", "Fracture", "Pneumonia", "Nodule")
    pool += [f"there is {name.lower()} seen" for name in findings for _ in range(2)]
    group = np.repeat(np.arange(size), rng.integers(1, 6, size) if several else 1)
    quality = rng.beta(1.0, 2.0, size)
    references, generated = [], []
    for subject in group:
        right = rng.choice(len(pool), rng.integers(2, 6))
        kept = rng.random(len(right)) < quality[subject]
        written = np.where(kept, right, rng.choice(len(pool), len(right)))
        references.append(" . ".join(pool[i] for i in right))
        generated.append(" . ".join(pool[i] for i in written))
    names = ("bleu_4", "rouge_l", "label_f1")
    counts: dict[str, Floats] = {}
    for name in names:
        function = registry.metric(name, "text").row_counts
        if function is not None:
            counts[name] = np.asarray(function(references, generated, findings), float)
    return counts, np.asarray(group, np.intp)


def of_texts(subjects: int, several: bool, draws: int) -> dict[str, Coverage]:
    """Return the coverage for subjects drawn from a population of texts, of which the truth is known."""
    counts, group = text_population(several)
    rng = np.random.default_rng(0)
    size = int(group.max()) + 1
    starts = np.searchsorted(group, np.arange(size + 1))
    ends: dict[str, list[tuple[float, float] | None]] = {name: [] for name in counts}
    for _ in range(draws):
        drawn = rng.integers(0, size, subjects)
        rows = np.concatenate([np.arange(starts[one], starts[one + 1]) for one in drawn])
        owner = np.repeat(np.arange(subjects), starts[drawn + 1] - starts[drawn])
        for name, table in counts.items():
            result = estimates.of_texts(sums_of(name), table[None, rows], owner)
            ends[name].append(result.interval)
    truths = {name: float(sums_of(name)(table.sum(axis=0))) for name, table in counts.items()}
    return {name: coverage(ends[name], truths[name]) for name in counts}


def rejected(name: str, rows: LabelRows, rng: np.random.Generator) -> dict[str, tuple[float, float] | None]:
    """Return the intervals of the methods that were not chosen for a metric."""
    family = family_of(name)
    made = family(rows)
    if made is None:
        return {}
    value, variance = float(made.points[0]), float(made.influence[0] @ made.influence[0])
    out: dict[str, tuple[float, float] | None] = {
        "normal": (value - Z * variance**0.5, value + Z * variance**0.5),
        "logit": on_logit(value, Z * variance**0.5) if variance else None,
    }
    if name == "auroc":
        truth, score = rows.truth.astype(float), rows.scores[0]
        plain = intervals.auroc(truth, score, intervals.cluster_bootstrap(rows.subjects, REPLICATES, 0))
        smooth = rng.exponential(size=(REPLICATES, rows.size))[:, rows.subjects]
        out["percentile bootstrap"] = intervals.interval(plain)
        out["Bayesian bootstrap"] = intervals.interval(intervals.auroc(truth, score, smooth))
        out["BCa bootstrap"] = bias_corrected(value, np.asarray(plain, float), made.influence[0])
    elif name in ("precision", "recall", "accuracy") and 0 < value < 1:
        # Wilson's interval on the effective number of rows.
        n = value * (1 - value) / variance
        middle, half = (value + Z**2 / 2 / n) / (1 + Z**2 / n), Z / (1 + Z**2 / n)
        half *= np.sqrt(value * (1 - value) / n + Z**2 / 4 / n**2)
        out["Wilson"] = (middle - half, middle + half)
    elif name == "ap" and 0 < value < 1:
        # Boyd, Eng and Page 2013: the positives as trials.
        out["binomial logit"] = on_logit(value, Z * np.sqrt(value * (1 - value) / rows.truth.sum()))
    return out


def bias_corrected(value: float, replicates: Floats, influence: Floats) -> tuple[float, float] | None:
    """Return the BCa interval (Efron 1987), the acceleration from the influence of subjects."""
    known = replicates[~np.isnan(replicates)]
    below = (known < value).mean()
    if not 0 < below < 1 or not influence.any():
        return None
    middle, skew = float(ndtri(below)), float((influence**3).sum() / (6 * (influence**2).sum() ** 1.5))
    at = [norm.cdf(middle + (middle + z) / (1 - skew * (middle + z))) for z in (-Z, Z)]
    low, high = np.quantile(known, at)
    return float(low), float(high)


def of_rejected(world: World, metrics: Sequence[str], draws: int) -> dict[tuple[str, str], Coverage]:
    """Return the coverage of the methods that were not chosen; a draw without an interval counts as not covered."""
    ends: dict[tuple[str, str], list[tuple[float, float] | None]] = {}
    rng, truths = np.random.default_rng(1), world.truths()[0]
    for rows in samples(world, draws):
        for name in metrics:
            for method, pair in rejected(name, rows, rng).items():
                ends.setdefault((name, method), []).append(pair)
    found = {key: coverage(pairs, truths[key[0]]) for key, pairs in ends.items()}
    return {key: one._replace(covers=one.covers * one.given / len(ends[key])) for key, one in found.items()}


def lines(options: argparse.Namespace) -> Iterator[str]:
    """Return the lines of the table that the options ask for."""
    metrics, draws = options.metrics.split(","), options.draws
    if options.seeds:
        for seeds, between in itertools.product((1, 2, 3, 5), (0.0, 0.1, 0.3)):
            one = of_seeds(seeds, between, draws)
            yield f"{seeds} seeds, spread {between:g} | auroc | {one.given} | {one}"
    elif options.macro or options.texts:
        for several, n in itertools.product((False, True), (40, 100, 400, 1000)):
            place = f"{n} subjects, {'several rows' if several else 'one row'}"
            if options.texts:
                yield from (
                    f"{place} | {name} | {one.given} | {one}" for name, one in of_texts(n, several, draws).items()
                )
                continue
            for name, (one, labels) in of_macro(n, several, metrics, draws).items():
                yield f"{place} | {name} | {labels:.1f} labels | {one.given} | {one}"
    else:
        for world in worlds():
            yield from (
                f"{world.name} | {key} | {one.given} | {one}" for key, one in of_label(world, metrics, draws).items()
            )
            if options.rejected:
                yield from _rejected_lines(world, metrics, draws)


def _rejected_lines(world: World, metrics: Sequence[str], draws: int) -> Iterator[str]:
    for (name, method), one in of_rejected(world, metrics, draws).items():
        yield f"{world.name} | {name}, {method} | {one.given} | {one}"


def main(arguments: Sequence[str]) -> None:
    """Print the table that the options ask for."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", maxsplit=1)[0])
    parser.add_argument("--draws", type=int, default=2000, help="samples of each world that have an interval")
    parser.add_argument("--metrics", default=",".join(METRICS), help="names, separated by commas")
    kind = parser.add_mutually_exclusive_group()
    kind.add_argument("--rejected", action="store_true", help="the methods that were not chosen, too")
    kind.add_argument("--macro", action="store_true", help="the mean over 14 labels")
    kind.add_argument("--seeds", action="store_true", help="a variant of several seeds")
    kind.add_argument("--texts", action="store_true", help="metrics of texts")
    for line in lines(parser.parse_args(arguments)):
        print(line, flush=True)


if __name__ == "__main__":
    main(sys.argv[1:])
