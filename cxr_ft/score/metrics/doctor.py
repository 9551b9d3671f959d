"""List the optional metrics: which are here, which are missing, and what would install them.

python -m cxr_ft.score.metrics.doctor
"""

import sys
from importlib.metadata import PackageNotFoundError, version
from typing import NamedTuple

from cxr_ft.score.metrics import clinical_models


class Check(NamedTuple):
    """Something a metric needs: its name, what it measures, its version ("": missing), and what installs it."""

    name: str
    measures: str
    status: str
    fix: str


#: Packages by name, what they measure, and what installs them.
PACKAGES = {
    "scikit-learn": ("AUROC, average precision", "pip install cxr_ft"),
    "sacrebleu": ("BLEU, words", "pip install cxr_ft"),
    "rouge-score": ("ROUGE-L", "pip install cxr_ft"),
    "nltk": ("METEOR", "pip install cxr_ft"),
    "evaluate": ("the metrics as `evaluate` modules", "pip install evaluate"),
    "radeval": ("RadGraph, CheXbert, RadCliQ, GREEN", clinical_models.INSTALL),
}


def checks() -> list[Check]:
    """Return every package and every model, in the order they are shown."""
    listed = [Check(name, measures, _version(name), fix) for name, (measures, fix) in PACKAGES.items()]
    for name, model in clinical_models.MODELS.items():
        lacks = clinical_models.missing(name)
        fetch = lacks if lacks == [clinical_models.INSTALL] else [f"fetch {', '.join(lacks)}"]
        listed.append(Check(name, model.measures, "" if lacks else "weights are here", fetch[0]))
    return listed


def lines(listed: list[Check]) -> list[str]:
    """Return a line for each check."""
    return [
        f"{'ok' if check.status else 'missing':8}{check.name:14}{check.measures}: {check.status or check.fix}"
        for check in listed
    ]


def main() -> int:
    """Print the checks; return 0 where nothing is missing, else 1."""
    listed = checks()
    print("\n".join(lines(listed)))
    return int(not all(check.status for check in listed))


def _version(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:
        return ""


if __name__ == "__main__":
    sys.exit(main())
