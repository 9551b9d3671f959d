"""A film as a DICOM file, with headers as varied as real ones are (counted in Open-I's 7,469 files).

Whatever the header says, the standard's way of showing it (VOI LUT or window, then polarity) makes air dark.
"""

import uuid
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from types import MappingProxyType
from typing import Literal, TypeVar

import numpy as np
from numpy.typing import NDArray
from pydicom.encaps import encapsulate
from pydicom.pixels.encoders.base import get_encoder
from pydicom.uid import (
    UID,
    ComputedRadiographyImageStorage,
    DigitalXRayImageStorageForPresentation,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    JPEG2000Lossless,
    JPEGLSLossless,
    RLELossless,
)

from cxr_ft.data.phantom.canvas import Image
from cxr_ft.data.phantom.cases import Picture, Study, View
from cxr_ft.data.phantom.dicom_elements import Header, file_bytes

#: Bits stored and how often, as counted; the rest is 12.
BITS: Mapping[int, float] = MappingProxyType({15: 0.198, 10: 0.008, 14: 0.004})
# Encoders by name, so that the bytes do not hang on which others are installed.
_ENCODERS = MappingProxyType({
    "rle": (RLELossless, "pydicom"), "jpeg-ls": (JPEGLSLossless, "pyjpegls"),
    "jpeg-2000": (JPEG2000Lossless, "pylibjpeg"),
})  # fmt: skip
#: How many films are compressed, by kind.
COMPRESSED: Mapping[str, float] = MappingProxyType({"rle": 0.015, "jpeg-ls": 0.05, "jpeg-2000": 0.015})
# Code meanings of the projection and of the patient's orientation, in MIMIC-CXR's words.
MEANINGS: Mapping[View, tuple[str, str]] = MappingProxyType({
    "PA": ("postero-anterior", "Erect"),
    "AP": ("antero-posterior", ""),
    "LATERAL": ("lateral", "Erect"),
})  # fmt: skip
# Of type 2 in the standard: they must be there, and may be empty (PS3.5 7.4.3).
_EMPTY = (
    "AccessionNumber", "StudyID", "ReferringPhysicianName", "PatientName", "PatientID", "PatientBirthDate",
    "PatientSex",
)  # fmt: skip
_SPACE = uuid.UUID("5c1d7b0e-9a35-4b0f-8b42-cf2f6f2f9b10")


@dataclass(frozen=True, kw_only=True)
class Style:
    """The variable parts of a header. `low` and `high` are the stored values of black and white, before polarity.

    `pack` names the compression, or is "". The booleans say which tags are written, or which of two dialects.
    """

    bits: int
    inverse: bool
    voi: Literal["window", "lut", "none"]
    low: int
    high: int
    curve: float
    has_view: bool
    pack: str
    implicit: bool
    digital: bool
    rescale: bool
    body_part: bool
    orientation: bool
    spacing: bool
    burned_in: bool
    technique: bool

    @property
    def top(self) -> int:
        """Return the largest value that can be stored."""
        return (1 << self.bits) - 1

    @classmethod
    def sample(cls, rng: np.random.Generator) -> "Style":
        """Return a header at random, of the frequencies seen in real ones."""
        bits, draw, low, high = _drawn(rng, BITS, 12), rng.random(), rng.uniform(0, 0.22), rng.uniform(0.63, 1)
        # Those with 15 bits mostly have a window, those with 10 mostly neither.
        window, lut = {15: (0.91, 1.0), 14: (1.0, 1.0), 10: (0.05, 0.05)}.get(bits, (0.46, 0.95))
        voi: Literal["window", "lut", "none"] = "window" if draw < window else "lut" if draw < lut else "none"
        top = (1 << bits) - 1
        return cls(
            bits=bits,
            # 48 % of the files are MONOCHROME1: whoever ignores polarity turns half of them into negatives.
            inverse=bool(rng.random() < 0.48),
            voi=voi,
            low=0 if voi == "none" else int(low * top),
            high=top if voi == "none" else int(high * top),
            curve=float(rng.uniform(0.8, 1.25)),
            # MIMIC-CXR lacks it in 15,769 of 377,110 images, Open-I in a third of its files.
            has_view=bool(rng.random() > 0.03),
            pack=_drawn(rng, COMPRESSED, ""),
            implicit=bool(rng.random() < 0.15),
            digital=bool(rng.random() < 0.5),
            rescale=bool(rng.random() < 0.6),
            body_part=bool(rng.random() < 0.665),
            orientation=bool(rng.random() < 0.6),
            spacing=bool(rng.random() < 0.66),
            burned_in=bool(rng.random() < 0.55),
            technique=bool(rng.random() < 0.91),
        )


