"""The search for a learning rate takes the rate that is best on val, wherever it lies among those that were tried."""

import pytest
import toy

from cxr_ft.run.ablation import rate_search, workers
from cxr_ft.run.ablation.rate_search import Tries
from cxr_ft.run.record import results

#: By the default rate of 0.01 the four rates are 0.0032, 0.01, 0.032, 0.1: the third one is best, the first is worst.
MIDDLE = 0.01


def test_the_rate_that_is_best_on_val_is_chosen(overlapping, tmp_path):
    cells = {
        f"seed{seed}": toy.configured(overlapping, "full", "report", {"lr": MIDDLE}, epochs=2, seed=seed)
        for seed in (0, 1)
    }
    chosen, record = rate_search.run(cells, tmp_path, Tries(4), workers.run_sequential)
    tried = rate_search.rates_around(MIDDLE, 4)
    reached = []
    for rate in tried:
        (run,) = (tmp_path / rate_search.FOLDER).glob(f"seed0-lr{rate:g}")
        result = results.read(run)
        assert result.config["tuning"]["lr"] == rate
        reached.append(-toy.best_epoch(result.history)[0])
    best = reached.index(max(reached))
    # Without these the test could not fail: not the first, the last, the middle or the worst one.
    assert best == 2 and tried[best] != MIDDLE and reached[best] > 1.2 * max(r for r in reached if r != reached[best])
    assert {cell.tuning.options.lr for cell in chosen.values()} == {tried[best]}
    assert all(entry.chosen == tried[best] and entry.on == "seed0" for entry in record.values())
    assert all(list(entry.rates) == tried and entry.val == pytest.approx(reached) for entry in record.values())
    # The best try is the first cell's run: nothing is trained twice.
    assert results.read(tmp_path / "seed0").config["tuning"]["lr"] == tried[best]


#: What each rate reached on val in its two epochs, by rate from small to large.
AUROCS = {
    "third": [(0.5, 0.6), (0.7, 0.7), (0.9, 0.6), (0.8, 0.8)],
    "second": [(0.5, 0.6), (0.7, 0.9), (0.9, 0.6), (0, 0)],
}


@pytest.mark.parametrize(("case", "expected"), [("third", 2), ("second", 1)])
def test_a_rate_counts_by_its_best_epoch_and_the_smaller_of_equals_is_taken(overlapping, tmp_path, case, expected):
    cells = {"a": toy.configured(overlapping, "full", "classify", {"lr": MIDDLE})}
    tried = rate_search.rates_around(MIDDLE, 4)

    def recorded(runs, out):
        for (name, cell), aurocs in zip(runs.items(), AUROCS[case], strict=True):
            (out / name).mkdir(parents=True)
            # The loss says the opposite, and must not be what decides.
            history = [{"epoch": i + 1, "val": auroc, "val_loss": auroc} for i, auroc in enumerate(aurocs)]
            results.write(
                out / name,
                results.Result(
                    status="trained",
                    config=cell.to_json(),
                    config_hash="",
                    environment={},
                    data={},
                    plan={},
                    history=history,
                ),
            )

    chosen, record = rate_search.run(cells, tmp_path, Tries(4), recorded)
    assert chosen["a"].tuning.options.lr == record["a"].chosen == tried[expected]
