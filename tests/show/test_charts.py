"""Charts: none, one or many runs, runs without some value, and names that are no mathematics and no markup."""

import sys
import xml.etree.ElementTree as ET

import numpy as np
import pytest
from fake_runs import HOSTILE, LABELS, TUNING, classify_run, failed_run, report_run

from cxr_ft import plugins
from cxr_ft.errors import UsageError
from cxr_ft.run.record import results
from cxr_ft.show import charts, number_format, page
from cxr_ft.show.charts import _distribution, _quality, _style, all_charts
from cxr_ft.show.recorded_runs import RecordedRun, names, peak_bytes

MANIFEST = {
    "request": {"per_label": 50},
    "labels": {
        "Edema": {"available": 900, "train": 35, "val": 8, "test": 8, "test_natural": 3},
        HOSTILE: {"available": 20, "train": 14, "val": 3, "test": 3, "test_natural": 1},
    },
}


def load(folder):
    return RecordedRun(folder, results.read(folder))


def with_result(run, **changes):
    return RecordedRun(run.folder, run.result.replace(**changes))


def draw(name, runs):
    return all_charts()[name].draw(runs)


def words_of(figure):
    """All text of the figure as SVG, which must be well formed."""
    root = ET.fromstring(_style.svg(figure, salt="test"))
    assert not [element for element in root.iter() if element.tag.endswith("script")]
    return " | ".join("".join(element.itertext()) for element in root.iter() if element.tag.endswith("}text"))


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    root = tmp_path_factory.mktemp("runs")
    return [load(classify_run(root / f"{m}{s}", m, s, 0.5 + s)) for m in TUNING for s in (0, 1)]


@pytest.mark.parametrize("name", all_charts())
def test_every_chart_says_when_it_has_nothing_to_show(name):
    assert "There are no values to show." in words_of(draw(name, []))


@pytest.mark.parametrize("name", [*(name for name, chart in all_charts().items() if not chart.optional), "calibration"])
def test_every_chart_shows_one_run_and_many(name, runs):
    for some in (runs[2:3], runs):
        assert "There are no values" not in words_of(draw(name, some))


@pytest.mark.parametrize(
    "name",
    [
        *("quality_vs_parameters", "quality_vs_time", "quality_vs_memory", "memory_by_kind"),
        *("learning_curves", "per_label", "calibration"),
    ],
)
def test_charts_name_the_variants(name, runs):
    assert "last_layers n=1" in words_of(draw(name, runs[2:3]))
    words = words_of(draw(name, runs))
    assert "last_layers n=1" in words and "lora q,v r8" in words


def test_a_chart_is_one_file_and_nothing_else_is_edited(runs, tmp_path, monkeypatch):
    """The file stands on the package's path, as one that somebody adds to the folder does."""
    (tmp_path / "planted_chart.py").write_text(
        "from matplotlib.figure import Figure\n"
        "from cxr_ft.show.charts import Chart\n"
        "def draw(runs):\n"
        "    figure = Figure()\n"
        "    figure.text(0.5, 0.5, f'{len(runs)} runs were counted')\n"
        "    return figure\n"
        "CHART = Chart(draw=draw, order=15)\n"
    )
    monkeypatch.setattr(page, "_pdf", lambda *_: [])
    charts.__path__.append(str(tmp_path))
    plugins.choices.cache_clear()
    try:
        order = list(all_charts())
        page.write_page([runs[0].folder], tmp_path / "out")
    finally:
        charts.__path__.remove(str(tmp_path))
        plugins.choices.cache_clear()
        sys.modules.pop("cxr_ft.show.charts.planted_chart", None)
    assert order.index("quality_vs_parameters") < order.index("planted_chart") < order.index("quality_vs_time")
    assert "1 runs were counted" in (tmp_path / "out" / "comparison.html").read_text(encoding="utf-8")
    assert (tmp_path / "out" / "charts" / "planted_chart.png").is_file()
    assert "planted_chart" not in all_charts()


@pytest.mark.parametrize("name", all_charts())
def test_every_chart_does_without_some_values(name, runs, tmp_path):
    bare = with_result(runs[0], cost={}, history=[], metrics={}, data={})
    holes = with_result(
        runs[4],
        cost={"memory": None, "parameters": {"trainable": None}},
        history=[{"epoch": 1, "train_loss": 0.5, "val_loss": None, "val": None}],
        metrics={"test": {"macro": {"auroc": None}, "labels": {"Edema": {"auroc": None}}}},
    )
    words_of(draw(name, [bare]))
    words_of(draw(name, [holes]))
    words_of(draw(name, [bare, holes, runs[6], load(failed_run(tmp_path / "f"))]))


def test_reports_have_charts_too(tmp_path):
    run = load(report_run(tmp_path / "r"))
    assert "BLEU-4, test" in words_of(draw("quality_vs_time", [run]))
    assert "There are no values" in words_of(draw("per_label", [run]))


def test_a_text_run_without_a_metric_by_epoch_has_its_losses(tmp_path):
    run = load(report_run(tmp_path / "r"))
    bare = with_result(run, history=[{**step, "val": None} for step in run.result.history])
    (axis,) = draw("learning_curves", [bare]).axes
    assert axis.get_ylabel().startswith("Loss")
    assert [len(line.get_xdata()) for line in axis.lines] == [4, 4]


def test_the_front_holds_what_nothing_cheaper_equals():
    points = [(3, 0.9), (1, 0.5), (2, 0.5), (2, 0.7), (4, 0.9), (5, 0.95), (1, 0.4)]
    front = _quality.pareto(points)
    assert front == [(1, 0.5), (2, 0.7), (3, 0.9), (5, 0.95)]
    for cost, quality in points:
        assert any(c <= cost and q >= quality for c, q in front)
    assert _quality.pareto([]) == []


