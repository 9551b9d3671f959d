"""Run the confound audit on compiled splits, for their manifest: which labels need no content of an image."""

from collections.abc import Mapping
from typing import TYPE_CHECKING

from cxr_ft.data.audit import confound_probe
from cxr_ft.data.audit.acquisition import Acquisitions
from cxr_ft.data.card import DatasetCard
from cxr_ft.data.labels import targets
from cxr_ft.data.manifest import ConfoundsJson
from cxr_ft.data.records import SPLITS, raw_labels
from cxr_ft.data.splits.request import SplitRequest

if TYPE_CHECKING:
    import pandas as pd

#: The audit begins no further label after so many seconds, or this share of the splits' own time where that is more.
SHARE, SECONDS = 0.1, 5.0


def audited(
    tables: "Mapping[str, pd.DataFrame]", card: DatasetCard, request: SplitRequest, seen: Acquisitions, spent: float
) -> ConfoundsJson:
    """Return how well each label of the compiled `tables` is predicted without the content of the image.

    Args:
        tables: by split, of images.
        card: names the labels.
        request: says what uncertain and blank labels mean.
        seen: what is known of the images; of none where they are not at hand.
        spent: processor time of the splits so far, in seconds.
    """
    import pandas as pd

    # Not the natural test split: it has rows of test a second time.
    whole = pd.concat([tables[name] for name in SPLITS], ignore_index=True)
    values = targets(raw_labels(whole, card), request.uncertain, request.blank)
    # Of two classes the second is the first one's contrary, and says the same.
    columns = range(1 if len(card.labels) == 2 and not card.multi_label else 0, len(card.labels))
    confounds, notes = confound_probe.probe(
        whole,
        seen.measured(),
        path="path",
        group="subject_id",
        labels={card.labels[column]: values[:, column] for column in columns},
        thumbnails=seen.thumbnails,
        options=confound_probe.ProbeOptions(quick=True, seconds=max(SECONDS, SHARE * spent)),
    )
    return {
        "images": len(seen.measured()),
        "thumbnails": len(seen.thumbnails),
        "labels": [confound.to_json() for confound in confounds],
        "notes": notes,
    }
