"""Every variant gets as many learning rates: the search, its record, failed and repeated tries, and what is printed."""

from pathlib import Path

import pandas as pd
import pytest
import toy

from cxr_ft.cli import ablate as command
from cxr_ft.data import manifest
from cxr_ft.errors import UsageError
from cxr_ft.run.ablation import ablate, grid, rate_search
from cxr_ft.run.ablation.rate_search import Tries
from cxr_ft.run.record import results
from cxr_ft.run.record.result_parts import RateSearch
from cxr_ft.run.training import train

LORA = {"method": ["lora"], "targets": [["q"], ["q", "v"]], "rank": [2, 4], "seeds": [4, 5]}
#: The cells on which the rates of each variant of LORA are tried.
FIRST = [f"classify-lora-{targets}-rank{rank}-s4" for targets in ("q", "q.v") for rank in (2, 4)]
RATES = (1e-4, 1e-3, 1e-2)


@pytest.fixture(scope="module")
def raw(tmp_path_factory):
    place = tmp_path_factory.mktemp("place")
    toy.make_shades(place)
    data = {"splits": str(place / "splits")}
    return {"data": data, "model": str(place / "tiny"), "train": {"epochs": 1, "batch_size": 8}}


class Trainer:
    """Stands in for training: what each run reaches on val follows from a function; None: it fails."""

    def __init__(self, reached):
        self.reached, self.trained = reached, []

    def __call__(self, cells, out):
        for name, cell in cells.items():
            wanted = cell.fingerprint(manifest.read(Path(cell.data.splits)).hashes)
            if (out / name).exists() and results.read(out / name).status == "trained":
                if results.read(out / name).config_hash != wanted:
                    raise UsageError(f"{name} holds another run")
                continue
            self.trained.append(f"{out.name}/{name}" if out.name == rate_search.FOLDER else name)
            value = self.reached(cell)
            ended = {"status": "trained", "history": [{"epoch": 1, "val": value, "val_loss": 9.0}]}
            done = {"status": "failed", "error": "out of memory"} if value is None else ended
            record = results.Result(config=cell.to_json(), config_hash=wanted, cost={"train_seconds": 2.0}, **done)
            results.write(out / name, record)


def peak(**best):
    """What runs reach where the best rate depends on the targets: 0.9 at it, less with each step away from it."""
    return lambda cell: 0.9 - 0.1 * abs(RATES.index(cell.tuning.options.lr) - best["".join(cell.tuning.targets)])


def searched(raw, out, tries, trainer, varied=LORA):
    """The rates of the cells by name, and the records of their searches."""
    cells, records = rate_search.run(grid.cells(raw, varied), out, tries, trainer)
    return {name: cell.tuning.options.lr for name, cell in cells.items()}, records


def test_every_variant_has_a_search_of_its_own_with_its_first_seed(raw, tmp_path):
    trainer = Trainer(peak(q=0, qv=1))
    rates, records = searched(raw, tmp_path, Tries(3, RATES), trainer)
    assert trainer.trained == [f"tries/{name}-lr{rate:g}" for name in FIRST for rate in RATES]
    assert {name: rates[name] for name in rates if "q.v" in name} == dict.fromkeys(
        [name for name in rates if "q.v" in name], 1e-3
    )
    assert {rate for name, rate in rates.items() if "q.v" not in name} == {1e-4}
    for name, record in records.items():
        assert record.rates == RATES and record.tries == 3 and record.origin == "searched"
        assert (record.on, record.seed) == (f"{name[:-1]}4", 4) and record.chosen == rates[name]
        assert record.val == pytest.approx((0.8, 0.9, 0.8) if "q.v" in name else (0.9, 0.8, 0.7))
    # The best try is the first seed's run, with the record of its search; the second seed is still to be trained.
    for name in FIRST:
        assert results.read(tmp_path / name).tuning["lr"] == rates[name]
        assert results.read(tmp_path / name).search.chosen == rates[name]
        assert not (tmp_path / f"{name[:-1]}5").exists()


def test_a_method_may_share_a_search_and_the_record_says_whose_rate_it_is(raw, tmp_path):
    trainer = Trainer(peak(q=2, qv=0))
    rates, records = searched(raw, tmp_path, Tries(3, RATES, "method"), trainer)
    assert trainer.trained == [f"tries/{FIRST[0]}-lr{rate:g}" for rate in RATES]
    assert set(rates.values()) == {1e-2}
    own = [name for name in records if name.startswith(FIRST[0][:-1])]
    assert [name for name, record in records.items() if record.origin == "searched"] == own and len(own) == 2
    assert {record.on for record in records.values()} == {FIRST[0]}
    assert {record.variant for record in records.values()} == {"lora q r2"}


