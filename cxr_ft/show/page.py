"""Write the page of a comparison: one self-contained HTML file, the same as PDF, its charts, and CSV files.

All text that comes from data is escaped; the page fetches nothing.
"""

import base64
import hashlib
import logging
import shlex
import sys
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from markupsafe import Markup
from matplotlib.figure import Figure

from cxr_ft import files, html_templates
from cxr_ft.errors import UsageError
from cxr_ft.score import conditions
from cxr_ft.score.published import Published
from cxr_ft.show import gallery, number_format, origin, phrasing, subgroup_gaps
from cxr_ft.show.charts import _style, all_charts
from cxr_ft.show.compare import compare
from cxr_ft.show.margins import Margins, words
from cxr_ft.show.recorded_runs import RecordedRun, load, place, with_files
from cxr_ft.show.subgroup_gaps import StatedGaps
from cxr_ft.show.tables import (
    baseline_table,
    calibration_table,
    difference_table,
    pair_table,
    quality_table,
    rate_table,
    run_table,
    split_table,
    subgroup_table,
)
from cxr_ft.show.tables.cells import Table
from cxr_ft.show.verdicts import Comparison

NO_PDF = "comparison.pdf is left out: it needs WeasyPrint and its system libraries (pip install cxr_ft[pdf])"
HIDDEN = (
    "Example images and texts are left out. Where they may be shown, make the page with --include-data; such a page "
    "stays with its data."
)

#: Bytes that charts may take of the page; those beyond it are in `charts/` only.
CHART_BYTES = 3_000_000


@dataclass(frozen=True)
class Options:
    """Options of a page.

    Args:
        include_data: show example images and texts, whatever the data's sensitivity; the page's files are then private.
        margins: how much worse than full fine-tuning is still acceptable, by metric, as `margins.parse` returns them.
        published: numbers of others, shown in a table of their own.
        predictions: files of predictions by the name of what predicted, see `docs/predictions.md`.
        arguments: the runs and folders as typed, for the command that makes the page again; empty: the runs' folders.
    """

    include_data: bool = False
    margins: Margins = field(default_factory=dict)
    published: Sequence[Published] = ()
    predictions: Mapping[str, Path] = field(default_factory=dict)
    arguments: Sequence[str] = ()


@dataclass(frozen=True)
class InlineChart:
    """A chart on the page: its name, its SVG element, and why it cannot be read as a comparison ("": it can)."""

    name: str
    element: Markup
    caution: str


@dataclass(frozen=True, kw_only=True)
class ComparisonSection:
    """The texts and tables that the template shows of one comparison."""

    title: str
    warnings: list[str]
    against_baselines: list[str]
    lead: str
    answer: str
    barring: list[str]
    facts: list[tuple[str, str]]
    rates: Table
    differences: Table | None
    memory: list[str]
    quality: Table
    undefined: list[str]
    baselines: Table | None
    margin: Table | None
    margin_stated: bool
    pairs: Table | None
    charts: list[InlineChart]
    natural: Table | None
    calibration: Table | None
    gaps: StatedGaps
    subgroups: list[Table]
    examples: list[gallery.GalleryExample]
    hidden: str
    splits: Table
    leaks: str


