"""Read and write `model/labels.json` of a run: the labels, and how the model's scores are to be read."""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import NotRequired, TypedDict

#: The folder of a run's saved model.
FOLDER = "model"


@dataclass(frozen=True, kw_only=True)
class SavedCalibration:
    """The inputs of calibration besides the scores of a split.

    Args:
        temperature: the divisor of the logits that fits val best; None: none was fitted.
        prevalence: of each label, from 0 to 1, by the targets and weights of training; None for a label without
            weight, and None altogether where nothing was trained.
        why: the reason why there is no temperature; empty where there is one.
    """

    temperature: float | None
    prevalence: tuple[float | None, ...] | None
    why: str


class SavedCalibrationJson(TypedDict):
    """The JSON form of `SavedCalibration`."""

    temperature: float | None
    prevalence: Sequence[float | None] | None
    why: str


class SavedLabelsJson(TypedDict):
    """The content of labels.json; files of older versions lack all but labels and multi_label."""

    labels: Sequence[str]
    multi_label: bool
    task: NotRequired[str]
    image_size: NotRequired[int]
    thresholds: NotRequired[Sequence[float]]
    calibration: NotRequired[SavedCalibrationJson | None]


@dataclass(frozen=True, kw_only=True)
class SavedLabels:
    """Labels of a saved model, written by training and read by everything that evaluates the model.

    Args:
        task: the head's name.
        labels: names of the L labels, in the order of the scores.
        multi_label: True where labels are independent of each other, False where each image has exactly one.
        image_size: side of the images that the model reads, in pixels; 0: it reads text.
        thresholds: L scores from which on a label counts as positive, chosen on val; empty without scores.
        calibration: None where the run recorded none (a head without scores).
    """

    labels: tuple[str, ...]
    multi_label: bool
    task: str = ""
    image_size: int = 0
    thresholds: tuple[float, ...] = ()
    calibration: SavedCalibration | None = None

    @classmethod
    def from_json(cls, raw: SavedLabelsJson) -> "SavedLabels":
        """Return what `to_json` wrote.

        Raises:
            KeyError: where labels or multi_label are missing.
        """
        recorded, calibration = raw.get("calibration"), None
        if recorded is not None:
            prevalence = recorded["prevalence"]
            calibration = SavedCalibration(
                temperature=recorded["temperature"],
                prevalence=None if prevalence is None else tuple(prevalence),
                why=recorded["why"],
            )
        return cls(
            task=raw.get("task", ""),
            labels=tuple(raw["labels"]),
            multi_label=raw["multi_label"],
            image_size=raw.get("image_size", 0),
            thresholds=tuple(raw.get("thresholds", ())),
            calibration=calibration,
        )

    def to_json(self) -> dict[str, object]:
        """Return the content of labels.json; without the key `calibration` where there is none."""
        raw = asdict(self)
        return {key: raw[key] for key in _KEYS if key != "calibration" or self.calibration is not None}


def read(run: Path) -> SavedLabels | None:
    """Return what the labels.json of a run says; None where the run has saved no model."""
    try:
        return SavedLabels.from_json(json.loads((run / FOLDER / "labels.json").read_text(encoding="utf-8")))
    except FileNotFoundError:
        return None


#: Keys of labels.json, in the order in which they are written.
_KEYS = ("task", "labels", "multi_label", "image_size", "thresholds", "calibration")
