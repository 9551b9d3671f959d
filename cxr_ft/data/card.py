"""DatasetCard: what a layout's data is. It travels in the manifest; privacy rules and metrics follow from it."""

import dataclasses
from dataclasses import dataclass
from typing import Any, Literal

Sensitivity = Literal["synthetic", "public", "credentialed"]


@dataclass(frozen=True, kw_only=True)
class DatasetCard:
    """What the rows of a layout are.

    Args:
        name: short name of the data set.
        labels: the label vocabulary in the data's own names; empty until the data was read, where the data defines it.
        multi_label: several labels may hold at once (columns of 1, 0, -1, blank) or exactly one (a column `label`).
        normal: the label that says "nothing found", if there is one.
        unit: what a row is.
        group: what must never stand on two sides of a split; "unknown" says that each row is its own group.
        sensitivity: "credentialed" keeps images and texts out of pages and trackers unless asked; also for data of
            unknown terms.
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
        """The card as it stands in the manifest."""
        return dataclasses.asdict(self)

    @classmethod
    def from_json(cls, raw: dict[str, Any]) -> "DatasetCard":
        """The card from a manifest; keys of later versions are passed over."""
        known = {field.name for field in dataclasses.fields(cls)}
        values = {key: value for key, value in raw.items() if key in known}
        return cls(**{**values, "labels": tuple(values.get("labels", ()))})
