"""Expand a grid into runs: methods x options x seeds; `match` chooses ranks of equal numbers of parameters."""

import dataclasses
import itertools
from collections.abc import Mapping, Sequence

from cxr_ft import config, plugins
from cxr_ft.data.labels import CHEXPERT_14
from cxr_ft.errors import UsageError, unknown
from cxr_ft.model import methods as tuning_methods

Cells = dict[str, config.RunConfig]

#: The largest relative difference between a matched rank's parameters and `match`; beyond it the grid is refused.
TOLERANCE = 0.25


def cells(raw: Mapping[str, object], grid: Mapping[str, object]) -> Cells:
    """Return the runs of a grid, by the name of their folder.

    Args:
        raw: what all runs share, nested as `config.resolve` takes it.
        grid: `method`, `seeds`, and options of methods (`targets`, `rank`, ...), each a list of values. A method is a
            name, or a mapping of `name` and options of its own. An option is varied for the methods that have it.
            `match`, a number in place of `rank`: each set of targets gets the rank whose adapter comes nearest to
            that number of parameters.

    Raises:
        UsageError: for an option that none of the methods has, an empty list, a value that is listed twice or that no
            run can have, or targets that no rank brings within a quarter of `match`.
    """
    parameters = grid.get("match")
    lists = {key: _values(key, value) for key, value in grid.items() if key != "match"}
    if empty := [key for key, values in lists.items() if not values]:
        raise UsageError(f"grid: {empty[0]} has no values")
    for key, listed in lists.items():
        # 0 and 0 would be one run where somebody counts on two; 0 and False are two, and equal to Python.
        written = [repr(value) for value in listed]
        if twice := [value for value in written if written.count(value) > 1]:
            raise UsageError(f"grid: {key} has {twice[0]} twice; give each value once")
    if parameters is not None and "rank" in lists:
        raise UsageError("grid: match chooses the ranks; leave out rank")
    methods = [_method(m) for m in lists["method"]] if "method" in lists else [(config.resolve(raw).tuning.name, {})]
    # A method may be listed twice with other options.
    names = [name for name, _ in methods]
    seeds = lists["seeds"] if "seeds" in lists else [config.mapping(raw, "train").get("seed", 0)]
    fields = {m: [f.name for f in dataclasses.fields(plugins.load(plugins.TUNING, m).Config)] for m in names}
    axes = [key for key in lists if key not in ("method", "seeds")]
    for key in axes:
        if not any(key in own for own in fields.values()):
            raise unknown(
                "grid key", key, {"method", "seeds", "match", "tries", "tries_for", *itertools.chain(*fields.values())}
            )
    out: Cells = {}
    for method, options in methods:
        own = [key for key in axes if key in fields[method] and key not in options]
        # The folders' names hold the options in which a method's cells differ.
        varied = [*(options if names.count(method) > 1 else ()), *own]
        # Every seed of a method that trains nothing would give the same numbers.
        drawn = seeds if tuning_methods.load(method).trains else seeds[:1]
        for values in itertools.product(*(lists[key] for key in own)):
            # Later entries win: what the method sets or the grid varies, over what all runs share.
            tuning = {**_shared(raw, method, fields), "name": method, **options, **dict(zip(own, values, strict=True))}
            shared = {key: value for key, value in raw.items() if key != "tuning"}
            matched: list[str] = []
            if parameters is not None and "rank" in fields[method]:
                tuning["rank"] = matched_rank(
                    config.resolve(config.merge(shared, {"tuning": tuning}), "grid"), parameters
                )
                matched = ["rank"]
            for seed in drawn:
                cell = config.merge(shared, {"tuning": tuning, "train": {"seed": seed}})
                resolved = config.resolve(cell, where="grid")
                out[_name(resolved, [*varied, *matched])] = resolved
    return out


def matched_rank(cell: config.RunConfig, parameters: object) -> int:
    """Return the rank at which the adapter of `cell` has nearest to `parameters` parameters, counted without weights.

    Raises:
        UsageError: where the nearest one differs by more than TOLERANCE.
    """
    # `true` in YAML is a bool, which Python counts among the whole numbers.
    if not isinstance(parameters, int) or isinstance(parameters, bool) or parameters < 1:
        raise UsageError(f"grid: match is {parameters!r}; give a number of parameters, as 147456")
    one, two = (_adapter(cell, rank) for rank in (1, 2))
    # Every low-rank method adds base + slope * rank parameters: two ranks give the line.
    rank = max(1, round((parameters - (2 * one - two)) / (two - one)))
    count = one + (two - one) * (rank - 1)
    # Runs of clearly different size would be compared as equals.
    if abs(count - parameters) > TOLERANCE * parameters:
        targets = ",".join(cell.tuning.targets)
        raise UsageError(
            f"grid: {cell.tuning.name} on {targets} has {count:,} parameters at rank {rank}, the nearest to match "
            f"{parameters:,}; give a match of {one:,} or more"
        )
    return rank


def _adapter(cell: config.RunConfig, rank: int) -> int:
    from cxr_ft.run.training import train

    options = dataclasses.replace(cell.tuning.options, rank=rank)
    tuning = dataclasses.replace(cell.tuning, options=options)
    # The number of labels changes the head alone, which is not counted here.
    planned = train.plan(dataclasses.replace(cell, tuning=tuning), CHEXPERT_14, True)
    return planned.parameters.adapter


def _values(key: str, value: object) -> list[object]:
    """Return the values of a grid's key.

    Raises:
        UsageError: where they are no list.
    """
    if value is None:  # a key without a value in YAML: refused by the caller as empty
        return []
    if isinstance(value, str) or not isinstance(value, Sequence):
        raise UsageError(f"grid: {key} is {value!r}; give a list of values")
    return list(value)


def _method(item: object) -> tuple[str, dict[str, object]]:
    """Return the name of a method of the grid, and its own options."""
    if not isinstance(item, Mapping):
        return str(item), {}
    options = dict(item)
    if "name" not in options:
        raise UsageError(f"grid: method {item!r} has no name; write lora, or {{name: lora, lr: 3e-3}}")
    return str(options.pop("name")), options


def _shared(raw: Mapping[str, object], method: str, fields: Mapping[str, Sequence[str]]) -> dict[str, object]:
    """Return the options of `raw` for `method`: all, if `raw` names it; those it has, if `raw` names no method."""
    own = dict(config.mapping(raw, "tuning"))
    if "name" in own:
        return own if own["name"] == method else {}
    return {
        key: value for key, value in own.items() if key in fields[method] or not any(key in f for f in fields.values())
    }


def _name(resolved: config.RunConfig, varied: Sequence[str]) -> str:
    tuning = resolved.tuning.to_json()
    words = [resolved.head.name, resolved.tuning.name]
    for key in varied:
        value = tuning[key]
        words.append(".".join(value).replace("[", "").replace("]", "") if isinstance(value, tuple) else f"{key}{value}")
    return "-".join([*words, f"s{resolved.train.seed}"])
