"""The page people open: one HTML file that needs nothing else, the same as PDF, its charts and a CSV.

All text that comes from data is escaped; nothing is fetched from anywhere.
"""

import base64
import hashlib
import logging
import shlex
import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup
from matplotlib.figure import Figure

from cxr_ft import files
from cxr_ft.errors import UsageError
from cxr_ft.score import fairness, run_conditions
from cxr_ft.score.published import Published
from cxr_ft.show import gallery, phrasing
from cxr_ft.show.charts import _style, all_charts
from cxr_ft.show.compare import Comparison, compare
from cxr_ft.show.runs import Run, load
from cxr_ft.show.tables import main_tables, pair_tables, split_tables, subgroup_tables

NO_PDF = "comparison.pdf is left out: it needs WeasyPrint and its system libraries (pip install cxr_ft[pdf])"
HIDDEN = (
    "Example images are left out: the data is neither synthetic nor public. Where it may be shown, make the page with "
    "--include-data."
)


#: How much worse than full fine-tuning is still as good, in the primary metric, unless said otherwise: one point.
MARGIN = 0.01

#: How much bytes charts may take of the page; those beyond stand beside it in `charts/`.
CHART_BYTES = 3_000_000


@dataclass(frozen=True)
class Options:
    """How a page is made.

    Args:
        include_data: show images and texts of data that is neither synthetic nor public.
        margin: how much worse than full fine-tuning is still as good, in the primary metric.
        published: numbers of others, to stand beside.
        asked: the runs and folders as they were named on the command line, to say it again; empty: the runs' folders.
    """

    include_data: bool = False
    margin: float = MARGIN
    published: Sequence[Published] = ()
    asked: Sequence[str] = ()


@dataclass(frozen=True)
class Section:
    """What the template shows of one comparison."""

    title: str
    lead: str
    answer: str
    unfair: list[fairness.Mismatch]
    listed: list[fairness.Mismatch]
    memory: list[str]
    main: main_tables.Table
    undefined: list[str]
    margin: main_tables.Table | None
    pairs: main_tables.Table | None
    charts: list[tuple[str, Markup, str]]
    natural: main_tables.Table | None
    calibration: main_tables.Table | None
    gaps: list[str]
    subgroups: list[main_tables.Table]
    examples: list[gallery.GalleryExample]
    hidden: str
    audit: main_tables.Table
    leaks: str


