"""Compile an archive into balanced, subject-disjoint splits, or audit existing ones: the command cxr-split."""

import argparse
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from cxr_ft import plugins
from cxr_ft.cli._command import DONE, FAILED, INTERRUPTED, Parser, guarded
from cxr_ft.errors import UsageError

if TYPE_CHECKING:
    from cxr_ft.data.manifest import Manifest

# Listed here, not imported: --help must not load numpy. A test compares them with their owners.
VIEWS = ("frontal", "all", "PA", "AP", "LATERAL")
IDS = ("normal", "exact")
TEXTS = ("none", "mini_report", "findings", "impression", "all")
SENSITIVITIES = ("synthetic", "public", "credentialed")


def parser() -> Parser:
    """Return the parser of the command's flags."""
    p = Parser("cxr-split", "Turn an archive into balanced, subject-disjoint train / val / test CSVs with a manifest.")
    p.add_argument(
        "source",
        nargs="?",
        default=argparse.SUPPRESS,
        help="the archive's folder, a table, a database, or phantom:subjects=1000",
    )
    p.add_argument(
        "--layout",
        default="mimic_cxr",
        help=f"how the archive is laid out: {', '.join(plugins.choices(plugins.LAYOUTS))}",
    )
    p.add_argument(
        "--per-label", type=int, default=5000, metavar="N", help="images requested for each label, in all splits"
    )
    # Suppressed flags are absent from the result if they are not typed, so that a missing one and an empty one differ.
    p.add_argument("--out", type=Path, default=argparse.SUPPRESS, metavar="DIR", help="folder for the CSVs (required)")
    p.add_argument("--seed", type=int, default=0, metavar="S", help="seed of the choice among equivalent images")
    p.add_argument("--ratios", default="70/15/15", help="train/val/test in percent")
    p.add_argument("--views", default="frontal", help=f"one of {', '.join(VIEWS)}")
    p.add_argument("--uncertain", default="ignore", help="what -1 means: ignore (masked), positive, negative")
    p.add_argument("--blank", default="negative", help="what a blank means: negative, ignore (masked)")
    p.add_argument("--unit", default="image", help="unit of a row: image, study")
    p.add_argument("--official", action="store_true", help="keep the data set's official split; quotas for train only")
    p.add_argument("--text", default="mini_report", help=f"text columns: {', '.join(TEXTS)}")
    p.add_argument(
        "--ids",
        default="normal",
        help=f"one of {', '.join(IDS)}: which ids are one; normal: 7, 7.0, 00007 are one, and P1, p1",
    )
    p.add_argument(
        "--sensitivity",
        metavar="KIND",
        help=f"declare the data {', '.join(SENSITIVITIES)} (default: as the layout says; credentialed unless known)",
    )
    _add_audit_flags(p)
    p.add_argument(
        "--root",
        default=argparse.SUPPRESS,
        metavar="DIR",
        help="folder of the images: of a database; with --audit (default: the manifest's, or the CSV's folder)",
    )
    p.add_argument(
        "--bigquery-endpoint",
        default=argparse.SUPPRESS,
        metavar="URL",
        help="server for bigquery:// tables, such as an emulator, without credentials",
    )
    return p


