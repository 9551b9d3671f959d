"""Leave modules out of a model without changing it, for training only what a pool reads."""

import copy
from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import nn


def trimmed(model: "nn.Module", unread: Sequence[str] = ()) -> "nn.Module":
    """Return `model` without its direct children `unread`: a new module that shares all other children with it.

    Parameters keep their names. A child that is added to the new module, or replaced in it, is not in `model`.
    """
    out = copy.copy(model)
    # A shallow copy shares the tables of children, parameters and hooks: each of the two needs its own.
    vars(out).update({name: table.copy() for name, table in vars(model).items() if isinstance(table, dict)})
    for name in unread:
        if name in out._modules:
            del out._modules[name]
    return out
