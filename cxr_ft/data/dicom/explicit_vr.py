"""Parse the header of an explicit VR little endian file (PS3.5 7.1.2, 7.5), without pydicom.

Anything else raises `UnknownError` and is left to pydicom; each value that is returned equals pydicom's.
"""

import contextlib
import os
import re
import struct
from pathlib import Path
from typing import TypeAlias, cast

#: A value as pydicom gives it, as plain Python: None where the tag is absent or an empty number, "" for an empty text,
#: a tuple for several values, bytes for what has no text or number.
Value: TypeAlias = "str | int | float | bytes | tuple[Value, ...] | None"
#: Bytes read of a file; a header that is longer gets a second try, and pydicom is the third.
READ = (4096, 2**16)

CHARSET, SYNTAX = 0x00080005, 0x00020010
_PIXELS = frozenset((0x7FE00008, 0x7FE00009, 0x7FE00010))
_ITEM, _ITEM_END, _SEQUENCE_END, _UNDEFINED = 0xFFFEE000, 0xFFFEE00D, 0xFFFEE0DD, 0xFFFFFFFF
#: VRs with a length of two bytes, and of four (PS3.5 7.1.2).
_SHORT = frozenset(b"AE AS AT CS DA DS DT FL FD IS LO LT PN SH SL SS ST TM UI UL US".split())
_LONG = frozenset(b"OB OD OF OL OV OW SQ SV UC UN UR UT UV".split())
_CODES = frozenset(b"AS CS DA TM UI".split())  # pydicom strips these once, at the end of all values
_TEXTS = frozenset(b"LO SH".split())  # and these value by value
#: Character sets in which ASCII bytes are ASCII letters, a backslash among them (PS3.3 C.12.1.1.2).
_LATIN = frozenset((b"", b"ISO_IR 6", b"ISO_IR 100", b"ISO_IR 192", b"ISO 2022 IR 6", b"ISO 2022 IR 100"))
_WHOLE = re.compile(rb" *[+-]?\d{1,12} *", re.ASCII)
_DECIMAL = re.compile(rb" *[+-]?\d{1,14}(\.\d{0,14})?([eE][+-]?\d{1,2})? *", re.ASCII)
_head = struct.Struct("<HH2sH").unpack_from
_long = struct.Struct("<I").unpack_from


class UnknownError(Exception):
    """The walk met what it does not know: pydicom's turn."""


class MoreError(Exception):
    """The walk needs more bytes of the file."""


def parse_tags(path: Path | str, numbers: tuple[int, ...], wanted: frozenset[int]) -> tuple[Value, ...]:
    """Return the values of the tags `numbers` in a file; `wanted` are these, CHARSET and SYNTAX.

    Raises:
        UnknownError: for anything out of the ordinary; RecursionError for sequences nested by the thousand.
        OSError: where the file cannot be read.
    """
    file = os.open(path, os.O_RDONLY)
    try:
        for size in READ:
            # The second try reads from the start again: the first one has moved the file's position.
            data = os.read(file, size) if size == READ[0] else os.pread(file, size, 0)
            with contextlib.suppress(MoreError):
                elements = _walk(data, wanted, whole=len(data) < size)
                return tuple([_value(elements[n]) if n in elements else None for n in numbers])
    finally:
        os.close(file)
    raise UnknownError


def _walk(data: bytes, wanted: frozenset[int], *, whole: bool) -> dict[int, tuple[bytes, bytes]]:
    """Return VR and raw value of the wanted tags, up to the pixel data or the end of the file.

    Every element is visited, not only those up to the last tag wanted: pydicom takes one out of order as well.
    """
    if data[128:132] != b"DICM":
        raise UnknownError
    elements: dict[int, tuple[bytes, bytes]] = {}
    at, last, size = 132, 0x00020000 - 1, len(data)
    while at != size or not whole:
        # 12 bytes, so that a four-byte length can be read without another check; a shorter last element is pydicom's.
        if at + 12 > size:
            raise UnknownError if whole else MoreError
        group, element, vr, length = _head(data, at)
        tag = group << 16 | element
        # No value behind the pixels is of use, and the pixels themselves must not be read.
        if tag in _PIXELS:
            break
        # Tags must ascend (PS3.5 7.1). pydicom reads files that break the rule, so those are left to it.
        if tag <= last or group == 0xFFFE:
            raise UnknownError
        last = tag
        start = at + 8
        if vr not in _SHORT:
            if vr not in _LONG:
                raise UnknownError
            (length,) = _long(data, start)
            start += 4
        if length == _UNDEFINED:
            # Undefined length is allowed for sequences and for UN, which pydicom parses as implicit VR: that is left to
            # it.
            if vr != b"SQ" or tag in wanted:
                raise UnknownError
            at = _after_items(data, start, whole=whole)
            continue
        at = start + length
        if at > size:
            raise UnknownError if whole else MoreError
        if tag in wanted:
            elements[tag] = vr, data[start:at]
    _check_encoding(elements)
    return elements


