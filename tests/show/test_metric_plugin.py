"""One more file in the folder of metrics is one more metric in every record, table, CSV and card."""

import csv
import io

import pandas as pd
import pytest
from fake_runs import classify_run, report_run

from cxr_ft.cli._printed import metrics_line
from cxr_ft.errors import UsageError
from cxr_ft.run.ablation import result_tables
from cxr_ft.run.record import model_card, results
from cxr_ft.score import metrics
from cxr_ft.score.metrics import registry, report_metrics
from cxr_ft.show.compare import compare
from cxr_ft.show.recorded_runs import load
from cxr_ft.show.tables import quality_table, run_table, subgroup_table

PLUGIN = """
from cxr_ft.score.metrics.registry import Metric


def planted_share(truth, score, predicted):
    negatives = int((~truth).sum())
    return int((~truth & ~predicted).sum()) / negatives if negatives else None


def planted_ratio(references, generated):
    return sum(map(len, generated)) / sum(map(len, references))


METRICS = (
    Metric(name="planted_share", title="planted_share", output="scores", description="TN / N.", function=planted_share),
    Metric(name="planted_ratio", title="planted ratio", output="text", description="Of all characters.",
           function=planted_ratio, level="corpus"),
    Metric(name="planted_absent", title="planted absent", output="text", description="Needs what is not here.",
           function=planted_ratio, level="corpus", requires=("no-such-distribution",)),
)
"""


@pytest.fixture
def plugin(tmp_path, monkeypatch):
    """A folder beside the package's own with one more file."""
    folder = tmp_path / "metrics"
    folder.mkdir()
    (folder / "plugged_in.py").write_text(PLUGIN)
    monkeypatch.setattr(metrics, "__path__", [*metrics.__path__, str(folder)])
    registry._registered.cache_clear()
    yield
    registry._registered.cache_clear()


def test_a_metric_of_scores_is_recorded_and_shown_everywhere(plugin, tmp_path):
    result = results.read(classify_run(tmp_path / "run"))
    test = result.metrics["test"]
    value = test["macro"]["planted_share"]
    each = [label["planted_share"] for label in test["labels"].values()]
    assert value == pytest.approx(sum(each) / len(each)) and 0 < value < 1
    assert 0 < test["micro"]["planted_share"] < 1 and 0 < test["examples"]["planted_share"] < 1
    assert f"macro planted_share {value:.4f}" in metrics_line(test)
    assert f"planted_share {value:.3f}" in model_card._metrics(result)
    result_tables.write(tmp_path, {"run": result})
    assert pd.read_csv(tmp_path / "ablation.csv")["test_planted_share"].tolist() == pytest.approx([value])
    good, _ = load([tmp_path / "run"])
    (comparison,) = compare(good)
    table = quality_table.quality(comparison)
    assert table.rows[0].cells[table.head.index("Planted_share")].key == pytest.approx(value)
    (row,) = csv.DictReader(io.StringIO(run_table.runs_csv(good)))
    assert float(row["test macro planted_share"]) == pytest.approx(value)
    group = test["subgroups"]["sex"]["groups"]["F"]["planted_share"]
    assert group["low"] < group["value"] < group["high"]
    (groups,) = subgroup_table.subgroups(comparison)
    assert next(row.cells[groups.head.index("Planted_share")].key for row in groups.rows) == pytest.approx(
        group["value"]
    )


def test_a_metric_of_texts_is_recorded_and_shown_everywhere(plugin, tmp_path):
    result = results.read(report_run(tmp_path / "run"))
    test = result.metrics["test"]
    value = test["planted_ratio"]
    assert value > 0 and f"planted_ratio {value:.4f}" in metrics_line(test)
    assert f"planted_ratio {value:.3f}" in model_card._metrics(result)
    result_tables.write(tmp_path, {"run": result})
    assert pd.read_csv(tmp_path / "ablation.csv")["test_planted_ratio"].tolist() == pytest.approx([value])
    (comparison,) = compare(load([tmp_path / "run"])[0])
    table = quality_table.quality(comparison)
    assert table.rows[0].cells[table.head.index("Planted ratio")].key == pytest.approx(value)
    assert report_metrics.brief(["a b"], ["a b a b"])["planted_ratio"] == pytest.approx(7 / 3)
    assert test["planted_absent"] is None and "no-such-distribution" in test["undefined"]["planted_absent"]


@pytest.mark.parametrize(
    ("place", "output", "ordered"),
    [
        ("table", "scores", ["Macro AUROC", "Accuracy", "F1", "Precision", "Recall"]),
        ("table", "text", ["BLEU-4", "Clinical F1", "Label F1", "ROUGE-L", "Distinct"]),
        ("card", None, ["auroc", "ap", "f1", "accuracy", "bleu_1", "bleu_4", "rouge_l", "label_f1"]),
    ],
)
def test_the_columns_keep_their_order(place, output, ordered):
    """A further metric takes the place that its own position says, and moves no other."""
    shown = registry.shown_in(place, output)
    names = [known.heading if place == "table" else known.name for known in shown]
    assert [name for name in names if name in ordered] == ordered
    assert not {"cider_d", "CIDEr-D"}.intersection(names), "it is shown among the baselines alone"


def test_each_output_has_one_primary_metric_and_an_unknown_name_lists_the_known():
    assert (registry.primary("scores").name, registry.primary("text").name) == ("auroc", "bleu_4")
    assert sum(known.primary for known in registry.all_metrics("scores")) == 1
    assert sum(known.primary for known in registry.all_metrics("text")) == 1
    with pytest.raises(UsageError, match=r"unknown metric 'planted_share'.*auroc"):
        registry.metric("planted_share", "scores")
    with pytest.raises(UsageError, match="unknown output"):
        registry.primary("boxes")


def test_two_metrics_of_one_name_are_refused():
    known = registry.metric("f1", "scores")
    with pytest.raises(ValueError, match="named 'f1'"):
        registry._by_name([known, known])
