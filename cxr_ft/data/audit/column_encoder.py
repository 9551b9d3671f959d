"""Encode what a table says of its rows as columns of numbers: learnt from some rows, used for any others.

Shapes: N rows, F columns.
"""

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    import pandas as pd

Floats = NDArray[np.float64]
#: Values of a category that get a column of their own, and the rows they need.
VALUES, COMMON = 20, 5


@dataclass(frozen=True, kw_only=True)
class ColumnEncoder:
    """The columns that stand for one property: a number as itself and as tenths, a category as its frequent values.

    Args:
        words: values that have a column each; None for a number.
        median: what a missing number counts as; `mean` and `deviation`: of the number.
        edges: between the tenths, the lowest and the highest number first and last.
        used: of each tenth, whether a row was in it.
    """

    words: tuple[str, ...] | None = None
    median: float = 0.0
    mean: float = 0.0
    deviation: float = 1.0
    edges: tuple[float, ...] = ()
    used: tuple[bool, ...] = ()

    @classmethod
    def fit(cls, values: "pd.Series[str]") -> "ColumnEncoder":
        """Learn the columns from the `values` of some rows."""
        import pandas as pd

        numbers = _numbers(values)
        # Few distinct numbers are codes and not amounts, such as the bits stored.
        if numbers.notna().sum() > 0.5 * len(values) and numbers.nunique() > VALUES:
            median = float(numbers.median())
            filled = numbers.fillna(median)
            tenth, edges = pd.qcut(filled, 10, labels=False, retbins=True, duplicates="drop")
            return cls(
                median=median,
                mean=float(filled.mean()),
                deviation=float(filled.std()),
                edges=tuple(edges.tolist()),
                used=tuple(bool((tenth == place).any()) for place in range(len(edges) - 1)),
            )
        counts = _words(values).value_counts()
        common = sorted(counts[counts >= COMMON].index[:VALUES])
        # A property of one value alone says nothing.
        return cls(words=tuple(common) if counts.size > 1 else ())

    def encode(self, values: "pd.Series[str]") -> Floats:
        """Return the columns of some rows [N, F]; F is 0 where the property said nothing."""
        import pandas as pd

        if self.words is not None:
            words = _words(values)
            columns = [(words == word).to_numpy(dtype=np.float64) for word in self.words]
            return np.column_stack(columns) if columns else np.zeros((len(values), 0))
        # A number beyond all that were seen counts as the last of them: a line drawn on would promise too much.
        filled = _numbers(values).fillna(self.median).clip(self.edges[0], self.edges[-1])
        tenth = pd.cut(filled, list(self.edges), labels=False, include_lowest=True).to_numpy()
        # Tenths let a linear model use a value in the middle of a range, such as one detector's width.
        tenths = [(tenth == place).astype(np.float64) for place, used in enumerate(self.used) if used]
        return np.column_stack([(filled - self.mean) / self.deviation, *tenths])


def _numbers(values: "pd.Series[str]") -> "pd.Series[float]":
    import pandas as pd

    return pd.to_numeric(values, errors="coerce").astype("float64")


def _words(values: "pd.Series[str]") -> "pd.Series[str]":
    return values.astype("string").fillna("").str.strip().str.lower()
