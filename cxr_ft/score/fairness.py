"""Find what differs between runs besides the method, and which claims (quality, time, memory) that makes incomparable.

Memory depends on the rows that are held at a time, on what is computed again in the backward pass, on precision and the
sizes of the inputs; time on the machine besides; quality on everything that training sees. The task and the test split
decide which answers were counted, so they must be equal for every claim.
"""

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
    # It bars no claim of quality: two models are compared as they are, and the page says what is not known of one.
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
_OF_PREDICTIONS = ("task", "test split", "training")

#: What any other setting concerns, by the beginning of its path; the first that fits, so that longer ones come first.
OTHERS: tuple[tuple[str, tuple[str, ...]], ...] = (
    ("config.head", CLAIMS),
    ("config", (QUALITY,)),
    ("environment.packages", CLAIMS),
    ("environment.cxr_ft", CLAIMS),
    ("environment.torch", CLAIMS),
    ("environment", ()),
)
#: Where the data lies, which changes nothing: the splits are compared by their hashes.
LOCATIONS = ("config.data.splits", "config.data.root")

#: What a comparison is about, and what it repeats: no confounders.
INTENDED = ("tuning", "train.seed")

#: The value of a setting that a run does not have.
ABSENT = "(not set)"

#: A value longer than this (a hash, say) is shown by its beginning.
_LONG = 40


class Mismatch(NamedTuple):
    """Something besides the method that is not the same in all runs, or that cannot be checked.

    Args:
        name: what, in words, or as the key path of a setting.
        values: one a run; NOT_RECORDED, or None where it does not apply (nothing was trained).
        concerns: the claims it makes incomparable: "quality", "time", "memory", or "everything": no ranking at all.
            Empty: listed, and no more.
        values_text: the values with the runs that have them: "4 (full), 16 (lora)".
    """

    name: str
    values: tuple[object, ...]
    concerns: tuple[str, ...]
    values_text: str

    @property
    def sentence(self) -> str:
        """Return the mismatch and what follows from it."""
        if EVERYTHING in self.concerns:
            return f"{self.name}: {self.values_text}; these runs are not ranked."
        barred = f"; {_listed(self.concerns)} not comparable." if self.concerns else "."
        return f"{self.name}: {self.values_text}{barred}"


def mismatches(runs: Sequence[Record], names: Sequence[str] | None = None) -> list[Mismatch]:
    """Return everything besides the method that keeps runs from being compared.

    Args:
        runs: each a result's record as nested dicts: config, environment, data, cost, plan, history, and `search`, of
            which `rates` lists the learning rates that were tried for its method.
        names: what to call them; else their methods. Seeds of one variant may share a name.

    Returns:
        The mismatches, those that bar most first; none where there are fewer than two runs.
    """
    if len(runs) < 2:
        return []
    run_names = list(names) if names is not None else [_method(run, i) for i, run in enumerate(runs)]
    differing = []
    for condition in CONDITIONS:
        # None means that the condition does not apply, as a batch size where nothing was trained: it bars nothing.
        read = tuple(map(condition.read, runs) if condition.read_all is None else condition.read_all(runs))
        # Of what was trained elsewhere no setting is known: none can be found equal, nor different.
        unknown = [imported(run) and condition.name not in _OF_PREDICTIONS for run in runs]
        values = tuple(None if lacking else value for lacking, value in zip(unknown, read, strict=True))
        applies = [value for value in values if value is not None]
        if any(value != applies[0] for value in applies):
            differing.append(Mismatch(condition.name, values, condition.concerns, _by_value(values, run_names)))
        elif condition.required and len(applies) > 1 and applies[0] == NOT_RECORDED:
            differing.append(Mismatch(condition.name, values, (), f"{NOT_RECORDED} for any run"))
    return differing + _others(runs, run_names)


def barring(differing: Sequence[Mismatch], claim: str) -> list[Mismatch]:
    """Return the mismatches because of which a claim ("quality", "time" or "memory") cannot be made."""
    return [mismatch for mismatch in differing if {claim, EVERYTHING} & set(mismatch.concerns)]


