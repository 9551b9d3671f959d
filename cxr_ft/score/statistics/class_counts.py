"""Count how many subjects an AUROC rests on: those of the rarer class, of several labels together."""

import numpy as np
import numpy.typing as npt

from cxr_ft.score.arrays import Floats, Names

#: Fewer subjects of the rarer class give no test: with 8 its error of the first kind is .08, with 3 it is .15.
FEWEST = 10.0

#: From so many on DeLong's test is as exact as that which exchanges ranks, and far faster.
MANY = 100.0


def effective_subjects(truth: Floats, subjects: Names) -> float:
    """Return the number of subjects that a single label's rarer class would need for as much certainty.

    The variance of an AUROC goes with 1 / m, m the subjects of the rarer class; that of a mean over L labels with the
    sum of 1 / m over L^2. So this is L^2 over that sum: m itself for one label.

    Args:
        truth: [N] or [N, L], 1 or 0, NaN for a masked cell; a label with one class only has no AUROC and is left out.
        subjects: [N].

    Returns:
        0 where no label has both classes.
    """
    table = np.asarray(truth, float).reshape(len(truth), -1)
    names = np.asarray(subjects)
    counts = [_rarer(column, names) for column in table.T]
    known = [many for many in counts if many]
    return len(known) ** 2 / sum(1 / many for many in known) if known else 0.0


def _rarer(column: npt.NDArray[np.floating], names: Names) -> int:
    return min(len(np.unique(names[column > 0.5])), len(np.unique(names[column <= 0.5])))
