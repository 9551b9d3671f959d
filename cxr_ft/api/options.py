"""Turn a function's arguments into a configuration, by the same rules as the flags of a command."""

import dataclasses
from collections.abc import Mapping
from os import PathLike
from pathlib import Path

from cxr_ft import config, plugins
from cxr_ft.errors import unknown


def resolved(
    base: "Mapping[str, object] | str | PathLike[str] | None",
    *,
    model: str | None = None,
    task: str | None = None,
    method: str | None = None,
    seed: int | None = None,
    splits: object = None,
    options: Mapping[str, object] | None = None,
) -> config.RunConfig:
    """Return the configuration of one run; see `nested`."""
    return config.resolve(
        nested(base, model=model, task=task, method=method, seed=seed, splits=splits, options=options), "the arguments"
    )


def nested(
    base: "Mapping[str, object] | str | PathLike[str] | None",
    *,
    model: str | None = None,
    task: str | None = None,
    method: str | None = None,
    seed: int | None = None,
    splits: object = None,
    options: Mapping[str, object] | None = None,
) -> dict[str, object]:
    """Return nested options: `base` (a mapping, a YAML file, a result.json), then the named arguments.

    Args:
        options: further ones by their own name: of the method (rank), the task (max_tokens), training (epochs) or the
            data (image_size), looked up in this order.

    Raises:
        UsageError: for an option that none of them has.
    """
    layer = config.read_yaml(Path(base)) if isinstance(base, str | PathLike) else dict(base or {})
    named: dict[str, object] = {}
    for value, path in (
        (model, ("model",)),
        (task, ("head", "name")),
        (method, ("tuning", "name")),
        (seed, ("train", "seed")),
        (None if splits is None else str(splits), ("data", "splits")),
    ):
        if value is not None:
            named = config.merge(named, config.nest(path, value))
    # Options of one method mean nothing to another one that an argument names.
    for part, name in (("head", task), ("tuning", method)):
        own = layer.get(part)
        if name is not None and isinstance(own, Mapping) and own.get("name") != name:
            layer.pop(part)
    merged = config.merge(layer, named)
    for option, chosen in (options or {}).items():
        # As a flag would write it, so that both are checked by one rule.
        plain = ",".join(chosen) if isinstance(chosen, list | tuple) else chosen
        merged = config.merge(merged, config.nest((_section(option, merged), option), plain))
    return merged


def _section(option: str, merged: Mapping[str, object]) -> str:
    """Return the part of the configuration that has an option of this name."""
    method = plugins.load(plugins.TUNING, str(config.mapping(merged, "tuning").get("name", "lora")))
    head = plugins.load(plugins.HEADS, str(config.mapping(merged, "head").get("name", "classify")))
    parts = {"tuning": method.Config, "head": head.Config, "train": config.TrainConfig, "data": config.DataConfig}
    fields = {part: [field.name for field in dataclasses.fields(owner)] for part, owner in parts.items()}
    # In this order: a method's own option hides one of training with the same name.
    for part, names in fields.items():
        if option in names:
            return part
    raise unknown("option", option, sorted({name for names in fields.values() for name in names}))
