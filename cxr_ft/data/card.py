"""Describe a data set by its card: it travels in the manifest, and privacy rules and metrics follow from it."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, NotRequired, TypedDict

Sensitivity = Literal["synthetic", "public", "credentialed"]
#: From the least to the most restricted.
SENSITIVITIES: tuple[Sensitivity, ...] = ("synthetic", "public", "credentialed")
Unit = Literal["image", "study", "text"]
Group = Literal["subject", "near-duplicate", "unknown"]


class CardJson(TypedDict):
    """A card in a manifest: the fields of `DatasetCard`. Manifests of earlier versions may lack all but the name."""

    name: str
    labels: NotRequired[Sequence[str]]
    multi_label: NotRequired[bool]
    normal: NotRequired[str | None]
    unit: NotRequired[Unit]
    group: NotRequired[Group]
    sensitivity: NotRequired[Sensitivity]
    source: NotRequired[str]
    terms: NotRequired[str]
    citation: NotRequired[str]


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
        sensitivity: "credentialed" where the terms restrict who may see the data, or are unknown. The layout or
            --sensitivity declares it; it is never guessed. It is recorded and shown, and loosens nothing: no id, path
            or text of a row is on a page or in a record, whatever the data.
        source, terms, citation: where it comes from, under what terms, how to cite it.
    """

    name: str
    labels: tuple[str, ...] = ()
    multi_label: bool = True
    normal: str | None = None
    unit: Unit = "image"
    group: Group = "subject"
    sensitivity: Sensitivity = "credentialed"
    source: str = ""
    terms: str = ""
    citation: str = ""

    def to_json(self) -> CardJson:
        """Return the card as the manifest has it."""
        return {
            "name": self.name,
            # The order counts: the outputs of a trained head go by it.
            "labels": self.labels,
            "multi_label": self.multi_label,
            "normal": self.normal,
            "unit": self.unit,
            "group": self.group,
            "sensitivity": self.sensitivity,
            "source": self.source,
            "terms": self.terms,
            "citation": self.citation,
        }

    @classmethod
    def from_json(cls, raw: CardJson) -> "DatasetCard":
        """Return the card from a manifest; keys of later versions are ignored."""
        return cls(
            # Earlier versions wrote fewer keys: splits that were made once stay readable.
            name=raw["name"],
            labels=tuple(raw.get("labels", cls.labels)),
            multi_label=raw.get("multi_label", cls.multi_label),
            normal=raw.get("normal", cls.normal),
            unit=raw.get("unit", cls.unit),
            group=raw.get("group", cls.group),
            # What is not known to be public counts as credentialed.
            sensitivity=raw.get("sensitivity", cls.sensitivity),
            source=raw.get("source", cls.source),
            terms=raw.get("terms", cls.terms),
            citation=raw.get("citation", cls.citation),
        )