def verdict(differing: Sequence[Mismatch], claim: str) -> str | None:
    """Return one sentence that says by name why a claim cannot be made; None where nothing bars it."""
    reasons = [f"{mismatch.name} {mismatch.values_text}" for mismatch in barring(differing, claim)]
    return f"{claim} is not comparable: {'; '.join(reasons)}" if reasons else None


def ranked(differing: Sequence[Mismatch]) -> bool:
    """Return whether the runs can be ordered at all: same task, same test split."""
    return not any(EVERYTHING in mismatch.concerns for mismatch in differing)


def differences(configs: Sequence[Record], intended: Sequence[str] = INTENDED) -> list[tuple[str, list[object]]]:
    """Return the settings that are not the same in all of `configs` (nested dicts), outside `intended`.

    Args:
        configs: one nested dict a run: its configuration, and whatever else must be equal (split hashes, device).
        intended: key paths that may differ, each with all below it.

    Returns:
        (key path with dots, values in the order of `configs`), sorted by path.
    """
    flat = [dict(flatten(config)) for config in configs]
    differing = []
    for path in sorted({path for config in flat for path in config}):
        values: list[object] = [config.get(path, ABSENT) for config in flat]
        # The dot keeps "train.seed" from covering "train.seed_offset".
        meant = any(path == prefix or path.startswith(f"{prefix}.") for prefix in intended)
        if not meant and any(value != values[0] for value in values[1:]):
            differing.append((path, values))
    return differing


def _others(runs: Sequence[Record], run_names: Sequence[str]) -> list[Mismatch]:
    """Return the settings and versions that differ and that no condition stands for."""
    covered = [path for condition in CONDITIONS for path in condition.paths]
    parts = [{part: run.get(part) or {} for part in ("config", "environment")} for run in runs]
    differing = []
    for path, by_run in differences(parts, intended=(*LOCATIONS, *covered, *(f"config.{key}" for key in INTENDED))):
        training = path.startswith("config.train.")
        if path.rpartition(".")[2] in CHECKPOINTING:
            continue  # a condition of its own, in whatever part of the record it is
        values = [
            # None says that a setting does not apply; a setting whose value is null is written as a word.
            None if imported(run) or (training and not trained(run)) else "none" if value is None else value
            for run, value in zip(runs, by_run, strict=True)
        ]
        applies = [value for value in values if value is not None]
        if any(value != applies[0] for value in applies):
            # With the dots, "environment.torch" does not cover "environment.torchvision".
            concerns = next(kinds for start, kinds in OTHERS if f"{path}.".startswith(f"{start}."))
            differing.append(
                Mismatch(path.removeprefix("config."), tuple(values), concerns, _by_value(values, run_names))
            )
    return differing


def by_value(
    values: Sequence[object], run_names: Sequence[str], text: Callable[[object], str] | None = None
) -> list[tuple[str, list[str]]]:
    """Return each value as text with the names of the runs that have it, the rarest first; None: it does not apply."""
    having: dict[str, dict[str, None]] = {}  # each name once, in the order of the runs
    for value, name in zip(values, run_names, strict=True):
        if value is not None:
            having.setdefault((text or _short)(value), {})[name] = None
    # The exception is the news.
    return sorted(((value, list(names)) for value, names in having.items()), key=lambda item: len(item[1]))


def _by_value(values: Sequence[object], run_names: Sequence[str]) -> str:
    return ", ".join(f"{value} ({', '.join(names)})" for value, names in by_value(values, run_names))


def _short(value: object) -> str:
    if isinstance(value, bool):
        return "on" if value else "off"
    written = (value or "empty") if isinstance(value, str) else json.dumps(value, default=str)
    return written if len(written) <= _LONG else f"{written[:8]}…"


def _method(run: Record, index: int) -> str:
    name = at(run, "config.tuning.name")
    return f"run {index + 1}" if name in (NOT_RECORDED, None, "") else str(name)


def _listed(claims: Sequence[str]) -> str:
    return f"{claims[0]} is" if len(claims) == 1 else f"{', '.join(claims[:-1])} and {claims[-1]} are"
