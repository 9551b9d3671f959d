"""cxr-ablate: a grid of methods, target modules, ranks and seeds."""

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from cxr_ft import config
from cxr_ft.cli._command import DONE, FOUND, Parser, guarded, numbers, words
from cxr_ft.cli._flags import common, raw_config
from cxr_ft.errors import UsageError


def parser() -> Parser:
    """The command's flags."""
    p = Parser("cxr-ablate", "Train a grid of runs, skip finished ones, survive failed ones, and write their CSV.")
    p.add_argument(
        "grid", nargs="?", type=Path, metavar="GRID.yaml", help="a configuration with a key grid: lists by name"
    )
    p.add_argument("--method", metavar="A,B", dest="methods", help="tuning methods")
    p.add_argument("--targets", metavar='"q;v;q,v"', help="target lists, separated by semicolons")
    p.add_argument("--rank", metavar="4,8", help="ranks")
    p.add_argument("--seeds", metavar="0,1,2", help="seeds (default: 0)")
    p.add_argument("--out", type=Path, required=True, metavar="DIR", help="where the run folders go")
    common(p)
    return p


def main(argv: Sequence[str] | None = None) -> int:
    """Exit code 0, 1 where a run failed, 2 for bad input."""
    return guarded("cxr-ablate", lambda: _main(argv))


def _main(argv: Sequence[str] | None) -> int:
    args = parser().parse_args(argv)
    file = config.read_yaml(args.grid) if args.grid else {}
    grid = {**_lists(file.pop("grid", {}) or {}, args.grid), **_from_flags(args)}
    raw = config.merge(file, raw_config(args))
    from cxr_ft.data import manifest
    from cxr_ft.run import ablate

    cells = ablate.cells(raw, grid)
    if not next(iter(cells.values())).data.splits:
        splits = manifest.default_splits()
        print(f"no --splits given: the phantom's, in {splits}")
        cells = ablate.cells(config.merge(raw, {"data": {"splits": str(splits)}}), grid)
    print(f"{len(cells)} runs into {args.out}: {', '.join(cells)}")
    done = ablate.run(cells, args.out)
    failed = [result for result in done if result.status != "success"]
    print(f"{len(done) - len(failed)} of {len(done)} runs succeeded; {args.out / 'ablation.csv'}")
    for result in failed:
        print(f"  {result.status}: {result.variant}, seed {result.seed}: {result.error}")
    return FOUND if failed else DONE


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


def _lists(grid: Any, file: Path) -> dict[str, list[Any]]:
    if not isinstance(grid, dict) or not all(isinstance(values, list) for values in grid.values()):
        raise UsageError(f"{file}: grid must map names (method, targets, rank, seeds, ...) to lists")
    return grid


if __name__ == "__main__":
    raise SystemExit(main())
