"""The section headers of radiology reports: which words are one, and what each is called here.

The aliases and misspellings are those seen in MIMIC-CXR (counted in MIT-LCP's txt/section_parser.py) and Open-I, and
whatever is as near to one of these.
"""

import difflib
import re
from functools import lru_cache

#: What a section is called here: the headers that mean it. Headers are compared in lower case, with single spaces.
ALIASES = {
    "findings": "findings, finding, observations, report findings, radiographic findings, findings are as follows",
    "impression": "impression, impressions, imp, conclusion, conclusions, opinion, interpretation, summary, final "
    "impression, assessment, impression and plan, impression/recommendation, impression and recommendation, "
    "impression and recommendations",
    "findings and impression": "findings and impression, findings/impression, findings / impression, findings & "
    "impression, findings impression, impression and findings, impression/findings, findings and conclusion, "
    "findings/conclusion, findings and impressions",
    "indication": "indication, indications, clinical indication, clinical indications, reason for exam, reason for "
    "examination, reason for study, reason for the exam, reason for this examination, indication for study",
    "history": "history, clinical history, patient history, clinical information, clinical data, pfi, clinical "
    "details, medical history, clinical statement",
    "comparison": "comparison, comparisons, comparison exam, comparison film, comparison study, comparison studies, "
    "reference exam, prior studies, prior study, previous studies",
    "technique": "technique, procedure, procedures, views, projection, projections, protocol",
    "examination": "examination, exam, type of examination, study, exam type, procedure name, examination type",
    "recommendations": "recommendation, recommendations, recommendation(s), follow up, follow-up",
    "notification": "notification, notifications, communication, critical result, critical results",
    "comment": "comment, comments, note, notes, discussion",
    "date": "date, date of exam, date of examination, exam date, time",
    "addendum": "addendum, addenda, final addendum, addendum report",
    "wet read": "wet read, wetread, wet reading, wet read version, preliminary report, preliminary read, preliminary "
    "reading, preliminary impression, prelim, prelim read",
    "final report": "final report, final read, report",
    "signature": "electronically signed, electronically signed by, signed by, dictated by, transcribed by, read by, "
    "interpreted by, reviewed by, approved by, attending radiologist, radiologist, signature, signed",
}
NAMES = {alias: name for name, listed in ALIASES.items() for alias in listed.split(", ")}
#: Headers so plain, or so much part of a sentence, that within a line they count only in capitals.
PLAIN = frozenset(
    alias for alias in NAMES if NAMES[alias] in {"date", "comment", "examination", "technique", "signature"}
) | {
    "report",
    "summary",
    "assessment",
    "follow up",
    "follow-up",
    "finding",
    "observations",
    "prelim",
    "opinion",
    "communication",
}
#: Headers of parts of the findings, which do not end them.
PARTS = re.compile(
    r"\b(lungs?|pulmonary|airways?|trachea|heart|cardi\w+|mediastin\w+|hil[au]\w*|aorta|vascul\w+|pleura\w*|bones?|"
    r"osseous|skelet\w+|ribs?|spine|soft tissues?|chest wall|diaphragms?|abdomen|lines?|tubes?|catheters?|"
    r"devices?|hardware|thorax|others?|additional|incidental|left|right|findings)\b"
)
#: Headers that name the film; what stands under them is its findings where no other section is.
FILM = re.compile(r"\b(chest|portable|views?|frontal|lateral|pa|ap|ribs|radiographs?|x-?rays?|findings|upright)\b")
#: A misspelling has at least this ratio of matching letters; "compression" and "impression" have 0.857.
NEAR = 0.87


@lru_cache(maxsize=4096)
def canonical(header: str, *, near: bool) -> str | None:
    """What a header means: a key of ALIASES, or None where it is none; `near` admits misspellings.

    Args:
        header: the words before the colon, in any case and spacing.
    """
    words = " ".join(header.lower().split()).strip(" .*#-_")
    words = re.sub(r"\s*\(s\)$|\s*#?\d+$", "", words)
    if words in NAMES:
        return NAMES[words]
    spaced = re.sub(r"\s*[/,&]\s*", "/", words)
    if spaced in NAMES:
        return NAMES[spaced]
    if not near or len(words) < 6:
        return None
    close = difflib.get_close_matches(words, NAMES, n=1, cutoff=NEAR)
    # A plain word is too near to other words for its misspellings to be told from them.
    return NAMES[close[0]] if close and close[0] not in PLAIN else None
