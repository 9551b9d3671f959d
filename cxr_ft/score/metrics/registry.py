"""List the metrics: each is one object in one file of this folder, and every table, CSV and card takes it from here.

A file of this folder that declares `METRIC = Metric(...)`, or `METRICS = (...)` for several, is a plug-in: no other
file is edited. The files are imported when a metric is first needed, so that no `--help` waits for them.
"""

import importlib
import pkgutil
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from types import MappingProxyType
from typing import Literal, cast

import numpy as np

from cxr_ft.errors import UsageError, unknown
from cxr_ft.score.arrays import Floats, Mask, Numbers
from cxr_ft.score.statistics.spread import SpreadFunction

Output = Literal["scores", "text"]
Level = Literal["label", "row", "corpus", "recorded"]
#: Where a metric can be shown: the page's table, ablation.csv, the model card, the last lines of cxr-train, the tables
#: by subgroup, and the values of baselines and probes of reports.
Place = Literal["table", "csv", "card", "command", "subgroup", "baseline"]
PLACES: frozenset[Place] = frozenset(("table", "csv", "card", "command", "subgroup", "baseline"))

#: Of one label: truth [n], score [n] in [0, 1], predicted [n].
ScoreFunction = Callable[[Mask, Floats, Mask], float | None]
#: Of N pairs: references, generated texts. A family returns its values by name and is called once.
TextFunction = Callable[[Sequence[str], Sequence[str]], float | Mapping[str, float | None] | None]
#: Of each row: truth, score, predicted, known, all [N, L] -> value [N], and where it is defined [N].
RowFunction = Callable[[Mask, Floats, Mask, Mask], tuple[Floats, Mask]]
#: Under resampling: truth [N, L] 1, 0 or NaN, score [N, L], predicted [N, L], weights [R, N] -> value [R] or NaN.
WeightedFunction = Callable[[Floats, Floats, Mask, Floats], Floats]
#: Of a whole split under row weights: truth [N, ...], predictions [N, ...], weights [..., N] -> values [...] or NaN.
StatisticFunction = Callable[[Floats, Floats, Numbers], Floats]
#: Of N pairs: references, generated texts, names of labels -> [N, C], what `StatisticFunction` takes as the
#: predictions of texts.
RowCountFunction = Callable[[Sequence[str], Sequence[str], Sequence[str]], Floats]
#: Of sums of such rows [..., C] -> values [...] or NaN.
SumsFunction = Callable[[Floats], Floats]