def _check_encoding(elements: dict[int, tuple[bytes, bytes]]) -> None:
    """Give up on a transfer syntax or a character set in which the bytes would not mean what the walk took them for."""
    syntax = elements.get(SYNTAX, (b"", b""))[1].rstrip(b"\0 ")
    # The other encodings of PS3.5 Annex A: big endian and deflated. Implicit VR lacks the last dot.
    other = (b"1.2.840.10008.1.2.2", b"1.2.840.10008.1.2.1.99")
    if not syntax.startswith(b"1.2.840.10008.1.2.") or syntax in other:
        raise UnknownError
    # Several character sets, or one where a byte below 128 is no ASCII, change what every text of the header means.
    if elements.get(CHARSET, (b"", b""))[1].rstrip(b"\0 ") not in _LATIN:
        raise UnknownError


def _after_items(data: bytes, at: int, *, whole: bool) -> int:
    """Return the offset behind a sequence of undefined length whose first item is at `at` (PS3.5 7.5.2)."""
    while True:
        if at + 8 > len(data):
            raise UnknownError if whole else MoreError
        group, element = cast("tuple[int, int]", struct.unpack_from("<HH", data, at))
        (length,) = _long(data, at + 4)
        tag, at = group << 16 | element, at + 8
        if tag == _SEQUENCE_END and length == 0:
            return at
        if tag != _ITEM:
            raise UnknownError
        at = _after_elements(data, at, None if length == _UNDEFINED else at + length, whole=whole)


def _after_elements(data: bytes, at: int, end: int | None, *, whole: bool) -> int:
    """Return the offset behind an item's elements, which end at `end`, or at a delimiter if `end` is None."""
    while at != end:
        if at + 12 > len(data) or (end is not None and at > end):
            raise UnknownError if whole else MoreError
        group, element, vr, length = _head(data, at)
        tag = group << 16 | element
        if tag == _ITEM_END and end is None and vr == b"\0\0" and length == 0:
            return at + 8
        # A character set of its own may not even have a name that pydicom knows.
        if group == 0xFFFE or tag == CHARSET:
            raise UnknownError
        at += 8
        if vr not in _SHORT:
            if vr not in _LONG:
                raise UnknownError
            (length,) = _long(data, at)
            at += 4
        if length != _UNDEFINED:
            at += length
        elif vr == b"SQ":
            at = _after_items(data, at, whole=whole)
        else:
            raise UnknownError
    return at


def _value(element: tuple[bytes, bytes]) -> Value:
    """Return a raw value as pydicom would (its `values` module); anything unusual is left to it."""
    vr, raw = element
    # Several numbers in one value are rare: pydicom returns them as a list, which is left to it.
    if vr == b"US" and len(raw) == 2:
        return raw[0] | raw[1] << 8
    # An escape switches the character set in the middle of a value (ISO 2022); other bytes need the declared set.
    if not raw.isascii() or b"\x1b" in raw:
        raise UnknownError
    if vr in _CODES:
        parts = raw.decode().rstrip("\0 ").split("\\")
        # pydicom also strips each part of a UID (its converter), unlike the other code strings.
        if vr == b"UI":
            parts = [part.strip() for part in parts]
        return tuple(parts) if len(parts) > 1 else parts[0]
    if vr in _TEXTS:
        parts = [part.rstrip("\0 ") for part in raw.decode().split("\\")]
        return tuple(parts) if len(parts) > 1 else parts[0]
    parse = {b"IS": (_WHOLE, int), b"DS": (_DECIMAL, float)}.get(vr)
    if parse and parse[0].fullmatch(raw):
        return cast("int | float", parse[1](raw))
    raise UnknownError
