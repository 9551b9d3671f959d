"""Record the weights of a run's base, and compare them with those that its name stands for now.

A run that holds all its weights itself (full fine-tuning) needs no base to be loaded, so nothing is compared for it.
"""

from collections.abc import Sequence
from pathlib import Path

from cxr_ft import json_values
from cxr_ft.errors import UsageError
from cxr_ft.model import base_weights
from cxr_ft.model.base_weights import BaseWeights
from cxr_ft.run.record import results
from cxr_ft.run.record.result_parts import BaseRecord


def record(weights: BaseWeights, instead_of: Sequence[str] = ()) -> BaseRecord:
    """Return the record of `weights`, which replaced those with the digests `instead_of`."""
    return BaseRecord(
        digest=weights.digest,
        files=dict(weights.files),
        revision=weights.revision,
        drawn=weights.drawn,
        instead_of=tuple(instead_of),
    )


def difference(now: BaseWeights, recorded: BaseRecord) -> str:
    """Return in a few words how the weights `now` differ from recorded ones; "" where they are equal."""
    return now.difference(BaseWeights(files=recorded.files, revision=recorded.revision, drawn=recorded.drawn))


def of_configuration(file: Path | None, model: str) -> BaseRecord | None:
    """Return the record of the base in a result.json that is given as a configuration.

    Args:
        file: a configuration file; None: there is none.
        model: name of the base of the run to come.

    Returns:
        None for a plain configuration, and where the run to come names another base: that is a choice.
    """
    if file is None:
        return None
    try:
        raw = json_values.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    if not isinstance(raw, dict) or "config_hash" not in raw:
        return None
    result = results.read(file)
    return result.base if result.config.get("model") == model else None


def compare(where: str, model: str, recorded: BaseRecord, now: BaseWeights, *, other_base: bool) -> str:
    """Return a note for the user: that nothing was recorded, or how the weights differ; "" where they are equal.

    Args:
        where: the run's folder or record, for the message.
        model: name of the base.
        recorded: what the run's result.json says.
        now: the base's weights now.
        other_base: a difference is allowed.

    Raises:
        UsageError: for a difference that is not allowed.
    """
    if recorded.digest is None:
        return f"{where} has no record of its base's weights, so {model} is not compared with them"
    how = difference(now, recorded)
    if how and not other_base:
        raise UsageError(
            f"{where}: its base {model} has other weights than those recorded ({how}); put the recorded weights back, "
            "or allow others with --other-base (other_base=True)"
        )
    return f"{where}: --other-base: {model} has other weights than those recorded ({how})" if how else ""


def compare_to_load(run: Path, model: str, recorded: BaseRecord, *, other_base: bool) -> str:
    """Compare the weights of the base `model` before a saved run is put on it; as `compare`.

    Raises:
        UsageError: for a difference that is not allowed, or a base that cannot be found.
    """
    if recorded.digest is None:
        return compare(str(run), model, recorded, BaseWeights(files={}), other_base=other_base)
    return compare(str(run), model, recorded, base_weights.of(model), other_base=other_base)