_T = TypeVar("_T", int, str)


def _drawn(rng: np.random.Generator, shares: Mapping[_T, float], other: _T) -> _T:
    names = list(shares)
    names.append(other)
    return names[int(np.searchsorted(np.cumsum(list(shares.values())), rng.random(), side="right"))]


def uid(*names: object) -> str:
    """Return a UID below 2.25 that follows from names alone."""
    # A UUID below 2.25 needs no registered root (PS3.5 B.2); by name, so that an archive's UIDs are the same when made
    # again.
    return f"2.25.{uuid.uuid5(_SPACE, '/'.join(map(str, names))).int}"


def procedure(study: Study) -> str:
    """Return the procedure's name, for the header and the metadata table."""
    if study.portable:
        return "CHEST (PORTABLE AP)"
    return "CHEST (PA AND LAT)" if len(study.pictures) > 1 else "CHEST (SINGLE VIEW)"


def encoded(film: Image, seed: int, study: Study, picture: Picture, style: Style) -> bytes:
    """Return the DICOM file of a film [H, W] (0 air to 1); names and ids of patients are empty, as in MIMIC-CXR."""
    # Compressed pixel data is only defined for explicit VR (PS3.5 A.4).
    implicit = style.implicit and not style.pack
    storage = DigitalXRayImageStorageForPresentation if style.digital else ComputedRadiographyImageStorage
    syntax, plugin = _ENCODERS.get(style.pack, (ImplicitVRLittleEndian if implicit else ExplicitVRLittleEndian, ""))
    # UIDs follow from seed and ids, so that the same archive has the same bytes.
    instance = uid(seed, picture.dicom_id)
    meta: Header = {
        "MediaStorageSOPClassUID": storage,
        "MediaStorageSOPInstanceUID": instance,
        "TransferSyntaxUID": syntax,
        "ImplementationClassUID": uid("implementation"),
        "ImplementationVersionName": "CXR_FT_PHANTOM",
    }
    header: Header = {"SOPClassUID": storage, "SOPInstanceUID": instance}
    header |= _identity(seed, study, picture, style) | _description(film.shape, style) | _display(style)
    words = stored(film, style)
    if style.pack:
        return file_bytes(meta, header, implicit, encapsulate([_packed(words, style, syntax, plugin)]))
    return file_bytes(meta, header | {"PixelData": words.astype("<u2", copy=False).tobytes()}, implicit)


def _packed(words: NDArray[np.uint16], style: Style, syntax: UID, plugin: str) -> bytes:
    return get_encoder(syntax).encode(
        words,
        encoding_plugin=plugin,
        rows=words.shape[0],
        columns=words.shape[1],
        samples_per_pixel=1,
        number_of_frames=1,
        bits_allocated=16,
        bits_stored=style.bits,
        pixel_representation=0,
        photometric_interpretation=_polarity(style),
    )


def stored(film: Image, style: Style) -> NDArray[np.uint16]:
    """Return a film's pixel values: the inverse of what the header's VOI and polarity will do."""
    # The inverse of the LUT's curve: what a viewer makes of the stored values is the film again.
    value = film ** np.float32(1 / style.curve) if style.voi == "lut" else film
    words = np.rint(style.low + value * np.float32(style.high - style.low)).astype(np.uint16)
    shown: NDArray[np.uint16] = style.top - words if style.inverse else words
    return shown


