"""The types of what a JSON or YAML file holds, and how JSON is read."""

import json
from collections.abc import Mapping, Sequence
from typing import Any, TypeAlias

# Read-only containers, so that a dict[str, float] is one too; whoever builds a value uses its own narrower type.
Json: TypeAlias = "bool | int | float | str | Sequence[Json] | Mapping[str, Json] | None"
JsonObject: TypeAlias = Mapping[str, Json]


def loads(text: str) -> Any:
    """Return what a JSON text says.

    Raises:
        ValueError: where it is no JSON; also where it is nested so deeply that Python's stack would end.
    """
    try:
        return json.loads(text)
    except RecursionError:
        raise ValueError("lists and maps within each other without end") from None
