"""cxr-evaluate: a saved run on other data."""

from collections.abc import Sequence
from pathlib import Path

from cxr_ft.cli._command import DONE, Parser, guarded


def parser() -> Parser:
    """The command's flags."""
    p = Parser("cxr-evaluate", "Judge a saved run on the test sides of other splits.")
    p.add_argument("run", type=Path, metavar="RUN", help="a run's folder")
    p.add_argument("--splits", type=Path, required=True, metavar="DIR", help="folder that cxr-split wrote")
    p.add_argument("--root", metavar="DIR", help="where the images lie now, if not where the manifest says")
    p.add_argument(
        "--out",
        type=Path,
        metavar="DIR",
        help="where metrics.json and predictions.parquet go (default: RUN/evaluated/NAME)",
    )
    return p


def main(argv: Sequence[str] | None = None) -> int:
    """Exit code 0, 2 for bad input."""
    return guarded("cxr-evaluate", lambda: _main(argv))


def _main(argv: Sequence[str] | None) -> int:
    args = parser().parse_args(argv)
    from cxr_ft.cli.train import _line
    from cxr_ft.run.evaluation.external_validation import evaluate_on

    out = args.out or args.run / "evaluated" / args.splits.resolve().name
    metrics, notes = evaluate_on(args.run, args.splits, out, args.root)
    for note in notes:
        print(f"note: {note}")
    for side, values in metrics.items():
        print(f"{side:13}{_line(values)}")
    print(f"written: {out}")
    return DONE


if __name__ == "__main__":
    raise SystemExit(main())
