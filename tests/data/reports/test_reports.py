"""Sections of reports, and mini-reports from labels; policies of labels."""

import re
import textwrap
import time
from itertools import pairwise

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from real_data import REAL

from cxr_ft.data.card import DatasetCard
from cxr_ft.data.labels import targets
from cxr_ft.data.records import Records
from cxr_ft.data.reports.sections import clean, decoded, exceptions, mimic_sections, parse, sections
from cxr_ft.data.reports.text_columns import add_texts, contexts, mini_report, mini_report_of_class
from cxr_ft.errors import UsageError

OPENI = REAL / "openi_reports.csv"

REPORT = """                                 FINAL REPORT
 EXAMINATION:  CHEST (PA AND LAT)

 INDICATION:  ___ year old woman with cough

 FINDINGS:

 The heart is enlarged.  There is a small
 left effusion.

 IMPRESSION:  Small left effusion.
"""


HEADERS = ["FINDINGS:", "Impression:", "WET READ:", "ADDENDUM", "FINAL REPORT", "FINDINGS AND IMPRESSION:", "LUNGS:"]
PIECES = st.lists(
    st.one_of(st.sampled_from([*HEADERS, "\n", "\r\n", " ", ". ", ":", "___"]), st.text(max_size=12)), max_size=40
)


@given(PIECES.map("".join))
def test_sections_put_together_are_the_report(report):
    parts = parse(report)
    assert "".join(report[s.start : s.end] for s in parts) == report
    assert parts[0].start == 0 and parts[-1].end == len(report)
    assert all(s.start <= s.body <= s.end for s in parts)
    assert all(a.end == b.start for a, b in pairwise(parts))


@given(PIECES.map("".join))
def test_texts_are_pieces_of_the_report_or_none(report):
    report = decoded(report)
    bodies = {clean(report[s.body : s.end]) for s in parse(report)}
    assert all(text is None or (text and text in bodies) for text in sections(report).values())


def test_sections_with_white_space_collapsed():
    assert sections(REPORT) == {
        "findings": "The heart is enlarged. There is a small left effusion.",
        "impression": "Small left effusion.",
    }


def test_missing_and_empty_sections_are_none():
    assert sections("no headers at all") == sections("") == {"findings": None, "impression": None}
    assert sections(" FINDINGS:\n\n IMPRESSION: Clear.") == {"findings": None, "impression": "Clear."}


def test_offsets_point_at_header_and_text():
    by_name = {s.name: s for s in parse(REPORT)}
    assert list(by_name) == ["preamble", "final report", "examination", "indication", "findings", "impression"]
    assert REPORT[by_name["findings"].start : by_name["findings"].body] == "FINDINGS:"
    assert REPORT[by_name["impression"].body : by_name["impression"].end].strip() == "Small left effusion."


FINDINGS, IMPRESSION = "Heart size is normal. AP view: no effusion.", "1. No acute disease. 2. Stable nodule."


@pytest.mark.parametrize(
    "report",
    [
        " FINDINGS:  {f}\n\n IMPRESSION:  {i}\n",
        "Findings: {f}\nImpression: {i}",
        "findings: {f}\nimpression: {i}",
        "FINDINGS: {f}\nIMPRESSION: {i}",
        "\tFINDINGS :\t{f}\n\tIMPRESSION :\t{i}",
        "EXAM: Chest. INDICATION: cough FINDINGS: {f} IMPRESSION: {i}",
        "Exam: Chest. Indication: cough. Findings: {f} Impression: {i}",
        " FINDINGS\n\n {f}\n\n IMPRESSION\n\n {i}",
        " FINDINGS - {f}\n IMPRESSION - {i}",
        " FINDNGS: {f}\n IMPRESSON: {i}",
        " Finidngs: {f}\n Imperssion: {i}",
        " FINDINGS: {f}\n CONCLUSION: {i}",
        " CHEST, TWO VIEWS: {f}\n IMPRESSION: {i}",
        " CHEST (PA AND LAT):\n\n FINDINGS: {f}\n IMPRESSION: {i}",
        " FINDINGS: old\n IMPRESSION: old\n FINDINGS: {f}\n IMPRESSION: {i}",
        " WET READ: ___ 8:36 PM\n  IMPRESSION: wet\n____________\n FINAL REPORT\n FINDINGS: {f}\n IMPRESSION: {i}",
        " WET READ: nothing.\n\n FINDINGS: {f}\n\n IMPRESSION: {i}",
        " FINDINGS: {f}\n IMPRESSION: {i}\n WET READ: clear",
        " FINAL ADDENDUM\n ADDENDUM  See. FINDINGS: new\n________\n FINAL REPORT\n FINDINGS: {f}\n IMPRESSION: {i}",
        " FINDINGS: {f}\n IMPRESSION: {i}\n ADDENDUM: discussed.\n IMPRESSION: other",
        " FINDINGS: {f}\n IMPRESSION: {i}\n\n Electronically signed by ___, MD\n",
        " FINDINGS: {f}\n IMPRESSION: {i}\n NOTIFICATION: told.\n RECOMMENDATION(S): CT.",
        "\ufeffFINDINGS: {f}\r\nIMPRESSION: {i}\r\n",
    ],
)
def test_layouts(report):
    assert sections(report.format(f=FINDINGS, i=IMPRESSION)) == {"findings": FINDINGS, "impression": IMPRESSION}


