"""Read from a run's record the conditions that a comparison rests on: its base, its data, its training, its machine."""

import json
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import NamedTuple

Record = Mapping[str, object]

#: Claims about two runs, and the word for all of them at once: then the runs are not ranked.
QUALITY, TIME, MEMORY, EVERYTHING = "quality", "time", "memory", "everything"
CLAIMS = (QUALITY, TIME, MEMORY)

#: Names of the setting that trades time for memory, in whatever part of a record.
CHECKPOINTING = ("checkpointing", "gradient_checkpointing")

#: The value of what a record does not hold.
NOT_RECORDED = "not recorded"


class Condition(NamedTuple):
    """A condition that a comparison may rest on.

    Args:
        name: in words.
        concerns: the claims that need it equal.
        read: its value in a record; NOT_RECORDED; None where it does not apply to that run.
        paths: of the record's settings that it stands for.
        required: listed even where no run records it, since a comparison rests on it.
        read_all: its values in all records together, in place of `read`, where one record alone does not say it.
    """

    name: str
    concerns: tuple[str, ...]
    read: Callable[[Record], object]
    paths: tuple[str, ...] = ()
    required: bool = False
    read_all: Callable[[Sequence[Record]], Sequence[object]] | None = None


def at(record: Record, path: str) -> object:
    """Return the value at a path in dots, or NOT_RECORDED."""
    value: object = record
    for key in path.split("."):
        if not isinstance(value, Mapping) or key not in value:
            return NOT_RECORDED
        value = value[key]
    return value


