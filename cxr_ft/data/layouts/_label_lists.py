"""Read cells that hold several labels, as `Edema; Effusion`, `Edema|Effusion` or `['Edema', 'Effusion']`."""

import re
from collections import Counter
from typing import TYPE_CHECKING

from cxr_ft.data.sameness import label_key
from cxr_ft.errors import UsageError

if TYPE_CHECKING:
    import pandas as pd

#: The word for cells that are lists in brackets, as Python, JSON and numpy print them.
LIST = "list"
#: Separators that are recognised, the likeliest first; a map may name any other.
SEPARATORS = (LIST, ";", "|", ",")
#: An item of a list in brackets: in single or double quotes, or plain. numpy puts no comma between items.
_ITEM = re.compile(r"'((?:[^'\\]|\\.)*)'|\"((?:[^\"\\]|\\.)*)\"|([^\s,'\"\[\]][^,'\"\[\]]*)")


def labels_of(cell: str, separator: str) -> list[str]:
    """Return the labels in a cell, each once, in their order, without spaces at their ends; none of an empty list."""
    if separator == LIST:
        parts = [next(filter(None, match.groups()), "") for match in _ITEM.finditer(cell.strip()[1:-1])]
    else:
        parts = cell.split(separator)
    return list(dict.fromkeys(filter(None, map(label_key, parts))))


def columns_of(cells: "pd.Series[str]", separator: str, where: str) -> "pd.DataFrame":
    """Return one column for each label [N, L], by name: 1 where the cell lists it, else 0; missing where the cell is.

    Raises:
        UsageError: for a cell that is no list in brackets where `separator` is LIST, or where no cell has a label.
    """
    import numpy as np
    import pandas as pd

    lists: dict[str, list[str]] = {}
    for row, cell in cells.items():
        # Distinct cells alone: an archive repeats a few combinations thousands of times.
        if isinstance(cell, str) and cell not in lists:
            if separator == LIST and not _is_list(cell):
                raise UsageError(f"{where}: row {row}: the label is no list in brackets, as ['Edema', 'Effusion']")
            lists[cell] = labels_of(cell, separator)
    names = sorted({name for labels in lists.values() for name in labels})
    if not names:
        raise UsageError(f"{where}: no row has a label")
    places = {name: place for place, name in enumerate(names)}
    out = np.zeros((len(cells), len(names)))
    # A blank cell says nothing of any label; an empty list says that each of them is absent.
    out[cells.isna().to_numpy()] = np.nan
    for row, cell in enumerate(cells.fillna("")):
        out[row, [places[name] for name in lists.get(cell, ())]] = 1
    return pd.DataFrame(out, index=cells.index, columns=names)


def separator_in(cells: "pd.Series[str]") -> str:
    """Return the separator that a column of classes seems to hold several labels by; "" where it holds one a cell.

    It seems so where parts come back: in cells of other parts, or alone.
    """
    counts = Counter(cells.dropna())
    for separator in SEPARATORS:
        joined = [cell for cell in counts if (_is_list(cell) if separator == LIST else separator in cell)]
        if separator == LIST:
            # A class that is called [a] would be an odd one; lists are rarely anything else.
            if joined and len(joined) == len(counts):
                return LIST
            continue
        parts = Counter(part for cell in counts for part in labels_of(cell, separator))
        # What occurs once may be one class with a comma in its name; labels come back in other combinations.
        if any(parts[part] > 1 for cell in joined for part in labels_of(cell, separator)):
            return separator
    return ""


def hint(cells: "pd.Series[str]") -> str:
    """Return a note on a column of classes that seems to hold several labels in a cell; "" where it does not."""
    if not (separator := separator_in(cells)):
        return ""
    return (
        f"cells of label seem to hold several labels ({separator}), and each combination is a class of its own here; a "
        f"column map with `separator: {separator!r}` reads them as labels"
    )


def _is_list(cell: str) -> bool:
    return cell.strip().startswith("[") and cell.strip().endswith("]")
