"""Cut a radiology report into its sections, with character offsets.

A report is cut at its headers and nowhere else, so the sections in order are the report to the character. Headers are
known names in any case at the start of a line or of a sentence, known names in capitals anywhere, and unknown names in
capitals at the start of a line.

The aliases and misspellings are those seen in MIMIC-CXR (counted in MIT-LCP's txt/section_parser.py) and Open-I, and
words that are nearly one of these.
"""

import difflib
import html
import re
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cache, lru_cache

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
#: Headers that name the film; the text under them is its findings where no other section is.
FILM = re.compile(r"\b(chest|portable|views?|frontal|lateral|pa|ap|ribs|radiographs?|x-?rays?|findings|upright)\b")
#: A misspelling has at least this ratio of matching letters; "compression" and "impression" have 0.857.
NEAR = 0.87

#: The sections that become text columns.
WANTED = ("findings", "impression")
BOTH = "findings and impression"
#: A header is at most this long, in characters.
LONGEST = 60

_COLON = re.compile(r"[:：](?!//)|(?:(?<=FINDINGS)|(?<=IMPRESSION)|(?<=Findings)|(?<=Impression));")
# Markup before a header at the start of its line, with its number; and after the header's colon or words.
_LEAD = re.compile(r"[ \t\xa0\ufeff]*(?:[*_#>][ \t]*|</?\w{1,6}>[ \t]*)*")
_NUMBERED = re.compile(_LEAD.pattern + r"(?:\d{1,2}[.)][ \t]*)?[*_]*")
_TRAIL = re.compile(r"[ \t]*(?:\*\*|__(?!_)|</\w{1,6}>)")  # three underscores are a redaction
# Headers that need no colon: dividers in capitals, the two sections alone on a line or before a dash, a signature.
_BARE = re.compile(
    r"(?m)(?:^|(?<=\s))(?P<divider>FINAL REPORT|FINAL ADDENDUM|WET READ)\b"
    r"|^[ \t]*(?P<addendum>ADDENDUM)(?=[ \t]*$|[ \t]{2,}|[ \t]+#?\d)"
    r"|^[ \t*#_]*(?P<alone>(?i:findings?(?: and |[ ]?/[ ]?)impressions?|findings?|impressions?|conclusions?))[ \t*#_]*$"
    r"|^[ \t]*(?P<dash>(?:FINDINGS?|IMPRESSIONS?|CONCLUSIONS?|Findings|Impression|Conclusion)[ \t]*[-–—])(?=\s)"
    r"|(?:^[ \t]*|(?<=[.!?]\s))(?P<signed>(?:Electronically signed|Dictated by|Transcribed by|Signed by|Read by"
    r"|Approved by|Reviewed by|Interpreted by|ELECTRONICALLY SIGNED|DICTATED BY|SIGNED BY)\b)"
)
_SENTENCE_END = re.compile(r"[.!?)\]][\s\"']+")
# Capitals, three at least, that are no redaction ("XXXX:").
_UNKNOWN = re.compile(r"(?![X\s_]+\Z)(?=.{3})(?!.*[a-z])[A-Z]")
_WORD_START = re.compile(r"(?<![^\s.!?)\]*>])[A-Za-z]")
_AFTER_SENTENCE = re.compile(r"[.!?)\]][\s\"']*\Z")
_RULE = re.compile(r"[_=*-]{8,}")
# What exports of databases and of web pages leave of a line's end. Entities end with a semicolon here: "&not" without
# one is an entity to a browser and two words to a radiologist.
_ENTITY = re.compile(r"&(?:#\d{1,7}|#[xX][0-9a-fA-F]{1,6}|[a-zA-Z][a-zA-Z0-9]{1,30});")
_LINE_END = re.compile(r"\\r\\n|\\[nr]|<br\s*/?>|</?(?:p|div)>", re.IGNORECASE)


@dataclass(frozen=True, kw_only=True)
class Section:
    """A piece of a report: its header is report[start:body], its text report[body:end].

    Args:
        name: what its header means (`ALIASES`), "preamble" before the first header,
            else the header in lower case.
        start, body, end: character offsets in the report.
        aside: part of a wet read or of an addendum, not of the report itself.
    """

    name: str
    start: int
    body: int
    end: int
    aside: bool = False


