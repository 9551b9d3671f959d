"""Turn the words of a greyscale DICOM image into the grey levels a screen would show.

The stages in the standard's order: stored value, modality, VOI, polarity, padding. `read_display` takes them from the
header once; they work on any values, in float64. Words of 8 or 16 bits are few, so the stages run on every word there
can be and the picture is one look-up: exact whatever the stages do, and cheaper than arithmetic on every pixel.
Sections named C. are in DICOM PS3.3, others in PS3.5.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

import cv2
import numpy as np
import numpy.typing as npt
from pydicom import Dataset

from cxr_ft.data.dicom.header_values import HEADER_ERRORS, as_16_bits, finite, ignored, lowest_bits, numbers, text

Values = npt.NDArray[np.float64]
Words = npt.NDArray[np.int64]
Mask = npt.NDArray[np.bool_]
#: The words of an image as the file stores them: any unsigned type, signed values as their bit pattern.
Image = npt.NDArray[np.unsignedinteger]
Grey = npt.NDArray[np.float32]
Stage = Callable[[Values], Values]
#: Rows of words, unsigned [h, W], to their grey levels [h, W] in 0..255, not yet rounded.
Levels = Callable[[Image], Grey]


@dataclass(frozen=True, kw_only=True)
class Bits:
    """The bits of a word that are the pixel's value: `count` from bit `low` up, two's complement if `signed`."""

    low: int
    count: int
    signed: bool

    @property
    def ends(self) -> tuple[int, int]:
        """Return the smallest and the largest value."""
        first = -(2 ** (self.count - 1)) if self.signed else 0
        return first, first + 2**self.count - 1


@dataclass(frozen=True, kw_only=True)
class Display:
    """The display stages that a header declares, from stored values to grey levels."""

    padding: tuple[float, float] | None
    modality: Stage
    voi: Stage | None  # without one, smallest to largest
    inverted: bool
    is_monotone: bool

    def show(self, stored: Words, low: float, high: float) -> Values:
        """Return grey levels in 0..255; without a VOI stage `low` to `high` of the modality's values."""
        values = self.modality(stored.astype(np.float64))
        if self.voi is not None:
            grey = self.voi(values)
        # An image of one value has no contrast to stretch; the formula would divide by zero.
        elif low == high:
            return np.zeros(values.shape)
        else:
            # The table covers every value there can be, also those outside the image's own extent.
            grey = np.clip((values - low) / (high - low), 0.0, 1.0) * 255.0
        # Polarity follows the VOI stage (C.7.6.3.1.2): a window is in the modality's values, not in inverted ones.
        grey = 255.0 - grey if self.inverted else grey
        # After polarity: padding is black on a screen, whichever way the image is stored.
        return np.where(self.is_padding(stored), 0.0, grey)

    def is_padding(self, stored: Words) -> Mask:
        """Return a mask of the stored values that fill the frame around the image (C.7.5.1.1.2)."""
        if self.padding is None:
            return np.zeros(stored.shape, dtype=bool)
        return (stored >= self.padding[0]) & (stored <= self.padding[1])


def levels(image: Image, header: Dataset, bits: Bits) -> Levels:
    """Return the map from words of `image`, unsigned [H, W], to grey levels: air dark, bone bright, padding 0."""
    display = read_display(header, bits)
    # The pixels are looked at only where no VOI stage says what is black and white: one pass less over the image.
    low, high = (0.0, 0.0) if display.voi else extent(image, display, bits)
    # A table of 2^32 words would be larger than any image, so those are computed pixel by pixel.
    if image.dtype.itemsize > 2:
        return lambda rows: display.show(stored_values(rows.astype(np.int64), bits), low, high).astype(np.float32)
    patterns = np.arange(2**bits.count)
    # The stages run once for each value of the pixel's own bits; words that differ in other bits share its grey level.
    grey = display.show(stored_values(patterns << bits.low, bits), low, high).astype(np.float32)
    words = np.arange(2 ** (8 * image.dtype.itemsize))
    return partial(cv2.LUT, lut=grey[(words >> bits.low) & (2**bits.count - 1)])


