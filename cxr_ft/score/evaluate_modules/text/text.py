"""BLEU, ROUGE-L, METEOR and CIDEr-D of generated texts: `cxr_ft.score.metrics.text_overlap.evaluate`."""

from cxr_ft.score.evaluate_modules import _wrapper
from cxr_ft.score.metrics import text_overlap

Module = _wrapper.of_texts(text_overlap)
