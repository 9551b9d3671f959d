"""All layouts of texts, and how their tests make and compare records."""

import pandas as pd

from cxr_ft.data.layouts import imdb, mnli, report_text, resumes, sst2, text_table, tweet_sentiment
from cxr_ft.data.splits.request import SplitRequest
from cxr_ft.data.splits.write import make_splits

LAYOUTS = {m.__name__.rpartition(".")[2]: m for m in (imdb, mnli, report_text, resumes, sst2, text_table)}
LAYOUTS["tweet_sentiment"] = tweet_sentiment


def made(source, layout, out, **options):
    return make_splits(str(source), layout, SplitRequest(**{"per_label": 10, **options}), out)


def same(left, right):
    """The same rows, in whatever order."""
    a, b = (r.table.sort_values("dicom_id", ignore_index=True) for r in (left, right))
    pd.testing.assert_frame_equal(a[sorted(a.columns)], b[sorted(b.columns)])
