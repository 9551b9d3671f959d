"""Say in a sentence how much memory a method saves against full fine-tuning, and why where it saves little."""

from collections.abc import Mapping

from cxr_ft.show.number_format import size

#: A method that needs more than this share of full fine-tuning's peak does not save memory worth the name.
SAVES = 0.8


def sentence(method: str, cost: Mapping[str, object], full: Mapping[str, object]) -> str | None:
    """Return what `method` saves of the peak memory of full fine-tuning, and what its peak is made of.

    Args:
        method: its name in the sentence.
        cost: of a run or a plan: `memory`, bytes by kind at the peak; `parameters`, trainable and total; `micro_batch`,
            rows at a time.
        full: the same of full fine-tuning on the same base and task.

    Returns:
        One or two sentences; None where either peak is unknown.
    """
    own, reference = _memory(cost), _memory(full)
    if not sum(own.values()) or not sum(reference.values()):
        return None
    share = sum(own.values()) / sum(reference.values())
    trained = _of(cost, "parameters", "trainable") / max(_of(cost, "parameters", "total"), 1)
    start = (
        f"{method} trains {_percent(trained)} of the parameters, and its peak memory is {_percent(share)} of full "
        f"fine-tuning's ({size(sum(own.values()))} against {size(sum(reference.values()))})"
    )
    # Activations grow with the rows held at a time, so a smaller batch would pass for a saving of the method.
    rows, rows_full = cost.get("micro_batch"), full.get("micro_batch")
    if rows != rows_full:
        return (
            f"{start}. They ran {rows} and {rows_full} rows at a time: with unequal batches the two cannot be compared."
        )
    if share <= SAVES:
        # The kind that shrank most, which need not be the largest one.
        kind = max(own.keys() | reference.keys(), key=lambda k: reference.get(k, 0) - own.get(k, 0))
        saved = size(reference.get(kind, 0) - own.get(kind, 0))
        return f"{start}: most of the difference is {_NAMES.get(kind, kind)} ({saved} less)."
    return f"{start}: it saves little memory here, since {_why(own, reference)}."


_NAMES = {"optimizer": "the optimizer's states", "workspace": "temporary tensors"}


def _why(own: Mapping[str, int], reference: Mapping[str, int]) -> str:
    whole, whole_full = sum(own.values()), sum(reference.values())
    others = own.get("activations", 0) + own.get("workspace", 0)
    others_full = reference.get("activations", 0) + reference.get("workspace", 0)
    # The larger part is the reason: what a method cannot shrink is what its peak consists of.
    if others >= own.get("weights", 0):
        return (
            f"activations and temporary tensors, which every method needs that reaches back through the base, are "
            f"{_percent(others / whole)} of its peak and {_percent(others_full / whole_full)} of full fine-tuning's; "
            "fewer rows at a time would shrink both"
        )
    weights = own.get("weights", 0)
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
