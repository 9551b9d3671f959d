"""cxr-ablate: a grid of methods, target modules, ranks and seeds."""

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from cxr_ft import config
from cxr_ft.cli._command import DONE, FOUND, Parser, guarded, numbers, words
from cxr_ft.cli._flags import common, raw_config, ray, trackers, tracking
from cxr_ft.errors import UsageError


def parser() -> Parser:
    """The command's flags."""
    p = Parser("cxr-ablate", "Train a grid of runs, skip finished ones, survive failed ones, and write their CSV.")
    p.add_argument(
        "grid", nargs="?", type=Path, metavar="GRID.yaml", help="a configuration with a key grid: lists by name"
    )
    p.add_argument(
        "--tiny", action="store_true", help="the recipe's own tiny form: embedded data, offline, about a minute"
    )
    p.add_argument("--method", metavar="A,B", dest="methods", help="tuning methods")
    p.add_argument("--targets", metavar='"q;v;q,v"', help="target lists, separated by semicolons")
    p.add_argument("--rank", metavar="4,8", help="ranks")
    p.add_argument("--seeds", metavar="0,1,2", help="seeds (default: 0)")
    p.add_argument("--tries", type=int, metavar="N", help="learning rates tried for each method, on val (default: 1)")
    p.add_argument("--out", type=Path, required=True, metavar="DIR", help="where the run folders go")
    p.add_argument("--jobs", type=int, metavar="N", help="runs at a time (default: one a CUDA device)")
    ray(p, "train the runs")
    p.add_argument("--suggest", action="store_true", help="find targets and ranks within --budget and try them")
    p.add_argument("--budget", metavar="500k", help="with --suggest: trained parameters of the adapter")
    trackers(p)
    common(p)
    return p


def main(argv: Sequence[str] | None = None) -> int:
    """Exit code 0, 1 where a run failed, 2 for bad input."""
    return guarded("cxr-ablate", lambda: _main(argv))


def _main(argv: Sequence[str] | None) -> int:
    args = parser().parse_args(argv)
    follows = tracking(args)
    file = _file(args)
    varied, tries = _grid(args, file.pop("grid", {}) or {})
    raw = config.merge(file, raw_config(args))
    if not config.mapping(raw, "data").get("splits"):
        from cxr_ft.data import manifest

        splits = manifest.default_splits()
        print(f"no --splits given: the phantom's, in {splits}")
        raw = config.merge(raw, {"data": {"splits": str(splits)}})
    if args.suggest:
        return _suggest(args, raw, varied, follows)
    from cxr_ft.run.ablation import ablate, grid

    cells = grid.cells(raw, varied)
    print(f"{len(cells)} runs into {args.out}: {', '.join(cells)}")
    done = ablate.run(cells, args.out, tries=tries, carry_out=_carry_out(args, follows), tracking=follows)
    failed = [result for result in done if result.status != "success"]
    print(f"{len(done) - len(failed)} of {len(done)} runs succeeded; {args.out / 'ablation.csv'}")
    for result in failed:
        print(f"  {result.status}: {result.variant}, seed {result.seed}: {result.error}")
    return FOUND if failed else DONE


def _file(args: argparse.Namespace) -> dict[str, Any]:
    """What GRID.yaml says, in its tiny form where so asked; that form's splits only where no others are given."""
    if args.tiny and not args.grid:
        raise UsageError("--tiny is a form of a recipe: give its file, as configs/imdb_distilbert.yaml")
    if not args.grid:
        return {}
    if not args.tiny:
        return {key: value for key, value in config.read_yaml(args.grid).items() if key != "tiny"}
    from cxr_ft.run.ablation import recipe

    return recipe.read(args.grid, tiny=True, splits=not args.splits)


def _grid(args: argparse.Namespace, written: Any) -> tuple[dict[str, Any], int]:
    """What is varied, and how many learning rates are tried."""
    varied = {**_lists(written, args.grid), **_from_flags(args)}
    tries = args.tries if args.tries is not None else varied.pop("tries", 1)
    if not isinstance(tries, int) or isinstance(tries, bool) or tries < 1:
        raise UsageError(f"tries: {tries!r}; give how many learning rates to try, 1 or more")
    return {key: value for key, value in varied.items() if key != "tries"}, tries


def _carry_out(args: argparse.Namespace, follows: Any) -> Any:
    import functools

    from cxr_ft.run.ablation import workers

    if "ray" in args:
        if args.jobs is not None:
            raise UsageError("--jobs is for this machine; a Ray cluster decides itself how many runs it has room for")
        return workers.on_ray(args.ray or None, follows)
    import torch

    devices = torch.cuda.device_count()
    jobs = args.jobs if args.jobs is not None else max(devices, 1)
    if jobs < 1:
        raise UsageError(f"--jobs {jobs}: give 1 or more")
    if jobs == 1:
        return functools.partial(workers.run_sequential, tracking=follows)
    return workers.run_parallel(jobs, devices, follows)


def _suggest(args: argparse.Namespace, raw: dict[str, Any], varied: dict[str, Any], follows: Any) -> int:
    from cxr_ft.run.ablation import suggest

    if not args.budget:
        raise UsageError("--suggest needs --budget, the adapter's parameters, as 500k")
    if extra := sorted(varied.keys() - {"seeds"}):
        raise UsageError(f"--suggest chooses {', '.join(extra)} itself; leave it out")
    told = suggest.run(raw, _count(args.budget), varied.get("seeds", [0]), args.out, _carry_out(args, follows))
    for line in told:
        print(line)
    return DONE


def _count(text: str) -> int:
    """`500k`, `1.5M` or `147456` as a number of parameters."""
    scale = {"k": 10**3, "m": 10**6}.get(text[-1:].lower(), 1)
    try:
        count = round(float(text[:-1] if scale > 1 else text) * scale)
    except (ValueError, OverflowError):
        count = 0
    if count < 1:
        raise UsageError(f"--budget {text}: give a number of parameters, as 147456, 500k or 1.5M")
    return count


def _from_flags(args: argparse.Namespace) -> dict[str, list[Any]]:
    grid: dict[str, list[Any]] = {}
    if args.methods:
        grid["method"] = list(words(args.methods))
    if args.targets:
        grid["targets"] = [list(words(part)) for part in args.targets.split(";") if part.strip()]
    if args.rank:
        grid["rank"] = list(numbers(args.rank, "--rank"))
    if args.seeds:
        grid["seeds"] = list(numbers(args.seeds, "--seeds"))
    return grid


def _lists(grid: Any, file: Path | None) -> dict[str, Any]:
    single = ("match", "tries")
    if not isinstance(grid, dict) or not all(isinstance(v, list) or key in single for key, v in grid.items()):
        raise UsageError(
            f"{file}: grid must map names (method, targets, rank, seeds, ...) to lists, or match to a number"
        )
    return dict(grid)


if __name__ == "__main__":
    raise SystemExit(main())
