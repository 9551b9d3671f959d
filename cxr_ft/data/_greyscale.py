"""From the words of a greyscale DICOM image to what a screen would show, by our own arithmetic.

One small function a stage, in the standard's order: stored value, modality, VOI, polarity, padding. Each works on the
words that a pixel can hold, at most 65,536 of them, in float64; the picture is then one look-up. That is exact whatever
the stages do, and cheaper than arithmetic on every pixel. Sections named C. are in DICOM PS3.3, others in PS3.5.
"""

import math
import struct
import warnings
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from pydicom import Dataset
from pydicom.errors import BytesLengthException

Values = npt.NDArray[np.float64]
Words = npt.NDArray[np.int64]
Mask = npt.NDArray[np.bool_]

# What pydicom's parser, converters and decoders raise on broken files, found by flipping bytes.
HEADER_ERRORS = (
    ArithmeticError,
    AttributeError,
    BytesLengthException,
    EOFError,
    LookupError,
    NotImplementedError,
    OSError,
    RecursionError,
    TypeError,
    ValueError,
    struct.error,
)


@dataclass(frozen=True, kw_only=True)
class Bits:
    """Where in its word a pixel's value lies: `count` bits from bit `low` up, two's complement if `signed`."""

    low: int
    count: int
    signed: bool


def render(image: npt.NDArray[Any], header: Dataset, bits: Bits) -> npt.NDArray[np.float32]:
    """Words, unsigned [H, W], to grey levels float32 [H, W] in 0..255, not yet rounded; air dark, bone bright."""
    words, index = _alphabet(image)
    stored = stored_values(words, bits)
    padding = is_padding(stored, header)
    values = modality_values(stored, header)
    grey = voi_lut(values, header)
    if grey is None:
        grey = voi_window(values, header)
    if grey is None:
        present = np.zeros(len(words), dtype=bool)
        present[index] = True
        grey = stretch(values, present & ~padding)
    if is_inverted(header):
        grey = 255.0 - grey
    # NaN marks an image without contrast.
    grey = np.where(padding | np.isnan(grey), 0.0, grey).astype(np.float32)
    return np.take(grey, index)


def _alphabet(image: npt.NDArray[Any]) -> tuple[Words, npt.NDArray[Any]]:
    """The words that may occur and each pixel's place among them; of 32-bit words only those that do occur."""
    if image.dtype.itemsize <= 2:
        return np.arange(2 ** (8 * image.dtype.itemsize), dtype=np.int64), image
    found, index = np.unique(image, return_inverse=True)
    return found.astype(np.int64), index.reshape(image.shape)


def stored_values(words: Words, bits: Bits) -> Words:
    """Drop what is not the pixel's, such as the overlay planes of old files, and apply the sign (8.1.1)."""
    values: Words = (words >> bits.low) & (2**bits.count - 1)
    return np.where(values >> (bits.count - 1), values - 2**bits.count, values) if bits.signed else values


def is_padding(stored: Words, header: Dataset) -> Mask:
    """Which stored values fill the frame around the image (C.7.5.1.1.2); either end of a range may come first."""
    value = numbers(header, "PixelPaddingValue")
    limit = numbers(header, "PixelPaddingRangeLimit") or value
    if not value:
        return np.zeros(stored.shape, dtype=bool)
    if not _finite([value[0], limit[0]]):
        _ignored("PixelPaddingValue or PixelPaddingRangeLimit")
        return np.zeros(stored.shape, dtype=bool)
    ends = [_as_16_bits(end, signed=bool(stored.min() < 0)) for end in (value[0], limit[0])]
    return (stored >= min(ends)) & (stored <= max(ends))


def modality_values(stored: Words, header: Dataset) -> Values:
    """Stored values to the modality's own: its LUT, else slope and intercept (C.11.1), else unchanged."""
    values = stored.astype(np.float64)
    if found := read_lut(header, "ModalityLUTSequence", signed=bool(stored.min() < 0)):
        return found.look_up(values)
    slope, intercept = numbers(header, "RescaleSlope") or [1.0], numbers(header, "RescaleIntercept") or [0.0]
    if not _finite([slope[0], intercept[0]]) or slope[0] == 0:
        _ignored("RescaleSlope or RescaleIntercept")
        return values
    return values * slope[0] + intercept[0]


def voi_lut(values: Values, header: Dataset) -> Values | None:
    """The first VOI LUT (C.11.2.1.1), its whole output range 0..2^bits - 1 spread over 0..255; None without one."""
    found = read_lut(header, "VOILUTSequence", signed=bool(values.min() < 0))
    if found is None:
        return None
    largest = 2**found.bits - 1
    shown: Values = np.minimum(found.look_up(values), largest) * (255.0 / largest)
    return shown


def voi_window(values: Values, header: Dataset) -> Values | None:
    """The first window (C.11.2.1.2, C.11.2.1.3) as 0..255, rising with the value; None where no valid one is."""
    centres, widths = numbers(header, "WindowCenter"), numbers(header, "WindowWidth")
    if not centres and not widths:
        return None
    function = text(header, "VOILUTFunction") or "LINEAR"
    if function not in _WINDOWS:
        _ignored("VOILUTFunction")
        function = "LINEAR"
    smallest = 1.0 if function == "LINEAR" else np.finfo(float).tiny
    if not centres or not widths or not _finite([centres[0], widths[0]]) or widths[0] < smallest:
        _ignored("WindowCenter or WindowWidth")
        return None
    return 255.0 * _WINDOWS[function](values, centres[0], widths[0])