def _add_audit_flags(p: Parser) -> None:
    p.add_argument(
        "--audit",
        nargs="+",
        type=Path,
        default=argparse.SUPPRESS,
        metavar="CSV",
        help="instead, search existing CSVs for leaks, confounds and what else is wrong with them",
    )
    p.add_argument(
        "--html", type=Path, default=argparse.SUPPRESS, metavar="FILE", help="write the audit as a page, too (--audit)"
    )


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; return 0, 1 where the audit found something, or 2 for bad input."""
    return guarded("cxr-split", lambda: _with_message(argv))


def _with_message(argv: Sequence[str] | None) -> int:
    try:
        return _main(argv)
    except KeyboardInterrupt:
        # This command keeps no partial work, so the message of `guarded` would be wrong.
        print("cxr-split: interrupted; the same command starts again from the beginning", file=sys.stderr)
        return INTERRUPTED


def _main(argv: Sequence[str] | None) -> int:
    args = parser().parse_args(argv)
    if "audit" in args and "bigquery_endpoint" in args:
        raise UsageError("--bigquery-endpoint needs SOURCE; --audit reads files")
    if "audit" in args:
        return _audit(args.audit, getattr(args, "root", None), args.ids, getattr(args, "html", None))
    if "html" in args:
        raise UsageError("--html needs --audit CSV...: the splits themselves have a manifest and a chart")
    if "source" not in args or "out" not in args:
        raise UsageError("give SOURCE and --out DIR, or --audit CSV... (see cxr-split --help)")
    try:
        # Before any import, so that a typing mistake is reported at once.
        ratios = tuple(float(part) for part in args.ratios.split("/"))
    except ValueError:
        raise UsageError(f"--ratios {args.ratios}: write three numbers with sum 100, as 70/15/15") from None
    from cxr_ft.data import labels
    from cxr_ft.data.sources import bigquery_client, table_reader
    from cxr_ft.data.splits.request import SplitRequest
    from cxr_ft.data.splits.write import make_splits
    from cxr_ft.show.charts._distribution import draw_distribution

    for flag, value, known in (("uncertain", args.uncertain, labels.UNCERTAIN), ("blank", args.blank, labels.BLANK)):
        if value not in known:
            raise UsageError(f"--{flag} {value}: choose from {', '.join(known)}")
    names = ("per_label", "seed", "views", "uncertain", "blank", "unit", "official", "text", "ids")
    request = SplitRequest(ratios=ratios, **{name: getattr(args, name) for name in names})  # type: ignore[arg-type]
    source = table_reader.with_image_root(args.source, args.root) if "root" in args else args.source
    with bigquery_client.use_endpoint(getattr(args, "bigquery_endpoint", None)):
        made = make_splits(source, args.layout, request, args.out, draw_distribution, sensitivity=args.sensitivity)
    _print_summary(made, args.out)
    return DONE


def _print_summary(made: "Manifest", out: Path) -> None:
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    console = Console()
    rows, subjects, counts = made["rows"], made["subjects"], made["counts"]
    table = Table("label", *(["available", "train", "val", "test", "natural test"]), title="images a label")
    for name, row in made["labels"].items():
        numbers = [row[key] for key in ("available", "train", "val", "test", "test_natural")]
        table.add_row(escape(name), *map(str, numbers))
    table.add_row("rows", str(counts["eligible"]), *(str(rows[split]) for split in rows), style="bold")
    # Where subjects are unknown each image stands for one, and to count them would claim that they are known.
    if made["card"].get("group") != "unknown":
        table.add_row("subjects", "", *(str(subjects[split]) for split in subjects), style="bold")
    console.print(table)
    if made["short_labels"]:
        short = escape(", ".join(made["short_labels"]))
        console.print(f"labels with fewer images than requested, so that all of them are used: {short}")
    if counts["rejected"]:
        reasons = ", ".join(f"{reason} {n}" for reason, n in counts["by_reason"].items())
        console.print(f"{counts['rejected']} images could not be read ({reasons}): see rejected.csv")
    for note in made["notes"]:
        console.print(escape(f"note: {note}"))
    _print_confounds(made)
    leaks = ", ".join(f"{n} of {what}" for what, n in made["leaks"].items())
    console.print(f"in more than one split: {leaks}. Written: {out}", soft_wrap=True)


def _print_confounds(made: "Manifest") -> None:
    """Print a line for each label that is predicted without the content of the image, and what was looked at."""
    audited = made.get("confounds")
    if audited is None:
        return
    for row in audited["labels"]:
        if row["confounded"]:
            print(
                f"CONFOUND {row['label']}: predicted without the content of the image by {row['signal']}, AUROC "
                f"{row['auroc']:.2f} ({row['low']:.2f} to {row['high']:.2f}); {_alone(row['by'])}"
            )
    for note in audited["notes"]:
        print(f"note: {note}")
    # Of no label the notes have said why.
    if not audited["labels"]:
        return
    found = sum(row["confounded"] for row in audited["labels"])
    print(
        f"confound audit: {found or 'no'} of {len(audited['labels'])} labels can be predicted without the content of "
        f"the image (of {audited['images']} images, {audited['thumbnails']} thumbnails)"
    )


def _alone(by: "Mapping[str, float]") -> str:
    return "alone: " + ", ".join(f"{name} {area:.2f}" for name, area in by.items())


def _audit(files: list[Path], root: str | None, ids: str, html: Path | None) -> int:
    from cxr_ft.data.audit import audit_page
    from cxr_ft.data.audit.leak_audit import audit

    if ids not in IDS:
        raise UsageError(f"--ids {ids}: choose from {', '.join(IDS)}")
    report = audit(files, root, exact_ids=ids == "exact")
    print("splits: " + ", ".join(f"{name} ({rows} rows)" for name, rows in report.splits.items()))
    print(f"compared: {', '.join(report.compared)}")
    for leak in report.leaks:
        print(f"LEAK {leak}{f'; for example {leak.example}' if leak.example else ''}")
    for finding in report.findings:
        print(finding)
    if report.confounds:
        print("labels predicted without the image (logistic regression, held-out subjects, 95 % interval):")
    for label in report.confounds:
        print(f"{'CONFOUND' if label.above_chance else '  '} {label}")
    for note in report.notes:
        print(f"note: {note}")
    print(report.summary)
    if html is not None:
        audit_page.write(report, html)
        print(f"written: {html}")
    return DONE if report.clean else FAILED


if __name__ == "__main__":
    raise SystemExit(main())