def flatten(record: Record, prefix: str = "") -> Iterator[tuple[str, object]]:
    """Yield the leaves of nested dicts, each with its key path in dots."""
    for key, value in record.items():
        if isinstance(value, Mapping):
            yield from flatten(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


def trained(record: Record) -> bool:
    """Return whether anything was trained; training's settings do not apply to a model that is used as it is."""
    # A record without the number counts as trained, so that its settings are compared rather than ignored.
    return bool(at(record, "cost.parameters.trainable") != 0)


def imported(record: Record) -> bool:
    """Return whether the record was made of predictions in a file: nothing of its training is known."""
    return at(record, "config.predictions") != NOT_RECORDED


def _origin(record: Record) -> object:
    return "not known, predictions from a file" if imported(record) else "recorded"


def _first(*paths: str) -> Callable[[Record], object]:
    """Return a function that reads the first of `paths` that holds something."""

    def read(record: Record) -> object:
        values = (at(record, path) for path in paths)
        return next((value for value in values if value not in (NOT_RECORDED, None)), NOT_RECORDED)

    return read


def _of_training(read: Callable[[Record], object]) -> Callable[[Record], object]:
    return lambda record: read(record) if trained(record) else None


def _split(name: str) -> Callable[[Record], object]:
    """Return a function that reads the SHA-256 of a split's file, whatever folder its name begins with."""

    def read(record: Record) -> object:
        hashes = at(record, "data.sha256")
        files = hashes.items() if isinstance(hashes, Mapping) else ()
        return next((v for k, v in files if str(k).rpartition("/")[2].startswith(f"{name}_split")), NOT_RECORDED)

    return read


def _test_split(record: Record) -> object:
    """Return the SHA-256 of the test split; those of all files where none is named so, since any of them may be it."""
    digest, hashes = _split("test")(record), at(record, "data.sha256")
    return digest if digest != NOT_RECORDED or not isinstance(hashes, Mapping) else json.dumps(hashes, sort_keys=True)


def _rows_at_a_time(record: Record) -> object:
    """Return the rows each process held at once: measured, else configured, else its share of the batch."""
    # The measured number comes first: configured as 0, a run takes as many rows as fit into its memory.
    measured = _first("cost.micro_batch")(record)
    if measured != NOT_RECORDED and measured:
        return measured
    configured, batch = at(record, "config.train.micro_batch"), at(record, "config.train.batch_size")
    processes = at(record, "environment.processes")
    if isinstance(configured, int) and configured > 0:
        return configured
    return math.ceil(batch / processes) if isinstance(batch, int) and isinstance(processes, int) else batch


def _steps(record: Record) -> object:
    history = record.get("history")
    return at(history[-1], "step") if history and isinstance(history, list) else NOT_RECORDED


def _rates(record: Record) -> object:
    """Return the number of learning rates that were tried for the method."""
    tried = at(record, "search.rates")
    return len(set(tried)) if isinstance(tried, list | tuple) else NOT_RECORDED


def _finished_tries(record: Record) -> object:
    """Return how many learning rates were tried to the end; None without a search."""
    tried = at(record, "search.val")
    return sum(value is not None for value in tried) if isinstance(tried, list | tuple) and tried else None


def _owner_of_rate(record: Record) -> object:
    """Return for which variant the learning rate was searched; None without a search."""
    if not isinstance(at(record, "search.rates"), list | tuple):
        return None
    return f"for {at(record, 'search.variant')}" if at(record, "search.inherited") is True else "for itself"


def _checkpointing(record: Record) -> object:
    """Return whether activations were computed again in the backward pass, wherever the record has it."""
    settings = [value for path, value in flatten(record) if path.rpartition(".")[2] in CHECKPOINTING]
    return any(settings) if settings else NOT_RECORDED


def bases(records: Sequence[Record]) -> list[str]:
    """Return what identifies the base of each record: equal where the bases are equal, wherever they are.

    It is the hash of the weights. A record without one (of an older version) counts as the one base of its name that
    the others recorded; where they recorded none or several, its base is known by name alone.
    """
    names, digests = [str(at(record, "config.model")) for record in records], list(map(_weights, records))
    known: dict[str, set[str]] = {}
    for name, digest in zip(names, digests, strict=True):
        known.setdefault(name, set()).update([digest] if digest else [])
    return [
        digest or (next(iter(known[name])) if len(known[name]) == 1 else name)
        for name, digest in zip(names, digests, strict=True)
    ]


def base_name(record: Record) -> str:
    """Return the name of a record's base; of a folder its last part, since those above it may name a user."""
    name = str(at(record, "config.model"))
    parts = name.rstrip("/").split("/")
    # A name on the hub has two parts; a path begins with a slash or a dot, or has more of them.
    return parts[-1] if len(parts) > 2 or parts[0] in ("", ".", "..", "~") else name


def base_labels(records: Sequence[Record]) -> list[str]:
    """Return a text for the base of each record: its name, or its weights where others of that name differ in them."""
    identities = bases(records)
    names: dict[str, str] = {}
    for identity, record in zip(identities, records, strict=True):
        names.setdefault(identity, base_name(record))
    digests = set(map(_weights, records))
    several = {name for name in names.values() if list(names.values()).count(name) > 1}

    def label(identity: str) -> str:
        if names[identity] not in several:
            return names[identity]
        return f"weights {identity[:12]}" if identity in digests else "weights not recorded"

    return [label(identity) for identity in identities]


def _weights(record: Record) -> str | None:
    """Return the hash of the base's weights; None where it was not recorded."""
    digest = at(record, "base.digest")
    return None if digest in (NOT_RECORDED, None) else str(digest)


def _weights_recorded(record: Record) -> object:
    return NOT_RECORDED if _weights(record) is None else "recorded"


#: In the order in which they are listed: what bars most comes first.
CONDITIONS = (
    Condition("task", (EVERYTHING,), _first("config.head.name"), ("config.head.name",)),
    Condition("test split", (EVERYTHING,), _test_split),
    # It rules out no claim of quality: two models are compared as they are, and the page says what is not known of one.
    Condition("training", (), _origin, ("config.predictions",)),
    Condition("natural test split", (QUALITY,), _split("test_natural")),
    Condition("train split", (QUALITY,), _split("train")),
    Condition("val split", (QUALITY,), _split("val")),
    Condition("base", CLAIMS, _first("config.model"), ("config.model",), read_all=base_labels),
    Condition("weights of the base", (), _weights_recorded),
    # Not of quality: the gradients of a batch add up to the same step, however many rows are held at once.
    Condition("rows at a time", (TIME, MEMORY), _of_training(_rows_at_a_time), ("config.train.micro_batch",)),
    # Not of quality either: the same activations are computed a second time.
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
        # The best of many tries on val is higher by chance alone: a method that was searched longer has an advantage.
        "learning rates tried",
        (QUALITY,),
        _of_training(_rates),
        ("config.train.tuning_budget", "environment.tuning_budget", "config.search", "environment.search"),
        required=True,
    ),
    # Listed, and no more: who reads it decides. A try that failed is a try, and an inherited rate may fit as well.
    Condition("finished tries of learning rates", (), _of_training(_finished_tries)),
    Condition("learning rate searched", (), _of_training(_owner_of_rate)),
    Condition("device", (TIME, MEMORY), _first("environment.device"), ("environment.device",)),
    Condition("threads", (TIME,), _first("environment.threads"), ("environment.threads",)),
    Condition("processes", (TIME, MEMORY), _first("environment.processes"), ("environment.processes",)),
)

#: The conditions that predictions from a file say something of.
OF_PREDICTIONS = ("task", "test split", "training")
