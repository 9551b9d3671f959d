"""The data's own split, as `--official` keeps it."""

from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from cxr_ft.data.records import SPLITS
from cxr_ft.errors import UsageError

if TYPE_CHECKING:
    import pandas as pd

NO_VAL = "the data's own split has no val: some of its train's subjects, by chance, are taken for it"


def sides(
    table: "pd.DataFrame", draws: NDArray[np.float64], ratios: tuple[float, float, float], notes: list[str]
) -> NDArray[np.int64]:
    """The side of each row [N], -1 where the data says none. Without a val, subjects of its train are taken for it.

    Args:
        draws: a number in [0, 1) for each row's subject [N], by chance.
        ratios: train, val, test in percent.

    Raises:
        UsageError: where another side has no row.
    """
    number = {name: i for i, name in enumerate(SPLITS)}
    side = np.array([number.get(name, -1) for name in table["official"].tolist()], dtype=np.int64)
    missing = [name for i, name in enumerate(SPLITS) if not (side == i).any()]
    if missing == ["val"]:
        train, val, _ = ratios
        side[(side == 0) & (draws >= train / (train + val))] = SPLITS.index("val")
        notes.append(NO_VAL)
    elif missing:
        raise UsageError(f"--official: the data's own split has no eligible row for {', '.join(missing)}")
    return side
