"""The package's metrics as modules of Hugging Face's `evaluate`, loaded from disk without a network.

    import evaluate
    from cxr_ft.score import evaluate_modules

    metric = evaluate.load(evaluate_modules.path("reports"))
    metric.compute(predictions=["mild edema ."], references=["no edema ."])

Each is a thin wrapper: what it computes is what the function of `cxr_ft.score.metrics` that it names computes.
"""

from pathlib import Path

from cxr_ft.errors import unknown

NAMES = ("calibration", "classification", "clinical", "laterality", "reports", "text")


def path(name: str) -> str:
    """Return the path by which `evaluate.load` finds the module of that name.

    Raises:
        UsageError: for an unknown name, listing the known ones.
    """
    if name not in NAMES:
        raise unknown("evaluate module", name, NAMES)
    return str(Path(__file__).parent / name)
