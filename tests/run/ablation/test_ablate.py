"""A grid: its cells, failures that do not stop it, and its CSV."""

import pandas as pd
import pytest
import toy

from cxr_ft import config
from cxr_ft.data.dicom import DicomError
from cxr_ft.data.splits.request import SplitRequest
from cxr_ft.data.splits.write import make_splits
from cxr_ft.errors import UsageError
from cxr_ft.run.ablation import ablate, grid
from cxr_ft.run.evaluation import external_validation
from cxr_ft.run.evaluation.predictor import Predictor
from cxr_ft.run.evaluation.verify import verify
from cxr_ft.run.record import results
from cxr_ft.run.training import train


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    place = tmp_path_factory.mktemp("place")
    toy.make_shades(place)
    return place


@pytest.fixture
def raw(place):
    return {
        "data": {"splits": str(place / "splits")},
        "model": str(place / "tiny"),
        "train": {"epochs": 1, "batch_size": 8},
    }


def test_cells_vary_what_each_method_has():
    cells = grid.cells(
        {}, {"method": ["lora", "full", "bitfit"], "targets": [["q"], ["q", "v"]], "rank": [4, 8], "seeds": [0, 1]}
    )
    assert len(cells) == 2 * (2 * 2) + 2 * 2 + 2
    assert {c.tuning.options.rank for c in cells.values() if c.tuning.name == "lora"} == {4, 8}
    assert {"classify-lora-q.v-rank8-s1", "classify-full-q.v-s0", "classify-bitfit-s0"} <= set(cells)


def test_shared_options_stay_with_their_method():
    cells = grid.cells({"tuning": {"name": "lora", "lr": 0.5}}, {"method": ["lora", "full"]})
    assert {c.tuning.name: c.tuning.options.lr for c in cells.values()} == {"lora": 0.5, "full": 1e-4}


def test_a_method_may_bring_options_of_its_own():
    varied = {"method": ["zero_shot", {"name": "lora", "lr": 3e-3}, {"name": "full", "lr": 2e-4}], "rank": [2, 4]}
    cells = grid.cells({}, varied)
    assert list(cells) == [
        "classify-zero_shot-s0",
        "classify-lora-rank2-s0",
        "classify-lora-rank4-s0",
        "classify-full-s0",
    ]
    assert [getattr(c.tuning.options, "lr", None) for c in cells.values()] == [None, 3e-3, 3e-3, 2e-4]
    twice = grid.cells({}, {"method": [{"name": "last_layers", "layers": n} for n in (0, 1)]})
    assert list(twice) == ["classify-last_layers-layers0-s0", "classify-last_layers-layers1-s0"]
    with pytest.raises(UsageError, match="has no name; write lora"):
        grid.cells({}, {"method": [{"lr": 1}]})
    with pytest.raises(UsageError, match="unknown key 'rate'"):
        grid.cells({}, {"method": [{"name": "lora", "rate": 1}]})


def test_an_option_that_a_method_brings_is_not_varied_for_it():
    cells = grid.cells({}, {"method": ["lora", {"name": "hybrid", "rank": 3}], "rank": [2, 4]})
    assert list(cells) == ["classify-lora-rank2-s0", "classify-lora-rank4-s0", "classify-hybrid-s0"]
    assert cells["classify-hybrid-s0"].tuning.options.rank == 3


@pytest.mark.parametrize(
    ("varied", "what"),
    [
        ({"seeds": [0, 0]}, "seeds has 0 twice"),
        ({"method": ["lora", "full", "lora"]}, "method has 'lora' twice"),
        ({"targets": ["q,v", "q", "q,v"]}, "targets has .*q.*v.* twice"),
        ({"rank": [4, 8, 4]}, "rank has 4 twice"),
    ],
)
def test_a_value_that_is_listed_twice_is_refused(varied, what):
    """It would be one run where somebody counts on two."""
    with pytest.raises(UsageError, match=f"{what}; give each value once"):
        grid.cells({}, varied)


def test_what_trains_nothing_has_one_seed():
    assert list(grid.cells({}, {"method": ["zero_shot", "full"], "seeds": [3, 4]})) == [
        "classify-zero_shot-s3",
        "classify-full-s3",
        "classify-full-s4",
    ]


def test_the_configured_seed_holds_without_seeds():
    (cell,) = grid.cells({"train": {"seed": 5}}, {"method": ["full"]}).values()
    assert cell.train.seed == 5


def test_options_without_a_method_go_to_those_that_have_them():
    cells = grid.cells({"tuning": {"rank": 2}}, {"method": ["lora", "last_layers"]})
    assert {c.tuning.name: getattr(c.tuning.options, "rank", None) for c in cells.values()} == {
        "lora": 2,
        "last_layers": None,
    }
    assert grid.cells({"tuning": {"layers": 1}}, {"method": ["last_layers"]})
    with pytest.raises(UsageError, match="'widht'"):
        grid.cells({"tuning": {"widht": 2}}, {"method": ["lora", "last_layers"]})


@pytest.mark.parametrize(
    ("varied", "words"),
    [
        ({"method": ["full"], "rank": [4]}, "unknown grid key 'rank'"),
        ({"method": []}, "method has no values"),
        ({"method": ["lorra"]}, "unknown method 'lorra'"),
        ({"method": ["lora"], "rank": [0]}, "tuning.rank: 0"),
    ],
)
def test_a_bad_grid_is_one_line(varied, words):
    with pytest.raises(UsageError, match=words):
        grid.cells({}, varied)


