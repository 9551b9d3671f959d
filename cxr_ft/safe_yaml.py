"""Read YAML within bounds: no objects, no bombs, and words that stay words.

Truth values are `true` and `false` alone, as in YAML 1.2: by YAML 1.1 the value of `precision: no` is false, and a
column's word `yes` is true.
"""

from functools import cache
from typing import TYPE_CHECKING

from cxr_ft.errors import UsageError

if TYPE_CHECKING:
    from yaml import Node, SafeLoader

#: Most characters of a text, maps and lists within each other, and values once aliases are written out. A run's record
#: is far below each.
CHARACTERS, DEPTH, VALUES = 50_000_000, 50, 1_000_000


def load(text: str, where: str) -> object:
    """Return what a YAML text says: maps, lists, texts, numbers, true, false, null.

    Raises:
        UsageError: where it is no YAML, or larger than a configuration is.
    """
    import yaml

    if len(text) > CHARACTERS:
        raise UsageError(f"{where} has {len(text):,} characters, no configuration: at most {CHARACTERS:,} are read")
    try:
        _check_depth(text, where)
        loader = _loader()(text)
        try:
            node = loader.get_single_node()
            if node is None:
                return None
            _count(node, where, {})
            value: object = loader.construct_document(node)
        finally:
            loader.dispose()
    except yaml.YAMLError as error:
        raise UsageError(f"{where} is not valid YAML: {' '.join(str(error).split())}") from None
    return value


def compose(text: str) -> "Node | None":
    """Return the nodes of a text that `load` has read."""
    import yaml

    node: Node | None = yaml.compose(text, Loader=_loader())
    return node


def _check_depth(text: str, where: str) -> None:
    """Refuse what is nested too deeply, by the parser's events: building the nodes would exhaust Python's stack."""
    import yaml

    depth = 0
    for event in yaml.parse(text, Loader=_loader()):
        depth += isinstance(event, yaml.CollectionStartEvent) - isinstance(event, yaml.CollectionEndEvent)
        if depth > DEPTH:
            raise UsageError(f"{where} has maps and lists within each other more than {DEPTH} deep: no configuration")


def _count(node: "Node", where: str, known: dict[int, int]) -> int:
    """Return how many values a node is once its aliases are written out."""
    # An alias is the same node once more. While a node is counted it is 0: one that holds itself stays so.
    if id(node) not in known:
        known[id(node)] = 0
        children = node.value if isinstance(node.value, list) else []
        parts = [part for child in children for part in (child if isinstance(child, tuple) else (child,))]
        if any(known.get(id(part)) == 0 for part in parts):
            raise UsageError(f"{where} has an alias within what it stands for: no configuration")
        known[id(node)] = 1 + sum(_count(part, where, known) for part in parts)
        if known[id(node)] > VALUES:
            raise UsageError(f"{where} has more than {VALUES:,} values once its aliases are written out")
    return known[id(node)]


@cache
def _loader() -> "type[SafeLoader]":
    import re

    import yaml

    class Loader(yaml.SafeLoader):
        """SafeLoader with the truth values of YAML 1.2."""

    # A copy: the resolvers belong to the class, and SafeLoader's are everybody's.
    boolean = "tag:yaml.org,2002:bool"
    Loader.yaml_implicit_resolvers = {
        first: [(tag, pattern) for tag, pattern in resolvers if tag != boolean]
        for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
    }
    Loader.add_implicit_resolver(boolean, re.compile(r"^(?:true|True|TRUE|false|False|FALSE)$"), list("tTfF"))
    return Loader