def parse(report: str) -> list[Section]:
    """Return the sections of a report [at least 1], in order; each begins where the one before ends.

    Any text is taken: one without headers is one section, "preamble".
    """
    parts = [Section(name="preamble", start=0, body=0, end=0)]
    # In a report all in capitals, capitals mark no header.
    loud = not any(letter.islower() for letter in report)
    for name, start, body in _headers(report, loud=loud):
        before = parts[-1]
        if loud and name == before.name:
            continue  # "... THE FOLLOWING FINDINGS: ...": no second section that takes the first one's place
        if before.name in (*WANTED, BOTH, "film") and _continues(name, report[before.body : start]):
            continue
        parts.append(Section(name=name, start=start, body=body, end=body))
    # A section ends where the next header begins, so no text of the report is lost between two.
    ends = [*(section.start for section in parts[1:]), len(report)]
    return _asides([replace(section, end=end) for section, end in zip(parts, ends, strict=True)])


def sections(report: str) -> dict[str, str | None]:
    """Return the findings and the impression of a report, white space collapsed; None if missing or empty.

    The last occurrence wins, a combined header fills both, wet reads and addenda are left out. Where no section is
    called findings, one that is headed by the film's name ("CHEST, TWO VIEWS:") holds them.
    """
    report = decoded(report)
    texts: dict[str, str | None] = dict.fromkeys(WANTED)
    film = None
    for section in parse(report):
        text = clean(report[section.body : section.end])
        # An empty section does not take the place of a filled one of the same name before it.
        if section.aside or not text:
            continue
        if section.name == "film":
            film = text
        for name in WANTED if section.name == BOTH else (section.name,):
            if name in texts:
                texts[name] = text
    return {**texts, "findings": texts["findings"] or film}


def decoded(report: str) -> str:
    """Return a report with characters for HTML entities and line ends for `<br>`, paragraphs, and backslash n."""
    return _LINE_END.sub("\n", _ENTITY.sub(lambda entity: html.unescape(entity[0]), report))


def clean(text: str) -> str:
    """Collapse white space and remove ruled lines; redactions ("___", "XXXX") and list numbers stay."""
    return " ".join(_RULE.sub(" ", decoded(text)).split())


def _headers(report: str, *, loud: bool) -> Iterator[tuple[str, int, int]]:
    """Yield name, start and end of each header, in order, none overlapping another."""
    headers, reached = [], 0
    for colon in _COLON.finditer(report):
        line = max(report.rfind("\n", 0, colon.start()), report.rfind("\r", 0, colon.start())) + 1
        # Two headers may share a line ("TECHNIQUE: PA. FINDINGS: clear"): the second begins after the first colon.
        begin = max(line, reached)
        if header := _before_colon(report[begin : colon.start()], at_line_start=begin == line, loud=loud):
            start, trail = _with_lead(report, begin + header[1]), _TRAIL.match(report, colon.end())
            headers.append((start, trail.end() if trail else colon.end(), header[0]))
        reached = colon.end()
    for bare in _BARE.finditer(report):
        kind = str(bare.lastgroup)
        name = "signature" if kind == "signed" else str(canonical(bare[kind].rstrip("-–— \t"), near=False))
        headers.append((_with_lead(report, bare.start(kind)), bare.end(), name))
    reached = 0
    # Of two that begin together the longer one is meant: "WET READ:" is found with its colon and without.
    for start, end, name in sorted(headers, key=lambda header: (header[0], -header[1])):
        if start >= reached:
            yield name, start, end
            reached = end


def _with_lead(report: str, start: int) -> int:
    """Return the start of a header including the markup and the number before it on its line."""
    line = max(report.rfind("\n", 0, start), report.rfind("\r", 0, start)) + 1
    before = report[line:start]
    return line + len(before) - len(before.lstrip()) if before.strip() and _NUMBERED.fullmatch(before) else start


def _before_colon(before: str, *, at_line_start: bool, loud: bool) -> tuple[str, int] | None:
    """Return name and start of the header that ends `before`: a line up to a colon, or what lies between two colons.

    Args:
        loud: the whole report is in capitals.
    """
    text = re.sub(r"</\w{1,6}>\Z", "", before.rstrip()).rstrip("*_").rstrip()
    lead = _LEAD.match(text)
    words = text[lead.end() :] if lead else text
    if at_line_start and 0 < len(words) <= LONGEST and words[0].isalpha():
        name = canonical(words, near=words[0].isupper())
        if name is None and _UNKNOWN.match(words) and not _SENTENCE_END.search(words):
            name = _unknown(words)
            name = None if loud and name not in (*WANTED, BOTH, "film") else name
        if name:
            return name, len(text) - len(words)
    return _within_line(text, loud=loud)


