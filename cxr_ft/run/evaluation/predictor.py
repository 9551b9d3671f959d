"""Predict single images with a saved run that is loaded once (cxr-predict)."""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias, TypedDict

import numpy as np
import torch
from numpy.typing import NDArray

from cxr_ft.data.dataset.split_dataset import Example
from cxr_ft.data.dicom.bounded_file import MAX_PIXELS
from cxr_ft.data.dicom.greyscale import stretch
from cxr_ft.data.dicom.resampling import resample
from cxr_ft.data.pixels import image_decode
from cxr_ft.errors import UsageError
from cxr_ft.run.record import saved_model
from cxr_ft.run.record.saved_labels import SavedLabels

if TYPE_CHECKING:
    from PIL import Image

Pixels = NDArray[np.uint8]
#: An image file, or pixels: uint8 or uint16, [H, W] or [H, W, 3] (RGB), air dark and bone bright.
ImageInput: TypeAlias = "str | Path | NDArray[np.uint8] | NDArray[np.uint16] | Image.Image"
#: Weights of red, green and blue in the luminance, ITU-R BT.601.
_LUMA = np.array([0.299, 0.587, 0.114])


class PredictionJson(TypedDict, total=False):
    """The line of JSON of one image: scores to four decimals; what the head does not give is missing."""

    report: str
    scores: dict[str, float]
    positive: list[str]


@dataclass(frozen=True, kw_only=True)
class Prediction:
    """The prediction of a run for one image.

    Args:
        scores: a score in [0, 1] for each label; None for a head without scores.
        positive: labels whose score reaches their threshold, or the likeliest class; None without scores.
        report: the generated text; None for a head that writes none.
    """

    scores: dict[str, float] | None
    positive: tuple[str, ...] | None
    report: str | None

    def to_json(self) -> PredictionJson:
        """Return what cxr-predict prints: report, scores to four decimals, positive; what is None is left out."""
        out: PredictionJson = {} if self.report is None else {"report": self.report}
        if self.scores is not None and self.positive is not None:
            out["scores"] = {name: round(score, 4) for name, score in self.scores.items()}
            out["positive"] = list(self.positive)
        return out


class Predictor:
    """A saved run, ready to predict: its model is loaded when the object is made, and then kept.

    Args:
        run: a run's folder.

    Raises:
        UsageError: where the run has no saved model, or its model reads text.
    """

    def __init__(self, run: str | Path) -> None:
        self._parts, _, self._saved = saved_model.load(Path(run))
        if not self._parts.base.image_size:
            raise UsageError(f"{run} reads text, not images; evaluate it with cxr-evaluate {run} --splits DIR")
        self._parts.model.to("cuda" if torch.cuda.is_available() else "cpu")

    @property
    def labels(self) -> tuple[str, ...]:
        """Return the labels in the order of the scores."""
        return self._saved.labels

    def predict(self, image: ImageInput) -> Prediction:
        """Return the prediction for one image, prepared as in training.

        The same picture gives the same numbers as a file, an array and a PIL image.

        Raises:
            UsageError: for an argument that is no image.
            DicomError: for a file that cannot be read as one, with its reason.
        """
        pixels = to_square(image, self._parts.base.image_size)
        # Masked: the truth of a new image is not known, and its loss is not read.
        no_targets = np.full(len(self._saved.labels), np.nan)
        batch = self._parts.head.collate([Example(pixels, no_targets, "")])
        device = next(self._parts.model.parameters()).device
        with torch.no_grad():
            output = self._parts.head.predict(
                self._parts.model, {key: value.to(device) for key, value in batch.items()}
            )
        report = str(output.answers[0]) if self._parts.head.output == "text" else None
        if output.scores is None:
            return Prediction(scores=None, positive=None, report=report)
        scores = dict(zip(self._saved.labels, map(float, output.scores[0]), strict=True))
        return Prediction(scores=scores, positive=positive_labels(scores, self._saved), report=report)


def positive_labels(scores: dict[str, float], saved: SavedLabels) -> tuple[str, ...]:
    """Return the labels whose score is at least their threshold, or the one with the highest score among classes."""
    if not saved.multi_label:
        return (max(scores, key=lambda name: scores[name]),)
    thresholds = dict(zip(saved.labels, saved.thresholds, strict=True))
    return tuple(name for name, score in scores.items() if score >= thresholds[name])


def to_square(image: ImageInput, size: int) -> Pixels:
    """Return an image as uint8 [size, size]: its short side resized to `size`, then the middle.

    Pixels take the way of a PNG file with the same pixels (`read_xray`): 8 bits as they are, 16 bits stretched from
    smallest to largest, colour as luminance.

    Raises:
        UsageError, DicomError: as `Predictor.predict`.
    """
    if isinstance(image, str | Path):
        return image_decode.square(Path(image), size)
    grey = _grey(_pixels(image))
    height, width = grey.shape
    scale = size / min(height, width)
    target = max(1, round(height * scale)), max(1, round(width * scale))
    # A strip of few pixels in height would be enlarged to a picture of any width, and take all memory.
    if target[0] * target[1] > MAX_PIXELS:
        raise UsageError(f"an image of {height} x {width} pixels is too narrow to be predicted")
    levels = (lambda rows: rows.astype(np.float32)) if grey.dtype == np.uint8 else stretch(grey)
    return image_decode.centre_square(resample(grey, levels, *target), size)


def _pixels(image: object) -> NDArray[np.uint8] | NDArray[np.uint16]:
    """Return the pixels of an array or a PIL image, [H, W] or [H, W, 3], checked."""
    from PIL import Image, ImageOps

    if isinstance(image, Image.Image):
        image = ImageOps.exif_transpose(image)  # cameras note how they were held and leave the pixels as they are
        if image.mode == "F":
            raise UsageError("a PIL image of mode F (float32); give 8 or 16 bits")
        if not image.mode.startswith("I"):
            return np.asarray(image.convert("L"))
        wide = np.asarray(image)
        if wide.size and (wide.min() < 0 or wide.max() > np.iinfo(np.uint16).max):
            raise UsageError(f"a PIL image of mode {image.mode} has values outside 0 to 65535; give 8 or 16 bits")
        image = wide.astype(np.uint16)
    if not isinstance(image, np.ndarray):
        raise UsageError(
            f"{type(image).__name__} is no image; give a path, a numpy array [H, W] or [H, W, 3], or a PIL image"
        )
    if image.dtype not in (np.uint8, np.uint16):
        raise UsageError(f"an image of {image.dtype}; give uint8 or uint16, air dark and bone bright")
    if image.ndim not in (2, 3) or image.shape[2:] not in ((), (3,)) or not image.size:
        raise UsageError(f"an image of shape {list(image.shape)}; give [H, W] or [H, W, 3]")
    return image


def _grey(pixels: NDArray[np.uint8] | NDArray[np.uint16]) -> NDArray[np.uint8] | NDArray[np.uint16]:
    """Return [H, W] or [H, W, 3] as [H, W] of the same type."""
    from PIL import Image

    if pixels.ndim == 2:
        return pixels
    if pixels.dtype == np.uint8:  # by Pillow, as in a file: its sum is in whole numbers, and rounds in its own way
        return np.asarray(Image.fromarray(np.ascontiguousarray(pixels)).convert("L"))
    luminance: NDArray[np.uint16] = np.rint(pixels @ _LUMA).astype(np.uint16)
    return luminance