def write_page(folders: Sequence[Path], out: Path, options: Options | None = None) -> list[Path]:
    """Compare runs: write `comparison.html`, `.pdf` (where WeasyPrint works), `.csv`, `pairs.csv` and `charts/`.

    Args:
        folders: of runs, as `results.find` lists them; none where all predictions are from files.
        out: the folder they go to; made if it is missing.
        options: None: the defaults.

    Returns:
        The files written, the page first.

    Raises:
        UsageError: where no run succeeded, a file of a run or of predictions is broken, predictions are of other rows,
            or `out` cannot be written.
    """
    options = options or Options()
    good, other = load(folders)
    tries = len(folders) - len(good) - len(other)
    good = with_files(good, options.predictions)
    if not good:
        statuses = Counter(run.result.status for run, _ in other) + Counter({"tries of learning rates": tries})
        counts = number_format.listed([f"{number} {status}" for status, number in sorted(statuses.items())])
        raise UsageError(
            f"no run to compare: of {number_format.plural(len(folders), 'run')} found, {counts}; need 'success'"
        )
    comparisons = compare(good, options.margins)
    # Broken runs and galleries are refused before the first file is written.
    shows = options.include_data
    examples = [gallery.examples(comparison) if shows else [] for comparison in comparisons]
    files.make_folder(out, private=shows)
    drawn: list[Path] = []
    sections = []
    gaps = subgroup_gaps.of_page(comparisons)
    for comparison, shown, stated in zip(comparisons, examples, gaps, strict=True):
        # With one comparison the charts have their plain names; with several these would overwrite each other.
        prefix = f"{comparison.task}-{comparison.split[:8]}-" if len(comparisons) > 1 else ""
        inline, paths = _charts(comparison, out / "charts", prefix, CHART_BYTES // len(comparisons))
        drawn += paths
        sections.append(_section(comparison, inline, shown, stated, shows))
    html = _render(sections, good, other, tries, options)
    written = [out / name for name in ("comparison.html", "comparison.csv", "pairs.csv")]
    files.write_text(written[0], html, private=shows)
    files.write_text(written[1], run_table.runs_csv([*good, *(run for run, _ in other)]))
    files.write_text(written[2], pair_table.pairs_csv(comparisons))
    return [*written, *_pdf(html, out / "comparison.pdf", shows), *drawn]


def _section(
    comparison: Comparison,
    inline: list[InlineChart],
    examples: list[gallery.GalleryExample],
    gaps: StatedGaps,
    include_data: bool,
) -> ComparisonSection:
    table, leaks = split_table.splits(comparison)
    return ComparisonSection(
        title=f"{phrasing.task(comparison.task).capitalize()}, test split {comparison.split[:8]}",
        warnings=split_table.warnings(comparison),
        against_baselines=phrasing.against_baselines(comparison),
        lead=phrasing.lead(comparison),
        answer=phrasing.answer(comparison),
        barring=[mismatch.sentence for mismatch in comparison.mismatches if mismatch.concerns],
        facts=origin.facts(comparison),
        rates=rate_table.rates(comparison),
        differences=difference_table.differences(comparison),
        memory=[row.memory_sentence for row in comparison.rows if row.memory_sentence],
        quality=quality_table.quality(comparison),
        undefined=quality_table.undefined(comparison),
        baselines=baseline_table.baseline_table(comparison),
        margin=pair_table.margin_table(comparison),
        margin_stated=comparison.margin is not None,
        pairs=pair_table.pair_table(comparison),
        charts=inline,
        natural=quality_table.natural(comparison),
        calibration=calibration_table.calibration(comparison),
        gaps=gaps,
        subgroups=subgroup_table.subgroups(comparison),
        examples=examples,
        # A file of predictions has no examples to show.
        hidden="" if include_data or all(run.result.imported for run in comparison.runs) else HIDDEN,
        splits=table,
        leaks=leaks,
    )


def _charts(comparison: Comparison, folder: Path, prefix: str, room: int) -> tuple[list[InlineChart], list[Path]]:
    """Write each chart, and return them as elements while there is room (bytes), with the files of all."""
    inline: list[InlineChart] = []
    paths: list[Path] = []
    for name, figure in _figures(comparison):
        element = _style.write(figure, folder, prefix + name)
        paths += [folder / f"{prefix}{name}.{kind}" for kind in ("svg", "png")]
        # Safe to mark: matplotlib escapes what it writes into an SVG. Grey text takes the page's colour, so that it is
        # readable in a dark scheme, too.
        coloured = Markup(element.replace(f": {_style.INK}", ": currentColor"))
        room -= len(element)
        link = Markup('<p class="note">Too large for the page: charts/{}.svg</p>').format(prefix + name)
        shown = coloured if room > 0 else link
        inline.append(InlineChart(name.replace("_", " "), shown, _caution(comparison, name)))
    return inline, paths


def _caution(comparison: Comparison, chart: str) -> str:
    """Return what differs between the runs and bars the claim that a chart of time or memory would make."""
    claim = next((claim for claim in (conditions.TIME, conditions.MEMORY) if claim in chart), "")
    names = list(comparison.not_comparable.get(claim, ()))
    return f"Not comparable: the runs differ in {number_format.listed(names)}." if names else ""


def _figures(comparison: Comparison) -> Iterator[tuple[str, Figure]]:
    for name, chart in all_charts().items():
        if comparison.output in chart.outputs:
            figure = chart.draw(comparison.runs)
            # An optional chart without values says nothing; the others say in words that they have none. Of predictions
            # from files alone nobody expects a cost.
            optional = chart.optional or all(run.result.imported for run in comparison.runs)
            if not optional or figure.get_label() != _style.EMPTY:
                yield name, figure


def _render(
    sections: list[ComparisonSection],
    good: list[RecordedRun],
    other: list[tuple[RecordedRun, str]],
    tries: int,
    options: Options,
) -> str:
    environment = html_templates.open_folder(Path(__file__).parent)
    table, shared = run_table.provenance(good)
    # The policy names the digest, so that a script that data smuggled in would not run.
    environment.filters["digest"] = _digest
    return environment.get_template("page.html").render(
        sections=sections,
        several_splits=len({run.result.task for run in good}) < len(sections),
        published=run_table.published_table(options.published),
        provenance=table,
        shared=shared,
        commands=[f"cxr-train --config {place(run.folder / 'result.json')}" for run in good if not run.result.imported],
        again=_command(good, options),
        made_by=origin.made_by(),
        other=[(run.result.variant, run.result, place(run.folder), reason) for run, reason in other],
        tries=tries,
    )


def _digest(script: str) -> str:
    """Return the digest by which the content security policy allows this script and no other."""
    return f"sha256-{base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()}"


def _command(runs: Sequence[RecordedRun], options: Options) -> str:
    """Return the command that makes the page of these runs again, its folder left open."""
    flags = words(options.margins)
    flags += ["--include-data"] if options.include_data else []
    flags += ["--published CSV"] if options.published else []
    # As typed: a folder of runs makes the page with the runs that were added since.
    places = options.arguments or [str(run.folder) for run in runs if not run.result.imported]
    # Before the other flags: a folder behind them could not be told from one more file.
    flags = [
        *(f"--predictions {shlex.quote(name)}={place(file)}" for name, file in options.predictions.items()),
        *flags,
    ]
    return " ".join(["cxr-compare", *map(place, places), *flags, "--out DIR"])


def _pdf(html: str, path: Path, private: bool) -> list[Path]:
    """Write the page as PDF; where WeasyPrint or a library it needs is missing, print one line."""
    try:
        import weasyprint
    # OSError: the Python package is there, but a system library (Pango) that it loads is not.
    except (ImportError, OSError):
        print(NO_PDF, file=sys.stderr)
        return []
    # WeasyPrint warns of every property of CSS that it does not know.
    logging.getLogger("weasyprint").setLevel(logging.ERROR)
    with files.atomic(path, private=private) as temporary:
        # WeasyPrint draws what has the page's colour without its transparency.
        weasyprint.HTML(string=html.replace(": currentColor", f": {_style.INK}")).write_pdf(temporary)
    return [path]
