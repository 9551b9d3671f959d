"""Train a grid of methods, target modules, ranks and seeds: the command cxr-ablate."""

import argparse
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from cxr_ft import config
from cxr_ft.cli._command import DONE, FAILED, Parser, guarded, numbers, words
from cxr_ft.cli._flags import common, other_base, raw_config, ray, trackers, tracking
from cxr_ft.errors import UsageError

if TYPE_CHECKING:
    from cxr_ft.run.ablation.rate_search import Tries
    from cxr_ft.run.ablation.workers import Execute
    from cxr_ft.run.trackers import Tracking


def parser() -> Parser:
    """Return the parser of the command's flags."""
    p = Parser("cxr-ablate", "Train a grid of runs, skip finished ones, continue after failures, and write tables.")
    p.add_argument(
        "grid",
        nargs="?",
        type=Path,
        metavar="GRID.yaml",
        help="a configuration with a key grid: names and lists",
    )
    p.add_argument(
        "--tiny", action="store_true", help="the recipe's own tiny form: embedded data, offline, about a minute"
    )
    p.add_argument("--method", metavar="A,B", dest="methods", help="tuning methods")
    p.add_argument("--targets", metavar='"q;v;q,v"', help="target lists, separated by semicolons")
    p.add_argument("--rank", metavar="4,8", help="ranks")
    p.add_argument("--seeds", metavar="0,1,2", help="seeds (default: 0)")
    p.add_argument("--tries", type=int, metavar="N", help="learning rates tried for each variant, on val (default: 1)")
    p.add_argument("--out", type=Path, required=True, metavar="DIR", help="folder for the run folders")
    p.add_argument("--jobs", type=int, metavar="N", help="runs at a time (default: one a CUDA device)")
    ray(p, "train the runs")
    p.add_argument("--plan", action="store_true", help="print the runs and the tries of learning rates, and stop")
    p.add_argument(
        "--suggest",
        action="store_true",
        help="propose targets and a rank within --budget and test them",
    )
    p.add_argument("--budget", metavar="500k", help="with --suggest: largest number of parameters of the adapter")
    trackers(p)
    other_base(p)
    common(p)
    return p


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; return 0, 1 where a run failed, or 2 for bad input."""
    return guarded("cxr-ablate", lambda: _main(argv))


def _main(argv: Sequence[str] | None) -> int:
    args = parser().parse_args(argv)
    tracker = tracking(args)
    file = _file(args)
    from cxr_ft.run.ablation import rate_search

    grid = {**_lists(file.pop("grid", {}) or {}, args.grid), **_from_flags(args)}
    varied, tries = rate_search.from_grid(grid, args.tries)
    raw = config.merge(file, raw_config(args))
    if not config.mapping(raw, "data").get("splits"):
        from cxr_ft.data.splits.write import default_splits

        splits = default_splits()
        print(f"no --splits: using the phantom's, {splits}")
        raw = config.merge(raw, {"data": {"splits": str(splits)}})
    if args.suggest:
        return _suggest(args, raw, varied, tracker)
    from cxr_ft.run.ablation import ablate
    from cxr_ft.run.ablation import grid as grids

    cells = grids.cells(raw, varied)
    tried = rate_search.searches(cells, tries)
    print(f"{len(cells)} runs into {args.out}: {', '.join(cells)}")
    if tried:
        print(_search(len(cells), tries, len(tried)))
    if args.plan:
        ablate.check(cells)
        return DONE
    done = ablate.run(cells, args.out, tries=tries, execute=_executor(args, tracker), tracking=tracker)
    failed = [result for result in done if result.status != "success"]
    print(f"{len(done) - len(failed)} of {len(done)} runs succeeded; {args.out / 'ablation.csv'}")
    for result in failed:
        print(f"  {result.status}: {result.variant}, seed {result.seed}: {result.error}")
    return FAILED if failed else DONE


def _file(args: argparse.Namespace) -> dict[str, object]:
    """Return the content of GRID.yaml, with --tiny in its tiny form; --splits replaces that form's splits."""
    if args.tiny and not args.grid:
        raise UsageError("--tiny needs the file of a recipe, as configs/imdb_distilbert.yaml")
    if not args.grid:
        return {}
    if not args.tiny:
        # The tiny form is an alternative, no option of a run.
        return {key: value for key, value in config.read_yaml(args.grid).items() if key != "tiny"}
    from cxr_ft.run.ablation import recipe

    return recipe.read(args.grid, tiny=True, splits=not args.splits)


