"""Run an ablation: train the cells of a grid, verify them, write the tables; as many learning rates for every variant.

Finished runs are skipped, failed ones become a row with their reason, the others go on. `rate_search` says how learning
rates are tried.
"""

from collections.abc import Mapping
from pathlib import Path

from cxr_ft.config import RunConfig
from cxr_ft.data import manifest
from cxr_ft.files import make_folder
from cxr_ft.run import trackers
from cxr_ft.run.ablation import rate_search, result_tables, workers
from cxr_ft.run.ablation.rate_search import Tries
from cxr_ft.run.evaluation.verify import verify_all
from cxr_ft.run.record import results
from cxr_ft.run.training import train


def run(
    cells: Mapping[str, RunConfig],
    out: Path,
    *,
    tries: Tries | None = None,
    execute: workers.Execute = workers.run_sequential,
    tracking: trackers.Tracking = trackers.NOBODY,
) -> list[results.Result]:
    """Train every cell into `out/<name>`, verify all in one fresh process, write the tables.

    Args:
        cells: runs by name, as `grid.cells` returns them.
        tries: learning rates tried for each variant, on val; None: each cell keeps its own.
        execute: where the cells are trained: `workers.run_sequential`, `workers.run_parallel(n)`, `workers.on_ray(a)`.
        tracking: the tracker that gets each run's summary after test.

    Returns:
        The results in the order of `cells`.

    Raises:
        UsageError: for a cell that cannot be built, before any is trained.
    """
    # Before the first training: a grid of days must not stop at its last cell for a wrong option.
    check(cells)
    make_folder(out)
    chosen, searches = rate_search.run(dict(cells), out, tries or Tries(), execute)
    for name, search in searches.items():
        if search.on == name:
            print(rate_search.summary(name, search))
    try:
        execute(chosen, out)
    finally:
        # After the runs, which write their records anew. Interrupted, too: the search belongs to the record of a run.
        for name, search in searches.items():
            if (out / name / "result.json").exists():
                results.write(out / name, results.read(out / name).replace(search=search))
    verify_all([out / name for name in chosen if results.read(out / name).status == "trained"])
    finished = {name: results.read(out / name) for name in chosen}
    for name, result in finished.items():
        if result.status == "success":
            trackers.summarise(out / name, tracking)
    # Of all cells, also those that an earlier attempt has finished: the tables show the whole grid.
    result_tables.write(out, finished)
    for note in [*rate_search.edge_notes(searches), *base_notes(finished)]:
        print(f"note: {note}")
    return list(finished.values())


def check(cells: Mapping[str, RunConfig]) -> None:
    """Build every cell without weights, each method with its options once.

    Raises:
        UsageError: for a cell that cannot be built.
    """
    # By fingerprint without splits: equal configurations are built once.
    for cell in {c.fingerprint({}): c for c in cells.values()}.values():
        card = manifest.read(Path(cell.data.splits)).card
        train.plan(cell, card.labels, card.multi_label)


def base_notes(finished: result_tables.Finished) -> list[str]:
    """Return a sentence for each base whose runs were trained on different weights, as --other-base allows."""
    weights: dict[str, set[str]] = {}
    for result in finished.values():
        digests = [digest for digest in (result.base.digest, *result.base.instead_of) if digest]
        weights.setdefault(str(result.config["model"]), set()).update(digests)
    return [
        f"runs on {model} were trained on different weights of it (base_weights in ablation.csv): not comparable"
        for model, digests in weights.items()
        if len(digests) > 1
    ]
