"""The conditions under which a run was made, read from its record, and what each of them must be equal for.

Memory depends on the rows that are held at a time, on what is computed again in the backward pass, on precision and the
sizes of what goes in; time on the machine besides; quality on everything that training sees. What decides which
answers were counted (task, test split) must be equal for every claim.
"""

import json
import math
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple

Record = Mapping[str, Any]

#: Claims about two runs, and the word for all of them at once: then the runs are not ranked.
QUALITY, TIME, MEMORY, EVERYTHING = "quality", "time", "memory", "everything"
CLAIMS = (QUALITY, TIME, MEMORY)

#: Names of the setting that trades time for memory, in whatever part of a record.
CHECKPOINTING = ("checkpointing", "gradient_checkpointing")

#: Stands for what a record does not say.
NOT_RECORDED = "not recorded"


class Condition(NamedTuple):
    """A condition that a comparison may rest on.

    Args:
        name: in words.
        concerns: the claims that need it equal.
        read: its value in a record; NOT_RECORDED; None where it does not apply to that run.
        paths: of the record's settings that it stands for.
        wanted: told even where no run records it, since a comparison rests on it.
    """

    name: str
    concerns: tuple[str, ...]
    read: Callable[[Record], Any]
    paths: tuple[str, ...] = ()
    wanted: bool = False


def at(record: Record, path: str) -> Any:
    """The value at a path in dots, or NOT_RECORDED."""
    value: Any = record
    for key in path.split("."):
        if not isinstance(value, Mapping) or key not in value:
            return NOT_RECORDED
        value = value[key]
    return value


def flatten(record: Record, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """The leaves of nested dicts, each with its key path in dots."""
    for key, value in record.items():
        if isinstance(value, Mapping):
            yield from flatten(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


def trained(record: Record) -> bool:
    """Whether anything was trained; training's settings do not apply to what is used as it is."""
    return bool(at(record, "cost.parameters.trainable") != 0)


def _first(*paths: str) -> Callable[[Record], Any]:
    """Reads the first of `paths` that holds something."""

    def read(record: Record) -> Any:
        found = (at(record, path) for path in paths)
        return next((value for value in found if value not in (NOT_RECORDED, None)), NOT_RECORDED)

    return read


def _of_training(read: Callable[[Record], Any]) -> Callable[[Record], Any]:
    return lambda record: read(record) if trained(record) else None


def _split(name: str) -> Callable[[Record], Any]:
    """Reads the SHA-256 of a split's file, whatever folder its name begins with."""

    def read(record: Record) -> Any:
        hashes = at(record, "data.sha256")
        found = hashes.items() if isinstance(hashes, Mapping) else ()
        return next((v for k, v in found if str(k).rpartition("/")[2].startswith(f"{name}_split")), NOT_RECORDED)

    return read


def _test_split(record: Record) -> Any:
    """The SHA-256 of the test split; those of all files where none is named so, since any of them may be it."""
    found, hashes = _split("test")(record), at(record, "data.sha256")
    return found if found != NOT_RECORDED or not isinstance(hashes, Mapping) else json.dumps(hashes, sort_keys=True)


def _rows_at_a_time(record: Record) -> Any:
    """What each process held at once: measured, else asked for, else its share of the batch."""
    held = _first("cost.micro_batch")(record)
    if held != NOT_RECORDED and held:
        return held
    asked, batch = at(record, "config.train.micro_batch"), at(record, "config.train.batch_size")
    processes = at(record, "environment.processes")
    if isinstance(asked, int) and asked > 0:
        return asked
    return math.ceil(batch / processes) if isinstance(batch, int) and isinstance(processes, int) else batch


def _steps(record: Record) -> Any:
    history = record.get("history")
    return at(history[-1], "step") if history and isinstance(history, list) else NOT_RECORDED


def _rates(record: Record) -> Any:
    """How many learning rates the method was given."""
    tried = at(record, "search.rates")
    return len(set(tried)) if isinstance(tried, list | tuple) else NOT_RECORDED


def _checkpointing(record: Record) -> Any:
    """Whether activations were computed again in the backward pass, wherever the record says so."""
    found = [value for path, value in flatten(record) if path.rpartition(".")[2] in CHECKPOINTING]
    return any(found) if found else NOT_RECORDED


#: In the order in which they are told: what bars most comes first.
CONDITIONS = (
    Condition("task", (EVERYTHING,), _first("config.head.name"), ("config.head.name",)),
    Condition("test split", (EVERYTHING,), _test_split),
    Condition("natural test split", (QUALITY,), _split("test_natural")),
    Condition("train split", (QUALITY,), _split("train")),
    Condition("val split", (QUALITY,), _split("val")),
    Condition("base", CLAIMS, _first("config.model"), ("config.model",)),
    Condition("rows at a time", (TIME, MEMORY), _of_training(_rows_at_a_time), ("config.train.micro_batch",)),
    Condition("gradient checkpointing", (TIME, MEMORY), _of_training(_checkpointing)),
    Condition(
        "precision",
        CLAIMS,
        _first("config.train.precision", "environment.precision"),
        ("config.train.precision", "environment.precision"),
    ),
    Condition("image size", CLAIMS, _first("plan.image_size", "config.data.image_size"), ("config.data.image_size",)),
    Condition(
        "batch size", (QUALITY, TIME), _of_training(_first("config.train.batch_size")), ("config.train.batch_size",)
    ),
    Condition("epochs", (QUALITY, TIME), _of_training(_first("config.train.epochs")), ("config.train.epochs",)),
    Condition("steps", (QUALITY, TIME), _of_training(_steps)),
    Condition(
        "learning rates tried",
        (QUALITY,),
        _of_training(_rates),
        ("config.train.tuning_budget", "environment.tuning_budget", "config.search", "environment.search"),
        wanted=True,
    ),
    Condition("device", (TIME, MEMORY), _first("environment.device"), ("environment.device",)),
    Condition("threads", (TIME,), _first("environment.threads"), ("environment.threads",)),
    Condition("processes", (TIME, MEMORY), _first("environment.processes"), ("environment.processes",)),
)

#: What any other setting concerns, by the beginning of its path; the first that fits. Where the data lies, is nothing.
OTHERS: tuple[tuple[str, tuple[str, ...]], ...] = (
    ("config.head", CLAIMS),
    ("config", (QUALITY,)),
    ("environment.packages", CLAIMS),
    ("environment.cxr_ft", CLAIMS),
    ("environment.torch", CLAIMS),
    ("environment", ()),
)
PLACES = ("config.data.splits", "config.data.root")
