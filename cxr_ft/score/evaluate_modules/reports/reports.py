"""Words, findings and sides of generated reports: `cxr_ft.score.metrics.report_metrics.evaluate`."""

from cxr_ft.score.evaluate_modules import _wrapper
from cxr_ft.score.metrics import report_metrics

Module = _wrapper.of_texts(report_metrics)