def test_methods_of_other_options_never_share_a_search(raw):
    layers = {"method": [{"name": "last_layers", "layers": n} for n in (0, 1)], "seeds": [0, 1]}
    cells = grid.cells(raw, layers)
    for owner in ("variant", "method"):
        assert [search.names for search in rate_search.searches(cells, Tries(2, (), owner))] == [
            tuple(f"classify-last_layers-layers{n}-s{seed}" for seed in (0, 1)) for n in (0, 1)
        ]
    still = grid.cells(raw, {"method": ["zero_shot"]})
    assert rate_search.searches(still, Tries(3)) == [] and rate_search.searches(cells, Tries(1)) == []


def test_a_failed_try_is_counted_and_a_row(raw, tmp_path):
    trainer = Trainer(lambda cell: None if cell.tuning.options.lr == 1e-2 else cell.tuning.options.lr)
    rates, records = searched(raw, tmp_path, Tries(3, RATES), trainer, {**LORA, "targets": [["q"]], "rank": [2]})
    record = records[FIRST[0]]
    assert record.tries == 3 and record.finished == (1e-4, 1e-3) and record.val == (1e-4, 1e-3, None)
    assert record.edge == "largest" and rates[FIRST[0]] == 1e-3 and record.total_seconds == 6.0
    table = pd.read_csv(tmp_path / "tries.csv")
    assert list(table["status"]) == ["trained", "trained", "failed"] and list(table["lr"]) == list(RATES)
    assert list(table["chosen"]) == [False, True, False] and table["error"][2] == "out of memory"
    assert rate_search.summary(FIRST[0], record) == (
        "classify-lora-q-rank2: learning rate 0.001, best of 2 finished tries of 3 on val "
        "(auroc 0.0001: 0.000, 0.001: 0.001, 0.01: failed); 3 runs, 6 s"
    )
    assert rate_search.edge_notes(records) == [
        f"{FIRST[0]}: the best learning rate, 0.001, is the largest that finished; a better one may lie beyond"
    ]


def test_where_all_tries_fail_the_configured_rate_stays(raw, tmp_path):
    rates, records = searched(raw, tmp_path, Tries(3, RATES), Trainer(lambda cell: None))
    configured = {name: cell.tuning.options.lr for name, cell in grid.cells(raw, LORA).items()}
    assert rates == configured and {record.origin for record in records.values()} == {"configured"}
    assert "all 3 tries failed" in rate_search.summary(FIRST[0], records[FIRST[0]])
    assert rate_search.edge_notes(records) == []


def test_a_rate_that_becomes_the_best_later_replaces_the_runs_of_the_other(raw, tmp_path, capsys):
    one = {**LORA, "targets": [["q"]], "rank": [2]}
    first, second = (f"classify-lora-q-rank2-s{seed}" for seed in (4, 5))
    broken = Trainer(lambda cell: None if cell.tuning.options.lr == 1e-2 else cell.tuning.options.lr)
    chosen, _ = rate_search.run(grid.cells(raw, one), tmp_path, Tries(3, RATES), broken)
    broken(chosen, tmp_path)
    mended = Trainer(lambda cell: cell.tuning.options.lr)
    chosen, records = rate_search.run(grid.cells(raw, one), tmp_path, Tries(3, RATES), mended)
    mended(chosen, tmp_path)
    # The failed try and the second seed, whose earlier run is kept among the tries; the first seed's is the new try.
    assert mended.trained == [f"tries/{first}-lr0.01", second]
    assert records[first].chosen == 1e-2 and len(records[first].finished) == 3
    assert {results.read(tmp_path / name).tuning["lr"] for name in (first, second)} == {1e-2}
    assert results.read(tmp_path / "tries" / f"{second}-lr0.001").search.try_for == second
    assert "was trained with the rate 0.001" in capsys.readouterr().out
    # A third time nothing is left to do.
    again = Trainer(lambda cell: cell.tuning.options.lr)
    again(rate_search.run(grid.cells(raw, one), tmp_path, Tries(3, RATES), again)[0], tmp_path)
    assert again.trained == []


def test_another_run_in_a_cells_folder_stays_where_it_is(raw, tmp_path):
    one = {**LORA, "targets": [["q"]], "rank": [2]}
    other = grid.cells({**raw, "train": {"epochs": 7}}, one)
    Trainer(lambda cell: 0.5)({FIRST[0]: other[FIRST[0]]}, tmp_path)
    before = results.read(tmp_path / FIRST[0]).config_hash
    searched(raw, tmp_path, Tries(3, RATES), Trainer(peak(q=1)), one)
    assert results.read(tmp_path / FIRST[0]).config_hash == before


def test_an_interrupted_search_has_marked_its_tries(raw, tmp_path):
    def interrupted(cell):
        if cell.tuning.options.lr == 1e-3:
            raise KeyboardInterrupt
        return 0.5

    with pytest.raises(KeyboardInterrupt):
        searched(raw, tmp_path, Tries(3, RATES), Trainer(interrupted))
    (begun,) = (tmp_path / "tries").iterdir()
    assert results.read(begun).search.try_for == FIRST[0]
    trainer = Trainer(peak(q=0, qv=0))
    searched(raw, tmp_path, Tries(3, RATES), trainer)
    assert f"tries/{begun.name}" not in trainer.trained and len(trainer.trained) == 11


