"""Word what the compiler proves, weights and rejects as sentences for the manifest and the terminal."""

from collections import Counter
from collections.abc import Mapping, Sequence

from cxr_ft.data import sameness
from cxr_ft.data.manifest import Certificate, LabelCounts, WeightQuality

#: Below this share of its rows a weighted split's effective sample size is worth a note.
EFFECTIVE = 0.5


def overshoot_note(certificate: Certificate, rows: str) -> str:
    """Return the certificate as one sentence, for the manifest and the terminal.

    Args:
        rows: what a row is, in the plural ("images").
    """
    worst, least, gap = (
        100 * share for share in (certificate["worst_overshoot"], certificate["least_possible"], certificate["gap"])
    )
    # The solver stops within a gap of the least total: what is proven is said, and no more.
    total = "" if gap == 0 else f"; the total over all labels is within {_percent(gap)} of the least possible"
    # No label is beyond its target, so there is no worst one to name.
    if not certificate["at_worst"]:
        return f"no label has more {rows} than requested{total}"
    names = " and ".join(certificate["at_worst"])
    verb = "has" if len(certificate["at_worst"]) == 1 else "each have"
    proof = "no selection can do better (proven)"
    if worst != least:
        proof = f"no selection can do better than {_percent(least)}, and whether one can reach that is not known"
    return f"{names} {verb} {_percent(worst)} more {rows} than requested; {proof}{total}"


def similar_labels_note(labels: Sequence[str]) -> str:
    """Return which labels differ only in case or spacing, as one sentence; "" where none do."""
    groups: dict[str, list[str]] = {}
    for label in labels:
        groups.setdefault(sameness.text_key(label), []).append(label)
    # Said and not mended: Normal and normal may be two classes, or one class in two spellings.
    similar = [" and ".join(map(repr, group)) for group in groups.values() if len(group) > 1]
    return f"labels that differ only in case or spacing stay two: {'; '.join(similar)}" if similar else ""


def _percent(value: float) -> str:
    return f"{round(value, 2):g} %"


def all_notes(
    certificate: Certificate,
    unit: str,
    quality: Mapping[str, WeightQuality],
    rows: Mapping[str, int],
    labels: Mapping[str, LabelCounts],
) -> list[str]:
    """Return the sentences on compiled splits: overshoot, weights, labels without rows.

    Args:
        unit: what a row is, in the plural ("images").
        rows: rows of each split.
    """
    return [
        overshoot_note(certificate, unit),
        weights_note(quality),
        *effective_notes(quality, rows),
        *missing_notes(labels),
    ]


def weights_note(quality: Mapping[str, WeightQuality]) -> str:
    """Return what the weights restore as one sentence."""
    # The worst split speaks for all: a note must hold for each of them.
    without = max(split["rows_without"] for split in quality.values())
    error = max(split["prevalence_error"] for split in quality.values())
    return (
        f"the weights restore each split's natural prevalences to within {100 * error:.2f} points; for up to "
        f"{100 * without:.1f} % of a split's rows no image with the same label set was selected, so weights cannot "
        "represent them"
    )


def effective_notes(quality: Mapping[str, WeightQuality], rows: Mapping[str, int]) -> list[str]:
    """Return one sentence on the splits whose weights leave them less than EFFECTIVE of their rows' certainty.

    Args:
        rows: rows of each split.
    """
    # Equal weights give as many effective rows as rows; the rest is the price of restoring prevalences.
    low = {name: split for name, split in quality.items() if split["effective_rows"] < EFFECTIVE * rows[name]}
    if not low:
        return []
    counts = ", ".join(f"{name} {round(split['effective_rows']):,} of {rows[name]:,}" for name, split in low.items())
    ratio = max(split["ratio"] for split in low.values())
    return [
        f"the weights differ so much that weighted means are only as precise as those of fewer rows (Kish's effective "
        f"sample size): {counts} rows; the largest weight is {ratio:,.0f} times the smallest"
    ]


def missing_notes(labels: Mapping[str, LabelCounts]) -> list[str]:
    """Return a sentence for each of val and test that has no positive row of some label which the data has."""
    # A label that the data has nowhere is no fault of the splits.
    some = {name: row for name, row in labels.items() if row["available"]}
    val = [name for name, row in some.items() if not row["val"]]
    test = [name for name, row in some.items() if not row["test"]]
    # Thresholds are chosen on val alone, so that test stays unseen.
    notes = [f"val has no positive row of {', '.join(val)}: no threshold can be chosen for it"] if val else []
    return [*notes, *([f"test has no positive row of {', '.join(test)}: nothing can be said of it"] if test else [])]


def unreadable_summary(refused: dict[str, tuple[str, str]]) -> str:
    """Return how many images could not be read, why, and one of them, as one clause."""
    reasons = Counter(reason for reason, _ in refused.values())
    counts = ", ".join(f"{reason} {count}" for reason, count in sorted(reasons.items()))
    # The first by name and not the first met, which would depend on the workers.
    path, (reason, detail) = min(refused.items())
    return f"{len(refused)} images could not be read ({counts}), for example {path}: {reason}, {detail}"