def test_the_front_is_of_means_not_of_lucky_seeds(runs):
    (axis,) = draw("quality_vs_parameters", runs).axes
    (front,) = [line for line in axis.lines if line.get_label() == "front"]
    means = {}
    for name, run in zip(names([run.result for run in runs]), runs, strict=True):
        means.setdefault(name, []).append((run.result.cost["parameters"]["trainable"], run.result.primary("test")))
    known = [tuple(np.mean(points, axis=0)) for points in means.values()]
    assert {tuple(point) for point in front.get_xydata()} <= set(known)


def test_memory_by_kind_adds_up_to_the_peak(runs):
    (axis,) = draw("memory_by_kind", runs).axes
    ends = {text.get_text() for text in axis.texts}
    assert ends == {f" {number_format.size(peak_bytes(run.result))}" for run in runs}


def test_the_map_of_modules_holds_the_mean_of_the_runs_that_train_them(tmp_path):
    folders = []
    for i, at in enumerate((["query"], ["query", "value"])):
        changes = {"tuning": {"targets": [word[0] for word in at]}, "at": at}
        folders.append(load(classify_run(tmp_path / str(i), quality=0.5 + i, **changes)))
    figure = draw("modules", folders)
    (table,) = [image.get_array() for image in figure.axes[0].images]
    values = [run.result.primary("test") for run in folders]
    assert np.asarray(table) == pytest.approx(np.array([[sum(values) / 2] * 2, [values[1]] * 2]))
    assert "text attention.self.query" in words_of(figure)
    assert "There are no values" in words_of(draw("modules", folders[:1]))


def test_the_effects_beside_the_runs_are_drawn(tmp_path):
    runs = [load(classify_run(tmp_path / m, m)) for m in ("lora", "full")]
    assert draw("main_effects", runs).get_label() == "empty"
    head = "factor,level,effect,se,low,high,runs,note\n"
    lines = f"rank,8,0.02,0.01,-0.01,0.05,4,\n{HOSTILE},True,-0.1,,,,2,\nq,True,,,,,2,cannot be separated from v\n"
    (tmp_path / "effects.csv").write_text(head + lines)
    figure = draw("main_effects", runs)
    words = words_of(figure)
    assert "rank (8)" in words and f"{HOSTILE} (True)" in words and "q (True)" not in words
    assert [0.02] in [line.get_xdata().tolist() for line in figure.axes[0].lines if len(line.get_xdata()) == 1]


def test_another_file_of_that_name_is_refused(tmp_path):
    folder = classify_run(tmp_path / "r")
    (tmp_path / "effects.csv").write_text("a,b\n1,2\n")
    with pytest.raises(UsageError, match=r"effects\.csv is not what cxr-ablate writes: it lacks effect, factor"):
        draw("main_effects", [load(folder)])


def test_the_machine_and_the_curves_come_from_the_folder(tmp_path):
    folder = classify_run(tmp_path / "r")
    run = load(folder)
    words = words_of(draw("system", [run]))
    assert "CPU, %" in words and "Process, GB" in words and "GPU, %" not in words
    (axis,) = draw("roc_curves", [run]).axes
    curve = axis.lines[-1]
    area = np.trapezoid(curve.get_ydata(), curve.get_xdata())
    assert area == pytest.approx(run.result.primary("test"), abs=0.01)
    bare = RecordedRun(tmp_path / "nowhere", run.result)
    for name in ("main_effects", "roc_curves", "system"):
        assert draw(name, [bare]).get_label() == "empty"


def test_a_point_is_drawn_at_the_recorded_numbers(runs):
    (axis,) = draw("quality_vs_parameters", runs).axes
    points = {tuple(line.get_xydata()[0]) for line in axis.lines if len(line.get_xydata()) == 1}
    results_ = [run.result for run in runs]
    wanted = {(result.cost["parameters"]["trainable"], result.primary("test")) for result in results_}
    assert points == {(x, y) for x, y in wanted if x > 0}
    assert "dashed line: none" in axis.get_xlabel()  # zero_shot trains nothing, which no log axis shows


def test_names_from_data_are_neither_markup_nor_mathematics(tmp_path):
    labels = (*LABELS[:2], HOSTILE, "cost $x_1$ & <b>")
    words = words_of(draw("per_label", [load(classify_run(tmp_path / "r", labels=labels))]))
    assert HOSTILE in words
    assert "cost $x_1$ & <b>" in words


def test_more_variants_than_bars_can_show_are_cut_by_val_and_the_title_says_so(tmp_path):
    folders = []
    for i in range(8):
        run = load(classify_run(tmp_path / str(i), quality=0.2 + 0.2 * i))
        config = run.result.config
        folders.append(with_result(run, config={**config, "train": {**config["train"], "batch_size": 2**i}}))
    words = words_of(draw("per_label", folders))
    assert "the 6 best on val" in words
    assert "batch_size 128" in words
    assert "batch_size 1)" not in words


def test_the_distribution_shows_each_label_and_the_target():
    words = words_of(_distribution.distribution(MANIFEST))
    for text in ("Edema", HOSTILE, "900", "target 50", "train", "val", "test"):
        assert text in words
    assert "There are no values" in words_of(_distribution.distribution({}))


def test_charts_are_written_as_svg_and_png_byte_for_byte_alike(runs, tmp_path):
    for folder in ("a", "b"):
        element = _style.write(draw("learning_curves", runs), tmp_path / folder, "curves")
        assert (tmp_path / folder / "curves.svg").read_text().endswith(element)
    for name in ("curves.svg", "curves.png"):
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()
    assert (tmp_path / "a" / "curves.png").read_bytes().startswith(b"\x89PNG")
