"""Whether a method saves memory against full fine-tuning, in a sentence, and why where it does not."""

from collections.abc import Mapping

#: A method that needs more than this share of full fine-tuning's peak does not save memory worth the name.
SAVES = 0.8


def sentence(method: str, cost: Mapping[str, object], full: Mapping[str, object]) -> str | None:
    """What `method` saves of the peak memory of full fine-tuning, and what its peak is made of.

    Args:
        method: what to call it.
        cost: of a run or a plan: `memory`, bytes by kind at the peak; `parameters`, trainable and total; `micro_batch`,
            rows at a time.
        full: the same of full fine-tuning on the same base and task.

    Returns:
        One or two sentences; None where either peak is unknown.
    """
    mine, theirs = _memory(cost), _memory(full)
    if not sum(mine.values()) or not sum(theirs.values()):
        return None
    share = sum(mine.values()) / sum(theirs.values())
    trained = _of(cost, "parameters", "trainable") / max(_of(cost, "parameters", "total"), 1)
    said = (
        f"{method} trains {_percent(trained)} of the parameters, and its peak memory is {_percent(share)} of full "
        f"fine-tuning's ({size(sum(mine.values()))} against {size(sum(theirs.values()))})"
    )
    rows, rows_full = cost.get("micro_batch"), full.get("micro_batch")
    if rows != rows_full:
        return f"{said}. They ran {rows} and {rows_full} rows at a time: at unequal batches this says little."
    if share <= SAVES:
        kind = max(mine.keys() | theirs.keys(), key=lambda k: theirs.get(k, 0) - mine.get(k, 0))
        saved = size(theirs.get(kind, 0) - mine.get(kind, 0))
        return f"{said}: most of the difference is {_NAMES.get(kind, kind)} ({saved} less)."
    return f"{said}: it saves little memory here, since {_why(mine, theirs)}."


_NAMES = {"optimizer": "the optimizer's states", "workspace": "temporary tensors"}


def _why(mine: Mapping[str, int], theirs: Mapping[str, int]) -> str:
    whole, whole_full = sum(mine.values()), sum(theirs.values())
    passing = mine.get("activations", 0) + mine.get("workspace", 0)
    passing_full = theirs.get("activations", 0) + theirs.get("workspace", 0)
    if passing >= mine.get("weights", 0):
        return (
            f"activations and temporary tensors, which every method needs that reaches back through the base, are "
            f"{_percent(passing / whole)} of its peak and {_percent(passing_full / whole_full)} of full fine-tuning's; "
            "fewer rows at a time would shrink both"
        )
    weights = mine.get("weights", 0)
    return (
        f"the frozen weights, which have to be there all the same, are {_percent(weights / whole)} of its peak; "
        "keeping them in fewer bits (qlora) would shrink them"
    )


def _memory(cost: Mapping[str, object]) -> dict[str, int]:
    memory = cost.get("memory")
    return {str(kind): int(value) for kind, value in memory.items()} if isinstance(memory, Mapping) else {}


def _of(cost: Mapping[str, object], *path: str) -> int:
    value: object = cost
    for key in path:
        value = value.get(key) if isinstance(value, Mapping) else None
    return value if isinstance(value, int) else 0


def _percent(share: float) -> str:
    return f"{100 * share:.3g} %"


def size(nbytes: float) -> str:
    """1.7 MB (of 1,000,000 bytes)."""
    for unit in ("B", "kB", "MB"):
        if nbytes < 1000:
            return f"{nbytes:.3g} {unit}"
        nbytes /= 1000
    return f"{nbytes:.3g} GB"
