"""AUROC, average precision, F1 and the other metrics of scores: `cxr_ft.score.metrics.classification.evaluate`."""

from cxr_ft.score.evaluate_modules import _wrapper
from cxr_ft.score.metrics import classification

Module = _wrapper.of_scores(classification)
