"""The chart of a split's manifest: images by label."""

from collections.abc import Mapping
from pathlib import Path

import matplotlib as mpl
from matplotlib.figure import Figure

from cxr_ft.show import number_format
from cxr_ft.show.charts._style import INK, PALETTE, STYLE, blank


def distribution(manifest: Mapping[str, object]) -> Figure:
    """Draw for each label the rows available (pale), those chosen for train, val and test, and the target.

    Args:
        manifest: of cxr-split: "labels" by name with "available", "train", "val", "test"; "request" with "per_label".
    """
    labels, request = _counts(manifest), manifest.get("request")
    target = request.get("per_label") if isinstance(request, Mapping) else None
    with mpl.rc_context(STYLE):
        figure, (axis,) = blank("Positive rows by label", 1.4 + 0.3 * len(labels), labels)
        if not labels:
            return figure
        chosen = [sum(row[split] for split in ("train", "val", "test")) for row in labels.values()]
        # Rows available outnumber those chosen by far: cut off, they leave the chosen ones readable.
        limit = 1.25 * max(*chosen, target or 0, 1)
        # Chosen rows are drawn inside the available ones, since they are a part of them.
        for at, row in enumerate(labels.values()):
            axis.barh(at, min(row["available"], limit), height=0.8, color=INK, alpha=0.2)
            start = 0
            for split, colour in zip(("train", "val", "test"), PALETTE, strict=False):
                axis.barh(at, row[split], left=start, height=0.5, color=colour, label=split if at == 0 else None)
                start += row[split]
            note = f" {number_format.count(row['available'])}"
            axis.annotate(note, (1, at), xycoords=("axes fraction", "data"), va="center", fontsize=9)
        axis.set_yticks(range(len(labels)), list(labels))
        # From above to below, so that the first label is at the top, as in the tables.
        axis.set(xlabel="Rows; at the right: available", ylim=(len(labels) - 0.4, -0.6), xlim=(0, limit))
        axis.grid(visible=False, axis="y")
        if target:
            axis.axvline(
                target, color=INK, linestyle="--", linewidth=1.2, label=f"target {number_format.count(target)}"
            )
        figure.legend(loc="outside lower center", ncols=4, handlelength=1.2)
        return figure


def _counts(manifest: Mapping[str, object]) -> dict[str, dict[str, int]]:
    """Return the numbers of positive rows by label; none of a manifest without labels."""
    labels = manifest.get("labels")
    return {str(name): dict(row) for name, row in labels.items()} if isinstance(labels, Mapping) else {}


def draw_distribution(manifest: Mapping[str, object], file: Path) -> None:
    """Write the chart of a manifest into `file`, a PNG of 150 dots an inch."""
    distribution(manifest).savefig(file, format="png", dpi=150)