def _identity(seed: int, study: Study, picture: Picture, style: Style) -> Header:
    when: datetime = study.when
    view, orientation = MEANINGS[picture.view]
    header: Header = {
        # Processed for viewing (DERIVED), made of the patient by the examination itself (PRIMARY): PS3.3 C.7.6.1.1.2.
        "ImageType": ["DERIVED", "PRIMARY"],
        "StudyDate": f"{when:%Y%m%d}",
        "StudyTime": f"{when:%H%M%S}.{when.microsecond // 1000:03d}",
        **dict.fromkeys(_EMPTY, ""),
        "StudyInstanceUID": uid(seed, study.study_id),
        "SeriesInstanceUID": uid(seed, study.study_id, picture.view),
        "SeriesNumber": 1,
        "InstanceNumber": 1 + study.pictures.index(picture),
        "Modality": "DX" if style.digital else "CR",
        "Manufacturer": "cxr_ft phantom, synthetic",
        "PerformedProcedureStepDescription": procedure(study),
        "ProcedureCodeSequence": [_code(procedure(study))],
        "ViewCodeSequence": [_code(view)],
    }
    if style.has_view:
        # DX knows no LATERAL but LL and RL, by the side at the detector; tables of MIMIC-CXR have both words.
        header["ViewPosition"] = "LL" if picture.view == "LATERAL" and style.digital else picture.view
    if style.body_part:
        header["BodyPartExamined"] = "CHEST"
    if style.orientation:
        header["PatientOrientation"] = ["A", "F"] if picture.view == "LATERAL" else ["L", "F"]
    if style.technique:
        # In kV. Upright films are taken through a grid at a high voltage, which lets ribs fade; bedside films at a
        # lower one.
        header |= {"KVP": "90" if study.portable else "120", "Sensitivity": "400" if style.digital else "200"}
    if orientation:
        header["PatientOrientationCodeSequence"] = [_code(orientation)]
    return header


def _code(meaning: str) -> Header:
    return {"CodeValue": "1", "CodingSchemeDesignator": "99CXRFT", "CodeMeaning": meaning}


def _polarity(style: Style) -> str:
    return "MONOCHROME1" if style.inverse else "MONOCHROME2"


def _description(shape: tuple[int, ...], style: Style) -> Header:
    # In mm: the short side of a plate of 35 x 43 cm.
    spacing = [f"{350 / min(shape):.6g}"] * 2
    header: Header = {
        "Rows": shape[0],
        "Columns": shape[1],
        "SamplesPerPixel": 1,
        "PixelRepresentation": 0,
        "BitsAllocated": 16,
        "BitsStored": style.bits,
        "HighBit": style.bits - 1,
        "PhotometricInterpretation": _polarity(style),
        "ImagerPixelSpacing": spacing,
    }
    if style.spacing:
        header["PixelSpacing"] = spacing
    if style.burned_in:
        header["BurnedInAnnotation"] = "NO"
    if style.digital:
        # The DX module requires these (PS3.3 C.8.11.1 and C.8.11.3), the older CR module does not.
        header["PresentationIntentType"] = "FOR PRESENTATION"
        # INVERSE says what MONOCHROME1 says already: a reader that inverts for both shows a negative.
        header["PresentationLUTShape"] = "INVERSE" if style.inverse else "IDENTITY"
        header["PixelIntensityRelationship"] = "LOG"
        # 1 where low values mean few photons, as behind bone in a MONOCHROME1 film; else -1.
        header["PixelIntensityRelationshipSign"] = 1 if style.inverse else -1
    # A rescale that changes nothing, which DX prescribes and CR allows.
    if style.rescale or style.digital:
        header |= {"RescaleIntercept": "0", "RescaleSlope": "1", "RescaleType": "US"}
    return header


def _display(style: Style) -> Header:
    # Of MONOCHROME1 the stored values are mirrored, and the window with them: polarity comes after the VOI stage
    # (PS3.3 C.7.6.3.1.2).
    low, high = (style.top - style.high, style.top - style.low) if style.inverse else (style.low, style.high)
    if style.voi == "none":
        return {}
    if style.voi == "lut":
        # The LUT covers only the stored range; values beyond it take its ends (PS3.3 C.11.2.1.1).
        rise = np.linspace(0, 1, high - low + 1) ** style.curve
        shown = np.rint(65535 * (1 - rise[::-1] if style.inverse else rise)).astype("<u2")
        lut: Header = {"LUTDescriptor": [len(shown), low, 16], "LUTExplanation": "NORMAL", "LUTData": shown.tobytes()}
        return {"VOILUTSequence": [lut]}
    # PS3.3 C.11.2.1.2.1: LINEAR shows black at centre - width / 2 and white one below centre + width / 2.
    centre, width = f"{(low + high + 1) / 2:.10g}", str(high - low + 1)
    if style.bits != 14:
        return {"WindowCenter": centre, "WindowWidth": width}
    # These give three windows; the first is the one to show.
    narrow, wide = str(round(0.75 * (high - low + 1))), str(round(1.5 * (high - low + 1)))
    names = ["NORMAL", "HARDER", "SOFTER"]
    return {"WindowCenter": [centre] * 3, "WindowWidth": [width, narrow, wide], "WindowCenterWidthExplanation": names}
