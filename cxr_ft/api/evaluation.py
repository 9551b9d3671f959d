"""Evaluate predictions of any origin: values by label with intervals over subjects, and gaps between groups."""

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from cxr_ft.data import sameness
from cxr_ft.errors import UsageError

if TYPE_CHECKING:
    import pandas as pd

#: Bootstrap replicates of whole subjects, and the seed of their draws where the caller names none.
REPLICATES, SEED = 2000, 0
#: Subjects that a group, and everybody else, need before their gap is computed.
LEAST_SUBJECTS = 10
#: What is computed, by the names of the metrics.
METRICS = ("auroc", "ap")
#: The error of all gaps together, by Holm (1979).
ERROR = 0.05

Floats = npt.NDArray[np.float64]
Codes = npt.NDArray[np.intp]


@dataclass(frozen=True)
class Value:
    """One metric of one label, or of all labels together ("macro").

    Args:
        label, metric: what was computed.
        value: None where the metric is undefined.
        low, high: the 95 % interval over the sampling of subjects; None where there is none.
        note: why value or interval are missing.
    """

    label: str
    metric: str
    value: float | None
    low: float | None
    high: float | None
    note: str = ""


@dataclass(frozen=True)
class Gap:
    """The metric of a group minus that of everybody else.

    Args:
        group: variable and value, as "sex=F".
        metric: "auroc" (macro, over the labels that have both classes in the group and outside it).
        difference: None where it is undefined.
        low, high: its 95 % interval over the sampling of subjects, not adjusted for the number of gaps.
        p: two-sided, of no gap, not adjusted.
        stated: whether the gap may be stated: p adjusted by Holm over all gaps is at most 0.05.
        note: why the difference is missing.
    """

    group: str
    metric: str
    difference: float | None
    low: float | None
    high: float | None
    p: float | None
    stated: bool
    note: str = ""


@dataclass(frozen=True)
class Evaluation:
    """Hold what `evaluate` returns: `values`, `gaps`, and how many rows and subjects they are of."""

    values: tuple[Value, ...]
    gaps: "pd.DataFrame"
    rows: int
    subjects: int

    def to_frame(self) -> "pd.DataFrame":
        """Return the values as a table: label, metric, value, low, high, note."""
        return _frame(self.values, Value)

    def _repr_html_(self) -> str:
        heading = f"<p>{self.rows:,} rows of {self.subjects:,} subjects; 95 % intervals over subjects</p>"
        gaps = self.gaps.to_html(index=False, float_format="{:.3f}".format) if len(self.gaps) else ""
        return f"{heading}{self.to_frame().to_html(index=False, float_format='{:.3f}'.format, na_rep='')}{gaps}"


def evaluate(  # noqa: PLR0917 (the design fixes this signature: people script against it)
    truth: npt.ArrayLike,
    scores: npt.ArrayLike,
    subjects: npt.ArrayLike,
    groups: "Mapping[str, Sequence[object]] | None" = None,
    labels: Sequence[str] | None = None,
    seed: int | None = None,
) -> Evaluation:
    """Evaluate scores against the truth; a subject's rows count together.

    Args:
        truth: [N] or [N, L], 1 or 0; NaN leaves a cell out.
        scores: like `truth`; any real numbers, higher for positive.
        subjects: [N], the subject of each row; ids are compared as in the splits (7, 7.0 and 00007 are one).
        groups: by variable ("sex", "scanner", ...) the group of each row [N]; missing values are in no group.
        labels: the L names; None: "0", "1", ...
        seed: of the bootstrap's draws behind gaps; None: 0. Equal seed, equal numbers.

    Returns:
        An `Evaluation`: `to_frame()` gives AUROC and average precision of each label and their mean ("macro"), with
        the intervals of the comparison page (docs/statistics.md); `gaps` the gap of each group to everybody else.

    Raises:
        UsageError: where the shapes do not fit, or a score is no number.

    Example:
        >>> import cxr_ft
        >>> evaluation = cxr_ft.evaluate([0, 0, 1, 1], [0.1, 0.6, 0.4, 0.9], subjects=["a", "b", "c", "d"])
        >>> evaluation.to_frame()["value"].round(3).tolist()
        [0.75, 0.833]
    """
    table, values, owners = _checked(truth, scores, subjects)
    names = [str(i) for i in range(table.shape[1])] if labels is None else [str(label) for label in labels]
    if len(names) != table.shape[1]:
        raise UsageError(f"labels: {len(names)} names for {table.shape[1]} columns of truth")
    from cxr_ft.score.statistics.intervals import cluster_bootstrap

    # The first row is the data as they are; the others are resamples, the same for all groups.
    weights = np.concatenate([np.ones((1, len(owners))), cluster_bootstrap(owners, REPLICATES, seed or SEED)])
    gaps: list[Gap] = []
    mirrors: list[int] = []
    for variable, members in _grouped(groups or {}, len(owners)).items():
        # "" is a missing value, which makes no group.
        present = sorted(set(members) - {""})
        # Of two groups the second gap is the first one mirrored: one question, asked once.
        mirrors += [len(gaps) + 1] if len(present) == 2 and "" not in members else []
        gaps += [
            _gap(f"{variable}={group}", (table, values, owners), members == group, members != "", weights)
            for group in present
        ]
    return Evaluation(
        tuple(_values(table, values, owners, names)),
        _frame(_adjusted(gaps, mirrors), Gap),
        len(owners),
        len(np.unique(owners)),
    )


