"""cxr-compare: runs set side by side in one page."""

from collections.abc import Sequence
from pathlib import Path

from cxr_ft.cli._command import DONE, Parser, guarded


def parser() -> Parser:
    """The command's flags."""
    p = Parser(
        "cxr-compare", "Compare runs of cxr-train in one self-contained page (HTML, PDF), with charts and a CSV."
    )
    p.add_argument("runs", nargs="+", type=Path, metavar="RUN_OR_DIR", help="a run's folder, or a folder of runs")
    p.add_argument("--out", type=Path, required=True, metavar="DIR", help="where the page goes; made if missing")
    p.add_argument(
        "--include-data",
        action="store_true",
        help="show images and texts of data that is neither synthetic nor public; such a page stays with its data",
    )
    return p


def main(argv: Sequence[str] | None = None) -> int:
    """Exit code 0, 2 for bad input."""
    return guarded("cxr-compare", lambda: _main(argv))


def _main(argv: Sequence[str] | None) -> int:
    args = parser().parse_args(argv)
    from cxr_ft.run.results import find
    from cxr_ft.show.page import write_page

    written = write_page(list(find(args.runs)), args.out, include_data=args.include_data)
    print(f"The page: {written[0].resolve()}")
    return DONE


if __name__ == "__main__":
    raise SystemExit(main())