@dataclass(frozen=True, kw_only=True)
class Metric:
    """A metric: how it is computed, read and shown.

    Args:
        name: its key in result.json and its column in a CSV; unique among the metrics of its output.
        title: its name in a sentence or a table.
        output: what it measures, "scores" or "text".
        description: one sentence, with the paper.
        function: "scores": a `ScoreFunction`; "text": a `TextFunction`. It returns None where the value is undefined.
            None for a value that another evaluation records, to be read at `paths`.
        level: "label": computed for each label, and averaged over labels (macro); "row": for each row, and averaged
            over rows; "corpus": once for all texts; "recorded": written by another evaluation.
        paths: keys that lead to the value in the metrics of a split, tried in order; empty: as `level` says.
        shown: places that show it.
        position: order of computation and of columns; equal positions are ordered by name.
        table_position: order among the columns of the page's table, where that differs.
        higher_is_better: its direction.
        low, high: its range.
        primary: the metric by which the runs of this output are compared; exactly one for each output.
        needs_both_classes: it is undefined for a label that has positives or negatives alone.
        undefined: why the value is None, where a label of one class does not explain it.
        by_row: a faster form over many rows; None: `function` is called row by row.
        weighted: a faster form under resampling, for subgroups; None: `function` is called for each resample.
        statistic: its value over a whole split under row weights: chooses the best epoch and makes intervals and tests;
            a primary metric needs it.
        row_counts: for "text": the predictions that `statistic` takes, computed once for all resamples.
        of_sums: for "text": its value from sums of `row_counts`, which gives it an interval.
        interval: for "scores": the family of its intervals, a function of `score.statistics.spread`. Neither: it has
            none, for the reason in `no_interval`.
        over_cells: `interval` is of the rows of all labels together, not of each label.
        no_interval: why it has no interval.
        requires: distributions that it needs; where one is missing, the value is None with that reason.
    """

    name: str
    title: str
    output: Output
    description: str
    function: ScoreFunction | TextFunction | None = None
    level: Level = "label"
    paths: tuple[tuple[str, ...], ...] = ()
    shown: frozenset[Place] = PLACES
    position: int = 1000
    table_position: int | None = None
    higher_is_better: bool = True
    low: float = 0.0
    high: float = 1.0
    primary: bool = False
    needs_both_classes: bool = False
    undefined: str = ""
    by_row: RowFunction | None = None
    weighted: WeightedFunction | None = None
    statistic: StatisticFunction | None = None
    row_counts: RowCountFunction | None = None
    of_sums: SumsFunction | None = None
    interval: SpreadFunction | None = None
    over_cells: bool = False
    no_interval: str = "this metric declares no interval"
    requires: tuple[str, ...] = ()

    @property
    def places(self) -> tuple[tuple[str, ...], ...]:
        """Return the paths to the value in the metrics of one split."""
        default = {"label": ("macro", self.name), "row": ("examples", self.name)}
        return self.paths or (default.get(self.level, (self.name,)),)

    def over_rows(self, truth: Floats, predictions: Floats, weights: Numbers | None = None) -> Floats:
        """Return `statistic` of truth and predictions [N, ...] under weights [..., N]; None: each row counts once.

        Raises:
            UsageError: for a metric without it, which cannot be a primary metric.
        """
        if self.statistic is None:
            raise UsageError(f"metric {self.name} declares no statistic, which a primary metric needs")
        return self.statistic(truth, predictions, np.ones(len(truth)) if weights is None else weights)

    @property
    def heading(self) -> str:
        """Return the title with a capital letter, for the head of a column."""
        return self.title[0].upper() + self.title[1:]

    @property
    def key(self) -> str:
        """Return the name as a command prints it: a mean over labels says so."""
        return f"macro {self.name}" if self.level == "label" else self.name

    @property
    def score_function(self) -> ScoreFunction:
        """Return the function of a metric of scores that is computed by label or by row."""
        return cast(ScoreFunction, self._function("scores"))

    @property
    def text_function(self) -> TextFunction:
        """Return the function of a metric of texts that is computed over the corpus."""
        return cast(TextFunction, self._function("text"))

    def _function(self, output: Output) -> ScoreFunction | TextFunction:
        # The type of `function` follows from `output`, which no type checker can see.
        if self.output != output or self.function is None:
            raise ValueError(f"the metric {self.name!r} has no function of {output}")
        return self.function

    def value(self, metrics: Mapping[str, object]) -> float | None:
        """Return the value in the metrics of one split; None where it is undefined or missing."""
        for path in self.places:
            value: object = metrics
            for key in path:
                value = value.get(key) if isinstance(value, Mapping) else None
            # bool is a subclass of int, but no value of a metric.
            if isinstance(value, int | float) and not isinstance(value, bool):
                return float(value)
        return None

    def recorded_in(self, metrics: Mapping[str, object]) -> bool:
        """Return whether the metrics of one split have a place for it, be the value undefined or not."""
        for path in self.places:
            parent: object = metrics
            for key in path[:-1]:
                parent = parent.get(key) if isinstance(parent, Mapping) else None
            if isinstance(parent, Mapping) and path[-1] in parent:
                return True
        return False


def all_metrics(output: str | None = None) -> tuple[Metric, ...]:
    """Return every metric, of one output if that is named; those of scores come first, each by position."""
    return tuple(metric for metric in _registered().values() if output in (None, metric.output))


