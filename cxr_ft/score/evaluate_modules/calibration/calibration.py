"""ECE, Brier score and log loss, raw and corrected: `cxr_ft.score.metrics.calibration.evaluate`."""

from cxr_ft.score.evaluate_modules import _wrapper
from cxr_ft.score.metrics import calibration

Module = _wrapper.of_scores(calibration)
