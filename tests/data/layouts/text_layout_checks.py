"""All layouts of texts, and how their tests make and compare records."""

import pandas as pd

from cxr_ft import plugins
from cxr_ft.data.splits.request import SplitRequest
from cxr_ft.data.splits.write import make_splits

ALL = {name: plugins.load(plugins.LAYOUTS, name) for name in plugins.choices(plugins.LAYOUTS)}
LAYOUTS = {name: module for name, module in ALL.items() if module.CARD.unit == "text"}
#: Layouts that take a table whose columns are `text`, `text_pair` and `label`.
TABLES = ("imdb", "mnli", "resumes", "sst2", "text_table", "tweet_sentiment")


def made(source, layout, out, **options):
    return make_splits(str(source), layout, SplitRequest(**{"per_label": 10, **options}), out)


def same(left, right):
    """The same rows, in whatever order."""
    a, b = (r.table.sort_values("dicom_id", ignore_index=True) for r in (left, right))
    pd.testing.assert_frame_equal(a[sorted(a.columns)], b[sorted(b.columns)])
