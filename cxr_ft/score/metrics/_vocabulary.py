"""The words the labeler knows: findings, the heart and mediastinum, denial, doubt, and what ends their reach.

Every pattern is matched within one sentence in lower case with single spaces. The wording is general radiology's.
"""

import re


def _any(*patterns: str) -> str:
    return f"(?:{'|'.join(patterns)})"


def _words(*patterns: str) -> re.Pattern[str]:
    return re.compile(rf"\b{_any(*patterns)}\b")


_SIZED = _any(
    "mild(?:ly)?", "small", "moderate(?:ly)?", "large", "severe(?:ly)?", "trace", "tiny", "minimal(?:ly)?", "minor",
    "slight(?:ly)?", "marked(?:ly)?", "bilateral", "bibasilar", "subtle", "extensive",
)  # fmt: skip
_SEEN = _any(
    "seen", "identified", "present", "noted", "visuali[sz]ed", "evident", "appreciated", "demonstrated", "observed",
    "detected", "found", "visible",
)  # fmt: skip
_IS = _any("is", "are", "was", "were")
_CANNOT = _any("cannot", "can not", "can't", "could not", "not")
_SIDE_LOBE = "(?:left |right )?(?:upper |middle |lower )?(?:lung|lobe)"
_LINES = _any(
    "central", "venous", "picc", "arterial", "jugular", "subclavian", "indwelling", "access", "dialysis", "ij"
)  # fmt: skip
_DEVICES = _any("support", "monitoring", "implanted", "medical", "cardiac", "assist", "closure", "fixation")

#: A finding is mentioned by these words; whether it is present, the sentence around them says.
FINDINGS = {
    "Enlarged Cardiomediastinum": _words("wide mediastin(?:um|al)"),
    "Cardiomegaly": _words("cardiomegaly", "cardiac megaly"),
    "Lung Opacity": _words(
        "opacit(?:y|ies)", "opacifi(?:ed|cations?)", "infiltrat(?:es?|ions?)", "ground[ -]?glass", "haz(?:e|y|iness)",
        r"air ?-?space (?:disease|process|abnormalit\w+)",
    ),
    "Lung Lesion": _words(
        "nodules?", r"nodular(?:ity| (?:opacit|densit|lesion|focus|foci|mass|infiltrate)\w*)", "mass-?like",
        "(?<!breast )(?<!mediastinal )(?<!thyroid )mass(?:es)?(?! effect)",
        "(?:lung|pulmonary|cavitary|cavitating|parenchymal) lesions?", "tumou?rs?", r"neoplas\w+", r"malignan\w+",
        "metastas[ei]s", "metastatic disease",
    ),
    "Edema": _words(
        "(?<!soft tissue )(?<!subcutaneous )o?edema", "(?:vascular|venous|pulmonary|hilar|interstitial) congestion",
        "vascular (?:engorgement|redistribution)", "(?:congestive|heart|cardiac) failure", "chf",
        "(?:fluid|volume) overload", "kerley(?: b)? lines",
    ),
    "Consolidation": _words("consolidat(?:ions?|ed|ive)", "air bronchograms?"),
    "Pneumonia": _words(
        "(?:broncho)?pneumonias?", "pneumonic", "(?<!granulomatous )infections?",
        "infectious (?:process|etiology|infiltrate|disease)",
    ),
    "Atelectasis": _words(
        r"atelecta\w+", "(?:lung|lobe|lobar|segmental) collapse", f"collapsed {_SIDE_LOBE}",
        f"collapse of the {_SIDE_LOBE}",
    ),
    "Pneumothorax": _words("(?:hydro)?pneumothora(?:x|ces|xes)", "ptx"),
    "Pleural Effusion": _words(
        "(?<!pericardial )(?<!joint )effusions?", "pleural fluid", "hydro(?:pneumo)?thorax", "ha?emothorax"
    ),
    "Pleural Other": _words(
        r"pleur(?:al|o-?parenchymal)(?: and parenchymal| based|-based|/parenchymal)? (?:\w+ )?"
        r"(?:thicken(?:ing|ed)|scar(?:s|ring)?|plaques?|fibrosis|calcifications?)",
        r"pleural effusions? (?:or|and|versus|vs) (?:\w+ )?thickening", r"thickening of the (?:\w+ )?pleura",
        "thickened pleura", "fibrothorax", "pleural other", "apical (?:pleural )?cap(?:ping)?",
    ),
    "Fracture": _words(
        r"(?<!wire )(?<!lead )(?<!catheter )fractur(?:es?|ed(?! (?:\w+ )?(?:wires?|leads?)))", "broken ribs?"
    ),
    "Support Devices": _words(
        "tub(?:es?|ing)", "shunts?", "tracheostomy", "(?:micro)?catheters?", f"{_LINES} (?:venous )?lines?",
        "cannulas?", "lines? (?:and|or) tubes?", "picc", "port-?a-?caths?", "(?:medi|chest )ports?", "drains?",
        "swan-? ?ganz", "pace ?-?makers?", "pacers?", "pacing (?:leads?|device|wires?)", "a?icd",
        "(?:cardioverter[ -])?defibrillators?", "(?<!to )leads?(?! to)", "electrodes?", "(?:neuro)?stimulators?",
        "wires?", "clips?", "sutures?", "staples?", "stents?", "(?:valve|valvular) (?:replacement|prosthes[ie]s)",
        "prosthetic valves?", "balloon pump", "ecmo", "(?:orthopedic|fixation|spinal|surgical) (?:rods?|screws?)",
        "hardware", "internal fixation", f"{_DEVICES} devices?",
    ),
}  # fmt: skip