def _linear(values: Values, centre: float, width: float) -> Values:
    if width == 1:
        return (values > centre - 0.5).astype(np.float64)
    return np.clip((values - (centre - 0.5)) / (width - 1) + 0.5, 0.0, 1.0)


def _linear_exact(values: Values, centre: float, width: float) -> Values:
    return np.clip((values - centre) / width + 0.5, 0.0, 1.0)


def _sigmoid(values: Values, centre: float, width: float) -> Values:
    # 1 / (1 + exp(-4 (x - c) / w)), written so that nothing overflows.
    return 0.5 + 0.5 * np.tanh(2.0 * (values - centre) / width)


_WINDOWS = {"LINEAR": _linear, "LINEAR_EXACT": _linear_exact, "SIGMOID": _sigmoid}


def stretch(values: Values, shown: Mask) -> Values:
    """Smallest to largest of the `shown` values to 0..255; NaN throughout where they do not differ."""
    low, high = (values[shown].min(), values[shown].max()) if shown.any() else (0.0, 0.0)
    if low == high:
        return np.full(values.shape, math.nan)
    return np.clip((values - low) / (high - low), 0.0, 1.0) * 255.0


def is_inverted(header: Dataset) -> bool:
    """Whether large values mean dark. Either tag says so, and files that carry both mean one inversion (C.8.11.3)."""
    return (
        text(header, "PhotometricInterpretation") == "MONOCHROME1" or text(header, "PresentationLUTShape") == "INVERSE"
    )


@dataclass(frozen=True)
class Lut:
    """A look-up table: inputs from `first` up to `entries`, each of `bits` bits."""

    first: int
    bits: int
    entries: npt.NDArray[np.uint16]

    def look_up(self, values: Values) -> Values:
        """Map values to entries; those beyond either end take the entry at that end."""
        place = np.clip(np.rint(values) - self.first, 0, len(self.entries) - 1).astype(np.int64)
        found: Values = self.entries[place].astype(np.float64)
        return found


def read_lut(header: Dataset, sequence: str, *, signed: bool) -> Lut | None:
    """The first table of a LUT sequence, or None where there is none or it makes no sense (C.11.1.1, C.11.2.1.1).

    `signed`: whether its inputs can be negative, which decides how the first one is to be read.
    """
    try:
        items = header.get(sequence)
        if not items:
            return None
        count, first, bits = (int(value) for value in items[0].LUTDescriptor)
        entries = _lut_entries(items[0], count % 2**16 or 2**16, little=header.original_encoding[1] is not False)
    except HEADER_ERRORS:
        _ignored(sequence)
        return None
    if entries is None or not 1 <= bits <= 16:
        _ignored(sequence)
        return None
    return Lut(int(_as_16_bits(first, signed=signed)), bits, entries)


def _lut_entries(item: Dataset, count: int, *, little: bool) -> npt.NDArray[np.uint16] | None:
    data = item.LUTData
    if isinstance(data, bytes):
        words = np.frombuffer(data, "<u2" if little else ">u2").astype(np.uint16)
    else:
        words = (np.atleast_1d(np.array(data, dtype=np.int64)) % 2**16).astype(np.uint16)
    if len(words) >= count:
        return words[:count]
    # 8-bit entries come two to a word, the first in its low byte; only the length tells them from padded ones.
    packed = np.stack([words & 255, words >> 8], axis=1).ravel()
    return packed[:count] if len(packed) >= count else None


def numbers(header: Dataset, keyword: str) -> list[float]:
    """A tag's values; empty where it is absent or empty, NaN where it does not hold numbers."""
    try:
        value = header.get(keyword)
        if value is None or value == "":
            return []
        single = isinstance(value, str | bytes) or not hasattr(value, "__len__")
        return [float(part) for part in ([value] if single else value)]
    except HEADER_ERRORS:
        return [math.nan]


def text(header: Dataset, keyword: str) -> str:
    """A code string's first value in capitals; empty where it is absent, empty or broken."""
    try:
        value = header.get(keyword)
        if not isinstance(value, str) and hasattr(value, "__len__"):
            value = value[0]
        return "" if value is None else str(value).strip().upper()
    except HEADER_ERRORS:
        return ""


def _as_16_bits(value: float, *, signed: bool) -> float:
    # US and SS are mixed up in many files; what the value is compared with decides.
    if signed:
        return value - 2**16 if value >= 2**15 else value
    return value + 2**16 if value < 0 else value


def _finite(values: list[float]) -> bool:
    return all(math.isfinite(value) for value in values)


def _ignored(what: str) -> None:
    # Without the file's name or the value: a broken header may hold anything, and one line will do for a whole archive.
    warnings.warn(f"a DICOM file's {what} is not valid and was ignored", stacklevel=2)