@pytest.mark.parametrize(
    "header",
    [
        "FINDINGS AND IMPRESSION",
        "FINDINGS/IMPRESSION",
        "Findings & Impression",
        "IMPRESSION AND FINDINGS",
        "FINDINGS / IMPRESSION",
    ],
)
def test_a_combined_header_fills_both(header):
    assert sections(f" {header}: Clear.") == {"findings": "Clear.", "impression": "Clear."}
    assert "findings and impression" in [s.name for s in parse(f" {header}: Clear.")]


def test_parts_of_the_findings_do_not_end_them():
    report = "FINDINGS:\n LUNGS: Clear.\n HEART: Normal.\n IMPRESSION: Normal."
    assert sections(report) == {"findings": "LUNGS: Clear. HEART: Normal.", "impression": "Normal."}


def test_words_in_a_sentence_are_no_headers():
    report = "FINDINGS: The impression of a mass. Compression: none. At 8:36 XXXX: seen; see http://a.b\nXXXX: also."
    assert sections(report)["impression"] is None
    assert sections(report)["findings"] == clean(report[9:])


def test_windows_line_ends():
    assert sections(REPORT.replace("\n", "\r\n")) == sections(REPORT)


def _wrapped(text):
    return "\n ".join(textwrap.wrap(text, 70, break_on_hyphens=False))


REAL = {
    "as MIMIC": lambda f, i: (
        f"   FINAL REPORT\n INDICATION:  cough\n\n FINDINGS: \n\n {_wrapped(f)}\n\n IMPRESSION:  {_wrapped(i)}\n"
    ),
    "title case": lambda f, i: f"Indication: cough\n\nFindings: {f}\n\nImpression: {i}\n",
    "no leading space": lambda f, i: f"INDICATION: cough\n\nFINDINGS: {f}\n\nIMPRESSION: {i}\n",
    "one line": lambda f, i: f"FINAL REPORT EXAM: Chest INDICATION: cough FINDINGS: {f} IMPRESSION: {i}",
    "one line, title case": lambda f, i: f"Exam: Chest. Indication: cough. Findings: {f} Impression: {i}",
    "wet read": lambda f, i: (
        f" WET READ: ___ 8:36 PM\n  IMPRESSION: x\n____________\n  FINAL REPORT\n FINDINGS: {f}\n IMPRESSION: {i}\n"
    ),
    "addendum": lambda f, i: f" FINDINGS: {f}\n IMPRESSION: {i}\n ADDENDUM: told.\n IMPRESSION: other\n",
    "typos": lambda f, i: f" FINDGINGS: {f}\n IMPRESION: {i}\n",
    "numbered": lambda f, i: f" FINDINGS: {f}\n IMPRESSION:\n 1. {_wrapped(i)}\n 2. End.\n",
}


@pytest.mark.skipif(not OPENI.exists(), reason="the real reports are not here")
@pytest.mark.parametrize("name", REAL)
def test_real_reports_are_recovered_to_the_word(name):
    table = pd.read_csv(OPENI, keep_default_na=False)
    wrong = []
    for f, i in zip(table["findings"], table["impression"], strict=True):
        impression = f"1. {i} 2. End." if name == "numbered" else i
        if sections(REAL[name](f, i)) != {"findings": clean(f) or None, "impression": clean(impression) or None}:
            wrong.append(f)
    assert len(table) == 1500 and wrong == []


@pytest.mark.skipif(not OPENI.exists(), reason="the real reports are not here")
def test_real_reports_under_a_combined_header():
    for text in pd.read_csv(OPENI, keep_default_na=False)["findings"]:
        got = sections(f" INDICATION: cough\n\n FINDINGS AND IMPRESSION:  {text}\n")
        assert got["findings"] == got["impression"] == (clean(text) or None)


