"""List what there is to choose from, by name; nothing heavy is imported."""

import fnmatch
from collections.abc import Iterable

from cxr_ft import plugins


def list_layouts(pattern: str = "*") -> list[str]:
    """Return the names of the archives' layouts that match `pattern`, sorted.

    Example:
        >>> import cxr_ft
        >>> {"mimic_cxr", "mimic_cxr_jpg"} <= set(cxr_ft.list_layouts("mimic*"))
        True
    """
    return _matching(plugins.choices(plugins.LAYOUTS), pattern)


def list_methods(pattern: str = "*") -> list[str]:
    """Return the names of the tuning methods that match `pattern`, sorted.

    Example:
        >>> import cxr_ft
        >>> {"adalora", "lora", "qlora"} <= set(cxr_ft.list_methods("*lora*"))
        True
    """
    return _matching(plugins.choices(plugins.TUNING), pattern)


def list_heads(pattern: str = "*") -> list[str]:
    """Return the names of the tasks that match `pattern`, sorted.

    Example:
        >>> import cxr_ft
        >>> {"both", "classify", "report"} <= set(cxr_ft.list_heads())
        True
    """
    return _matching(plugins.choices(plugins.HEADS), pattern)


def list_bases(pattern: str = "*") -> list[str]:
    """Return the names of models that ship with the package, then of those on the hub whose shape is known.

    A folder in transformers' format, or another hub name of a known family, is a model too.

    Example:
        >>> import cxr_ft
        >>> cxr_ft.list_bases("git-*")[:2]
        ['git-phantom-tiny', 'git-tiny-random']
    """
    from cxr_ft.model import assembly

    published = {
        name for base in plugins.choices(plugins.BASES) for name in plugins.load(plugins.BASES, base).PUBLISHED
    }
    return [*_matching(assembly.shipped(), pattern), *_matching(published, pattern)]


def list_metrics(pattern: str = "*") -> list[str]:
    """Return the names of the metrics that match `pattern`, sorted.

    Example:
        >>> import cxr_ft
        >>> "auroc" in cxr_ft.list_metrics("au*")
        True
    """
    from cxr_ft.score.metrics import registry

    return _matching((metric.name for metric in registry.all_metrics()), pattern)


def _matching(names: Iterable[str], pattern: str) -> list[str]:
    return sorted(name for name in names if fnmatch.fnmatchcase(name, pattern))