def _search(runs: int, tries: "Tries", searches: int) -> str:
    """Return a sentence on the tries of learning rates, and the number of runs with them."""
    # The best try of each search is a run of the grid.
    whole = runs + searches * (tries.count - 1)
    each = f"each of {searches} {tries.owner}s" if searches > 1 else f"one {tries.owner}"
    return (
        f"{searches * tries.count} tries of learning rates first, {tries.count} for {each}; "
        f"the best of each is one of the runs: {whole} runs in all"
    )


def _executor(args: argparse.Namespace, tracker: "Tracking") -> "Execute":
    from cxr_ft.run.ablation import workers

    if "ray" in args:
        if args.jobs is not None:
            raise UsageError("--jobs is for this machine; a Ray cluster decides itself how many runs train at a time")
        return workers.on_ray(args.ray or None, tracker, args.other_base)
    import torch

    devices = torch.cuda.device_count()
    # One run a device: two on one GPU would share its memory, and their measured times would be of both.
    jobs = args.jobs if args.jobs is not None else max(devices, 1)
    if jobs < 1:
        raise UsageError(f"--jobs {jobs}: give 1 or more")
    return workers.on_this_machine(jobs, devices, tracker, args.other_base)


def _suggest(args: argparse.Namespace, raw: dict[str, object], varied: dict[str, object], tracker: "Tracking") -> int:
    from cxr_ft.run.ablation import suggest

    if args.plan:
        raise UsageError("--plan: what --suggest will run is not known before it has looked at the gradients")
    if not args.budget:
        raise UsageError("--suggest needs --budget, a number of parameters, as 500k")
    if extra := sorted(varied.keys() - {"seeds"}):
        raise UsageError(f"--suggest chooses {', '.join(extra)} itself; leave it out")
    sentences = suggest.run(raw, _count(args.budget), _seeds(varied), args.out, _executor(args, tracker))
    print("\n".join(sentences))
    return DONE


def _seeds(varied: Mapping[str, object]) -> list[int]:
    seeds = varied.get("seeds", [0])
    if not isinstance(seeds, list) or not all(isinstance(seed, int) for seed in seeds):
        raise UsageError(f"seeds: {seeds!r}; give whole numbers, as 0,1,2")
    return seeds


def _count(text: str) -> int:
    """Return `500k`, `1.5M` or `147456` as a number of parameters."""
    scale = {"k": 10**3, "m": 10**6}.get(text[-1:].lower(), 1)
    try:
        count = round(float(text[:-1] if scale > 1 else text) * scale)
    except (ValueError, OverflowError):
        count = 0
    if count < 1:
        raise UsageError(f"--budget {text}: give a number of parameters, as 147456, 500k or 1.5M")
    return count


def _from_flags(args: argparse.Namespace) -> dict[str, list[object]]:
    grid: dict[str, list[object]] = {}
    if args.methods:
        grid["method"] = list(words(args.methods))
    if args.targets:
        grid["targets"] = [list(words(part)) for part in args.targets.split(";") if part.strip()]
    if args.rank:
        grid["rank"] = list(numbers(args.rank, "--rank"))
    if args.seeds:
        grid["seeds"] = list(numbers(args.seeds, "--seeds"))
    return grid


def _lists(grid: object, file: Path | None) -> dict[str, object]:
    single = ("match", "tries", "tries_for")
    if not isinstance(grid, dict) or not all(isinstance(v, list) or key in single for key, v in grid.items()):
        raise UsageError(
            f"{file}: grid must map names (method, targets, rank, seeds, ...) to lists, and match and tries to a number"
        )
    return dict(grid)


if __name__ == "__main__":
    raise SystemExit(main())
