"""Word what the compiler proves, weights and rejects as sentences for the manifest and the terminal."""

from collections import Counter

from cxr_ft.data.manifest import Certificate, WeightQuality


def overshoot_note(certificate: Certificate, rows: str) -> str:
    """Return the certificate as one sentence, for the manifest and the terminal.

    Args:
        rows: what a row is, in the plural ("images").
    """
    worst, least, gap = (
        100 * share for share in (certificate["worst_overshoot"], certificate["least_possible"], certificate["gap"])
    )
    total = "" if gap == 0 else f"; the total over all labels is within {_percent(gap)} of the least possible"
    if not certificate["at_worst"]:
        return f"no label has more {rows} than requested{total}"
    names = " and ".join(certificate["at_worst"])
    verb = "has" if len(certificate["at_worst"]) == 1 else "each have"
    proof = "no selection can do better (proven)"
    if worst != least:
        proof = f"no selection can do better than {_percent(least)}, and whether one can reach that is not known"
    return f"{names} {verb} {_percent(worst)} more {rows} than requested; {proof}{total}"


def _percent(value: float) -> str:
    return f"{round(value, 2):g} %"


def weights_note(quality: dict[str, WeightQuality]) -> str:
    """Return what the weights restore as one sentence."""
    without = max(split["rows_without"] for split in quality.values())
    error = max(split["prevalence_error"] for split in quality.values())
    return (
        f"the weights restore each split's natural prevalences to within {100 * error:.2f} points; for up to "
        f"{100 * without:.1f} % of a split's rows no image with the same label set was selected, so weights cannot "
        "represent them"
    )


def unreadable_summary(refused: dict[str, tuple[str, str]]) -> str:
    """Return how many images could not be read, why, and one of them, as one clause."""
    reasons = Counter(reason for reason, _ in refused.values())
    counts = ", ".join(f"{reason} {count}" for reason, count in sorted(reasons.items()))
    path, (reason, detail) = min(refused.items())
    return f"{len(refused)} images could not be read ({counts}), for example {path}: {reason}, {detail}"