def test_rates_lie_half_a_decade_apart_around_the_first():
    assert rate_search.rates_around(1e-3, 1) == [1e-3]
    assert rate_search.rates_around(1e-3, 3) == [3.2e-4, 1e-3, 3.2e-3]
    assert rate_search.rates_around(2e-4, 2) == [2e-4, 6.3e-4]


def test_a_grid_that_varies_the_rate_tries_none(raw):
    cells = grid.cells(raw, {"method": ["lora"], "lr": [1e-3, 1e-2]})
    with pytest.raises(UsageError, match="lr is varied already"):
        rate_search.searches(cells, Tries(2))


@pytest.mark.parametrize(
    ("stated", "expected"),
    [
        ({}, Tries()),
        ({"tries": 3}, Tries(3)),
        ({"tries": ["1e-3", 0.0001, 1e-3], "tries_for": "method"}, Tries(2, (1e-4, 1e-3), "method")),
        ({"tries": 0}, "tries: 0; give the number"),
        ({"tries": True}, "tries: True; give the number"),
        ({"tries": "many"}, "tries: 'many'; give the number"),
        ({"tries": [1e-3]}, "give two rates or more"),
        ({"tries": [1e-3, -1]}, "-1 is no learning rate"),
        ({"tries": [1e-3, "x"]}, "'x' is no learning rate"),
        ({"tries_for": "targets"}, "unknown choice 'targets'"),
    ],
)
def test_tries_as_a_grid_states_them(stated, expected):
    if isinstance(expected, Tries):
        assert rate_search.from_grid({"rank": [2], **stated}) == ({"rank": [2]}, expected)
        return
    with pytest.raises(UsageError, match=expected):
        rate_search.from_grid(stated)


@pytest.mark.parametrize(
    ("value", "edge"), [((1.0, 2.0, 1.5), ""), ((1.0, 2.0, 3.0), "largest"), ((3.0, 2.0, 1.0), "smallest")]
)
def test_the_edge_of_the_tries(value, edge):
    record = RateSearch(rates=RATES, val=value, chosen=RATES[value.index(max(value))])
    assert record.edge == edge


def test_the_plan_counts_the_tries(raw, tmp_path, capsys):
    options = ["--splits", raw["data"]["splits"], "--model", raw["model"], "--out", str(tmp_path / "out"), "--plan"]
    varied = ["--method", "zero_shot,lora", "--targets", "q;v", "--rank", "2", "--seeds", "0,1", "--tries", "3"]
    assert command.main([*options, *varied]) == 0
    first, second = capsys.readouterr().out.splitlines()
    assert first.startswith("5 runs into")
    assert second == (
        "6 tries of learning rates first, 3 for each of 2 variants; the best of each is one of the runs: 9 runs in all"
    )
    assert not (tmp_path / "out").exists()


def test_a_grid_is_trained_once_and_its_tables_say_where_each_rate_is_from(raw, tmp_path, monkeypatch, capsys):
    right, trained = train._train, []
    monkeypatch.setattr(train, "_train", lambda run, *rest: trained.append(run.out.name) or right(run, *rest))
    cells = grid.cells(raw, {"method": ["zero_shot", "lora"], "targets": [["q"], ["v"]], "seeds": [3]})
    done = dict(zip(cells, ablate.run(cells, tmp_path, tries=Tries(2, (), "method")), strict=True))
    zero, q, v = cells
    assert [result.status for result in done.values()] == ["success"] * 3
    # Two tries, one of which is q; v inherits; zero_shot has none.
    assert len(trained) == 4 and q not in trained and {zero, v} < set(trained)
    assert done[zero].search == {} and done[q].search.origin == "searched" and done[v].search.origin == "inherited"
    assert done[q].tuning["lr"] == done[v].tuning["lr"] == done[v].search.chosen
    for folder in (tmp_path / "tries").iterdir():
        assert "test" not in results.read(folder).metrics and results.read(folder).search.try_for == q
    table = pd.read_csv(tmp_path / "ablation.csv").set_index("run")
    assert list(table["rate_from"].fillna("")) == ["", "searched", f"inherited from {q}"]
    assert table.loc[q, "rates_tried"] == table.loc[q, "rates_finished"] == 2 and table.loc[q, "search_seconds"] > 0
    effects = pd.read_csv(tmp_path / "effects.csv").set_index(["factor", "level"])
    assert effects.loc[("v", "True"), "rate_from"] == f"inherited from {q}"
    assert effects.loc[("v", "True"), "lr"] == done[v].tuning["lr"]
    assert f"{q[:-3]}: learning rate {done[q].tuning['lr']:g}, best of 2 on val (auroc" in capsys.readouterr().out
