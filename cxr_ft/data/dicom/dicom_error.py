"""Define the error of an unreadable image file, with its reason code."""

import enum
from pathlib import Path


class Reason(enum.StrEnum):
    """The reason codes of rejected files; tables and scripts rely on them."""

    NOT_READABLE = "not_readable"
    NOT_DICOM = "not_dicom"
    #: A document by its class: a report, a presentation state.
    NOT_AN_IMAGE = "not_an_image"
    #: A directory of files, or a data set without one tag of an image.
    NO_IMAGE = "no_image"
    #: An image's header without pixel data.
    NO_PIXELS = "no_pixels"
    MULTI_FRAME = "multi_frame"
    WRONG_MODALITY = "wrong_modality"
    NOT_CHEST = "not_chest"
    FOR_PROCESSING = "for_processing"
    TOO_LARGE = "too_large"
    TRUNCATED = "truncated"
    BAD_HEADER = "bad_header"
    BAD_PIXELS = "bad_pixels"
    UNSUPPORTED = "unsupported"
    #: Not the file's fault as far as is known: the process that decodes died twice.
    DECODER_FAILED = "decoder_failed"


class DicomError(Exception):
    """A file that is refused: `reason`, `detail` (technical tags only, never a name, an id or a date) and `path`."""

    def __init__(self, reason: Reason, detail: str, path: Path | None = None) -> None:
        # The arguments as they are, so that the error survives the way back from a worker process.
        super().__init__(reason, detail, path)
        self.reason = reason
        self.detail = detail
        self.path = path

    def __str__(self) -> str:
        return f"{self.path or 'image'}: {self.detail} ({self.reason})"

    def at(self, path: Path) -> "DicomError":
        """Return the same error with the path of its file."""
        # A new error with the path among its arguments: pickling between processes passes the arguments alone.
        return DicomError(self.reason, self.detail, path)
