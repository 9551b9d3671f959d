"""The page people open: one HTML file that needs nothing else, the same as PDF, its charts and a CSV.

All text that comes from data is escaped; nothing is fetched from anywhere.
"""

import logging
import shlex
import sys
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from cxr_ft import files
from cxr_ft.errors import UsageError
from cxr_ft.show import charts, gallery, tables, words
from cxr_ft.show.compare import Comparison, compare
from cxr_ft.show.runs import Run, load

NO_PDF = "comparison.pdf is left out: it needs WeasyPrint and its system libraries (pip install cxr_ft[pdf])"
HIDDEN = (
    "Example images are left out: the data is neither synthetic nor public. Where it may be shown, make the page with "
    "--include-data."
)


@dataclass(frozen=True)
class Section:
    """What the template shows of one comparison."""

    title: str
    lead: str
    answer: str
    unfair: list[tuple[str, str]]
    main: tables.Table
    undefined: list[str]
    charts: list[tuple[str, Markup]]
    natural: tables.Table | None
    examples: list[gallery.Example]
    hidden: str


def write_page(folders: Sequence[Path], out: Path, include_data: bool = False) -> list[Path]:
    """Compare runs: write `comparison.html`, `.pdf` (where WeasyPrint works), `.csv` and `charts/` into `out`.

    Args:
        folders: of runs, as `results.find` lists them.
        out: made if it is missing.
        include_data: show images and texts of data that is neither synthetic nor public.

    Returns:
        The files written, the page first.

    Raises:
        UsageError: where no run succeeded, a file of a run is broken, or `out` cannot be written.
    """
    good, other = load(folders)
    if not good:
        found = Counter(run.result.status for run, _ in other)
        told = words.listed([f"{number} {status}" for status, number in sorted(found.items())])
        raise UsageError(
            f"no run to compare: of {words.plural(len(other), 'run')} found, {told or 'none'}; need 'success'"
        )
    comparisons = compare(good)
    # Whatever can be wrong with the runs comes to light before the first file is written.
    examples = [gallery.examples(comparison, include_data) for comparison in comparisons]
    files.make_folder(out)
    drawn: list[Path] = []
    sections = []
    for comparison, shown in zip(comparisons, examples, strict=True):
        prefix = f"{comparison.task}-{comparison.split[:8]}-" if len(comparisons) > 1 else ""
        inline, paths = _charts(comparison, out / "charts", prefix)
        drawn += paths
        sections.append(_section(comparison, inline, shown, include_data))
    html = _render(sections, good, other)
    written = [out / "comparison.html", out / "comparison.csv"]
    files.write_text(written[0], html)
    files.write_text(written[1], tables.as_csv([*good, *(run for run, _ in other)]))
    return [*written, *_pdf(html, out / "comparison.pdf"), *drawn]


def _section(
    comparison: Comparison, inline: list[tuple[str, Markup]], examples: list[gallery.Example], include_data: bool
) -> Section:
    hidden = not include_data and not all(gallery.open_data(run) for run in comparison.runs)
    return Section(
        title=f"{words.task(comparison.task).capitalize()}, test split {comparison.split[:8]}",
        lead=words.lead(comparison),
        answer=words.answer(comparison),
        unfair=tables.unfair(comparison),
        main=tables.main(comparison),
        undefined=tables.undefined(comparison),
        charts=inline,
        natural=tables.natural(comparison),
        examples=examples,
        hidden=HIDDEN if hidden else "",
    )


def _charts(comparison: Comparison, folder: Path, prefix: str) -> tuple[list[tuple[str, Markup]], list[Path]]:
    """Each chart as an element that takes the page's text colour, and its files."""
    found = [run.result for run in comparison.runs]
    inline: list[tuple[str, Markup]] = []
    paths: list[Path] = []
    for name, draw in charts.CHARTS.items():
        if name == "per_label" and comparison.output != "scores":
            continue
        element = charts.write(draw(found), folder, prefix + name)
        paths += [folder / f"{prefix}{name}.{kind}" for kind in ("svg", "png")]
        # Safe to mark: matplotlib escapes what it writes into an SVG.
        coloured = Markup(element.replace(f": {charts.INK}", ": currentColor"))
        inline.append((name.replace("_", " "), coloured))
    return inline, paths


def _render(sections: list[Section], good: list[Run], other: list[tuple[Run, str]]) -> str:
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=StrictUndefined,
    )
    table, shared = tables.provenance(good)
    return environment.get_template("page.html").render(
        sections=sections,
        provenance=table,
        shared=shared,
        commands=[f"cxr-train --config {shlex.quote(str(run.folder / 'result.json'))}" for run in good],
        other=[(run.result.variant, run.result, str(run.folder), reason) for run, reason in other],
    )


def _pdf(html: str, path: Path) -> list[Path]:
    """The page as PDF; where WeasyPrint or a library it needs is missing, one line says so."""
    try:
        import weasyprint
    except (ImportError, OSError):
        print(NO_PDF, file=sys.stderr)
        return []
    logging.getLogger("weasyprint").setLevel(logging.ERROR)
    with files.atomic(path) as temporary:
        # WeasyPrint draws what has the page's colour without its transparency.
        weasyprint.HTML(string=html.replace(": currentColor", f": {charts.INK}")).write_pdf(temporary)
    return [path]
