"""Resample an image: exact area means where it shrinks, bilinear where it grows.

OpenCV's area mean is scalar code, and on a whole radiograph most of the time that reading one takes. So rows are
averaged here, a band at a time while it is in the processor's cache: grey levels by look-up, then a product with the
rows' shares. That leaves OpenCV a few hundred rows.
"""

import cv2
import numpy as np
import numpy.typing as npt

from cxr_ft.data.dicom.greyscale import Grey, Image, Levels

#: Rows in a band: at 2,544 columns of float32 some 400 KB.
BAND = 40


def resample(image: Image, levels: Levels, height: int, width: int) -> npt.NDArray[np.uint8]:
    """Return an image [H, W] or [H, W, 3] as grey levels, uint8 [height, width].

    Area mean along the sides that shrink, then linear along those that grow, and one rounding at the end.
    """
    # Rows first: the image is stored row by row, so a band of them fits the cache.
    rows, columns = min(height, image.shape[0]), min(width, image.shape[1])
    grey = _rows(image, levels, rows)
    for side, method in (((columns, rows), cv2.INTER_AREA), ((width, height), cv2.INTER_LINEAR)):
        # Where no side changes OpenCV would copy the image for nothing.
        if grey.shape != side[::-1]:
            grey = cv2.resize(grey, side, interpolation=method)
    np.rint(grey, out=grey)
    return grey.astype(np.uint8)


def _rows(image: Image, levels: Levels, rows: int) -> Grey:
    """Return the grey levels [rows, W], each row the mean over its share of the image's rows."""
    edges = np.linspace(0, len(image), rows + 1)
    # Bands end at edges of means, so no mean needs rows of two bands.
    step = max(1, round(BAND * rows / len(image)))
    means = np.empty((rows, image.shape[1]), dtype=np.float32)
    for at in range(0, rows, step):
        ends = edges[at : at + step + 1]
        first, last = int(ends[0]), int(np.ceil(ends[-1]))
        # Grey levels before the mean: a window or LUT is not linear, and the mean of stored words would be another
        # grey.
        band = levels(image[first:last])
        if rows == len(image):
            means[at : at + step] = band
        else:
            np.matmul(_shares(ends, first, last), band, out=means[at : at + step])
    return means


def _shares(ends: npt.NDArray[np.float64], first: int, last: int) -> Grey:
    """Return the weight of each row from `first` to `last` in each mean between neighbouring `ends`: [means, rows]."""
    row = np.arange(first, last)
    overlap = np.minimum(ends[1:, None], row + 1) - np.maximum(ends[:-1, None], row)
    shares: Grey = (np.maximum(overlap, 0) / (ends[1] - ends[0])).astype(np.float32)
    return shares
