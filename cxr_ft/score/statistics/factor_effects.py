"""Estimate the effect of each factor of a designed experiment, and the interactions of pairs.

Least squares on factors coded as deviations from their mean (Box, Hunter and Hunter, Statistics for Experimenters). The
error is that between runs which differ in the seed alone; it says nothing about other test subjects. What the design
cannot separate gets no number but the name of what it is mixed with.

Shapes: N runs, P columns of the design.
"""

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple, TypeAlias

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[np.float64]
#: A level of a factor, as a configuration has it.
Level: TypeAlias = str | int | float | bool | None


class Effect(NamedTuple):
    """A factor, or two joined by " x ".

    Args:
        factor, level: of a factor with two levels `level` is the second; its effect is the difference between them. Of
            more levels each has a row; its effect is the difference from their mean. Of a pair: the difference of one's
            effect between the other's levels, for factors of two levels only.
        effect: in the metric's own unit; None where the design cannot tell it.
        se, low, high: standard error and 95 % interval; None where no run was repeated with another seed.
        runs: at that level, or at both second levels.
        note: why there is no number.
    """

    factor: str
    level: str
    effect: float | None
    se: float | None
    low: float | None
    high: float | None
    runs: int
    note: str


COLUMNS = Effect._fields


@dataclass(frozen=True, kw_only=True)
class _Design:
    """The factors that vary: each one's level in every run, its levels, its columns; the metric [N]; the error."""

    rows: dict[str, list[Level]]
    levels: dict[str, list[Level]]
    columns: dict[str, Array]
    y: Array
    variance: float
    freedom: int

    def with_pair(self, one: str, two: str) -> "_Design":
        """Return the design with the product of two factors of two levels each as a further column."""
        return replace(self, columns={**self.columns, _pair(one, two): self.columns[one] * self.columns[two]})

    def mixed_with(self, name: str) -> str:
        """Return the factors that `name` cannot be separated from, as text; "" where it can."""
        column = self.columns[name]
        others = {key: value for key, value in self.columns.items() if key != name}

        # By rank, not by pairwise correlation: a factor can be a combination of several others.
        def adds(known: Mapping[str, Array]) -> bool:
            return bool(_rank({**known, name: column}) - _rank(known) == column.shape[1])

        if adds(others):
            return ""
        # A partner is a factor without which the column would bring something new.
        partners = [key for key in others if adds({k: value for k, value in others.items() if k != key})]
        return f"cannot be separated from {', '.join(partners) or 'the others together'}"

    def fitted(self, name: str) -> tuple[Array, Array]:
        """Return the coefficients [P] of the columns of `name`, and their covariance [P, P]."""
        # The pseudo-inverse, since other columns of the design may be confounded with one another.
        inverse = np.linalg.pinv(_matrix(self.columns))
        before = itertools.takewhile(lambda key: key != name, self.columns)
        # Column 0 is the mean of all runs, see `_matrix`.
        place = 1 + sum(self.columns[key].shape[1] for key in before)
        own = slice(place, place + self.columns[name].shape[1])
        return (inverse @ self.y)[own], (inverse @ inverse.T)[own, own] * self.variance


def estimate(factors: Sequence[Mapping[str, Level]], values: Sequence[float]) -> list[Effect]:
    """Estimate main effects, then interactions of pairs of factors of two levels.

    Args:
        factors: of each run its levels by the factor's name; a factor that a run lacks is False there.
        values: [N] a metric of each run; runs of equal levels are repetitions.

    Returns:
        The effects; none where no factor varies. Factors of one level are left out.
    """
    # In the order in which runs name them: a set of words has another order in every process.
    names = list(dict.fromkeys(name for run in factors for name in run))
    rows = {name: [run.get(name, False) for run in factors] for name in names}
    # The column of a constant factor is a multiple of the mean's: the two cannot be separated.
    rows = {name: levels for name, levels in rows.items() if len(set(levels)) > 1}
    if not rows:
        return []
    levels = {name: _levels(row) for name, row in rows.items()}
    columns = {name: _coded(row, levels[name]) for name, row in rows.items()}
    y = np.asarray(values, float)
    # From repetitions alone: what the model's residuals hold besides may be an interaction, which is no error.
    variance, freedom = _pure_error(rows, y)
    design = _Design(rows=rows, levels=levels, columns=columns, y=y, variance=variance, freedom=freedom)
    out = [effect for name in rows for effect in _main(design, name)]
    # With more than two levels a pair has several contrasts, which one number cannot hold. Each pair is fitted alone,
    # since small grids have too few runs to estimate all pairs at once.
    pairs = itertools.combinations((name for name in rows if len(levels[name]) == 2), 2)
    return [*out, *(_interaction(design.with_pair(one, two), one, two) for one, two in pairs)]


