"""Open one split of a folder of splits as a data set: which texts, images and targets its rows have.

Shapes: S image side in pixels, L labels, N rows.
"""

from collections.abc import Callable, Sequence
from functools import partial
from itertools import zip_longest
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from cxr_ft.data.dataset.split_dataset import NoImages, SideInputs, SplitDataset, TrainTargets
from cxr_ft.data.dataset.train_view import TrainView, class_weights, soft_targets
from cxr_ft.data.labels import targets
from cxr_ft.data.manifest import Splits
from cxr_ft.data.pixels import cache
from cxr_ft.data.pixels.shards import Images
from cxr_ft.data.records import INPUT_TEXTS, raw_labels
from cxr_ft.data.reports.text_columns import CONTEXTS, TEXTS
from cxr_ft.errors import UsageError, unknown

if TYPE_CHECKING:
    import pandas as pd

Floats = NDArray[np.float64]


def open_split(
    splits: Splits,
    name: str,
    size: int,
    root: str | None = None,
    text: str | None = None,
    *,
    view: TrainView | None = None,
    views: int = 1,
    context: Sequence[str] = (),
) -> SplitDataset:
    """Return one split of `splits` as a data set.

    Args:
        name: "train", "val", "test" or "test_natural".
        size: side of the images in pixels; 0: the model reads texts alone.
        root: where the images are now, if not where the manifest says.
        text: the column of texts to learn to write. Then each study is taken once (its first row), so that no report
            counts twice, and rows without text are left out.
        view: how training sees the rows; None: as metrics do.
        views: how many images of a row are input, of those it lists.
        context: text columns that are input besides the images; empty: none.

    Raises:
        UsageError: where the text column or the images are missing, or the options do not fit the splits.
    """
    table = splits.tables[name]
    if text is not None:
        # An image a row would repeat a study's report, and its images would count more than those of others.
        table = table[table[text].notna() & (table[text] != "")].drop_duplicates("study_id")
        if table.empty:
            raise UsageError(f"{splits.folder}: no row of {name} has a {text}; make the splits with --text")
    # Before rows are numbered anew: messages name a row by its number in the CSV, never by its ids.
    row_numbers = [int(row) + 1 for row in table.index]
    table = table.reset_index(drop=True)
    request = splits.manifest["request"]
    # Val and test get the hard targets of the splits' policies whatever training sees, so that runs are compared on the
    # same ones.
    raw = raw_labels(table, splits.card)
    hard = targets(raw, request["uncertain"], request["blank"])
    images: Images | NoImages
    if splits.card.unit == "text":
        if size:
            raise UsageError(f"the model reads images, and {splits.folder} holds texts alone; take one that reads text")
        _refuse_image_options(splits, view, views, context)
        images, inputs = _texts_alone(table)
    else:
        # The text to learn must not be among the inputs: the model would copy it.
        columns = [column_of(splits, column, text) for column in context]
        images, inputs = _images(splits, table, size, root, view=view, views=views, context=columns)
    train = None if view is None else _train_targets(view, raw, hard, text, multi_label=splits.card.multi_label)
    return SplitDataset(table, images, hard, text, train, side_inputs=inputs, row_numbers=row_numbers)


def _images(
    splits: Splits,
    table: "pd.DataFrame",
    size: int,
    root: str | None,
    *,
    view: TrainView | None,
    views: int,
    context: Sequence[str],
) -> tuple[Images | NoImages, SideInputs]:
    """Return the first images of rows that have images, and their side inputs; without images for a reader of texts."""
    if size:
        # One cache for all splits and texts: what `cache.build` made beforehand is what is read here.
        cached = partial(cache.cached, cache.source_folder(splits, root), size=size, among=cache.shown(splits))
        return cached(cache.first(table)), _side_inputs(table, cached, views, context)
    if not context or (view is not None and view.augmentation is not None):
        raise UsageError(
            f"the model reads text, and {splits.folder} holds images: name the report sections that it reads, as "
            "data.context=findings, and leave out data.augment and data.flip"
        )
    texts = _joined(table, context)
    return NoImages([(read, "") for read in texts]), SideInputs(context=texts)