#: Structures of every chest: only a word of size nearby makes a finding of them, as in "heart size is normal".
STRUCTURES = {
    "Cardiomegaly": _words(
        "(?:heart|cardiac)(?: (?:size|silhouette|shadow|contours?|outline))+",
        "heart(?! (?:failure|valves?|borders?|disease|surgery|transplant|rate|attack))",
        "cardiac(?=,? (?:and|enlargement|mediastinal))",
    ),
    "Enlarged Cardiomediastinum": _words(
        r"(?:superior |upper )?(?:cardio ?-?)?mediastinal(?: (?:and \w+ )?"
        "(?:size|silhouettes?|contours?|structures?|shadow|width|borders?))+",
        "(?:superior |upper )?(?:cardio ?-?)?mediastinum",
        "mediastinal(?= (?:widening|enlargement|prominence))",
    ),
}
ENLARGED = _any(
    "enlarg(?:ed|ement)", "widen(?:ed|ing)", "wide", "prominen(?:t|ce)", "increased(?: in size)?", "dilated", "big",
    "abnormal", "borderline(?! (?:enlarg|prominen|widen))",
)  # fmt: skip
NORMAL = _any(
    "(?:at |near )?(?:the )?(?:upper|top|high)(?: ?-?limits?)?(?: of)?[ -]normal(?: limits?)?",
    "(?:within|at)? ?(?:the )?limits of normal", "(?:within )?normal(?: limits?)?", "unremarkable",
)  # fmt: skip
SIZE = re.compile(rf"\b(?:(?P<enlarged>{ENLARGED})|(?P<normal>{NORMAL}))\b")
#: Between a word of size and the structure that follows it, as in "normal size and contour of the heart".
JOINED = re.compile(
    " (?:(?:in )?(?:size|width|shape|contours?|configuration|appearance)"
    "(?:(?:,| and) (?:size|shape|contours?|configuration|appearance))? )?(?:of )?(?:the )?"
)

