"""Read the margins of non-inferiority that were stated: none is assumed, and each is of one metric."""

import math
from collections.abc import Mapping, Sequence

from cxr_ft.errors import UsageError
from cxr_ft.score.metrics import registry

#: Margins by the name of a primary metric; one without a name is of the only primary metric there is.
Margins = Mapping[str, float]


def parse(texts: Sequence[str]) -> dict[str, float]:
    """Return the margins of texts such as "0.01" or "bleu_4=0.02".

    Raises:
        UsageError: for one that is not above 0 and below 1, or a metric that is stated twice.
    """
    out: dict[str, float] = {}
    for text in texts:
        name, _, number = text.rpartition("=")
        try:
            value = float(number)
        except ValueError:
            value = math.nan
        # Written so that NaN is refused.
        if not 0 < value < 1:
            raise UsageError(f"--margin {text}: give an acceptable difference, from above 0 to below 1, or METRIC=M")
        if name in out:
            raise UsageError(f"--margin {text}: a margin of {name or 'the primary metric'} was given already")
        out[name] = value
    return out


def by_output(margins: Margins, outputs: Sequence[str]) -> dict[str, float]:
    """Return the margin of the primary metric of each kind of output that has one.

    Args:
        margins: as `parse` returns them.
        outputs: of the runs that are compared, "scores" or "text".

    Raises:
        UsageError: for a metric that is primary in none of the runs, or a margin without a name where several are.
    """
    names = {registry.primary(output).name: output for output in dict.fromkeys(outputs)}
    if unknown := [name for name in margins if name and name not in names]:
        raise UsageError(f"--margin {unknown[0]}=...: not a metric that these runs are compared by: {', '.join(names)}")
    if "" in margins and len(names) > 1:
        stated = " ".join(f"--margin {name}=M" for name in names)
        raise UsageError(f"--margin {margins['']:g}: the runs are compared by several metrics; state it as {stated}")
    plain = {output: margins[""] for output in names.values() if "" in margins}
    return plain | {names[name]: value for name, value in margins.items() if name}


def words(margins: Margins) -> list[str]:
    """Return the flags that state these margins again."""
    return [f"--margin {name}={value:g}" if name else f"--margin {value:g}" for name, value in margins.items()]
