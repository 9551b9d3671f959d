"""Read values of a header that may be broken, without raising."""

import math
import struct
import warnings

from pydicom import Dataset
from pydicom.errors import BytesLengthException

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


def numbers(header: Dataset, keyword: str) -> list[float]:
    """Return a tag's values; empty if it is absent or empty, NaN if it does not hold numbers."""
    try:
        value = header.get(keyword)
        if value is None or value == "":
            return []
        # A text has a length too, but is one value.
        single = isinstance(value, str | bytes) or not hasattr(value, "__len__")
        return [float(part) for part in ([value] if single else value)]
    except HEADER_ERRORS:
        # Not an empty list: absent has a default by the standard, while nonsense must be refused or ignored.
        return [math.nan]


def text(header: Dataset, keyword: str) -> str:
    """Return a code string's first value in capitals; "" if it is absent, empty or broken."""
    try:
        value = header.get(keyword)
        # A code string with a backslash is several values, of which the standard's own meaning is the first.
        if not isinstance(value, str) and hasattr(value, "__len__"):
            value = value[0]
        return "" if value is None else str(value).strip().upper()
    except HEADER_ERRORS:
        return ""


def as_16_bits(value: float, *, signed: bool) -> float:
    """Reinterpret a value as 16 bits, signed or not."""
    # The VR of these tags is "US or SS" (PS3.6), and many files have the wrong one of the two. The sign of the pixels
    # decides, since the value is compared with pixels.
    if signed:
        return value - 2**16 if value >= 2**15 else value
    return value + 2**16 if value < 0 else value


def lowest_bits(value: float, count: int, *, signed: bool) -> float:
    """Reinterpret the lowest `count` bits of a value, signed or not."""
    value %= 2**count
    return value - 2**count if signed and value >= 2 ** (count - 1) else value


def finite(values: list[float]) -> bool:
    """Return True if all values are finite."""
    return all(math.isfinite(value) for value in values)


def ignored(what: str) -> None:
    """Warn that what a header says of `what` makes no sense."""
    # Without the file's name or the value: a broken header may hold anything, and one line will do for a whole archive.
    warnings.warn(f"a DICOM file's {what} is not valid and was ignored", stacklevel=2)
