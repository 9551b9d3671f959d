"""Read named tags of many DICOM files, quickly and without their pixels.

Nearly every archived radiograph is explicit VR little endian with its header in the first kilobytes, which our own
parser reads (`cxr_ft.data.dicom.explicit_vr`). It gives up on the first byte it does not know, and pydicom reads
the file instead. So the values are pydicom's own on every file that pydicom accepts, and only the time differs.

The values may identify a patient (PatientID): they are for the caller's memory, never for a file or a log.
"""

import contextlib
import logging
import re
import warnings
import zlib
from collections.abc import Iterable, Iterator, Sequence
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING

from pydicom import Dataset, datadict, dcmread, uid

from cxr_ft.data.dicom.bounded_file import BoundedFile, check_regular, inflate, is_dicom, peek
from cxr_ft.data.dicom.dicom_error import DicomError, Reason
from cxr_ft.data.dicom.explicit_vr import CHARSET, SYNTAX, UnknownError, Value, parse_tags
from cxr_ft.data.dicom.header_values import HEADER_ERRORS
from cxr_ft.errors import UsageError

if TYPE_CHECKING:
    import pandas as pd

TAGS = (
    "TransferSyntaxUID",
    "SOPClassUID",
    "SOPInstanceUID",
    "StudyInstanceUID",
    "Modality",
    "ViewPosition",
    "PatientID",
    "PatientSex",
    "PatientAge",
    "PhotometricInterpretation",
    "Rows",
    "Columns",
    "BitsStored",
)

#: The one transfer syntax that is deflated (PS3.5 A.5), as an element of the file meta information.
_DEFLATED = re.compile(rb"\x02\x00\x10\x00UI[\x16-\x18]\x001\.2\.840\.10008\.1\.2\.1\.99")


def scan(paths: Iterable[Path | str], tags: Sequence[str] = TAGS) -> "pd.DataFrame":
    """Return the headers of many files: one row for each file, in order.

    Args:
        tags: DICOM keywords, of the data set or of the file meta information; no sequences.

    Returns:
        Columns `path` (as given), the tags (see `Value`), and `problem`: None, or why the file could not be read, one
        of `Reason`'s codes.

    Raises:
        UsageError: for a tag that is no keyword, or is a sequence.
    """
    import pandas as pd

    rows = []
    for path in paths:
        try:
            rows.append((str(path), *read(path, tags), None))
        except DicomError as error:
            # The reason's code and not its text: the table may be written to a file, and no value of a header should be
            # in it.
            rows.append((str(path), *(None for _ in tags), error.reason.value))
    return pd.DataFrame(rows, columns=["path", *tags, "problem"], dtype=object)


def read(path: Path | str, tags: Sequence[str] = TAGS) -> tuple[Value, ...]:
    """Return the values of `tags` in one file, in their order.

    Raises:
        DicomError: where the file cannot be opened, is no DICOM file, or its header cannot be parsed.
        UsageError: for a tag that is no keyword, or is a sequence.
    """
    numbers, wanted = _numbers(tuple(tags))
    try:
        check_regular(path)
        return parse_tags(path, numbers, wanted)
    # Our own parser has no opinion on such a file: pydicom decides whether it can be read at all.
    except (UnknownError, RecursionError):  # sequences nested by the thousand
        return _by_pydicom(Path(path), tuple(tags), numbers)
    except DicomError as error:
        raise error.at(Path(path)) from None
    except OSError as error:
        raise DicomError(Reason.NOT_READABLE, error.strerror or type(error).__name__, Path(path)) from None


@lru_cache(maxsize=64)
def _numbers(tags: tuple[str, ...]) -> tuple[tuple[int, ...], frozenset[int]]:
    numbers = tuple((datadict.tag_for_keyword(tag) if tag else None) or 0 for tag in tags)
    for tag, number in zip(tags, numbers, strict=True):
        if not number or datadict.dictionary_VR(number) == "SQ":
            raise UsageError(f"{tag!r} is no DICOM keyword of a plain value; use one like {', '.join(TAGS[:4])}")
    return numbers, frozenset((*numbers, CHARSET, SYNTAX))


def _by_pydicom(path: Path, tags: tuple[str, ...], numbers: tuple[int, ...]) -> tuple[Value, ...]:
    try:
        with BoundedFile.open(path) as file, _quiet():
            header = _parsed(file, tags)
            return tuple(
                plain((header.file_meta if number >> 16 == 2 else header).get(tag))
                for tag, number in zip(tags, numbers, strict=True)
            )
    except DicomError as error:
        raise error.at(path) from None
    except OSError as error:
        # An error with a number is the system's, such as a disk that fails, and says nothing of the header.
        if not error.errno:  # pydicom's own way of saying that a sequence has no end
            raise DicomError(Reason.BAD_HEADER, "the header cannot be parsed", path) from None
        raise DicomError(Reason.NOT_READABLE, error.strerror or type(error).__name__, path) from None
    except (*HEADER_ERRORS, zlib.error) as error:
        # What pydicom says may quote the header, so only the kind of error is passed on.
        detail = f"the header cannot be parsed ({type(error).__name__})"
        raise DicomError(Reason.BAD_HEADER, detail, path) from None


def _parsed(file: BoundedFile, tags: tuple[str, ...]) -> Dataset:
    bare = not is_dicom(peek(file))
    # The element and not the UID alone, which may also be quoted in a text of the header.
    deflated = _DEFLATED.search(file.read(2**16))
    file.seek(0)
    plain_file = inflate(file) if deflated else file
    # Read in any case, since without a preamble only these tell a DICOM object from any other file.
    kinds = ("SOPClassUID", "Rows", "Modality")
    header = dcmread(plain_file, stop_before_pixels=True, force=True, specific_tags=[*tags, *kinds])
    # With force pydicom reads anything; what holds no element that every object has is some other file.
    if bare and not any(kind in header for kind in kinds):
        raise DicomError(Reason.NOT_DICOM, "no DICOM preamble, and no DICOM object without one")
    if plain_file is not file:
        header.file_meta.TransferSyntaxUID = uid.DeflatedExplicitVRLittleEndian  # as the file itself says
    return header


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Silence pydicom, whose warnings quote the values that break their VR: none of that may reach a log."""
    # pydicom both logs and warns about the same value, so both ways are closed.
    logger = logging.getLogger("pydicom")
    before, logger.disabled = logger.disabled, True
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.disabled = before


def plain(value: object) -> Value:
    """Return pydicom's value as plain Python: str, int and float for their subclasses, a tuple for several values."""
    if value is None or isinstance(value, bytes):
        return value
    if isinstance(value, str):
        return str(value)
    if isinstance(value, int):
        return int(value)
    if isinstance(value, float):
        return float(value)
    if isinstance(value, Sequence):
        return tuple(plain(part) for part in value)
    return str(value)  # a PersonName