def test_the_published_exceptions():
    """As many as txt/section_parser.py has: 23 under another header, 23 at given offsets, 8 without findings."""
    kinds = [
        ("header" if header else "none" if (a, b) == (0, 0) else "offsets") for header, a, b in exceptions().values()
    ]
    assert {kind: kinds.count(kind) for kind in kinds} == {"header": 23, "offsets": 23, "none": 8}
    assert all(re.fullmatch(r"5\d{7}", study) for study in exceptions())
    assert all(0 <= a <= b < 1000 for _, a, b in exceptions().values())


def test_exceptions_are_applied_to_their_studies():
    report = " INDICATION: Heart normal.\n RECOMMENDATION(S):  Lungs clear.\n NOTE: Seen.\n" + 30 * "x "
    assert mimic_sections("50913680", report) == {"findings": "Lungs clear.", "impression": None}
    assert mimic_sections("57936451", report) == {"findings": "Heart normal.", "impression": None}
    assert mimic_sections("50196495", report) == {"findings": clean(report[59:399]), "impression": None}
    assert mimic_sections("58235663", " FINDINGS: x") == {"findings": None, "impression": None}
    assert mimic_sections("1", REPORT) == sections(REPORT)


def records(tmp_path, name="MIMIC-CXR", **columns):
    n = len(next(iter(columns.values())))
    ids = {key: [f"{key}{k}" for k in range(n)] for key in ("subject_id", "study_id", "dicom_id", "path")}
    table = pd.DataFrame({**ids, "view": "PA", "official": "", "report": "", "label": ["a", "b"] * (n // 2), **columns})
    return Records(table=table, card=DatasetCard(name=name, labels=("a", "b"), multi_label=False), root=str(tmp_path))


def test_text_columns_of_the_table_are_used(tmp_path):
    made = records(tmp_path, findings=["Clear.", "", " Large\n heart. ", None])
    notes = []
    out = add_texts(made.table, made, "findings", notes)
    assert out["findings"].tolist() == ["Clear.", "Large heart."]
    assert notes == ["2 images whose report has no findings are left out"]


def test_files_in_latin_1_and_with_a_mark_are_read(tmp_path):
    (tmp_path / "a.txt").write_bytes("FINDINGS: caf\xe9.".encode("latin-1"))
    (tmp_path / "b.txt").write_bytes("\ufeffFINDINGS: caf\xe9.".encode())
    made = records(tmp_path, report=["a.txt", "b.txt"])
    assert add_texts(made.table, made, "findings", [])["findings"].tolist() == ["caf\xe9."] * 2


@pytest.mark.parametrize(("name", "findings"), [("MIMIC-CXR", "Lungs clear."), ("phantom", "Heart normal.")])
def test_exceptions_are_for_mimic_alone(tmp_path, name, findings):
    (tmp_path / "a.txt").write_text("FINDINGS: Heart normal.\nRECOMMENDATIONS: Lungs clear.")
    made = records(tmp_path, name, report=["a.txt", "a.txt"], study_id=["50913680", "50913680x"])
    made.table["study_id"] = "50913680"
    assert add_texts(made.table, made, "findings", [])["findings"].tolist() == [findings] * 2


def test_no_reports_is_said(tmp_path):
    made = records(tmp_path, report=["", ""])
    with pytest.raises(UsageError, match="has no reports"):
        add_texts(made.table, made, "impression", [])
    made = records(tmp_path, report=["gone.txt", "gone.txt"])
    with pytest.raises(UsageError, match="could be read and has that section"):
        add_texts(made.table, made, "impression", [])


def test_mini_report_of_one_class():
    assert mini_report_of_class("Covid") == "The film shows covid."


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


@pytest.mark.parametrize(
    ("report", "findings", "impression"),
    [
        (
            "FINDINGS: PA AND LATERAL VIEWS OF THE CHEST.\nTHE FOLLOWING IS SEEN: EFFUSION.\nIMPRESSION: NONE.",
            "PA AND LATERAL VIEWS OF THE CHEST. THE FOLLOWING IS SEEN: EFFUSION.",
            "NONE.",
        ),
        (
            "INDICATION: COUGH FINDINGS: LARGER THAN ON THE PRIOR STUDY: 3 CM. THE FOLLOWING FINDINGS: CYST.",
            "LARGER THAN ON THE PRIOR STUDY: 3 CM. THE FOLLOWING FINDINGS: CYST.",
            None,
        ),
        ("CHEST, TWO VIEWS:\nCLEAR.\nSIZE OF THE CYST: 3 CM.", "CLEAR. SIZE OF THE CYST: 3 CM.", None),
        ("HISTORY: COUGH\n\nFINDINGS\nCLEAR.\n\nIMP: NORMAL.\nNOTE: CALLED.", "CLEAR.", "NORMAL."),
    ],
)
def test_a_report_in_capitals_loses_no_text(report, findings, impression):
    assert sections(report) == {"findings": findings, "impression": impression}


@pytest.mark.parametrize(
    "header",
    [
        *("**{}:**", "**{}**:", "**{}**", "## {}", "# {}:", "<b>{}:</b>", "<b>{}</b>:", "{};", "__{}:__", "- {} -"),
        *("1. {}:", "2) {}:", "**1. {}:**", "> {}:", "{} :", "* {}:", "<h2>{}</h2>:", "1. **{}:**"),
    ],
)
@pytest.mark.parametrize("case", [str.upper, str.title])
def test_headers_with_markup_and_numbers(header, case):
    heads = [header.format(case(name)) for name in ("findings", "impression")]
    if header == "- {} -":
        heads = [f"{case(name)} -" for name in ("findings", "impression")]
    report = f"Cough for weeks.\n{heads[0]} The lungs are clear.\n{heads[1]} Normal film.\n"
    if not any(mark in header for mark in ":;") and header != "- {} -":
        report = f"Cough for weeks.\n{heads[0]}\nThe lungs are clear.\n{heads[1]}\nNormal film.\n"
    assert sections(report) == {"findings": "The lungs are clear.", "impression": "Normal film."}


def test_numbered_impressions_are_no_headers():
    report = "FINDINGS: Clear.\nIMPRESSION:\n1. Heart: large.\n2. SUPPORT TUBE: in place.\n3. No effusion."
    assert sections(report)["impression"] == "1. Heart: large. 2. SUPPORT TUBE: in place. 3. No effusion."


@pytest.mark.parametrize("run", ["*", "_", " ", "<b>", "# ", "\xa0", "1. ", "*_"])
def test_long_runs_of_markup_take_no_time(run):
    report = run * 20_000 + "FINDINGS x: y\nFINDINGS: z " + run * 20_000
    begin = time.perf_counter()
    sections(report)
    assert time.perf_counter() - begin < 5


def test_labels_with_underscores_are_words():
    assert mini_report({"Pleural_Thickening": 1.0}, None) == "There is pleural thickening."
    assert mini_report_of_class("Lung_Opacity") == "The film shows lung opacity."


@pytest.mark.parametrize(
    ("report", "indication", "history"),
    [
        ("INDICATION: Cough.\n\nFINDINGS: Clear.", "Cough.", ""),
        ("REASON FOR EXAM:  ___F with\n fall // fracture?\n\nFINDINGS: Clear.", "___F with fall // fracture?", ""),
        ("CLINICAL HISTORY: Smoker.\nINDICATION: Pain.\nIMPRESSION: Clear.", "Pain.", "Smoker."),
        ("WET READ: x\nINDICATION: Early.\nFINAL REPORT\nINDICATION: Late.\nFINDINGS: Clear.", "Late.", ""),
        ("FINDINGS: Clear.", "", ""),
        ("", "", ""),
    ],
)
def test_what_stands_beside_the_report(report, indication, history):
    assert contexts(report) == {"indication": indication, "history": history}


PLAIN = "INDICATION: cough & fever\nFINDINGS: heart < 15 cm. No effusion.\nIMPRESSION: normal."


@pytest.mark.parametrize(
    "written",
    [
        PLAIN.replace("\n", "\\n"),
        PLAIN.replace("\n", "\\r\\n"),
        PLAIN.replace("\n", "<br>"),
        PLAIN.replace("\n", "<BR />"),
        "".join(f"<p>{line}</p>" for line in PLAIN.split("\n")),
        PLAIN.replace(":", "："),
        PLAIN.replace("&", "&amp;").replace("<", "&lt;").replace(" ", "&nbsp;"),
        PLAIN.replace("&", "&#38;").replace("<", "&#x3C;").replace("\n", "&lt;br&gt;"),
    ],
)
def test_what_other_programs_leave_in_a_report_is_read(written):
    assert sections(written) == sections(PLAIN)
    assert sections(PLAIN) == {"findings": "heart < 15 cm. No effusion.", "impression": "normal."}
    assert contexts(written)["indication"] == "cough & fever"


def test_what_only_looks_like_an_entity_stays():
    assert sections("FINDINGS: L&R lungs clear; R&D, 3 &lt 4, a<b and b>c.")["findings"] == (
        "L&R lungs clear; R&D, 3 &lt 4, a<b and b>c."
    )
