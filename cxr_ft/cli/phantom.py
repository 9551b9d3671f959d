"""Write a synthetic chest X-ray archive in MIMIC-CXR's layout, with known truth: the command cxr-phantom."""

import argparse
from collections.abc import Sequence
from pathlib import Path

from cxr_ft.cli._command import DONE, Parser, guarded
from cxr_ft.data.phantom.biases import BIASES


def parser() -> Parser:
    """Return the parser of the command's flags."""
    p = Parser(
        "cxr-phantom", "Write a synthetic chest X-ray archive (DICOM, reports, tables, truth) in MIMIC-CXR's layout."
    )
    p.add_argument(
        "--out", type=Path, required=True, default=argparse.SUPPRESS, metavar="DIR", help="new or empty folder"
    )
    p.add_argument("--subjects", type=int, default=200, metavar="N", help="how many subjects")
    p.add_argument("--seed", type=int, default=0, metavar="S", help="same seed, same bytes")
    p.add_argument("--size", type=int, default=512, metavar="PIXELS", help="short side of the images")
    p.add_argument("--workers", type=int, default=1, metavar="N", help="processes; the bytes do not depend on it")
    p.add_argument(
        "--bias",
        action="append",
        default=argparse.SUPPRESS,
        metavar="NAME=STRENGTH",
        help=f"plant a bias of a strength 0..1, off by default; repeatable; names: {', '.join(BIASES)}",
    )
    return p


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; return 0, or 2 for bad input."""
    return guarded("cxr-phantom", lambda: _run(argv))


def _run(argv: Sequence[str] | None) -> int:
    args = parser().parse_args(argv)
    from cxr_ft.data.phantom import biases, make_archive

    planted = biases.parsed(dict(_pair(text) for text in vars(args).get("bias", [])), "--bias")
    make_archive(args.out, args.subjects, args.seed, args.size, args.workers, biases=planted)
    print(f"{args.out}: {_counts(args.out)}, seed {args.seed}; synthetic, no patient data")
    return DONE


def _pair(text: str) -> tuple[str, str]:
    name, _, strength = text.partition("=")
    return name, strength


def _counts(out: Path) -> str:
    subjects, reports, images = (
        sum(1 for _ in out.glob(f"files/p*/{name}")) for name in ("p*", "p*/s*.txt", "p*/s*/*.dcm")
    )
    return f"{subjects} subjects, {reports} studies, {images} images"


if __name__ == "__main__":
    raise SystemExit(main())
