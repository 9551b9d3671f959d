"""The types of what a JSON or YAML file holds."""

from collections.abc import Mapping, Sequence
from typing import TypeAlias

# Read-only containers, so that a dict[str, float] is one too; whoever builds a value uses its own narrower type.
Json: TypeAlias = "bool | int | float | str | Sequence[Json] | Mapping[str, Json] | None"
JsonObject: TypeAlias = Mapping[str, Json]
