"""Files with tags drawn at random, against a rendering in float64 that shares no code with the package."""

import warnings

import numpy as np
import pytest
from dicom_files import lut, write_dicom
from pydicom import DataElement, uid

from cxr_ft.data.dicom import read_xray

PLAIN = (uid.ImplicitVRLittleEndian, uid.ExplicitVRLittleEndian, uid.DeflatedExplicitVRLittleEndian, uid.RLELossless)
CODED = (uid.JPEGLosslessSV1, uid.JPEGLSLossless, uid.JPEG2000Lossless, uid.HTJ2KLossless)


def draw(rng):
    """Words, their tags and syntax, and the grey levels in float64 that they stand for."""
    coded = rng.random() < 0.4
    syntax = (CODED if coded else PLAIN)[rng.integers(4)]
    allocated = 16 if coded else int(rng.choice([8, 16, 16, 32]))
    stored = int(rng.integers(9, 17)) if allocated == 16 else int(rng.integers(allocated // 2, allocated + 1))
    high = stored - 1 if coded or rng.random() < 0.5 else int(rng.integers(stored - 1, allocated))
    signed, inverted = (bool(draw) for draw in rng.integers(2, size=2))
    rows, columns = rng.integers(3, 90, 2)
    slope = np.add.outer(np.arange(rows) * rng.random(), np.arange(columns) * rng.random())
    noisy = slope / slope.max() + rng.normal(0, 0.05, slope.shape)
    pattern = np.clip(noisy * (2**stored - 1), 0, 2**stored - 1).astype(np.int64)
    others = 0 if coded else rng.integers(0, 2**allocated, slope.shape) & ~((2**stored - 1) << (high + 1 - stored))
    words = (pattern << (high + 1 - stored) | others).astype(f"u{allocated // 8}")
    values = np.where(signed & (pattern >= 2 ** (stored - 1)), pattern - 2**stored, pattern)
    tags = {"BitsStored": stored, "HighBit": high, "PixelRepresentation": int(signed)}
    tags["PhotometricInterpretation"] = "MONOCHROME1" if inverted else "MONOCHROME2"
    padding = np.zeros(values.shape, dtype=bool)
    if rng.random() < 0.3 and stored <= 15:
        first = int(rng.choice(values.ravel()))
        last = first + int(rng.integers(0, 2 ** (stored - 4)))
        for keyword, value in (("PixelPaddingValue", first), ("PixelPaddingRangeLimit", last)):
            tags[keyword] = DataElement(keyword, "SS" if signed else "US", value)
        padding = (values >= first) & (values <= last)
    ends = np.array([-(2 ** (stored - 1)), 2 ** (stored - 1) - 1] if signed else [0, 2**stored - 1])
    grey = shown(values, ends, padding, tags, rng)
    if grey is None:
        return words, tags, syntax, np.zeros(words.shape)
    return words, tags, syntax, np.where(padding, 0, 255 - grey if inverted else grey)


def shown(values, ends, padding, tags, rng):
    """Modality and VOI stage, put into `tags`; None for an image without contrast."""
    if rng.random() < 0.5:
        slope, intercept = float(rng.choice([1, -1, 0.5, -2.25, 3])), float(rng.choice([0, -1024, 100.5]))
        tags |= {"RescaleSlope": slope, "RescaleIntercept": intercept}
        values, ends = values * slope + intercept, ends * slope + intercept
    low, high = values.min(), values.max()
    kind = rng.choice(["none", "LINEAR", "LINEAR_EXACT", "SIGMOID", "LUT"])
    if kind == "none":
        seen = values[~padding]
        if not seen.size or np.ptp(seen) == 0:
            return None
        return 255 * np.clip((values - seen.min()) / np.ptp(seen), 0, 1)
    if kind == "LUT":
        bits, count = int(rng.choice([8, 10, 12, 16])), int(rng.integers(2, 600))
        entries = rng.integers(0, 2**bits, count)
        first = int(np.clip(rng.uniform(low, high), -(2**15), 2**15 - 1))
        first = first if ends.min() < 0 else max(first, 0)
        tags["VOILUTSequence"] = lut(first, entries, bits)
        return entries[np.clip(np.rint(values) - first, 0, count - 1).astype(int)] * 255 / (2**bits - 1)
    centre, width = (float(f"{x:.9g}") for x in (rng.uniform(low, high), max(1, rng.uniform(0.01, 1.2) * (high - low))))
    tags |= {"WindowCenter": f"{centre:.9g}", "WindowWidth": f"{width:.9g}", "VOILUTFunction": kind}
    if kind == "SIGMOID":
        return 255 / (1 + np.exp(np.clip(-4 * (values - centre) / width, -700, 700)))
    if kind == "LINEAR_EXACT":
        return 255 * np.clip((values - centre) / width + 0.5, 0, 1)
    inside = ((values - (centre - 0.5)) / max(width - 1, 1e-9) + 0.5) * 255
    above = values > centre - 0.5 + (width - 1) / 2
    return np.where(above, 255, np.where(values <= centre - 0.5 - (width - 1) / 2, 0, inside))


def area_mean(grey, *shape):
    for axis, new in enumerate(shape):
        edges, pixel = np.linspace(0, grey.shape[axis], new + 1), np.arange(grey.shape[axis])
        shares = np.minimum(edges[1:, None], pixel + 1) - np.maximum(edges[:-1, None], pixel)
        grey = np.moveaxis(np.tensordot(np.clip(shares, 0, None), grey, (1, axis)), 0, axis) / (edges[1] - edges[0])
    return grey


@pytest.mark.parametrize("seeds", [range(200), pytest.param(range(200, 2000), marks=pytest.mark.slow)])
def test_any_mix_of_tags_at_any_size(tmp_path, seeds):
    for seed in seeds:
        rng = np.random.default_rng(seed)
        words, tags, syntax, grey = draw(rng)
        file = write_dicom(tmp_path / "image.dcm", words, syntax=syntax, **tags)
        size = int(rng.integers(1, min(words.shape) + 1))
        scale = size / min(words.shape)
        small = area_mean(grey, *(max(1, round(side * scale)) for side in words.shape))
        with warnings.catch_warnings(action="error"):
            for picture, expected in ((read_xray(file), grey), (read_xray(file, size), small)):
                assert picture.shape == expected.shape, seed
                assert np.abs(picture - expected).max() <= 0.5 + 1e-3, (seed, tags)
