"""Soft shapes in one frame of reference, whatever the film's size.

Frame: x from -1 (left edge) to 1 and y from -1 (top) to 1 along the film's short side; lengths and widths below are in
these units. Images are float32 [H, W].
"""

import math
from collections.abc import Sequence
from functools import cached_property, lru_cache
from itertools import groupby
from operator import itemgetter
from typing import TypeVar

import cv2
import numpy as np
from numpy.typing import NDArray

Image = NDArray[np.float32]
Points = NDArray[np.float64]
Box = tuple[int, int, int, int]
Mask = NDArray[np.uint8]
Pixels = TypeVar("Pixels", Image, Mask)

#: Fractional bits of OpenCV's fixed-point coordinates (1/32 pixel): thin lines must not jump by whole pixels.
_SHIFT = 5
#: Short side, in pixels, of the grid on which soft shapes are drawn.
_SOFT_SIDE = 128
_RAMP = np.arange(256, dtype=np.float32) / 255


class Canvas:
    """A pixel grid and the affine map from the frame to it."""

    def __init__(self, shape: tuple[int, int], matrix: Points) -> None:
        self.shape = shape
        self.matrix = matrix
        # Pixels a unit of the frame: the geometric mean of both axes, since the lateral film stretches them
        # differently.
        self.unit = float(np.sqrt(abs(np.linalg.det(matrix[:, :2]))))

    def coarse(self, side: int = _SOFT_SIDE) -> "Canvas":
        """Return the frame on a grid of at most `side` on its short side; by default, enough for soft shapes."""
        factor = min(1.0, side / min(self.shape))
        height, width = (max(1, round(side * factor)) for side in self.shape)
        ratio = np.array([width / self.shape[1], height / self.shape[0]])
        matrix = self.matrix * ratio[:, None]
        # Pixel positions are those of centres: scaling about corner 0 alone would shift the coarse grid by half a
        # pixel.
        matrix[:, 2] += 0.5 * ratio - 0.5
        return Canvas((height, width), matrix)

    def pixels(self, points: Points) -> Points:
        """Return frame points [N, 2] as pixel positions [N, 2] (x, y)."""
        return points @ self.matrix[:, :2].T + self.matrix[:, 2]

    @cached_property
    def grid(self) -> tuple[Image, Image]:
        """Return the frame's x and y at each pixel, two images [H, W]."""
        inverse = np.linalg.inv(self.matrix[:, :2])
        columns = np.arange(self.shape[1]) - self.matrix[0, 2]
        rows = np.arange(self.shape[0])[:, None] - self.matrix[1, 2]
        x, y = (inverse[axis, 0] * columns + inverse[axis, 1] * rows for axis in (0, 1))
        return x.astype(np.float32), y.astype(np.float32)

    def fill(self, *polygons: Points, soft: float = 0.0, value: float = 1.0) -> Image:
        """Return `value` inside the polygons, 0 outside, edges softened by a Gaussian of standard deviation `soft`."""
        return self.soften(self.filled(*polygons), soft, value)

    def strokes(
        self,
        lines: Sequence[Points] | Points,
        widths: Sequence[float] | Points,
        values: Sequence[float] | Points,
        soft: float = 0.0,
        gain: float = 1.0,
    ) -> Image:
        """Return lines of a width and a value (0..1, times `gain`) each, bright over dark; below a pixel, fainter."""
        return self.soften(self.stroked(lines, widths, values), soft, gain)

    def filled(self, *polygons: Points, value: float = 1.0) -> Mask:
        """Return a mask [H, W] of bytes: `value` (0..1, as 0..255) inside the polygons."""
        image = np.zeros(self.shape, np.uint8)
        colour = round(255 * value)
        for polygon in self._fixed(polygons):
            cv2.fillPoly(image, [polygon], colour, cv2.LINE_AA, _SHIFT)
        return image

    def stroked(
        self,
        lines: Sequence[Points] | Points,
        widths: Sequence[float] | Points,
        values: Sequence[float] | Points,
    ) -> Mask:
        """Return a mask [H, W]: lines of a width and a value (0..1, as 0..255) each, as `strokes` draws them."""
        image = np.zeros(self.shape, np.uint8)
        thick = np.asarray(widths) * self.unit
        # Few colours, so that many lines go in one call.
        colours = np.rint(np.asarray(values) * np.minimum(thick, 1) * 31).astype(int) * 255 // 31
        pens = np.stack([colours, np.maximum(np.rint(thick), 1).astype(int)], axis=1)
        # Dark lines first, so that bright ones lie over them; lines without any brightness are not drawn at all.
        order = np.lexsort(pens.T[::-1])[np.count_nonzero(colours <= 0) :]
        ordered = lines[order] if isinstance(lines, np.ndarray) else [lines[i] for i in order]
        drawn = zip(map(tuple, pens[order].tolist()), self._fixed(ordered), strict=True)
        for (colour, thickness), group in groupby(drawn, key=itemgetter(0)):
            cv2.polylines(image, [line for _, line in group], False, colour, thickness, cv2.LINE_AA, _SHIFT)
        return image

    def soften(self, mask: Mask, soft: float = 0.0, gain: float = 1.0) -> Image:
        """Return a mask of bytes as an image, 255 as `gain`, blurred by a Gaussian of standard deviation `soft`."""
        # Blurred as bytes, four times as fast as floats: steps of 1/255 in a soft edge are far below the noise.
        image: Image = cv2.LUT(_blurred(mask, soft * self.unit), _RAMP * np.float32(gain))
        return image

    def blur(self, image: Image, sigma: float) -> Image:
        """Blur by a Gaussian; `sigma` below a third of a pixel changes nothing."""
        blurred: Image = _blurred(image, sigma * self.unit)
        return blurred

    def dome(self, mask: Image, width: float) -> Image:
        """Return a round profile over a mask: 0 at its edge, rising like an ellipse to 1 at the depth `width`."""
        depth = cv2.distanceTransform((mask > 0.5).astype(np.uint8), cv2.DIST_L2, 5)
        # The way of a ray through a body that is round in depth grows like this from the body's edge.
        rest = 1 - np.minimum(depth / np.float32(max(width * self.unit, 1)), 1)
        height: Image = np.sqrt(1 - rest * rest)
        return height

    def noise(self, rng: np.random.Generator, scale: float) -> Image:
        """Return smooth random values of about zero mean and unit spread, in grains of the size `scale`."""
        cells = [max(2, round(side / (scale * self.unit))) for side in self.shape]
        grains = rng.standard_normal(cells, dtype=np.float32)
        values: Image = cv2.resize(grains, self.shape[::-1], interpolation=cv2.INTER_CUBIC)
        return values

    def take(self, image: Image) -> Image:
        """Return an image of another canvas of the same frame, on this grid."""
        if image.shape == self.shape:
            return image
        taken: Image = cv2.resize(image, self.shape[::-1], interpolation=cv2.INTER_LINEAR)
        return taken

    def _fixed(self, shapes: Sequence[Points] | Points) -> list[NDArray[np.int32]]:
        """Return points as OpenCV's fixed-point pixels, shape by shape."""
        if not len(shapes):
            return []
        if isinstance(shapes, np.ndarray):
            return list(self._fixed([shapes.reshape(-1, 2)])[0].reshape(shapes.shape))
        points = np.rint(self.pixels(np.concatenate(shapes)) * (1 << _SHIFT)).astype(np.int32)
        ends = np.cumsum([len(shape) for shape in shapes]).tolist()
        return [points[start:end] for start, end in zip([0, *ends], ends, strict=False)]


