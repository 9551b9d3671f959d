"""Why an image file is refused, and the error that says so."""

import enum
from pathlib import Path


class Reason(enum.StrEnum):
    """Why a file is refused, as a code that tables and scripts can count on."""

    NOT_READABLE = "not_readable"
    NOT_DICOM = "not_dicom"
    NOT_AN_IMAGE = "not_an_image"
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
        """The same error, with the file it is about."""
        return DicomError(self.reason, self.detail, path)
