"""Measure left and right: of the findings that reference and generated report both state with a side, how many agree.

A finding's side is the nearest word of side in its part of the sentence, its own phrase before others. Heart and
mediastinum have none.
"""

import re
from collections.abc import Sequence

from cxr_ft.score.arrays import Metrics
from cxr_ft.score.metrics import labeler

Side = frozenset[str]

SIGNATURE = "rule-based labeler of cxr_ft 1|sides of findings stated or in doubt|both = left and right"
_WORDS = re.compile(
    r"\b(?:(?P<both>bilateral(?:ly)?|both|bibasilar|bibasal|biapical|bihilar)|(?P<left>left)|(?P<right>right))\b"
)
#: Between two phrases, each of which may have a side.
_NEXT = re.compile(r",|\b(?:and|or|with)\b")
_NOT_SIDED = {labeler.NO_FINDING, "Cardiomegaly", "Enlarged Cardiomediastinum"}


def evaluate(references: Sequence[str], generated: Sequence[str]) -> Metrics:
    """Compare the sides of findings.

    Returns:
        JSON-ready: "accuracy" (of the findings with a side in both texts, the share with the same one), "judged" (how
        many these are), "given" (how many have a side in the references), "signature", "undefined".

    Raises:
        ValueError: where the two differ in length.
    """
    with_side = compared = right = 0
    for reference, text in zip(references, generated, strict=True):
        # Counted over findings, not averaged over reports, of which many state no side at all.
        expected, written = sides(reference), sides(text)
        shared = expected.keys() & written.keys()
        with_side, compared = with_side + len(expected), compared + len(shared)
        right += sum(expected[label] == written[label] for label in shared)
    why = "no reference states a side" if not with_side else "no finding has a side in both texts"
    return {
        "accuracy": right / compared if compared else None,
        "judged": compared,
        "given": with_side,
        "signature": SIGNATURE,
        "undefined": {} if compared else {"accuracy": why},
    }


def sides(text: str) -> dict[str, Side]:
    """Return the sides of each finding that a report states or suspects: {"left"}, {"right"} or both."""
    by_label: dict[str, Side] = {}
    for sentence in labeler.sentences(text):
        for mention in labeler.mentions(sentence):
            if mention.value != labeler.NEGATIVE and mention.label not in _NOT_SIDED:
                side = _side(sentence, mention)
                if side:
                    # Several mentions add up: left in one sentence and right in another is both.
                    by_label[mention.label] = by_label.get(mention.label, frozenset()) | side
    return by_label


def _far(sentence: str, mention: labeler.Mention, word: re.Match[str]) -> tuple[bool, int]:
    """Return the distance of a word of side from a finding: another phrase in between first, then characters."""
    # The words between the two, whichever comes first.
    between = sentence[min(mention.end, word.end()) : max(mention.start, word.start())]
    return bool(_NEXT.search(between)), len(between)


def _side(sentence: str, mention: labeler.Mention) -> Side:
    # A word of side in another clause is of another finding.
    first, last = labeler.clause(sentence, mention.start, mention.end)
    word = min(_WORDS.finditer(sentence, first, last), key=lambda word: _far(sentence, mention, word), default=None)
    if word is None:
        return frozenset()
    return frozenset(("left", "right")) if word["both"] else frozenset((word.group(),))