def metric(name: str, output: str) -> Metric:
    """Return one metric.

    Raises:
        UsageError: for an unknown name, listing the known ones.
    """
    if (output, name) not in _registered():
        raise unknown("metric", name, [known.name for known in all_metrics(output)])
    return _registered()[output, name]


def shown_in(place: Place, output: str | None = None) -> tuple[Metric, ...]:
    """Return the metrics that `place` shows, in the order of its columns; the primary metric is among them."""
    chosen = [known for known in all_metrics(output) if place in known.shown]
    if place == "table":
        # sorted() is stable: equal positions keep the general order.
        chosen.sort(key=lambda known: known.position if known.table_position is None else known.table_position)
    return tuple(chosen)


def primary(output: str) -> Metric:
    """Return the metric by which runs of this output are compared.

    Raises:
        UsageError: for an unknown output.
    """
    by_output = {known.output: known for known in all_metrics() if known.primary}
    for name, known in by_output.items():
        if name == output:
            return known
    raise unknown("output", output, sorted(by_output))


def of_level(output: Output, level: Level) -> tuple[Metric, ...]:
    """Return the metrics that are computed at a level, those without a function left out."""
    # A metric without a function is recorded by another evaluation, and only shown from here.
    return tuple(known for known in all_metrics(output) if known.level == level and known.function is not None)


def text_values(references: Sequence[str], generated: Sequence[str]) -> tuple[dict[str, float | None], dict[str, str]]:
    """Compute all corpus metrics of N pairs of texts.

    Returns:
        The values by name, and the reasons of those that are None.
    """
    values: dict[str, float | None] = {}
    reasons: dict[str, str] = {}
    # The metrics of one family share a function: its n-grams are counted once.
    computed: dict[TextFunction, float | Mapping[str, float | None] | None] = {}
    for known in of_level("text", "corpus"):
        if lacking := missing(known):
            values[known.name], reasons[known.name] = None, lacking
            continue
        function = known.text_function
        if function not in computed:
            computed[function] = function(references, generated)
        result = computed[function]
        values[known.name] = result[known.name] if isinstance(result, Mapping) else result
        if values[known.name] is None:
            reasons[known.name] = known.undefined or f"{known.name} has no value"
    return values, reasons


def missing(known: Metric) -> str:
    """Return why a metric cannot be computed here: the packages that are not installed; "" where none is missing."""
    lacking = [name for name in known.requires if not _installed(name)]
    return f"needs {', '.join(lacking)} (pip install {' '.join(lacking)})" if lacking else ""


@cache
def _installed(distribution: str) -> bool:
    try:
        version(distribution)
    except PackageNotFoundError:
        return False
    return True


@cache
def _registered() -> Mapping[tuple[str, str], Metric]:
    """Import the files of this folder and collect what they declare, by output and name, in order."""
    package = importlib.import_module(__package__)
    declared_metrics: list[Metric] = []
    # Sorted, since the order of a folder's files differs between file systems.
    for name in sorted(module.name for module in pkgutil.iter_modules(package.__path__)):
        declared = vars(importlib.import_module(f"{__package__}.{name}"))
        declared_metrics += [declared["METRIC"]] if "METRIC" in declared else []
        declared_metrics += declared.get("METRICS", ())
    # Read-only, since all callers share the cached mapping.
    return MappingProxyType(_by_name(declared_metrics))


def _by_name(metrics: Iterable[Metric]) -> dict[tuple[str, str], Metric]:
    named: dict[tuple[str, str], Metric] = {}
    # The name decides between equal positions: a plug-in moves no other metric.
    for known in sorted(metrics, key=lambda known: (known.output, known.position, known.name)):
        if (known.output, known.name) in named:
            raise ValueError(f"two metrics of {known.output} are named {known.name!r}")
        named[known.output, known.name] = known
    return named
