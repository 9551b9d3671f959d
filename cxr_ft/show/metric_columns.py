"""Name the metrics that the page shows, and the baselines beside them, with their paths in a run's record."""

from typing import NamedTuple

Path = tuple[str, ...]


class MetricColumn(NamedTuple):
    """A column of the main table.

    Args:
        title: its heading.
        paths: places of the value in the test metrics of a run; the first that holds a number is read.
        baseline_paths: the same in the metrics of a baseline; empty: no baseline has the metric.
    """

    title: str
    paths: tuple[Path, ...]
    baseline_paths: tuple[Path, ...] = ()


class BaselineTitle(NamedTuple):
    """The name of a baseline and how it is chosen."""

    title: str
    note: str


#: The primary metric of each kind of output, in a sentence, and its paths in the metrics of a baseline.
PRIMARY_TITLES = {"scores": "macro AUROC", "text": "BLEU-4"}
PRIMARY_PATHS: dict[str, Path] = {"scores": ("macro", "auroc"), "text": ("bleu_4",)}

_ACCURACY = (("accuracy",), ("micro", "accuracy"))

#: The other metrics of each kind of output, in the order of their columns.
COLUMNS: dict[str, tuple[MetricColumn, ...]] = {
    "scores": (
        MetricColumn("Accuracy", _ACCURACY, _ACCURACY),
        *(
            MetricColumn(name.capitalize(), (("macro", name),), (("macro", name),))
            for name in ("f1", "precision", "recall")
        ),
    ),
    "text": (
        MetricColumn("Clinical F1", (("clinical", "14_positive", "macro", "f1"),), (("clinical_f1_14_positive",),)),
        MetricColumn("Label F1", (("label_f1",),), (("label_f1",),)),
        MetricColumn("ROUGE-L", (("rouge_l",),), (("rouge_l",),)),
        MetricColumn("Distinct", (("distinct",),)),
    ),
}

#: Baselines by their key in the test metrics of a run.
BASELINES = {
    "majority": BaselineTitle("the most frequent class of train", "baseline: the same answer for every row"),
    "tfidf_logreg": BaselineTitle("TF-IDF with logistic regression", "baseline"),
    "rule_labeler": BaselineTitle("rules that read labels from the text", "baseline"),
    "constant": BaselineTitle("one report for all", "baseline: the report of best BLEU-4 on train"),
    "constant_clinical": BaselineTitle("one report for all", "baseline: the report of best clinical F1 on train"),
    "random": BaselineTitle("a random report of train", "baseline"),
    "nearest": BaselineTitle("the report of the most similar train image", "baseline"),
}


def primary_title(output: str) -> str:
    """Return the name of the primary metric of a kind of output ("scores" or "text")."""
    return PRIMARY_TITLES[output]
