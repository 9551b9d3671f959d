"""Sections of reports, and mini-reports from labels; policies of labels."""

import numpy as np
import pytest

from cxr_ft.data.labels import targets
from cxr_ft.data.reports import mini_report, sections
from cxr_ft.errors import UsageError

REPORT = """                                 FINAL REPORT
 EXAMINATION:  CHEST (PA AND LAT)

 INDICATION:  ___ year old woman with cough

 FINDINGS:

 The heart is enlarged.  There is a small
 left effusion.

 IMPRESSION:  Small left effusion.
"""


def test_sections_with_white_space_collapsed():
    assert sections(REPORT) == {
        "findings": "The heart is enlarged. There is a small left effusion.",
        "impression": "Small left effusion.",
    }


def test_missing_and_empty_sections_are_absent():
    assert sections("no headers at all") == {}
    assert sections(" FINDINGS:\n\n IMPRESSION: Clear.") == {"impression": "Clear."}


def test_a_combined_header_fills_both():
    assert sections(" FINDINGS AND IMPRESSION: Clear.") == {"findings": "Clear.", "impression": "Clear."}


def test_windows_line_ends():
    assert sections(REPORT.replace("\n", "\r\n")) == sections(REPORT)


def test_mini_report_says_each_stated_label_once():
    nan = float("nan")
    values = {"No Finding": nan, "Edema": 1.0, "Pneumonia": -1.0, "Fracture": 0.0, "Lung Lesion": nan}
    assert mini_report(values, "No Finding") == "There is edema. Possible pneumonia. No fracture."
    assert mini_report({"No Finding": 1.0, "Edema": nan}, "No Finding") == "No acute finding."
    assert mini_report({"No Finding": nan, "Edema": nan}, "No Finding") == ""


@pytest.mark.parametrize(
    ("uncertain", "blank", "expected"),
    [
        ("ignore", "negative", [1, 0, np.nan, 0]),
        ("positive", "negative", [1, 0, 1, 0]),
        ("negative", "negative", [1, 0, 0, 0]),
        ("ignore", "ignore", [1, 0, np.nan, np.nan]),
        ("positive", "ignore", [1, 0, 1, np.nan]),
    ],
)
def test_policies(uncertain, blank, expected):
    np.testing.assert_array_equal(targets(np.array([[1, 0, -1, np.nan]]), uncertain, blank), [expected])


def test_unknown_policies_are_refused():
    with pytest.raises(UsageError, match="ignore, negative, positive"):
        targets(np.zeros((1, 1)), "maybe", "negative")
