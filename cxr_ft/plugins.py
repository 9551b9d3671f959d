"""Find plug-ins by file name: the name of a file in a package is its name on the command line.

Names are listed from disk, nothing is imported to list them, and only the chosen file is imported. To add a layout, a
base, a head or a tuning method is to add one file.
"""

import importlib
import importlib.util
import pkgutil
from functools import cache
from types import ModuleType

from cxr_ft.errors import UsageError, unknown

LAYOUTS = "cxr_ft.data.layouts"
BASES = "cxr_ft.model.bases"
HEADS = "cxr_ft.model.heads"
TUNING = "cxr_ft.model.tuning"
TRACKERS = "cxr_ft.run.trackers"
CHARTS = "cxr_ft.show.charts"
_KINDS = {
    LAYOUTS: "layout",
    BASES: "base",
    HEADS: "task",
    TUNING: "method",
    TRACKERS: "tracker",
    CHARTS: "chart",
}
#: What a file of each kind declares at least; CONTRIBUTING.md says what each name means.
_REQUIRED = {
    LAYOUTS: ("CARD", "records", "demo"),
    BASES: ("MODEL_TYPES", "PUBLISHED", "load", "restore", "tiny"),
    HEADS: ("Config", "OUTPUT", "attach"),
    TUNING: ("Config", "TRAINS", "apply"),
    TRACKERS: ("begin",),
    CHARTS: ("CHART",),
}


@cache
def choices(package: str) -> tuple[str, ...]:
    """Return the sorted names of the plug-ins in `package`; files that begin with an underscore are helpers."""
    # Listed from disk: importing the files would load torch for a `--help`.
    spec = importlib.util.find_spec(package)
    if spec is None or spec.submodule_search_locations is None:
        raise ModuleNotFoundError(f"{package} is no package")
    names = (module.name for module in pkgutil.iter_modules(spec.submodule_search_locations))
    return tuple(sorted(name for name in names if not name.startswith("_")))


def load(package: str, name: str) -> ModuleType:
    """Import and return the plug-in `name`.

    Raises:
        UsageError: for an unknown name, with the known ones; for a file that does not declare what its kind needs.
    """
    kind = _KINDS.get(package, "plug-in")
    if name not in choices(package):
        raise unknown(kind, name, choices(package))
    module = importlib.import_module(f"{package}.{name}")
    # Checked at the import, so that the author of a plug-in reads what it lacks, before a run fails in the middle.
    if missing := [needed for needed in _REQUIRED.get(package, ()) if not hasattr(module, needed)]:
        raise UsageError(
            f"{module.__file__} declares no {', '.join(missing)}, which a {kind} needs; see CONTRIBUTING.md"
        )
    return module
