"""Type the parts of a run's `result.json`."""

import dataclasses
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, kw_only=True)
class ParameterCount:
    """Numbers of parameters; `trainable` = `adapter` (in the adapter or the base) + `head`."""

    trainable: int
    total: int
    adapter: int
    head: int


@dataclass(frozen=True, kw_only=True)
class TrainingPlan:
    """What a run trains, known before weights are loaded.

    Args:
        modules: full names of the modules with trained parameters.
        notes: sentences on them.
        parameters: how many.
        image_size: side in pixels; 0 for a base of texts.
        output: of the head, "scores" or "text".
    """

    modules: tuple[str, ...]
    notes: tuple[str, ...]
    parameters: ParameterCount
    image_size: int
    output: str

    def to_json(self) -> dict[str, Any]:
        """Return plain dicts, lists and numbers."""
        return {**dataclasses.asdict(self), "modules": list(self.modules), "notes": list(self.notes)}
