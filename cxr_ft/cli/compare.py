"""Compare runs in one page: the command cxr-compare."""

from collections.abc import Sequence
from pathlib import Path

from cxr_ft.cli._command import DONE, Parser, guarded
from cxr_ft.errors import UsageError


def parser() -> Parser:
    """Return the parser of the command's flags."""
    p = Parser(
        "cxr-compare",
        "Compare runs of cxr-train, and predictions of other tools, in one self-contained page (HTML, PDF), with "
        "charts and a CSV.",
    )
    p.add_argument("runs", nargs="*", type=Path, metavar="RUN_OR_DIR", help="a run's folder, or a folder of runs")
    p.add_argument(
        "--predictions",
        nargs="+",
        action="extend",
        default=[],
        metavar="NAME=FILE",
        help="predictions of a model that was trained elsewhere, a CSV or Parquet file with the columns subject, "
        "image, label, truth, score (perhaps seed, sex, age, view, group), or subject, reference, generated; with "
        "runs, of the same test rows",
    )
    p.add_argument("--out", type=Path, required=True, metavar="DIR", help="where the page goes; made if missing")
    p.add_argument(
        "--include-data",
        action="store_true",
        help="show example images and texts, whatever the data's sensitivity; such a page stays with its data",
    )
    p.add_argument(
        "--margin",
        action="append",
        default=[],
        metavar="[METRIC=]M",
        help="how much worse than full fine-tuning is still acceptable, stated beforehand: tests each variant for it, "
        "and says what would settle such a difference; repeat for several metrics (default: no such test)",
    )
    p.add_argument("--published", type=Path, metavar="CSV", help="published numbers with their protocol, shown in grey")
    p.add_argument("--track", metavar="NAME", help="also keep the page in this tracker (default: none)")
    return p


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; return 0, or 2 for bad input."""
    return guarded("cxr-compare", lambda: _main(argv))


def _main(argv: Sequence[str] | None) -> int:
    args = parser().parse_args(argv)
    from cxr_ft.run import trackers
    from cxr_ft.run.record import prediction_files
    from cxr_ft.run.record.results import find
    from cxr_ft.score import published
    from cxr_ft.show import margins
    from cxr_ft.show.page import Options, write_page

    # A flag that takes several files takes a folder behind them, too.
    args.runs += [Path(text) for text in args.predictions if "=" not in text and Path(text).is_dir()]
    files = prediction_files.parse([text for text in args.predictions if Path(text) not in args.runs])
    if not args.runs and not files:
        raise UsageError("give the folder of a run, or --predictions NAME=FILE (see cxr-compare --help)")
    stated = margins.parse(args.margin)
    # Read before the page is made: a mistake in the table is reported before minutes of work.
    others = published.read(args.published) if args.published else []
    arguments = tuple(map(str, args.runs))
    options = Options(
        include_data=args.include_data, margins=stated, published=others, predictions=files, arguments=arguments
    )

    tracking = trackers.Tracking(name=args.track or "")
    written = write_page(list(find(args.runs)), args.out, options)
    if tracking.name:
        trackers.log_page(args.out, tracking)
    print(f"The page: {written[0].resolve()}")
    return DONE


if __name__ == "__main__":
    raise SystemExit(main())
