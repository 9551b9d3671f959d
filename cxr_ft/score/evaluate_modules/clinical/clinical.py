"""Clinical F1 of generated reports in every convention: `cxr_ft.score.metrics.clinical.evaluate`."""

from cxr_ft.score.evaluate_modules import _wrapper
from cxr_ft.score.metrics import clinical

Module = _wrapper.of_texts(clinical)
