"""cxr_ft: fine-tuning comparisons on chest X-rays that one can believe.

The functions listed in `__all__` are all there is to use from Python; every other module is private. They are loaded
when they are first used, so `import cxr_ft` is instant. The way of the data, left to right; nothing flows back::

    archive - layouts -> records - splits -> CSVs     data/
    CSVs - dataset -> base + head + method            data/, model/
    base + head + method - train -> result JSON       run/
    result JSON -> charts, page                       show/

``score/`` computes metrics and statistics from arrays and strings alone; ``plugins`` finds parts by their files' names;
``cli/`` holds the commands, ``api/`` the functions below.
"""

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from cxr_ft.api.comparison import compare
    from cxr_ft.api.datasets import audit, load_splits, split
    from cxr_ft.api.evaluation import evaluate
    from cxr_ft.api.listing import list_bases, list_heads, list_layouts, list_methods, list_metrics
    from cxr_ft.api.models import create_model
    from cxr_ft.api.runs import ablate, load_run, train

__version__ = "0.1.0"

__all__ = [
    "ablate",
    "audit",
    "compare",
    "create_model",
    "evaluate",
    "list_bases",
    "list_heads",
    "list_layouts",
    "list_methods",
    "list_metrics",
    "load_run",
    "load_splits",
    "split",
    "train",
]

#: Name -> the file of `cxr_ft.api` that holds it.
_FILES = {
    "compare": "comparison",
    **dict.fromkeys(("audit", "load_splits", "split"), "datasets"),
    "evaluate": "evaluation",
    **dict.fromkeys(("list_bases", "list_heads", "list_layouts", "list_methods", "list_metrics"), "listing"),
    "create_model": "models",
    **dict.fromkeys(("ablate", "load_run", "train"), "runs"),
}


def __getattr__(name: str) -> object:
    if name not in _FILES:
        raise AttributeError(f"module 'cxr_ft' has no attribute {name!r}; it offers {', '.join(__all__)}")
    value = getattr(importlib.import_module(f"cxr_ft.api.{_FILES[name]}"), name)
    # Stored, so that Python asks this function once for each name.
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return [*__all__, "__version__"]
