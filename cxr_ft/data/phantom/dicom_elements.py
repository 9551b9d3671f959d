"""Encode DICOM data elements, as far as the phantom writes them (PS3.5, section 7; PS3.10, section 7).

pydicom writes any data set, in a fifth of the time that a film of 128 pixels takes to draw; this writes ours, which are
all text, 16-bit numbers, bytes and sequences. Tags and value representations are pydicom's.
"""

import struct
from collections.abc import Mapping
from functools import cache
from typing import TypeAlias, cast

from pydicom.datadict import dictionary_VR, tag_for_keyword

#: Text, a number, bytes, a list of texts or numbers, or (for a sequence) a list of headers.
Value: TypeAlias = "str | int | bytes | list[str] | list[int] | list[Header]"
#: Values by keyword.
Header: TypeAlias = dict[str, Value]

_LONG = ("OB", "OW", "SQ")
# PS3.6 gives these a choice of VRs ("OB or OW", "US or OW"); the phantom's pixels and LUTs are words of 16 bits.
_SETTLED = {"PixelData": "OW", "LUTDescriptor": "US", "LUTData": "OW"}
_NUMBERS = {"US": "H", "SS": "h"}
_ITEM, _END = struct.pack("<HH", 0xFFFE, 0xE000), struct.pack("<HHL", 0xFFFE, 0xE0DD, 0)
_UNDEFINED = 0xFFFFFFFF


def file_bytes(meta: Mapping[str, Value], header: Mapping[str, Value], implicit: bool, packed: bytes = b"") -> bytes:
    """Return a whole file: preamble, `meta` (always explicit, its length and version added), then the data set.

    `packed` is encapsulated pixel data, for a compressed file (explicit, without "PixelData" in `header`).
    """
    # PS3.10 7.1: the meta information is explicit little endian whatever the data set is, and states its own length.
    group = encode({"FileMetaInformationVersion": b"\0\1", **meta}, implicit=False)
    length = struct.pack("<HH2sHL", 0x0002, 0x0000, b"UL", 4, len(group))
    body = encode(header, implicit)
    if packed:
        # Encapsulated pixel data has no length of its own and ends with a delimiter (PS3.5 A.4).
        body += struct.pack("<HH2sHL", 0x7FE0, 0x0010, b"OB", 0, _UNDEFINED) + packed + _END
    return b"".join((b"\0" * 128, b"DICM", length, group, body))


def encode(header: Mapping[str, Value], implicit: bool) -> bytes:
    """Return the elements of a data set, little endian, in the order of their tags; lengths are always given."""
    parts: list[bytes] = []
    for (tag, kind), value in sorted(((_entry(keyword), value) for keyword, value in header.items()), key=_tag):
        data = _value(kind, value, implicit)
        # Every value has an even length (PS3.5 7.1.1); the pad byte follows below.
        length = len(data) + len(data) % 2
        where = struct.pack("<HH", tag >> 16, tag & 0xFFFF)
        if implicit:
            parts += [where, struct.pack("<L", length), data]
        elif kind in _LONG:  # two reserved bytes, then a length of 32 bits (PS3.5 7.1.2)
            parts += [where, kind.encode(), struct.pack("<HL", 0, length), data]
        else:
            parts += [where, kind.encode(), struct.pack("<H", length), data]
        # PS3.5 6.2: UIDs and bytes are padded with a zero, texts with a space.
        if len(data) % 2:
            parts.append(b"\0" if kind in ("UI", "OB", "OW") else b" ")
    return b"".join(parts)


def _tag(entry: tuple[tuple[int, str], Value]) -> int:
    return entry[0][0]


@cache
def _entry(keyword: str) -> tuple[int, str]:
    tag = tag_for_keyword(keyword)
    if tag is None:
        # A keyword that does not exist is a mistake in this package, not of its user.
        raise KeyError(keyword)
    return tag, _SETTLED.get(keyword) or dictionary_VR(tag)


def _value(kind: str, value: Value, implicit: bool) -> bytes:
    if isinstance(value, bytes):
        return value
    values = value if isinstance(value, list) else [value]
    if kind == "SQ":
        items = [encode(item, implicit) for item in cast("list[Header]", values)]
        # Items of defined length, which need no delimiters (PS3.5 7.5.2).
        return b"".join(part for item in items for part in (_ITEM, struct.pack("<L", len(item)), item))
    if kind in _NUMBERS:
        return struct.pack(f"<{len(values)}{_NUMBERS[kind]}", *values)
    return "\\".join(map(str, values)).encode("ascii")