def _checked(truth: npt.ArrayLike, scores: npt.ArrayLike, subjects: npt.ArrayLike) -> tuple[Floats, Floats, Codes]:
    table, values = np.asarray(truth, float), np.asarray(scores, float)
    # As text: ids of one patient may come as numbers in some rows and as words in others.
    names, codes = np.unique(np.asarray(subjects).astype(str), return_inverse=True)
    # The rule of the splits: 7, 7.0 and 00007 are one patient, and two halves of one would count as independent.
    owners = np.unique([sameness.id_key(name) for name in names], return_inverse=True)[1][codes]
    if table.shape != values.shape or table.ndim not in (1, 2) or len(table) != len(owners):
        raise UsageError(
            f"truth {table.shape}, scores {values.shape} and {len(owners)} subjects do not fit; give [rows] or "
            "[rows, labels] for both, and a subject a row"
        )
    if not len(table):
        raise UsageError("truth has no rows; give one row an image or study")
    if not np.isfinite(values).all():
        raise UsageError(f"scores: {int((~np.isfinite(values)).sum())} are no finite numbers; leave those rows out")
    if bad := sorted(set(np.unique(table[~np.isnan(table)])) - {0.0, 1.0}):
        raise UsageError(f"truth: {bad[0]:g}; give 1 (positive), 0 (negative) or NaN (not known)")
    shape = (len(table), -1)
    return table.reshape(shape), values.reshape(shape), owners


def _grouped(groups: "Mapping[str, Sequence[object]]", rows: int) -> dict[str, npt.NDArray[np.str_]]:
    out = {}
    for name, members in groups.items():
        # NaN, pandas' missing value, is the only one that differs from itself.
        plain = np.array(["" if one is None or one != one else str(one) for one in members])  # noqa: PLR0124
        if len(plain) != rows:
            raise UsageError(f"groups: {name} has {len(plain)} values for {rows} rows")
        out[str(name)] = plain
    return out


def _values(truth: Floats, scores: Floats, subjects: Codes, names: Sequence[str]) -> list[Value]:
    """Return AUROC and average precision of each label, and of several labels their mean, as the page computes them."""
    from cxr_ft.score.metrics import registry
    from cxr_ft.score.statistics import estimates

    # Neither metric looks at predictions.
    predicted = np.zeros((1, *scores.shape), bool)
    rows = estimates.Answers(truth=truth, scores=scores[None], predicted=predicted, subjects=subjects).labels()
    several = len(names) > 1
    computed: dict[str, list[estimates.Estimate]] = {}
    for metric in METRICS:
        family = registry.metric(metric, "scores").interval
        if family is None:
            raise ValueError(f"metric {metric} declares no interval")
        macro = [estimates.macro(family, rows)] if several else []
        computed[metric] = [*estimates.by_label(family, rows), *macro]
    return [
        Value(label, metric, one[i].value, one[i].low, one[i].high, one[i].note)
        for i, label in enumerate([*names, "macro"] if several else names)
        for metric, one in computed.items()
    ]


def _gap(
    name: str,
    data: tuple[Floats, Floats, Codes],
    inside: npt.NDArray[np.bool_],
    known: npt.NDArray[np.bool_],
    weights: Floats,
) -> Gap:
    """Return the AUROC of rows `inside` minus that of the others of a known group, on labels with both classes in both.

    Args:
        data: truth [N, L], scores [N, L] and subjects [N].
    """
    from scipy.special import ndtr, ndtri

    from cxr_ft.score.statistics.intervals import macro_auroc

    def without(note: str, difference: float | None = None) -> Gap:
        return Gap(name, "auroc", difference, None, None, None, stated=False, note=note)

    (truth, scores, subjects), outside = data, known & ~inside
    for rows, members in ((inside, "the group"), (outside, "everybody else")):
        if (many := len(np.unique(subjects[rows]))) < LEAST_SUBJECTS:
            return without(f"{members} has {many} subjects; {LEAST_SUBJECTS} are needed")
    both = [all({0.0, 1.0} <= set(truth[rows, i]) for rows in (inside, outside)) for i in range(truth.shape[1])]
    if not any(both):
        return without("no label has both classes in the group and outside it")
    # One set of draws for both: a subject may have rows inside the group and outside it.
    one, two = (
        macro_auroc(truth[rows][:, both], scores[rows][:, both], weights[:, rows]) for rows in (inside, outside)
    )
    difference, draws = float(one[0] - two[0]), one[1:] - two[1:]
    defined = draws[~np.isnan(draws)]
    if len(defined) < 0.9 * len(draws) or (spread := float(defined.std(ddof=1))) == 0:
        return without("no interval: undefined in too many resampled sets", difference)
    half = float(ndtri(0.975)) * spread
    p = float(2 * ndtr(-abs(difference) / spread))
    return Gap(name, "auroc", difference, difference - half, difference + half, p, stated=False)


def _adjusted(gaps: Sequence[Gap], mirrors: Sequence[int]) -> list[Gap]:
    """Return the gaps with `stated` by Holm over all of them; those at `mirrors` repeat the gap before them."""
    from cxr_ft.score.statistics.multiple_comparisons import holm

    # A mirrored gap would count as a second test, and double the correction of all others.
    adjusted = holm([None if i in mirrors else gap.p for i, gap in enumerate(gaps)])
    for i in mirrors:
        adjusted[i] = adjusted[i - 1]
    return [
        dataclasses.replace(gap, stated=p is not None and p <= ERROR) for gap, p in zip(gaps, adjusted, strict=True)
    ]


def _frame(rows: "Sequence[Value] | Sequence[Gap]", kind: type) -> "pd.DataFrame":
    import pandas as pd

    return pd.DataFrame([dataclasses.asdict(row) for row in rows], columns=[f.name for f in dataclasses.fields(kind)])
