"""Evaluate a saved run on other data: the command cxr-evaluate."""

from collections.abc import Sequence
from pathlib import Path

from cxr_ft.cli._command import DONE, Parser, guarded


def parser() -> Parser:
    """Return the parser of the command's flags."""
    p = Parser("cxr-evaluate", "Evaluate a saved run on the test splits of other data.")
    p.add_argument("run", type=Path, metavar="RUN", help="a run's folder")
    p.add_argument("--splits", type=Path, required=True, metavar="DIR", help="folder that cxr-split wrote")
    p.add_argument("--root", metavar="DIR", help="folder of the images, if not the one in the manifest")
    p.add_argument(
        "--out",
        type=Path,
        metavar="DIR",
        help="where metrics.json and predictions.parquet go (default: RUN/evaluated/NAME)",
    )
    return p


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; return 0, or 2 for bad input."""
    return guarded("cxr-evaluate", lambda: _main(argv))


def _main(argv: Sequence[str] | None) -> int:
    args = parser().parse_args(argv)
    from cxr_ft.cli._printed import metrics_line
    from cxr_ft.run.evaluation.external_validation import evaluate_on

    out = args.out or args.run / "evaluated" / args.splits.resolve().name
    metrics, notes = evaluate_on(args.run, args.splits, out, args.root)
    for note in notes:
        print(f"note: {note}")
    for split, values in metrics.items():
        print(f"{split:13}{metrics_line(values)}")
    print(f"written: {out}")
    return DONE


if __name__ == "__main__":
    raise SystemExit(main())
