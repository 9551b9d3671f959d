"""Name the 14 CheXpert labels, and map uncertain (-1) and blank mentions to targets: each policy a named function.

Source of names and values: Irvin et al., CheXpert (AAAI 2019), table 1: 1 positive, 0 negative, -1 uncertain, blank not
mentioned. A policy maps raw values to targets in [0, 1], NaN where the label is masked out of loss and metrics.
"""

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from cxr_ft.errors import unknown

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

CHEXPERT_14 = (
    "No Finding",
    "Enlarged Cardiomediastinum",
    "Cardiomegaly",
    "Lung Opacity",
    "Lung Lesion",
    "Edema",
    "Consolidation",
    "Pneumonia",
    "Atelectasis",
    "Pneumothorax",
    "Pleural Effusion",
    "Pleural Other",
    "Fracture",
    "Support Devices",
)


def ignore_uncertain(raw: Floats) -> Floats:
    """Return -1 masked (NaN)."""
    return np.where(raw == -1, np.nan, raw)


def uncertain_is_positive(raw: Floats) -> Floats:
    """Return -1 as 1 (the U-Ones policy)."""
    return np.where(raw == -1, 1.0, raw)


def uncertain_is_negative(raw: Floats) -> Floats:
    """Return -1 as 0 (the U-Zeros policy)."""
    return np.where(raw == -1, 0.0, raw)


def blank_is_negative(raw: Floats) -> Floats:
    """Return a label that the report does not mention as absent, 0."""
    return np.where(np.isnan(raw), 0.0, raw)


def ignore_blank(raw: Floats) -> Floats:
    """Return a label that the report does not mention masked (NaN)."""
    return raw


UNCERTAIN: dict[str, Callable[[Floats], Floats]] = {
    "ignore": ignore_uncertain,
    "positive": uncertain_is_positive,
    "negative": uncertain_is_negative,
}
BLANK: dict[str, Callable[[Floats], Floats]] = {"negative": blank_is_negative, "ignore": ignore_blank}


def targets(raw: Floats, uncertain: str, blank: str) -> Floats:
    """Return raw label values [N, L] (1, 0, -1, NaN) as targets [N, L] in {0, 1, NaN}, under two policies by name.

    Raises:
        UsageError: for an unknown policy.
    """
    if uncertain not in UNCERTAIN:
        raise unknown("policy for uncertain labels", uncertain, UNCERTAIN)
    if blank not in BLANK:
        raise unknown("policy for blank labels", blank, BLANK)
    # Blanks first: a masked uncertain label is NaN too, and must not be read as blank.
    return UNCERTAIN[uncertain](BLANK[blank](raw))


def distinct_rows(rows: NDArray[np.integer | np.bool_]) -> tuple[Ints, Ints]:
    """Return the first row of each distinct content [K], and the number of its content for each row [N].

    As `np.unique(rows, axis=0)` would, many times faster: each row of whole numbers [N, L] becomes one number.
    """
    code = np.zeros(len(rows), dtype=np.int64)
    first, radix = np.zeros(min(len(rows), 1), dtype=np.int64), 1
    for column in rows.T.astype(np.int64):
        values = int(column.max(initial=0) - column.min(initial=0)) + 1
        if radix * values > 2**62:  # numbered anew, to leave room for one more column
            _, first, code = np.unique(code, return_index=True, return_inverse=True)
            radix = len(first)
        # Each column is one digit of a number whose base is that column's range.
        code = code * values + (column - column.min(initial=0))
        radix *= values
    _, first, code = np.unique(code, return_index=True, return_inverse=True)
    return first, code