def _levels(values: Sequence[Level]) -> list[Level]:
    """Return the distinct levels: numbers from small to large, False before True, then words."""
    return sorted(set(values), key=_order)


def _order(level: Level) -> tuple[bool, float, str]:
    # Words and numbers cannot be compared: the first part of the key keeps them in two groups. None counts as 0.
    return (True, 0.0, level) if isinstance(level, str) else (False, float(level or 0), "")


def _coded(values: Sequence[Level], levels: Sequence[Level]) -> Array:
    """Return the columns [N, P] of a factor: of two levels -1/2 and 1/2, of more the deviations from their mean."""
    if len(levels) == 2:
        # Half a step to either side, so that the coefficient is the difference between the two levels.
        return np.array([[0.5 if value == levels[1] else -0.5] for value in values])
    # Deviations from the mean, so that no level is the reference and an interaction does not change a main effect.
    # The last level is minus the sum of the others, so that all deviations add up to 0.
    table = np.vstack([np.eye(len(levels) - 1), -np.ones(len(levels) - 1)])
    return np.array([table[levels.index(value)] for value in values])


def _pure_error(rows: Mapping[str, Sequence[Level]], y: Array) -> tuple[float, int]:
    """Return the pooled variance between runs of equal levels, and its freedom; (0, 0) without repetitions."""
    cells: dict[tuple[Level, ...], list[float]] = {}
    for levels, value in zip(zip(*rows.values(), strict=True), y, strict=True):
        cells.setdefault(levels, []).append(float(value))
    freedom = sum(len(cell) - 1 for cell in cells.values())
    squares = sum(float(((np.array(cell) - np.mean(cell)) ** 2).sum()) for cell in cells.values())
    return (squares / freedom if freedom else 0.0), freedom


def _matrix(columns: Mapping[str, Array]) -> Array:
    parts = list(columns.values())
    return np.hstack([np.ones((len(parts[0]), 1)), *parts])


def _rank(columns: Mapping[str, Array]) -> int:
    return int(np.linalg.matrix_rank(_matrix(columns))) if columns else 1


def _pair(one: str, two: str) -> str:
    return f"{one} x {two}"


def _main(design: _Design, name: str) -> list[Effect]:
    levels, values = design.levels[name], design.rows[name]
    mixed = design.mixed_with(name)
    out = []
    for i, level in enumerate(levels):
        # Its row would repeat the difference of the two levels with the opposite sign.
        if i == 0 and len(levels) == 2:
            continue
        runs = sum(value == level for value in values)
        if mixed:
            out.append(Effect(name, str(level), None, None, None, None, runs, mixed))
            continue
        coefficients, covariance = design.fitted(name)
        # The last of several levels has no column: its deviation is minus the sum of the others'.
        last = len(levels) > 2 and i == len(levels) - 1
        weights = -np.ones(len(coefficients)) if last else np.eye(len(coefficients))[min(i, len(coefficients) - 1)]
        effect, variance = float(weights @ coefficients), float(weights @ covariance @ weights)
        out.append(Effect(name, str(level), effect, *_spread(effect, variance, design.freedom), runs, ""))
    return out


def _interaction(design: _Design, one: str, two: str) -> Effect:
    """Return the difference of differences, which is the coefficient of two columns' product."""
    name, (a, b) = _pair(one, two), (design.levels[one][1], design.levels[two][1])
    runs = sum(x == a and y == b for x, y in zip(design.rows[one], design.rows[two], strict=True))
    if mixed := design.mixed_with(name):
        return Effect(name, f"{a}, {b}", None, None, None, None, runs, mixed)
    coefficients, covariance = design.fitted(name)
    effect = float(coefficients[0])
    return Effect(name, f"{a}, {b}", effect, *_spread(effect, float(covariance[0, 0]), design.freedom), runs, "")


def _spread(effect: float, variance: float, freedom: int) -> tuple[float | None, float | None, float | None]:
    """Return the standard error and the ends of the 95 % interval."""
    from scipy.stats import t

    # Without a repeated run nothing shows how much runs differ by chance.
    if freedom == 0:
        return None, None, None
    se = float(np.sqrt(variance))
    half = float(t.ppf(0.975, freedom)) * se
    return se, effect - half, effect + half