def _blurred(image: Pixels, sigma: float) -> Pixels:
    if sigma < 0.3:
        return image
    # A wide blur leaves nothing that every third, fifth ... pixel would not hold.
    step = 1 + 2 * int(sigma / 2.4)
    few: Pixels = image
    if step > 1:
        few = cv2.blur(image, (step, step), borderType=cv2.BORDER_REPLICATE)[step // 2 :: step, step // 2 :: step]
    # A box of `step` pixels has the variance (step^2 - 1) / 12; the Gaussian on the thinned grid adds what is missing.
    rest = math.sqrt(sigma**2 - (step**2 - 1) / 12) / step
    kernel = cv2.getGaussianKernel(2 * math.ceil(2.5 * rest) + 1, rest, cv2.CV_32F)
    few = cv2.sepFilter2D(few, -1, kernel, kernel, borderType=cv2.BORDER_REPLICATE)
    if step > 1:
        few = cv2.resize(few, image.shape[::-1], interpolation=cv2.INTER_LINEAR)
    return few


def smooth(points: Sequence[tuple[float, float]] | Points, closed: bool = False, rounds: int = 3) -> Points:
    """Cut the corners of lines or polygons [..., N, 2] (Chaikin, 1974), `rounds` times; an open line keeps its ends."""
    line = np.asarray(points, dtype=np.float64)
    # Cutting corners is linear, so one cached matrix serves all lines of as many points.
    cut: Points = _corner_cutting(line.shape[-2], closed, rounds) @ line
    return cut


@lru_cache(maxsize=256)
def _corner_cutting(count: int, closed: bool, rounds: int) -> Points:
    """Return the matrix that cutting corners is: new points from `count` old ones."""
    line = np.eye(count)
    for _ in range(rounds):
        after = np.roll(line, -1, axis=0) if closed else line[1:]
        before = line if closed else line[:-1]
        cut = np.stack([0.75 * before + 0.25 * after, 0.25 * before + 0.75 * after], axis=1).reshape(-1, count)
        line = cut if closed else np.vstack([line[:1], cut, line[-1:]])
    return line


def summed(*masks: Mask) -> Mask:
    """Return the sum of masks, at most 255; the first one is overwritten."""
    total = masks[0]
    for mask in masks[1:]:
        cv2.add(total, mask, dst=total)
    return total


def ribbon(line: Points, widths: NDArray[np.float64] | float) -> Points:
    """Return the polygon [..., 2 N, 2] of a line [..., N, 2] with a width, or one at each point."""
    along = np.empty_like(line)
    along[..., 1:-1, :] = line[..., 2:, :] - line[..., :-2, :]
    along[..., 0, :], along[..., -1, :] = line[..., 1, :] - line[..., 0, :], line[..., -1, :] - line[..., -2, :]
    # 1e-9 keeps two equal neighbouring points from a division by zero.
    reach = np.asarray(widths) / (2 * np.hypot(along[..., 0], along[..., 1]) + 1e-9)
    half = along[..., ::-1] * [-1, 1] * reach[..., None]
    return np.concatenate([line + half, (line - half)[..., ::-1, :]], axis=-2)


def ellipse(x: float, y: float, rx: float, ry: float, angle: float = 0.0, *, points: int = 40) -> Points:
    """Return the polygon of an ellipse; `angle` in radians."""
    c, s = math.cos(angle), math.sin(angle)
    polygon: Points = _circle(points) @ np.array([[rx * c, rx * s], [-ry * s, ry * c]]) + (x, y)
    return polygon


@lru_cache(maxsize=16)
def _circle(points: int) -> Points:
    t = np.linspace(0, 2 * np.pi, points, endpoint=False)
    return np.stack([np.cos(t), np.sin(t)], axis=1)


def box(mask: Image, threshold: float = 0.25) -> Box | None:
    """Return the smallest box (left, top, right, bottom; pixels, right and bottom outside) around a mask, or None."""
    x, y, width, height = cv2.boundingRect((mask > threshold).astype(np.uint8))
    return (x, y, x + width, y + height) if width and height else None
