"""Name the metrics that the page shows, and the baselines; the registry of metrics says which they are."""

from collections.abc import Mapping
from typing import NamedTuple

from cxr_ft.score.metrics import registry
from cxr_ft.score.metrics.registry import Metric


class BaselineTitle(NamedTuple):
    """The name of a baseline and how it is chosen."""

    title: str
    note: str


#: Baselines by their key in the test metrics of a run.
BASELINES = {
    "majority": BaselineTitle("the most frequent class of train", "baseline: the same answer for every row"),
    "acquisition": BaselineTitle(
        "acquisition data alone", "baseline: size, bytes and header of the file, view, sex, age; no pixels"
    ),
    "mean_intensity": BaselineTitle("mean brightness alone", "baseline: mean and deviation of the pixels"),
    "thumbnail": BaselineTitle("a 32 x 32 thumbnail", "baseline: logistic regression on its pixels"),
    "frozen_probe": BaselineTitle(
        "the base before fine-tuning", "baseline: logistic regression on what it makes of the image"
    ),
    "tfidf_logreg": BaselineTitle("TF-IDF with logistic regression", "baseline"),
    "rule_labeler": BaselineTitle("rules that read labels from the text", "baseline"),
    "constant": BaselineTitle("one report for all", "baseline: the report of best BLEU-4 on train"),
    "constant_clinical": BaselineTitle("one report for all", "baseline: the report of best clinical F1 on train"),
    "constant_others": BaselineTitle("one report for all", "baseline: the report of best BLEU-4 on other subjects"),
    "random": BaselineTitle("a random report of train", "baseline"),
    "nearest": BaselineTitle("the report of the most similar train image", "baseline"),
}


def primary_title(output: str) -> str:
    """Return the name of the primary metric of a kind of output ("scores" or "text"), as in a sentence."""
    return registry.primary(output).title


def columns(output: str) -> tuple[Metric, ...]:
    """Return the other metrics of the main table, in the order of their columns."""
    return tuple(metric for metric in registry.shown_in("table", output) if not metric.primary)


def values(output: str, metrics: Mapping[str, object]) -> tuple[float | None, ...]:
    """Return the primary metric, then those of `columns`, from the metrics of one split or of a baseline."""
    return tuple(metric.value(metrics) for metric in (registry.primary(output), *columns(output)))
