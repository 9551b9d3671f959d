"""Describe a data set by its card: it travels in the manifest, and privacy rules and metrics follow from it."""

import dataclasses
from dataclasses import dataclass
from typing import Any, Literal

Sensitivity = Literal["synthetic", "public", "credentialed"]


@dataclass(frozen=True, kw_only=True)
class DatasetCard:
    """The data set card of a layout.

    Args:
        name: short name of the data set.
        labels: the label vocabulary in the data's own names; empty until the data is read, where the data defines it.
        multi_label: several labels may hold at once (columns of 1, 0, -1, blank) or exactly one (a column `label`).
        normal: the label of a study without findings, if there is one.
        unit: what a row is.
        group: what must never be in two splits; "unknown": each row is its own group.
        sensitivity: "credentialed" keeps images and texts out of pages and trackers unless a flag includes them; also
            for data of unknown terms.
        source, terms, citation: where it comes from, under what terms, how to cite it.
    """

    name: str
    labels: tuple[str, ...] = ()
    multi_label: bool = True
    normal: str | None = None
    unit: Literal["image", "study", "text"] = "image"
    group: Literal["subject", "near-duplicate", "unknown"] = "subject"
    sensitivity: Sensitivity = "credentialed"
    source: str = ""
    terms: str = ""
    citation: str = ""

    def to_json(self) -> dict[str, Any]:
        """Return the card as the manifest has it."""
        return dataclasses.asdict(self)

    @classmethod
    def from_json(cls, raw: dict[str, Any]) -> "DatasetCard":
        """Return the card from a manifest; keys of later versions are ignored."""
        known = {field.name for field in dataclasses.fields(cls)}
        values = {key: value for key, value in raw.items() if key in known}
        return cls(**{**values, "labels": tuple(values.get("labels", ()))})
