"""Charts: none, one or many runs, runs without some value, and names that are no mathematics and no markup."""

import xml.etree.ElementTree as ET

import numpy as np
import pytest
from fake_runs import HOSTILE, LABELS, TUNING, classify_run, failed_run, report_run

from cxr_ft.errors import UsageError
from cxr_ft.run.record import results
from cxr_ft.show import phrasing
from cxr_ft.show.charts import charts
from cxr_ft.show.runs import Run, names, peak_bytes

MANIFEST = {
    "request": {"per_label": 50},
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


@pytest.mark.parametrize("name", [name for name in charts.CHARTS if name != "modules"])
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


def test_a_text_run_without_a_metric_by_epoch_has_its_losses(tmp_path):
    run = results.read(report_run(tmp_path / "r"))
    bare = run.replace(history=[{**step, "val": None} for step in run.history])
    (axis,) = charts.CHARTS["learning_curves"]([bare]).axes
    assert axis.get_ylabel().startswith("Loss")
    assert [len(line.get_xdata()) for line in axis.lines] == [4, 4]


def test_the_front_holds_what_nothing_cheaper_equals():
    points = [(3, 0.9), (1, 0.5), (2, 0.5), (2, 0.7), (4, 0.9), (5, 0.95), (1, 0.4)]
    front = charts.pareto(points)
    assert front == [(1, 0.5), (2, 0.7), (3, 0.9), (5, 0.95)]
    for cost, quality in points:
        assert any(c <= cost and q >= quality for c, q in front)
    assert charts.pareto([]) == []


def test_the_front_is_of_means_not_of_lucky_seeds(runs):
    (axis,) = charts.CHARTS["quality_vs_parameters"](runs).axes
    (front,) = [line for line in axis.lines if line.get_label() == "front"]
    means = {}
    for name, run in zip(names(runs), runs, strict=True):
        means.setdefault(name, []).append((run.cost["parameters"]["trainable"], run.primary("test")))
    known = [tuple(np.mean(points, axis=0)) for points in means.values()]
    assert {tuple(point) for point in front.get_xydata()} <= set(known)


def test_memory_by_kind_adds_up_to_the_peak(runs):
    (axis,) = charts.CHARTS["memory_by_kind"](runs).axes
    ends = {text.get_text() for text in axis.texts}
    assert ends == {f" {phrasing.size(peak_bytes(run))}" for run in runs}


def test_the_map_of_modules_holds_the_mean_of_the_runs_that_train_them(tmp_path):
    found = []
    for i, at in enumerate((["query"], ["query", "value"])):
        changes = {"tuning": {"targets": [word[0] for word in at]}, "at": at}
        found.append(results.read(classify_run(tmp_path / str(i), quality=0.5 + i, **changes)))
    figure = charts.CHARTS["modules"](found)
    (table,) = [image.get_array() for image in figure.axes[0].images]
    values = [run.primary("test") for run in found]
    assert np.asarray(table) == pytest.approx(np.array([[sum(values) / 2] * 2, [values[1]] * 2]))
    assert "text attention.self.query" in words_of(figure)
    assert "There are no values" in words_of(charts.CHARTS["modules"](found[:1]))


def test_the_effects_beside_the_runs_are_drawn(tmp_path):
    runs = [Run(folder, results.read(folder)) for folder in (classify_run(tmp_path / m, m) for m in ("lora", "full"))]
    assert charts.FOLDERS["main_effects"](runs).get_label() == "empty"
    head = "factor,level,effect,se,low,high,runs,note\n"
    lines = f"rank,8,0.02,0.01,-0.01,0.05,4,\n{HOSTILE},True,-0.1,,,,2,\nq,True,,,,,2,not told from v\n"
    (tmp_path / "effects.csv").write_text(head + lines)
    figure = charts.FOLDERS["main_effects"](runs)
    told = words_of(figure)
    assert "rank (8)" in told and f"{HOSTILE} (True)" in told and "q (True)" not in told
    assert [0.02] in [line.get_xdata().tolist() for line in figure.axes[0].lines if len(line.get_xdata()) == 1]


def test_another_file_of_that_name_is_refused(tmp_path):
    folder = classify_run(tmp_path / "r")
    (tmp_path / "effects.csv").write_text("a,b\n1,2\n")
    with pytest.raises(UsageError, match=r"effects\.csv is not what cxr-ablate writes: it lacks effect, factor"):
        charts.FOLDERS["main_effects"]([Run(folder, results.read(folder))])


def test_the_machine_and_the_curves_come_from_the_folder(tmp_path):
    folder = classify_run(tmp_path / "r")
    run = Run(folder, results.read(folder))
    told = words_of(charts.FOLDERS["system"]([run]))
    assert "CPU, %" in told and "Process, GB" in told and "GPU, %" not in told
    (axis,) = charts.FOLDERS["roc_curves"]([run]).axes
    curve = axis.lines[-1]
    area = np.trapezoid(curve.get_ydata(), curve.get_xdata())
    assert area == pytest.approx(run.result.primary("test"), abs=0.01)
    bare = Run(tmp_path / "nowhere", run.result)
    for draw in charts.FOLDERS.values():
        assert draw([bare]).get_label() == "empty"


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
