"""Resolve target modules (`q,v`, `vision.mlp`, `text[3-5].attn`) to exact module names. Zero hits is an error.

    list  := item (, item)*
    item  := [text | vision] [[first-last]] . role   or   role
    role  := q | k | v | o | up | gate | down | proj, or a group: qkv = q,k,v; attn = qkv,o; mlp = up,gate,down;
             all = attn,mlp

The two towers of one model often have different names for the same role (in GIT `query` and `q_proj`), and PEFT accepts
a partly wrong list silently: so each base maps roles to names in each tower, and PEFT gets full names.
"""

import re
from collections.abc import Iterable, Sequence
from typing import NamedTuple

from cxr_ft.errors import UsageError
from cxr_ft.model.protocols import Roles

_ATTENTION, _MLP = ("q", "k", "v", "o"), ("up", "gate", "down")
GROUPS = {"attn": _ATTENTION, "mlp": _MLP, "all": (*_ATTENTION, *_MLP), "qkv": ("q", "k", "v")}
_ITEM = re.compile(r"(?:(?P<tower>\w+)(?:\[(?P<first>\d+)(?:-(?P<last>\d+))?\])?\.)?(?P<role>\w+)")


class TargetParts(NamedTuple):
    """An item's tower (None: all), its blocks as written (None: all), and its single roles."""

    tower: str | None
    blocks: str | None
    roles: tuple[str, ...]


def parts(item: str) -> TargetParts:
    """Return the parts of an item, independent of any model.

    Raises:
        UsageError: if it cannot be parsed.
    """
    match = _ITEM.fullmatch(item)
    if match is None:
        raise UsageError(f"cannot read target {item!r}; write q, text.q or vision[0-3].mlp")
    first, last, role = match["first"], match["last"], match["role"]
    blocks = first if last is None else f"{first}-{last}"
    roles = tuple(word for group in GROUPS.get(role, (role,)) for word in GROUPS.get(group, (group,)))
    return TargetParts(match["tower"], blocks, roles)


def resolve(items: Sequence[str], names: Iterable[str], roles: Roles, family: str) -> list[str]:
    """Return the full names among `names` that `items` mean, in the model's order, each once.

    Args:
        items: the list of the configuration, as ("q", "vision.mlp").
        names: names of all modules of the model.
        roles: the base's names: tower -> role -> pattern with one group, the block's number.
        family: the base's name, for messages.

    Raises:
        UsageError: for an unknown word, and for an item that hits nothing.
    """
    names = list(names)
    hits: set[str] = set()
    if not items:
        raise UsageError(f"the list of target modules is empty; {_choices(family, roles)}")
    for item in items:
        matches = [
            name for pattern, blocks in _patterns(item, roles, family) for name in names if _hit(name, pattern, blocks)
        ]
        # A misspelt target would otherwise leave modules untrained, and a result that looks like any other.
        if not matches:
            raise UsageError(f"target {item!r} hits no module of {family}; {_choices(family, roles)}")
        hits.update(matches)
    # In the model's order, whatever the order of the items: equal sets of targets are then equal lists.
    return [name for name in names if name in hits]


def narrowest(name: str, roles: Roles) -> str:
    """Return the item that means only the module `name`, as `text[3].q`; for a fused matrix its first role.

    Raises:
        ValueError: if no role means it.
    """
    for tower, words in roles.items():
        for role, pattern in words.items():
            if match := re.fullmatch(pattern, name):
                return f"{tower}[{match[1]}].{role}" if match.re.groups else f"{tower}.{role}"
    raise ValueError(f"{name} has no role")


def fused(items: Sequence[str], roles: Roles, family: str) -> list[str]:
    """Return a note for each tower in which `items` change other roles too, since one matrix has several roles.

    Raises:
        UsageError: for an unknown word.
    """
    meant = {pattern for item in items for pattern, _ in _patterns(item, roles, family)}
    named = {word for item in items for word in GROUPS.get(item.rpartition(".")[2], (item.rpartition(".")[2],))}
    lines = []
    for tower, words in roles.items():
        for pattern in dict.fromkeys(words.values()):
            together = [word for word in words if words[word] == pattern]
            # Whoever names all roles of a matrix needs no note.
            if pattern in meant and not named.issuperset(together):
                subset = ", ".join(word for word in together if word in named)
                lines.append(f"{tower}.{subset}: in {family} one matrix is {', '.join(together)}; all of it is changed")
    return lines


def _patterns(item: str, roles: Roles, family: str) -> list[tuple[str, range | None]]:
    match = _ITEM.fullmatch(item)
    if match is None:
        raise UsageError(f"cannot read target {item!r}; write q, text.q or vision[0-3].mlp; {_choices(family, roles)}")
    tower, role = match["tower"], match["role"]
    if tower is not None and tower not in roles:
        raise UsageError(f"{family} has no tower {tower!r} (target {item!r}); {_choices(family, roles)}")
    # A role without a tower means that role in every tower that has it.
    towers = [tower] if tower else list(roles)
    words = GROUPS.get(role, (role,))
    patterns = [roles[t][word] for t in towers for word in words if word in roles[t]]
    if not patterns:
        raise UsageError(f"{family} has no target {item!r}; {_choices(family, roles)}")
    first, last = match["first"], match["last"] or match["first"]
    blocks = range(int(first), int(last) + 1) if first is not None and last is not None else None
    return [(pattern, blocks) for pattern in patterns]


def _hit(name: str, pattern: str, blocks: range | None) -> bool:
    match = re.fullmatch(pattern, name)
    if match is None:
        return False
    # A module outside the blocks has no number, so that no range includes it.
    return blocks is None or (match.re.groups > 0 and int(match[1]) in blocks)


def _choices(family: str, roles: Roles) -> str:
    words = list(dict.fromkeys(word for tower in roles.values() for word in tower))
    groups = [group for group, parts in GROUPS.items() if set(words) & set(parts)]
    towers = " or ".join(f"{tower}." for tower in roles)
    return f"choose from: {', '.join([*words, *groups])}, each also after {towers}"
