"""Find what differs between runs besides the method, and which claims (quality, time, memory) that makes incomparable.

Memory depends on the rows that are held at a time, on what is computed again in the backward pass, on precision and the
sizes of the inputs; time on the machine besides; quality on everything that training sees. The task and the test split
decide which answers were counted, so they must be equal for every claim.
"""

import json
from collections.abc import Callable, Sequence
from typing import NamedTuple

from cxr_ft.score.conditions import (
    CHECKPOINTING,
    CLAIMS,
    CONDITIONS,
    EVERYTHING,
    NOT_RECORDED,
    OF_PREDICTIONS,
    QUALITY,
    Record,
    at,
    flatten,
    imported,
    trained,
)

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
        unknown = [imported(run) and condition.name not in OF_PREDICTIONS for run in runs]
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