DENIED_BEFORE = _words(
    "no", "not", "without", "w/o", "nor", "neither", "never", "absence of", "absent", "free (?:of|from)",
    "clear (?:of|from)", "negative for", "(?:resolution|removal|clearing|lack) of", "resolved", "excludes",
    "rather than", "unlikely", "fails? to (?:show|reveal|suggest)",
)  # fmt: skip
#: Begins with a denial, and denies a change, not what changed.
NO_CHANGE = _words(
    "(?:no|without|not)(?: (?:significant|interval|definite|appreciable|substantial|real|significantly|appreciably|"
    "substantially|markedly|much))* (?:changed?|increased?|decreased?|improve(?:d|ment)|progress(?:ed|ion)|"
    r"differen\w+|only)"
)
DENIED_AFTER = re.compile(
    _any(
        rf"(?:\b(?:is|are|was|were|has|have|been) )*\b(?:(?:not|no longer)(?: \w+ly)?(?: been)? {_SEEN}|absent|"
        r"unlikely|(?<!nearly )(?<!partially )(?<!almost )resolved|excluded|ruled out|removed|removal)\b",
        r"\bappears? within (?:normal limits|limits of normal)\b",
        r"^ ?: ?(?:none|no|negative|absent)\b| none$",
    )
)
DOUBTED_BEFORE = re.compile(
    _words(
        "possib(?:le|ly|ility)", "probab(?:le|ly)", "likely", "potential(?:ly)?", "suspect(?:ed|s)?", "may", "might",
        "suspici(?:on|ous) (?:for|of)", "concern(?:ing)? (?:for|of)", "worrisome for", "question(?:able|ed|s)?",
        "could", "would", r"suggest\w*", "perhaps", r"presum\w+", "equivocal", "borderline", r"favou?r\w*", "versus",
        "vs", "differential", "either", "consider(?:ation)?", "indeterminate",
    ).pattern
    + r"|\?"
)  # fmt: skip
#: Doubt that is worded as a denial, and so is looked for before one.
NOT_EXCLUDED_BEFORE = _words(
    rf"(?:{_CANNOT}|unable to|difficult to|hard to)(?: \w+){{0,2}} (?:excluded?|rule out)"
)  # fmt: skip
DOUBTED_AFTER = re.compile(
    _any(
        rf"\b{_CANNOT}(?: \w+){{0,3}} (?:excluded|ruled out)\b", r"\bshould be excluded\b", r"\bless likely\b",
        r"\b(?:is|are|remains?|would be)(?: also)? (?:possible|likely|probable|considered|favou?red)\b",
        r"\b(?:(?:is|are|remains?) )?(?:also )?(?:suspected|questioned|(?:a |another )consideration)\b",
        r"^ (?:versus|vs)\b", r"\b(?:may|might|could) be (?:present|seen|considered|there)\b",
        r"\b(?:cannot|can not|could not) be (?:assessed|evaluated|determined)\b", r"\bnot entirely\b",
        r"\?",
    )
)  # fmt: skip
#: A question, a plan or a history is no statement about this image.
ASIDE_BEFORE = _words(
    "evaluat(?:e|ion)", "eval", "assess(?:ment)?", "rule out", "r/o", "to (?:exclude|ensure|confirm|document)",
    "(?:history|hx|signs|symptoms|treatment) of", "h/o", r"correlat\w+ (?:for|with|as to)", "query", "if",
)  # fmt: skip
#: Ends the reach of denial and doubt.
BREAK = re.compile(
    _any(
        ";",
        _words(
            "but", "however", "although", "though", "while", "whereas", "yet", "except(?: for)?", "aside from",
            "apart from", "other than", "with (?:the )?exception of", "there (?:is|are|has been|have been|was|were)",
        ).pattern,
        r",? and (?=(?:the|an?) [^,;]*\b(?:is|are|was|were|shows?|demonstrates?|has|have)\b)",
        rf"\b(?:{_IS} )?{_SEEN}(?=,(?! (?:consistent|compatible))| and\b| with\b)",
        r"(?:, (?:and )?|(?<!consistent )(?<!compatible )(?<!associated )\bwith )(?=(?:with |now )?(?:an? )?"
        rf"(?:new |stable |persistent |residual |unchanged )*{_SIZED}\b(?![^;]*\b(?:or|nor)\b))",
        ", (?=(?:possib|probab|likely|suspect|question|may|might|concerning|suspicious (?:for|of)|suggest))",
    )
)  # fmt: skip
#: A new statement begins between a finding and what follows.
VERB = _words(_IS, "has", "have", "appears?", "remains?", "shows?", "represents?", "reflects?")
#: Two findings between which the reader leaves the choice.
OR = re.compile(r"(?: [\w-]+){0,5} (?:or|versus|vs|and/or) (?:[\w-]+ ){0,5}")