def _side_inputs(
    table: "pd.DataFrame", cached: Callable[[Sequence[str]], Images], views: int, context: Sequence[str]
) -> SideInputs:
    texts = _joined(table, context)
    if views == 1:
        return SideInputs(context=texts)
    # All further images in one array with offsets, since studies have different numbers of them.
    further = [row[1:] for row in cache.several(table, views)]
    starts = np.cumsum([0, *map(len, further)], dtype=np.int64)
    return SideInputs(images=cached([path for row in further for path in row]), starts=starts, context=texts)


def _joined(table: "pd.DataFrame", columns: Sequence[str]) -> list[str]:
    """Return the texts of some columns of each row, joined by a space [N]; nothing at all without columns."""
    return [" ".join(filter(None, row)) for row in zip(*(table[c].fillna("").tolist() for c in columns), strict=True)]


def _texts_alone(table: "pd.DataFrame") -> tuple[NoImages, SideInputs]:
    """Return the inputs of rows that are texts."""
    first, second = (table[name].tolist() if name in table else [] for name in INPUT_TEXTS)
    # Both texts decide the digest, since both are read; where there are no pairs the second is empty.
    return NoImages(list(zip_longest(first, second, fillvalue=""))), SideInputs(context=first, pairs=second)


def _train_targets(view: TrainView, raw: Floats, hard: Floats, text: str | None, *, multi_label: bool) -> TrainTargets:
    """Return the targets and weights [N, L] that training uses."""
    if view.curriculum and text is None:
        raise UsageError("data.curriculum goes by the length of reports, and this task learns none; leave it 0")
    # Weights by the soft targets: with uncertain labels at 0.7, say, positives are as many as training sees.
    soft = soft_targets(raw, hard, view.uncertain, multi_label)
    return TrainTargets(view, soft, class_weights(soft, multi_label) if view.balanced else None)


def _refuse_image_options(splits: Splits, view: TrainView | None, views: int, context: Sequence[str]) -> None:
    """Refuse options about images for splits of texts.

    Raises:
        UsageError: where one is set.
    """
    for option, is_set in (
        ("data.augment and data.flip change", view is not None and view.augmentation is not None),
        ("data.views counts", views != 1),
        ("data.context is read beside", bool(context)),
    ):
        if is_set:
            raise UsageError(f"{option} images, and {splits.folder} holds texts alone; leave it out")


def column_of(splits: Splits, name: str, written: str | None) -> str:
    """Return `name`, a column that can be read besides the images.

    Args:
        written: the column of the text to learn to write; None: there is none.

    Raises:
        UsageError: where the splits have no column of that name, or it is the text to learn.
    """
    present = [column for column in (*CONTEXTS, *TEXTS["all"]) if column in splits.tables["train"]]
    if name == written:
        raise UsageError(f"data.context: {name} is what the report task learns to write; choose another, or head.text")
    if name not in present:
        known = name in (*CONTEXTS, *TEXTS["all"])
        hint = "; cxr-split --text all keeps it, where reports have such a section" if known else ""
        choices = [column for column in present if column != written]
        raise UsageError(f"{unknown('data.context', name, choices, str(splits.folder))}{hint}")
    return name


def text_column(splits: Splits, requested: str = "") -> str:
    """Return the text column to learn: `requested`, or the first one the splits have.

    Raises:
        UsageError: where there is none, or not that one.
    """
    # By train alone: what train lacks cannot be learnt.
    present = [name for name in TEXTS["all"] if name in splits.tables["train"]]
    if not present:
        raise UsageError(
            f"{splits.folder} has no text column; make the splits with --text mini_report, findings, impression or all"
        )
    if requested and requested not in present:
        raise unknown("text column", requested, present, str(splits.folder))
    return requested or present[0]