def _within_line(text: str, *, loud: bool) -> tuple[str, int] | None:
    """Return the longest known header that ends `text`: in capitals, after a sentence, or one of the two wanted."""
    # From the longest possible header to shorter ones: "clinical history" must win over "history".
    for match in _WORD_START.finditer(text, max(len(text) - LONGEST, 0)):
        words = text[match.start() :]
        name = canonical(words, near=words.isupper())
        if name is None:
            continue
        wanted = name in (*WANTED, BOTH) and words[0].isupper()
        free = wanted or _AFTER_SENTENCE.search(text, 0, match.start())
        if (words.isupper() and not loud) or (free and " ".join(words.lower().split()) not in PLAIN):
            return name, match.start()
    return None


def _unknown(words: str) -> str:
    """Return the name of a header in capitals that no list has."""
    lower = " ".join(words.lower().split())
    if re.search(r"\bimpressions?\b", lower):
        return BOTH if re.search(r"\bfindings?\b", lower) else "impression"
    return "film" if FILM.search(lower) else lower


def _continues(name: str, text: str) -> bool:
    """Return True if a header within findings or impression that hold `text` is one of their own parts."""
    return (name == "film" and bool(text.strip())) or (name not in ("film", BOTH) and bool(_part(name)))


def _part(name: str) -> bool:
    return canonical(name, near=False) is None and PARTS.search(name) is not None


def _asides(parts: list[Section]) -> list[Section]:
    """Mark what belongs to a wet read or an addendum.

    One lasts until the final report begins. Where none follows, it lasts to the end if the report has had its findings
    or impression before, and else is one section long: what follows then is the report.
    """
    out: list[Section] = []
    aside = seen = False
    for i, section in enumerate(parts):
        if section.name == "final report":
            aside = False
        begins = section.name in ("wet read", "addendum")
        if begins:
            aside = seen or any(later.name == "final report" for later in parts[i + 1 :])
        out.append(replace(section, aside=aside or begins))
        seen = seen or (not aside and section.name in (*WANTED, BOTH, "film"))
    return out


@cache
def exceptions() -> dict[str, tuple[str, int, int]]:
    """Return the MIMIC-CXR reports with findings under another header (its name, 0, 0), or at fixed offsets ("", a, b).

    By study id without its "s", for the reports of version 2.0.0; at offsets 0, 0 there are none. Source:
    custom_mimic_cxr_rules in txt/section_parser.py of MIT-LCP/mimic-cxr (also in MIT-LCP/mimic-code, commit 58b2987).
    """
    from importlib import resources

    import yaml

    exceptions = yaml.safe_load(
        resources.files("cxr_ft.data.reports").joinpath("mimic_cxr_exceptions.yaml").read_text("utf-8")
    )
    headers = {study: (header, 0, 0) for study, header in exceptions["header"].items()}
    return headers | {study: ("", start, end) for study, (start, end) in exceptions["offsets"].items()}


def mimic_sections(study_id: str, report: str) -> dict[str, str | None]:
    """Return `sections`, but the published exception where the study has one."""
    if study_id not in exceptions():
        return sections(report)
    header, start, end = exceptions()[study_id]
    if header:
        texts = [clean(report[part.body : part.end]) for part in parse(report) if part.name in (header, _own(header))]
        text = texts[-1] if texts else ""
    else:
        text = clean(report[start:end])
    return {"findings": text or None, "impression": None}


def _own(header: str) -> str | None:
    return canonical(header, near=False)


@lru_cache(maxsize=4096)
def canonical(header: str, *, near: bool) -> str | None:
    """Return the meaning of a header, a key of ALIASES, or None; `near` admits misspellings.

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
    # In a short word one wrong letter already makes another word.
    if not near or len(words) < 6:
        return None
    # Slow, which is why the function is cached: an archive's reports share a few hundred headers.
    close = difflib.get_close_matches(words, NAMES, n=1, cutoff=NEAR)
    # A plain word is too near to other words for its misspellings to be distinguished.
    return NAMES[close[0]] if close and close[0] not in PLAIN else None
