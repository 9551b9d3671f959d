"""What differs between runs besides the method: the reasons why a comparison might not be one."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

#: What a comparison is about, and what it repeats: no confounders.
INTENDED = ("tuning", "train.seed")

#: Stands where a run does not have the setting at all.
ABSENT = "(not set)"


def differences(
    configs: Sequence[Mapping[str, Any]], intended: Sequence[str] = INTENDED
) -> list[tuple[str, list[Any]]]:
    """The settings that are not the same in all of `configs` (nested dicts), outside `intended`.

    Args:
        configs: one nested dict a run: its configuration, and whatever else must be equal (split hashes, device).
        intended: key paths that may differ, each with all below it.

    Returns:
        (key path with dots, values in the order of `configs`), sorted by path.
    """
    flat = [dict(flatten(config)) for config in configs]
    found = []
    for path in sorted({path for config in flat for path in config}):
        values = [config.get(path, ABSENT) for config in flat]
        meant = any(path == prefix or path.startswith(f"{prefix}.") for prefix in intended)
        if not meant and any(value != values[0] for value in values[1:]):
            found.append((path, values))
    return found


def flatten(config: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """The leaves of nested dicts, each with its key path in dots."""
    for key, value in config.items():
        if isinstance(value, Mapping):
            yield from flatten(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value