def read_display(header: Dataset, bits: Bits) -> Display:
    """Return the stages that the header declares; invalid ones are left out, with a warning."""
    padding, modality = read_padding(header, bits), read_modality(header, signed=bits.signed)
    # The possible values and not the pixels' own decide, so that one detector's images are read one way.
    ends = modality(np.array(bits.ends, dtype=np.float64))
    return Display(
        padding=padding,
        modality=modality,
        # A VOI LUT's first input is signed if the modality's output can be negative (C.11.2.1.1). A file may have a
        # LUT and a window as alternative views (C.11.2.1.2); the LUT comes first, so that one file has one picture.
        voi=read_voi_lut(header, signed=bool(ends.min() < 0)) or read_window(header),
        inverted=is_inverted(header),
        is_monotone=padding is None and "ModalityLUTSequence" not in header,
    )


def extent(image: Image, display: Display, bits: Bits) -> tuple[float, float]:
    """Return the smallest and largest modality value in the image without padding; 0 and 0 if there is none."""
    small = image.dtype.itemsize <= 2
    # Words of 32 bits are too many for a table; a million at a time, so that no float64 copy of the image is made.
    parts: Sequence[npt.NDArray[np.integer]] = (
        # What occurs is at most 2^16 words, in which the extremes are those of the picture.
        [_words(image, display, bits)] if small else np.array_split(image, -(-image.size // 2**20))
    )
    lows, highs = [], []
    for words in parts:
        stored = stored_values(words.astype(np.int64), bits)
        if (stored := stored[~display.is_padding(stored)]).size:
            values = display.modality(stored.astype(np.float64))
            lows.append(float(values.min()))
            highs.append(float(values.max()))
    return (min(lows), max(highs)) if lows else (0.0, 0.0)


def _words(image: Image, display: Display, bits: Bits) -> npt.NDArray[np.integer]:
    """Return the words that occur in an image of 8 or 16 bits; only the extremes if the stages are monotone."""
    largest = image.max()
    # A slope keeps or reverses the order, so the extremes of the words give those of the values; a LUT may do anything.
    if display.is_monotone and bits.low == 0 and not bits.signed and largest < 2**bits.count:
        return np.array([image.min(), largest])
    count = 2 ** (8 * image.dtype.itemsize)
    # A histogram is one pass, a sort as in np.unique many.
    return np.flatnonzero(cv2.calcHist([np.ascontiguousarray(image)], [0], None, [count], [0, count]))


def stretch(image: Image) -> Levels:
    """Return the words of an image without a header, smallest to largest; black where they do not differ."""
    bits = Bits(low=0, count=8 * image.dtype.itemsize, signed=False)
    return levels(image, Dataset(), bits)


def stored_values(words: Words, bits: Bits) -> Words:
    """Drop what is not the pixel's, such as the overlay planes of old files, and apply the sign (8.1.1)."""
    # Shifted before it is masked: the pixel's bits need not begin at bit 0.
    values: Words = (words >> bits.low) & (2**bits.count - 1)
    # The top bit of the stored ones is the sign, wherever the word itself ends.
    return np.where(values >> (bits.count - 1), values - 2**bits.count, values) if bits.signed else values


def read_padding(header: Dataset, bits: Bits) -> tuple[float, float] | None:
    """Return the stored values from and to which the frame is filled (C.7.5.1.1.2); either end may come first."""
    value = numbers(header, "PixelPaddingValue")
    limit = numbers(header, "PixelPaddingRangeLimit") or value
    if not value:
        return None
    if not finite([value[0], limit[0]]):
        ignored("PixelPaddingValue or PixelPaddingRangeLimit")
        return None
    low, high = sorted(as_16_bits(end, signed=bits.signed) for end in (value[0], limit[0]))
    first, last = bits.ends
    if high < first or low > last:
        # No pixel can have such a value, so it was written as a whole word, and is read as the pixels' words are.
        low, high = sorted(lowest_bits(end, bits.count, signed=bits.signed) for end in (low, high))
    return low, high


def read_modality(header: Dataset, *, signed: bool) -> Stage:
    """Return the map of stored values to the modality's own: LUT, else slope and intercept, or none (C.11.1)."""
    if lut := read_lut(header, "ModalityLUTSequence", signed=signed):
        return lut.look_up
    slope, intercept = numbers(header, "RescaleSlope") or [1.0], numbers(header, "RescaleIntercept") or [0.0]
    # A slope of 0 would make every image one grey.
    if not finite([slope[0], intercept[0]]) or slope[0] == 0:
        ignored("RescaleSlope or RescaleIntercept")
        return lambda values: values
    return lambda values: values * slope[0] + intercept[0]


def read_voi_lut(header: Dataset, *, signed: bool) -> Stage | None:
    """Return the first VOI LUT (C.11.2.1.1), its whole output range 0..2^bits - 1 as 0..255; None without one."""
    lut = read_lut(header, "VOILUTSequence", signed=signed)
    if lut is None:
        return None
    largest = 2**lut.bits - 1
    # Entries may have bits beyond those that the descriptor declares; unbounded they would be brighter than white.
    return lambda values: np.minimum(lut.look_up(values), largest) * (255.0 / largest)


def read_window(header: Dataset) -> Stage | None:
    """Return the first window (C.11.2.1.2, C.11.2.1.3) as 0..255, rising with the value; None where no valid one is."""
    centres, widths = numbers(header, "WindowCenter"), numbers(header, "WindowWidth")
    if not centres and not widths:
        return None
    # Absent means LINEAR (C.11.2.1.3).
    function = text(header, "VOILUTFunction") or "LINEAR"
    if function not in _WINDOWS:
        ignored("VOILUTFunction")
        function = "LINEAR"
    # C.11.2.1.2: LINEAR needs a width of at least 1, since width - 1 is its divisor; the others any positive width.
    smallest = 1.0 if function == "LINEAR" else np.finfo(float).tiny
    if not centres or not widths or not finite([centres[0], widths[0]]) or widths[0] < smallest:
        ignored("WindowCenter or WindowWidth")
        return None
    return lambda values: 255.0 * _WINDOWS[function](values, centres[0], widths[0])


def _linear(values: Values, centre: float, width: float) -> Values:
    # C.11.2.1.2.1: width 1 is a threshold; the general formula would divide by zero.
    if width == 1:
        return (values > centre - 0.5).astype(np.float64)
    return np.clip((values - (centre - 0.5)) / (width - 1) + 0.5, 0.0, 1.0)


def _linear_exact(values: Values, centre: float, width: float) -> Values:
    return np.clip((values - centre) / width + 0.5, 0.0, 1.0)


def _sigmoid(values: Values, centre: float, width: float) -> Values:
    # 1 / (1 + exp(-4 (x - c) / w)), written so that nothing overflows.
    return 0.5 + 0.5 * np.tanh(2.0 * (values - centre) / width)


_WINDOWS = {"LINEAR": _linear, "LINEAR_EXACT": _linear_exact, "SIGMOID": _sigmoid}


def is_inverted(header: Dataset) -> bool:
    """Return True if large values mean dark. Either tag says so; files with both mean one inversion (C.8.11.3)."""
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
        # The modality stage may give fractions, while a table's inputs are whole.
        place = np.clip(np.rint(values) - self.first, 0, len(self.entries) - 1).astype(np.int64)
        outputs: Values = self.entries[place].astype(np.float64)
        return outputs


def read_lut(header: Dataset, sequence: str, *, signed: bool) -> Lut | None:
    """Return the first table of a LUT sequence; None where it is missing or makes no sense (C.11.1.1, C.11.2.1.1).

    `signed`: whether its inputs can be negative, which decides how the first one is to be read.
    """
    try:
        items = header.get(sequence)
        if not items:
            return None
        # The descriptor is count, first input and bits; a count of 65536 is written as 0, since 16 bits cannot hold it.
        count, first, bits = (int(value) for value in items[0].LUTDescriptor)
        entries = _lut_entries(items[0], count % 2**16 or 2**16, little=header.original_encoding[1] is not False)
    # pydicom converts values when they are read, so any of its errors may come here and not at parsing.
    except HEADER_ERRORS:
        ignored(sequence)
        return None
    if entries is None or not 1 <= bits <= 16:
        ignored(sequence)
        return None
    return Lut(int(as_16_bits(first, signed=signed)), bits, entries)


def _lut_entries(item: Dataset, count: int, *, little: bool) -> npt.NDArray[np.uint16] | None:
    data = item.LUTData
    if isinstance(data, bytes):
        words = np.frombuffer(data, "<u2" if little else ">u2").astype(np.uint16)
    else:
        # A single entry comes as a number, and SS entries come signed: modulo restores the 16 bits.
        words = (np.atleast_1d(np.array(data, dtype=np.int64)) % 2**16).astype(np.uint16)
    if len(words) >= count:
        return words[:count]
    # 8-bit entries come two to a word, the first in its low byte; only the length tells them from padded ones.
    packed = np.stack([words & 255, words >> 8], axis=1).ravel()
    return packed[:count] if len(packed) >= count else None
