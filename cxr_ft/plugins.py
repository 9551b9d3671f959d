"""Find plug-ins by file name: the name of a file in a package is its name on the command line.

Names are listed from disk, nothing is imported to list them, and only the chosen file is imported. To add a layout, a
base, a head or a tuning method is to add one file.
"""

import importlib
import importlib.util
import pkgutil
from functools import cache
from types import ModuleType

from cxr_ft.errors import unknown

LAYOUTS = "cxr_ft.data.layouts"
BASES = "cxr_ft.model.bases"
HEADS = "cxr_ft.model.heads"
TUNING = "cxr_ft.model.tuning"
TRACKERS = "cxr_ft.run.trackers"
_KINDS = {LAYOUTS: "layout", BASES: "base", HEADS: "task", TUNING: "method", TRACKERS: "tracker"}


@cache
def choices(package: str) -> tuple[str, ...]:
    """Return the sorted names of the plug-ins in `package`; files that begin with an underscore are helpers."""
    spec = importlib.util.find_spec(package)
    if spec is None or spec.submodule_search_locations is None:
        raise ModuleNotFoundError(f"{package} is no package")
    names = (module.name for module in pkgutil.iter_modules(spec.submodule_search_locations))
    return tuple(sorted(name for name in names if not name.startswith("_")))


def load(package: str, name: str) -> ModuleType:
    """Import and return the plug-in `name`.

    Raises:
        UsageError: for an unknown name, with the known ones.
    """
    if name not in choices(package):
        raise unknown(_KINDS.get(package, "plug-in"), name, choices(package))
    return importlib.import_module(f"{package}.{name}")
