"""A grid of runs: finished ones are skipped, failed ones become a row with their reason, the others go on."""

from collections.abc import Mapping
from pathlib import Path

from cxr_ft import config
from cxr_ft.data import manifest
from cxr_ft.files import make_folder
from cxr_ft.run import trackers
from cxr_ft.run.ablation import rate_search, result_tables, workers
from cxr_ft.run.ablation.grid import Cells
from cxr_ft.run.evaluation.verify import verify_all
from cxr_ft.run.record import results
from cxr_ft.run.training import train


def run(
    cells: Mapping[str, config.RunConfig],
    out: Path,
    *,
    tries: int = 1,
    carry_out: workers.CarryOut = workers.run_sequential,
    tracking: trackers.Tracking = trackers.NOBODY,
) -> list[results.Result]:
    """Train every cell into `out/<name>`, verify all in one fresh process, write the tables; the results in order.

    Args:
        cells: runs by name, as `grid.cells` gives them.
        tries: learning rates tried for each method, on val; see `rates.search`.
        carry_out: where the cells are trained: `workers.in_turn`, `workers.side_by_side(n)`, `workers.on_ray(address)`.
        tracking: who is told, after test, what became of each run.

    Raises:
        UsageError: for a cell that cannot be put together, before any is trained.
    """
    _check(cells)
    make_folder(out)
    chosen, tried = rate_search.search(dict(cells), out, tries, carry_out)
    carry_out(chosen, out)
    for name, record in tried.items():
        done = results.read(out / name)
        results.write(out / name, done.replace(search=record))
    _verify(chosen, out)
    finished = {name: results.read(out / name) for name in chosen}
    for name, result in finished.items():
        if result.status == "success":
            trackers.summarise(out / name, tracking)
    result_tables.write(out, finished)
    for note in rate_search.notes(tried):
        print(f"note: {note}")
    return list(finished.values())


def _check(cells: Mapping[str, config.RunConfig]) -> None:
    """Put every cell together without weights, each method with its options once."""
    for cell in {c.fingerprint({}): c for c in cells.values()}.values():
        card = manifest.read(Path(cell.data.splits)).card
        train.plan(cell, card.labels, card.multi_label)


def _verify(cells: Cells, out: Path) -> None:
    verify_all([out / name for name in cells if results.read(out / name).status == "trained"])
