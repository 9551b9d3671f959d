"""Left and right in generated reports: `cxr_ft.score.metrics.laterality.evaluate`."""

from cxr_ft.score.evaluate_modules import _wrapper
from cxr_ft.score.metrics import laterality

Module = _wrapper.of_texts(laterality)
