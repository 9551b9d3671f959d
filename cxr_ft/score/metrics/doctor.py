"""List the optional metrics: which are here, which are missing, and what would bring them.

python -m cxr_ft.score.metrics.doctor
"""

import sys
from importlib.metadata import PackageNotFoundError, version
from typing import NamedTuple

from cxr_ft.score.metrics import clinical_models


class Check(NamedTuple):
    """Something a metric needs: its name, what it gives, its version or "" where it is missing, and what brings it."""

    name: str
    gives: str
    found: str
    fix: str


#: Packages by name, what they give, and what installs them.
PACKAGES = {
    "scikit-learn": ("AUROC, average precision", "pip install cxr_ft"),
    "sacrebleu": ("BLEU, words", "pip install cxr_ft"),
    "rouge-score": ("ROUGE-L", "pip install cxr_ft"),
    "nltk": ("METEOR", "pip install cxr_ft"),
    "evaluate": ("the metrics as `evaluate` modules", "pip install evaluate"),
    "radeval": ("RadGraph, CheXbert, RadCliQ, GREEN", clinical_models.INSTALL),
}


def checks() -> list[Check]:
    """Every package and every model, in the order they are shown."""
    found = [Check(name, gives, _version(name), fix) for name, (gives, fix) in PACKAGES.items()]
    for name, model in clinical_models.MODELS.items():
        lacks = clinical_models.missing(name)
        fetch = lacks if lacks == [clinical_models.INSTALL] else [f"fetch {', '.join(lacks)}"]
        found.append(Check(name, model.says, "" if lacks else "weights are here", fetch[0]))
    return found


def lines(found: list[Check]) -> list[str]:
    """A line for each check."""
    return [
        f"{'ok' if check.found else 'missing':8}{check.name:14}{check.gives}: {check.found or check.fix}"
        for check in found
    ]


def main() -> int:
    """Print the checks; 0 where nothing is missing, else 1."""
    found = checks()
    print("\n".join(lines(found)))
    return int(not all(check.found for check in found))


def _version(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:
        return ""


if __name__ == "__main__":
    sys.exit(main())
