"""Every number of a chart stands where its axis and its legend name it."""

import numpy as np
import pytest
from number_records import run, scores

from cxr_ft.show.charts import all_charts
from cxr_ft.show.recorded_runs import RecordedRun


def test_bars_of_labels_are_aurocs_on_test_next_to_their_names(base):
    def labels(shift):
        return {name: {"auroc": 0.6 + 0.1 * i + shift, "ap": 0.9} for i, name in enumerate(("Edema", "Fracture"))}

    metrics = {"val": scores(0, labels=labels(0.15)), "test": scores(0, labels=labels(0))}
    (axis,) = all_charts()["per_label"].draw([run(base, metrics=metrics)]).axes
    names = [text.get_text() for text in axis.get_yticklabels()]
    at = axis.get_yticks()
    ends = {}
    for bar in axis.patches:
        place = int(np.argmin(np.abs(np.asarray(at) - (bar.get_y() + bar.get_height() / 2))))
        ends[names[place]] = (bar.get_x(), bar.get_x() + bar.get_width())
    why = "no interval: no predictions"
    assert ends == {f"Edema\n{why}": pytest.approx((0.5, 0.6)), f"Fracture\n{why}": pytest.approx((0.5, 0.7))}


def test_bars_of_labels_leave_out_the_worst_on_val(base):
    """Seven variants, of which six are drawn: the one that is best on test is the worst on val."""
    labels = {"Edema": {"auroc": 0.7}}
    runs = []
    for i in range(7):
        made = run(base, metrics={"val": scores(0.01 * i), "test": scores(-0.01 * i, labels=labels)})
        config = {**made.result.config, "train": {**made.result.config["train"], "batch_size": 2**i}}
        runs.append(RecordedRun(made.folder, made.result.replace(config=config, config_hash=str(i))))
    (axis,) = all_charts()["per_label"].draw(runs).axes
    (legend,) = axis.figure.legends
    shown = [text.get_text() for text in legend.get_texts()]
    assert len(shown) == 6 and not [name for name in shown if name.endswith("batch_size 1)")]


@pytest.mark.parametrize(("cost", "wanted"), [("parameters", 222_338), ("time", 33.0), ("memory", 400_000_000)])
def test_quality_on_test_is_drawn_over_the_cost_of_the_axis(base, cost, wanted):
    metrics = {"val": scores(0.1), "test": scores(0)}
    memory = {"weights": 100_000_000, "activations": 300_000_000, "allocator_peak": 7}
    costs = {**base.cost, "train_seconds": 33.0, "memory": memory}
    costs["parameters"] = {"trainable": 222_338, "total": 22_900_000}
    (axis,) = all_charts()[f"quality_vs_{cost}"].draw([run(base, metrics=metrics, cost=costs)]).axes
    points = [tuple(line.get_xydata()[0]) for line in axis.lines if len(line.get_xydata()) == 1]
    assert (wanted, 0.81) in points and {y for _, y in points} == {0.81}


def test_learning_curves_hold_val_above_and_dash_the_loss_of_train(base):
    history = [{"epoch": e, "step": e, "train_loss": 0.1 * e, "val_loss": 0.2 * e, "val": 0.3 * e} for e in (1, 2)]
    above, losses = all_charts()["learning_curves"].draw([run(base, history=history)]).axes
    assert [line.get_ydata().tolist() for line in above.lines] == [[0.3, 0.6]]
    assert {line.get_linestyle(): line.get_ydata().tolist() for line in losses.lines} == {
        "-": [0.2, 0.4],
        "--": [0.1, 0.2],
    }


def test_bars_of_memory_are_means_over_seeds(base):
    runs = [
        run(base, seed=seed, cost={**base.cost, "memory": {"weights": size, "activations": 2 * size}})
        for seed, size in enumerate((100_000_000, 300_000_000))
    ]
    (axis,) = all_charts()["memory_by_kind"].draw(runs).axes
    assert [text.get_text() for text in axis.texts] == [" 600 MB"]


def test_the_reliability_diagram_weighs_bins_by_rows_and_is_of_test(base):
    def bins(*rows):
        cells = [{"from": 0.2, "to": 0.3, "n": n, "score": score, "positive": share} for n, score, share in rows]
        return {"calibration": {"raw": {"reliability": cells}}}

    seeds = [(30, 0.21, 0.5), (10, 0.25, 0.9)]
    runs = [run(base, seed=i, metrics={"test": bins(row), "val": bins((99, 0.29, 0.1))}) for i, row in enumerate(seeds)]
    (axis,) = all_charts()["calibration"].draw(runs).axes
    (point,) = axis.lines[-1].get_xydata()
    assert tuple(point) == pytest.approx((0.22, 0.6))


def test_the_machine_s_memory_is_in_billions_of_bytes(base, tmp_path):
    (tmp_path / "system.jsonl").write_text('{"seconds": 5.0, "memory_bytes": 2500000000}\n')
    (axis,) = all_charts()["system"].draw([RecordedRun(tmp_path, base)]).axes
    assert axis.get_ylabel() == "Process, GB"
    assert axis.lines[0].get_ydata().tolist() == [2.5]
