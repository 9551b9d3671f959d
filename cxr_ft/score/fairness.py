"""What differs between runs besides the method: the reasons why a comparison might not be one.

Which claim about two runs (quality, time, memory) needs what to be equal stands in `conditions`.
"""

import json
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from cxr_ft.score.run_conditions import (
    CHECKPOINTING,
    CONDITIONS,
    EVERYTHING,
    NOT_RECORDED,
    OTHERS,
    PLACES,
    Record,
    flatten,
    trained,
)

__all__ = ["ABSENT", "INTENDED", "Mismatch", "barring", "differences", "flatten", "mismatches", "ranked", "verdict"]

#: What a comparison is about, and what it repeats: no confounders.
INTENDED = ("tuning", "train.seed")

#: Stands where a run does not have the setting at all.
ABSENT = "(not set)"

#: A value longer than this (a hash, say) is told by its beginning.
_LONG = 40


class Mismatch(NamedTuple):
    """Something besides the method that is not the same in all runs, or that cannot be checked.

    Args:
        name: what, in words, or as the key path of a setting.
        values: one a run; NOT_RECORDED, or None where it does not apply (nothing was trained).
        concerns: the claims it makes incomparable: "quality", "time", "memory", or "everything": no ranking at all.
            Empty: listed, and no more.
        told: the values with the runs that have them: "4 (full), 16 (lora)".
    """

    name: str
    values: tuple[Any, ...]
    concerns: tuple[str, ...]
    told: str

    @property
    def sentence(self) -> str:
        """The finding and what follows from it."""
        if EVERYTHING in self.concerns:
            return f"{self.name}: {self.told}; these runs are not ranked."
        barred = f"; {_listed(self.concerns)} not comparable." if self.concerns else "."
        return f"{self.name}: {self.told}{barred}"


def mismatches(runs: Sequence[Record], names: Sequence[str] | None = None) -> list[Mismatch]:
    """Everything besides the method that stands in the way of comparing runs.

    Args:
        runs: each a result's record as nested dicts: config, environment, data, cost, plan, history, and `search`, of
            which `rates` lists the learning rates that were tried for its method.
        names: what to call them; else their methods. Seeds of one variant may share a name.

    Returns:
        The findings, those that bar most first; none where there are fewer than two runs.
    """
    if len(runs) < 2:
        return []
    who = list(names) if names is not None else [_method(run, i) for i, run in enumerate(runs)]
    found = []
    for condition in CONDITIONS:
        values = tuple(condition.read(run) for run in runs)
        applies = [value for value in values if value is not None]
        if any(value != applies[0] for value in applies):
            found.append(Mismatch(condition.name, values, condition.concerns, _told(values, who)))
        elif condition.wanted and len(applies) > 1 and applies[0] == NOT_RECORDED:
            found.append(Mismatch(condition.name, values, (), f"{NOT_RECORDED} for any run"))
    return found + _others(runs, who)


def barring(findings: Sequence[Mismatch], claim: str) -> list[Mismatch]:
    """The findings that make a claim ("quality", "time" or "memory") one that the runs do not bear."""
    return [finding for finding in findings if {claim, EVERYTHING} & set(finding.concerns)]


def verdict(findings: Sequence[Mismatch], claim: str) -> str | None:
    """One sentence that says by name why a claim cannot be made; None where nothing bars it."""
    reasons = [f"{finding.name} {finding.told}" for finding in barring(findings, claim)]
    return f"{claim} is not comparable: {'; '.join(reasons)}" if reasons else None


def ranked(findings: Sequence[Mismatch]) -> bool:
    """Whether an order of the runs may be spoken of at all: same task, same test split."""
    return not any(EVERYTHING in finding.concerns for finding in findings)


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


def _others(runs: Sequence[Record], who: Sequence[str]) -> list[Mismatch]:
    """Settings and versions that differ and that no condition stands for."""
    told = [path for condition in CONDITIONS for path in condition.paths]
    places = [{part: run.get(part) or {} for part in ("config", "environment")} for run in runs]
    found = []
    for path, given in differences(places, intended=(*PLACES, *told, *(f"config.{key}" for key in INTENDED))):
        training = path.startswith("config.train.")
        if path.rpartition(".")[2] in CHECKPOINTING:
            continue  # a condition of its own, wherever it stands
        values = [
            None if training and not trained(run) else "none" if value is None else value
            for run, value in zip(runs, given, strict=True)
        ]
        applies = [value for value in values if value is not None]
        if any(value != applies[0] for value in applies):
            concerns = next(kinds for start, kinds in OTHERS if f"{path}.".startswith(f"{start}."))
            found.append(Mismatch(path.removeprefix("config."), tuple(values), concerns, _told(values, who)))
    return found


def _told(values: Sequence[Any], who: Sequence[str]) -> str:
    """Each value with the names of the runs that have it; the rarest first, since what stands out is the news."""
    having: dict[str, dict[str, None]] = {}
    for value, name in zip(values, who, strict=True):
        if value is not None:
            having.setdefault(_short(value), {})[name] = None
    return ", ".join(
        f"{value} ({', '.join(names)})" for value, names in sorted(having.items(), key=lambda i: len(i[1]))
    )


def _short(value: Any) -> str:
    if isinstance(value, bool):
        return "on" if value else "off"
    written = (value or "empty") if isinstance(value, str) else json.dumps(value, default=str)
    return written if len(written) <= _LONG else f"{written[:8]}…"


def _method(run: Record, index: int) -> str:
    tuning = (run.get("config") or {}).get("tuning") or {}
    return str(tuning.get("name") or f"run {index + 1}")


def _listed(claims: Sequence[str]) -> str:
    return f"{claims[0]} is" if len(claims) == 1 else f"{', '.join(claims[:-1])} and {claims[-1]} are"