def write_page(folders: Sequence[Path], out: Path, options: Options | None = None) -> list[Path]:
    """Compare runs: write `comparison.html`, `.pdf` (where WeasyPrint works), `.csv`, `pairs.csv` and `charts/`.

    Args:
        folders: of runs, as `results.find` lists them.
        out: the folder they go to; made if it is missing.
        options: None: the defaults.

    Returns:
        The files written, the page first.

    Raises:
        UsageError: where no run succeeded, a file of a run is broken, or `out` cannot be written.
    """
    options = options or Options()
    good, other = load(folders)
    if not good:
        found = Counter(run.result.status for run, _ in other)
        told = phrasing.listed([f"{number} {status}" for status, number in sorted(found.items())])
        raise UsageError(
            f"no run to compare: of {phrasing.plural(len(other), 'run')} found, {told or 'none'}; need 'success'"
        )
    comparisons = compare(good)
    # Whatever can be wrong with the runs comes to light before the first file is written.
    examples = [gallery.examples(comparison, options.include_data) for comparison in comparisons]
    files.make_folder(out)
    drawn: list[Path] = []
    sections = []
    for comparison, shown in zip(comparisons, examples, strict=True):
        prefix = f"{comparison.task}-{comparison.split[:8]}-" if len(comparisons) > 1 else ""
        inline, paths = _charts(comparison, out / "charts", prefix, CHART_BYTES // len(comparisons))
        drawn += paths
        sections.append(_section(comparison, inline, shown, options))
    html = _render(sections, good, other, options)
    written = [out / name for name in ("comparison.html", "comparison.csv", "pairs.csv")]
    files.write_text(written[0], html)
    files.write_text(written[1], main_tables.as_csv([*good, *(run for run, _ in other)]))
    files.write_text(written[2], pair_tables.pairs_csv(comparisons))
    return [*written, *_pdf(html, out / "comparison.pdf"), *drawn]


def _section(
    comparison: Comparison,
    inline: list[tuple[str, Markup, str]],
    examples: list[gallery.GalleryExample],
    options: Options,
) -> Section:
    hidden = not options.include_data and not all(gallery.open_data(run) for run in comparison.runs)
    table, leaks = split_tables.splits(comparison)
    return Section(
        title=f"{phrasing.task(comparison.task).capitalize()}, test split {comparison.split[:8]}",
        lead=phrasing.lead(comparison),
        answer=phrasing.answer(comparison, options.margin),
        unfair=[finding for finding in comparison.findings if finding.concerns],
        listed=[finding for finding in comparison.findings if not finding.concerns],
        memory=pair_tables.memory(comparison),
        main=main_tables.main(comparison),
        undefined=main_tables.undefined(comparison),
        margin=pair_tables.margin_table(comparison, options.margin),
        pairs=pair_tables.pair_table(comparison),
        charts=inline,
        natural=main_tables.natural(comparison),
        calibration=subgroup_tables.calibration(comparison),
        gaps=subgroup_tables.gaps(comparison),
        subgroups=subgroup_tables.subgroups(comparison),
        examples=examples,
        hidden=HIDDEN if hidden else "",
        audit=table,
        leaks=leaks,
    )


def _charts(
    comparison: Comparison, folder: Path, prefix: str, room: int
) -> tuple[list[tuple[str, Markup, str]], list[Path]]:
    """Each chart as an element that takes the page's text colour, while there is room, with what to know of it; and the
    files of all.
    """
    inline: list[tuple[str, Markup, str]] = []
    paths: list[Path] = []
    for name, figure in _figures(comparison):
        element = _style.write(figure, folder, prefix + name)
        paths += [folder / f"{prefix}{name}.{kind}" for kind in ("svg", "png")]
        # Safe to mark: matplotlib escapes what it writes into an SVG.
        coloured = Markup(element.replace(f": {_style.INK}", ": currentColor"))
        room -= len(element)
        beside = Markup('<p class="note">Too large for the page: charts/{}.svg</p>').format(prefix + name)
        inline.append((name.replace("_", " "), coloured if room > 0 else beside, _caution(comparison, name)))
    return inline, paths


def _caution(comparison: Comparison, chart: str) -> str:
    """What differs between the runs and bars the claim that a chart of cost would make."""
    claim = next((claim for claim in (run_conditions.TIME, run_conditions.MEMORY) if claim in chart), None)
    found = [] if claim is None else fairness.barring(comparison.findings, claim)
    return f"Not comparable: the runs differ in {phrasing.listed([one.name for one in found])}." if found else ""


def _figures(comparison: Comparison) -> Iterator[tuple[str, Figure]]:
    for name, chart in all_charts().items():
        if comparison.output in chart.outputs:
            figure = chart.draw(comparison.runs)
            if not chart.optional or figure.get_label() != _style.EMPTY:
                yield name, figure


def _render(sections: list[Section], good: list[Run], other: list[tuple[Run, str]], options: Options) -> str:
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=StrictUndefined,
    )
    table, shared = main_tables.provenance(good)
    environment.filters["digest"] = _digest
    return environment.get_template("page.html").render(
        sections=sections,
        splits=len({run.result.task for run in good}) < len(sections),
        published=pair_tables.published_table(options.published),
        margin=phrasing.decimal(options.margin),
        provenance=table,
        shared=shared,
        commands=[f"cxr-train --config {shlex.quote(str(run.folder / 'result.json'))}" for run in good],
        again=_command(good, options),
        other=[(run.result.variant, run.result, str(run.folder), reason) for run, reason in other],
    )


def _digest(script: str) -> str:
    """What a content security policy names a script by: the browser runs this one and no other."""
    return f"sha256-{base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()}"


def _command(runs: Sequence[Run], options: Options) -> str:
    """The command that makes the page of these runs again; where the page goes is open."""
    flags = [f"--margin {options.margin:g}"] if options.margin != MARGIN else []
    flags += ["--include-data"] if options.include_data else []
    flags += ["--published CSV"] if options.published else []
    places = options.asked or [str(run.folder) for run in runs]
    return " ".join(["cxr-compare", *map(shlex.quote, places), *flags, "--out DIR"])


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
        weasyprint.HTML(string=html.replace(": currentColor", f": {_style.INK}")).write_pdf(temporary)
    return [path]