def test_bad_targets_stop_the_grid_before_any_run(raw, tmp_path):
    cells = grid.cells(raw, {"method": ["lora"], "targets": [["q"], ["vv"]]})
    with pytest.raises(UsageError, match="no target 'vv'"):
        ablate.run(cells, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_failed_cell_is_a_row_and_the_others_go_on(raw, tmp_path, monkeypatch):
    cells = grid.cells(raw, {"method": ["zero_shot", "lora", "last_layers"]})
    right = train._train

    def broken(finish, *rest):
        if finish.config.tuning.name == "lora":
            raise ZeroDivisionError("planted")
        return right(finish, *rest)

    monkeypatch.setattr(train, "_train", broken)
    done = {r.method: r for r in ablate.run(cells, tmp_path)}
    assert {m: r.status for m, r in done.items()} == {
        "zero_shot": "success",
        "lora": "failed",
        "last_layers": "success",
    }
    table = pd.read_csv(tmp_path / "ablation.csv").set_index("method")
    # The message of an error of unknown origin may quote a row: it is for the run's own log alone.
    assert "ZeroDivisionError" in table.loc["lora", "error"] and "planted" not in table.loc["lora", "error"]
    assert "ZeroDivisionError: planted" in (tmp_path / "classify-lora-s0" / "run.log").read_text()
    assert table.loc["last_layers", "status"] == "success"
    assert table.loc["last_layers", "trainable_parameters"] > 0
    # Mended and started again: only the failed one is trained.
    trained = []
    monkeypatch.setattr(train, "_train", lambda f, *rest: trained.append(f.config.tuning.name) or right(f, *rest))
    assert all(r.status == "success" for r in ablate.run(cells, tmp_path))
    assert trained == ["lora"]


@pytest.fixture(scope="module")
def finished(place, tmp_path_factory):
    run = tmp_path_factory.mktemp("finished") / "run"
    raw = {"data": {"splits": str(place / "splits")}, "model": str(place / "tiny"), "train": {"epochs": 1}}
    train.fit(config.resolve(raw), run, verify=False)
    verify(run)
    return run


def test_evaluated_on_its_own_splits_it_says_the_same(place, finished, tmp_path):
    metrics, notes = external_validation.evaluate_on(finished, place / "splits", tmp_path / "out")
    own = results.read(finished).metrics
    assert notes == []
    for split in ("test", "test_natural"):
        assert metrics[split]["macro"] == pytest.approx(own[split]["macro"], nan_ok=True)
    assert (tmp_path / "out" / "metrics.json").exists()
    assert len(results.read_predictions(tmp_path / "out")) > 0


def test_splits_with_other_labels_are_refused(finished, tmp_path):
    from PIL import Image

    for name in ("cat", "dog"):
        (tmp_path / "pets" / name).mkdir(parents=True)
        for i in range(12):
            Image.new("L", (40, 40), 9 * i).save(tmp_path / "pets" / name / f"{i}.png")
    make_splits(str(tmp_path / "pets"), "folder", SplitRequest(per_label=10), tmp_path / "splits")
    with pytest.raises(UsageError, match="it was trained on clear, opaque; the splits have cat, dog"):
        external_validation.evaluate_on(finished, tmp_path / "splits", tmp_path / "out")


def test_splits_with_fewer_classes_evaluate_a_single_label_run(place, tmp_path):
    """A run on three classes can be evaluated on splits that have two of them."""
    from PIL import Image

    for i in range(12):
        (tmp_path / "three" / "odd").mkdir(parents=True, exist_ok=True)
        Image.new("L", (40, 40), 9 * i).save(tmp_path / "three" / "odd" / f"{i}.png")
    for name in ("clear", "opaque"):
        (tmp_path / "three" / name).symlink_to(place / "classes" / name)
    rows = [
        f"{p.relative_to(tmp_path / 'three')},{p.parent.name}" for p in sorted((tmp_path / "three").glob("*/*.png"))
    ]
    (tmp_path / "three" / "t.csv").write_text("\n".join(["path,label", *rows]) + "\n")
    make_splits(str(tmp_path / "three"), "folder", SplitRequest(per_label=10), tmp_path / "splits")
    raw = {"data": {"splits": str(tmp_path / "splits")}, "model": str(place / "tiny"), "train": {"epochs": 1}}
    train.fit(config.resolve(raw), tmp_path / "run", verify=False)
    metrics, _ = external_validation.evaluate_on(tmp_path / "run", place / "splits", tmp_path / "out")
    assert metrics["test"]["accuracy"] is not None
    assert metrics["test"]["labels"]["clear"]["n"] == metrics["test"]["n"]


def test_single_images_score_as_in_the_predictions(place, finished):
    table = results.read_predictions(finished)
    row = table[(table["split"] == "test") & (table["label"] == "opaque")].iloc[0]
    root = place / "classes"
    (file,) = root.glob(f"{row['dicom_id']}.png")
    answer = Predictor(finished).predict(file)
    assert answer.scores["opaque"] == pytest.approx(row["score"], abs=1e-4)
    assert answer.positive == (max(answer.scores, key=answer.scores.get),)


def test_an_unreadable_image_is_refused_and_the_next_is_answered(place, finished, tmp_path):
    (tmp_path / "no.png").write_text("no image")
    good = next((place / "classes").rglob("*.png"))
    predictor = Predictor(finished)
    with pytest.raises(DicomError):
        predictor.predict(tmp_path / "no.png")
    assert predictor.predict(good).scores
