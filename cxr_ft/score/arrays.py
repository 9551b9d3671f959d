"""The types of the arrays and records that metrics and statistics take and return."""

from typing import TypeAlias

import numpy as np
import numpy.typing as npt

from cxr_ft.json_values import Json

Floats: TypeAlias = npt.NDArray[np.floating]
Mask: TypeAlias = npt.NDArray[np.bool_]
#: Numbers of any kind, as the weights of rows: whole in a resample, fractions after a correction.
Numbers: TypeAlias = npt.NDArray[np.number]
#: Names of subjects or groups: words or numbers, compared for equality alone.
Names: TypeAlias = npt.NDArray[np.generic]

#: The metrics of one split as result.json holds them.
Metrics: TypeAlias = dict[str, Json]
#: Numbers of one label, or of one average, by the name of the metric; None where a metric has no value.
Values: TypeAlias = dict[str, float | None]
