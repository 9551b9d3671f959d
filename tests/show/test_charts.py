"""Charts: none, one or many runs, runs without some value, and names that are no mathematics and no markup."""

import xml.etree.ElementTree as ET

import pytest
from fake_runs import HOSTILE, LABELS, TUNING, classify_run, failed_run, report_run

from cxr_ft.run import results
from cxr_ft.show import charts

MANIFEST = {
    "asked": {"per_label": 50},
    "labels": {
        "Edema": {"available": 900, "train": 35, "val": 8, "test": 8, "test_natural": 3},
        HOSTILE: {"available": 20, "train": 14, "val": 3, "test": 3, "test_natural": 1},
    },
}


def words_of(figure):
    """All text of the figure as SVG, which must be well formed."""
    root = ET.fromstring(charts.svg(figure, salt="test"))
    assert not [element for element in root.iter() if element.tag.endswith("script")]
    return " | ".join("".join(element.itertext()) for element in root.iter() if element.tag.endswith("}text"))


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    root = tmp_path_factory.mktemp("runs")
    return [results.read(classify_run(root / f"{m}{s}", m, s, 0.5 + s)) for m in TUNING for s in (0, 1)]


@pytest.mark.parametrize("name", charts.CHARTS)
def test_every_chart_takes_none_one_and_many_runs(name, runs):
    assert "There are no values to show." in words_of(charts.CHARTS[name]([]))
    for some in (runs[2:3], runs):
        told = words_of(charts.CHARTS[name](some))
        assert "There are no values" not in told
        assert "last_layers n=1" in told
    assert "lora q,v r8" in told


@pytest.mark.parametrize("name", charts.CHARTS)
def test_every_chart_does_without_some_values(name, runs, tmp_path):
    bare = runs[0].replace(cost={}, history=[], metrics={}, data={})
    holes = runs[4].replace(
        cost={"memory": None, "parameters": {"trainable": None}},
        history=[{"epoch": 1, "train_loss": 0.5, "val_loss": None, "val": None}],
        metrics={"test": {"macro": {"auroc": None}, "labels": {"Edema": {"auroc": None}}}},
    )
    words_of(charts.CHARTS[name]([bare]))
    words_of(charts.CHARTS[name]([holes]))
    words_of(charts.CHARTS[name]([bare, holes, runs[6], results.read(failed_run(tmp_path / "f"))]))


def test_reports_have_charts_too(tmp_path):
    run = results.read(report_run(tmp_path / "r"))
    assert "BLEU-4, test" in words_of(charts.quality_vs("time", [run]))
    assert "There are no values" in words_of(charts.per_label_bars([run]))


def test_a_point_stands_where_the_record_says(runs):
    figure = charts.quality_vs("parameters", runs)
    (axis,) = figure.axes
    points = {tuple(line.get_xydata()[0]) for line in axis.lines if len(line.get_xydata()) == 1}
    wanted = {(run.cost["parameters"]["trainable"], run.primary("test")) for run in runs}
    assert points == {(x, y) for x, y in wanted if x > 0}
    assert "dashed line: none" in axis.get_xlabel()  # zero_shot trains nothing, which no log axis shows


def test_names_from_data_are_neither_markup_nor_mathematics(tmp_path):
    labels = (*LABELS[:2], HOSTILE, "cost $x_1$ & <b>")
    told = words_of(charts.per_label_bars([results.read(classify_run(tmp_path / "r", labels=labels))]))
    assert HOSTILE in told
    assert "cost $x_1$ & <b>" in told


def test_more_variants_than_bars_can_show_are_cut_by_val_and_said(tmp_path):
    found = []
    for i in range(8):
        run = results.read(classify_run(tmp_path / str(i), quality=0.2 + 0.2 * i))
        found.append(run.replace(config={**run.config, "train": {**run.config["train"], "batch_size": 2**i}}))
    told = words_of(charts.per_label_bars(found))
    assert "the 6 best on val" in told
    assert "batch_size 128" in told
    assert "batch_size 1)" not in told


def test_the_distribution_shows_each_label_and_the_target():
    told = words_of(charts.distribution(MANIFEST))
    for text in ("Edema", HOSTILE, "900", "target 50", "train", "val", "test"):
        assert text in told
    assert "There are no values" in words_of(charts.distribution({}))


def test_charts_are_written_as_svg_and_png_byte_for_byte_alike(runs, tmp_path):
    for folder in ("a", "b"):
        element = charts.write(charts.learning_curves(runs), tmp_path / folder, "curves")
        assert (tmp_path / folder / "curves.svg").read_text().endswith(element)
    for name in ("curves.svg", "curves.png"):
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()
    assert (tmp_path / "a" / "curves.png").read_bytes().startswith(b"\x89PNG")
