"""The attenuation of a frontal chest, layer by layer.

The layers are physical: soft tissue, the air that the lungs take out of it, what fills that air again (heart, blood,
fluid, pus), bone, and things that do not belong there. So a sign is drawn by filling air, and hides what lies in it.
"""

from dataclasses import dataclass, field
from functools import lru_cache

import cv2
import numpy as np

from cxr_ft.data.phantom.anatomy import LATERALITIES, Thorax, sign
from cxr_ft.data.phantom.canvas import Canvas, Image, Mask, Points, ellipse, ribbon, smooth, summed
from cxr_ft.data.phantom.random_streams import stream

#: Attenuation that a whole lung takes out of the soft tissue; and that of a vessel in open lung.
AIR = 1.55
VESSEL = 0.42
_MUSCLE = smooth([(0.95, -0.75), (0.45, -0.6), (0.35, -0.25), (0.8, -0.18)], closed=True)


@dataclass(kw_only=True)
class Chest:
    """Layers [H, W] on the fine canvas: `lung` how deep the air is, `open` the share of it still open, both 0..1."""

    canvas: Canvas
    coarse: Canvas
    thorax: Thorax
    tissue: Image
    lung: Image
    open: Image
    vessels: Image
    bone: Image
    dense: Image
    portable: bool = False
    breaks: dict[tuple[str, int], tuple[float, float]] = field(default_factory=dict)

    def close(self, share: Image) -> None:
        """Fill a share (0..1) of the air that is still open."""
        self.open *= 1 - share

    def attenuation(self) -> Image:
        """Return the sum of the layers."""
        # In place from here on: a new image a layer would cost as much as the arithmetic.
        air = np.maximum(self.lung * self.open, 0)
        # A vessel is seen by the air around it, and fades as that is filled; by the root, more slowly than the air
        # itself.
        total: Image = np.sqrt(air)
        total *= self.vessels
        total *= VESSEL
        air *= AIR
        total -= air
        for layer in (self.tissue, self.bone, self.dense):
            total += layer
        return total


def healthy(canvas: Canvas, thorax: Thorax, rng: np.random.Generator, portable: bool) -> Chest:
    """Return a chest without disease, without its bones (`add_bones`, since fractures are decided first)."""
    coarse = canvas.coarse()
    zeros = np.zeros(canvas.shape, np.float32)
    chest = Chest(
        canvas=canvas,
        coarse=coarse,
        thorax=thorax,
        tissue=_tissue(canvas, coarse, thorax, rng),
        lung=_lungs(canvas, coarse, thorax),
        open=np.ones(canvas.shape, np.float32),
        vessels=zeros,
        # Layers that are added to in place need arrays of their own.
        bone=zeros.copy(),
        dense=zeros.copy(),
        portable=portable,
    )
    chest.vessels = vessel_layer(canvas, thorax, thorax.body.seed)
    _heart(chest)
    _airway(chest)
    _stomach(chest, rng)
    return chest


def _tissue(canvas: Canvas, coarse: Canvas, thorax: Thorax, rng: np.random.Generator) -> Image:
    body = thorax.body
    skin = coarse.fill(*thorax.trunk())
    x, y = coarse.grid
    depth = coarse.dome(skin, 0.42) * (1.95 + 0.35 * body.fat)
    # Below the domes there is no air for rays to pass by.
    belly = 0.45 / (1 + np.exp(-(y - 0.55) * 9))
    spine = 0.30 * np.exp(-((x / 0.17) ** 2))
    soft = depth + (belly + spine) * coarse.blur(skin, 0.03) + 0.05 * coarse.noise(rng, 0.35) * skin
    if breasts := thorax.breasts():
        dense = 0.12 + 0.18 * body.breast + 0.16 * body.fat
        soft += dense * coarse.blur(coarse.dome(coarse.fill(*breasts), 0.22), 0.012)
    soft += coarse.fill(
        *(_MUSCLE * [sign(side), 1] for side in LATERALITIES), soft=0.035, value=0.22 if body.sex == "M" else 0.12
    )
    tissue = canvas.take(np.maximum(soft, 0))
    tissue *= canvas.fill(*thorax.trunk(), soft=0.004)
    return tissue


def _lungs(canvas: Canvas, coarse: Canvas, thorax: Thorax) -> Image:
    lungs = [thorax.lung(side) for side in LATERALITIES]
    domes = [thorax.below(side) for side in LATERALITIES]
    air = canvas.take(coarse.blur(coarse.dome(coarse.fill(*lungs), 0.22), 0.006))
    air *= canvas.fill(*lungs, soft=0.006)
    # Behind the dome the lung reaches a little further down.
    filled = 0.86 + 0.14 * coarse.fill(*(dome + np.array([0, 0.16]) for dome in domes), soft=0.05)
    air *= 1 - canvas.fill(*domes, soft=0.005) * canvas.take(filled)
    return air


def _heart(chest: Chest) -> None:
    outline = chest.thorax.silhouette()
    inside = chest.canvas.fill(outline, soft=0.006)
    depth = chest.coarse.blur(chest.coarse.dome(chest.coarse.fill(outline), 0.20), 0.02)
    # Never all of the air: lung lies before and behind the heart, and its vessels are seen through it.
    chest.close(inside * chest.canvas.take(0.50 + 0.42 * depth))
    chest.tissue += inside * chest.canvas.take(0.16 * depth)


def vessel_layer(canvas: Canvas, thorax: Thorax, seed: int, gain: float = 1.0) -> Image:
    """Return the lungs' vessels, 0..1, thinning from the hila outwards; the same tree for the same seed."""
    rng = stream("hila", seed)
    lines, widths = _tree(thorax.hilum("right"), thorax.hilum("left"), seed, gain)
    layer = canvas.strokes(lines, widths, np.minimum(1.0, 0.25 + widths / 0.024), soft=0.0035)
    # The hila are dense knots of vessels, more than the tree of lines alone gives.
    blobs = []
    for side in LATERALITIES:
        x, y = thorax.hilum(side)
        spots = rng.normal(0, 1, (6, 4))
        blobs += [ellipse(x + 0.028 * a, y + 0.055 * b, 0.026 + 0.006 * c, 0.034 + 0.008 * d) for a, b, c, d in spots]
    # The larger of both and not their sum: a vessel within a hilum is not denser than the hilum.
    np.maximum(layer, canvas.fill(*blobs, soft=0.012, value=0.8), out=layer)
    coarse = canvas.coarse()
    # Vessels below a pixel's width are seen as a fine mesh, not one by one.
    mesh: Image = np.abs(coarse.noise(rng, 0.03)) + np.abs(coarse.noise(rng, 0.06))
    layer += canvas.take(np.float32(0.07) * mesh)
    return layer


@lru_cache(maxsize=4)
def _tree(right: tuple[float, float], left: tuple[float, float], seed: int, gain: float) -> tuple[Points, Points]:
    # Kept for the subject's next films.
    rng = stream("vessels", seed)
    both = [branches(rng, x, y, s, gain) for s, (x, y) in ((-1, right), (1, left))]
    return np.concatenate([lines for lines, _ in both]), np.concatenate([widths for _, widths in both])


def branches(rng: np.random.Generator, x: float, y: float, s: int, gain: float) -> tuple[Points, Points]:
    """Return the lines [N, 7, 2] and widths [N] of one lung's vessels, from the hilum (x, y) towards the side `s`."""
    angle = np.array([-1.3, -1.05, -0.8, -0.5, -0.2, 0.1, 0.35, 0.6, 0.8, 1.0, 1.2, 1.35]) + rng.normal(0, 0.13, 12)
    base = np.stack([x + s * rng.normal(0, 0.02, 12), y + 0.06 * angle + rng.normal(0, 0.03, 12)], axis=1)
    width = gain * 0.016 * rng.uniform(0.7, 1.2, 12) * (1 + 0.25 * (angle > 0.3))
    length = 0.17 * rng.uniform(0.75, 1.3, 12)
    lines, widths = [], []
    for _ in range(5):
        steps = 6
        bend = angle[:, None] + np.cumsum(rng.normal(0, 0.09, (len(angle), steps)), axis=1)
        step = np.stack([s * np.cos(bend), np.sin(bend)], axis=2) * (length / steps)[:, None, None]
        path = np.concatenate([base[:, None], base[:, None] + np.cumsum(step, axis=1)], axis=1)
        lines.append(path)
        widths.append(width)
        count = len(angle)
        fork = rng.uniform(0.2, 0.55, (2, count)) * [[-1], [1]]
        where = np.stack([path[:, -1], path[np.arange(count), rng.integers(3, 7, count)]])
        base, angle = where.reshape(-1, 2), (bend[:, -1] + fork).ravel()
        width, length = np.tile(width, 2) * rng.uniform(0.58, 0.74, 2 * count), np.tile(length, 2) * 0.72
    return np.concatenate(lines), np.concatenate(widths)


def _airway(chest: Chest) -> None:
    # The right main bronchus falls more steeply than the left one. The aortic arch pushes the windpipe to the right.
    left, right = (0.14, -0.17), (-0.125, -0.14)
    middle = float(chest.thorax.middle(-0.5)) - 0.012
    carina = (middle, -0.27)
    line = smooth([(middle, -1.3), (middle, -0.6), carina])
    trachea = ribbon(line, np.interp(line[:, 1], [-0.4, -0.27], [0.062, 0.02]))
    bronchi = [ribbon(smooth([carina, (0.5 * (middle + x), -0.23), (x, y)]), 0.038) for x, y in (left, right)]
    tubes = cv2.max(chest.canvas.filled(*bronchi, value=0.28), chest.canvas.filled(trachea, value=0.45))
    chest.tissue -= chest.canvas.soften(tubes, 0.008)


def _stomach(chest: Chest, rng: np.random.Generator) -> None:
    dome = chest.thorax.diaphragm("left")
    top = dome[10]
    size = rng.uniform(0.0, 1.0)
    # The stomach's gas lies below the left dome: readers tell the sides of a film by it.
    bubble = chest.coarse.fill(
        ellipse(top[0] - 0.03, top[1] + 0.05 + 0.09 * size, 0.10 + 0.10 * size, 0.02 + 0.075 * size, 0.15), soft=0.015
    )
    gas = [ellipse(*rng.uniform((-0.6, 0.85), (0.6, 1.3)), *rng.uniform(0.04, 0.12, 2)) for _ in range(5)]
    bowel = chest.coarse.fill(*gas, soft=0.03)
    chest.tissue -= chest.canvas.take(0.55 * bubble + 0.18 * bowel)


def add_haze(chest: Chest, rng: np.random.Generator) -> None:
    """Draw the unevenness of healthy lungs: some denser at the bases or about the hila, none like another."""
    x, y = chest.coarse.grid
    left, right = rng.normal(1, 0.3, 2).astype(np.float32)
    lean = np.where(x > 0, left, right)
    base = rng.uniform(0, 0.30) / (1 + np.exp(-(y - rng.uniform(0.0, 0.3)) * 7))
    root = rng.uniform(0, 0.34) * np.exp(-(((np.abs(x) - 0.22) / 0.22) ** 2) - ((y - 0.02) / 0.35) ** 2)
    # Healthy lungs must vary, or any haze would give a disease away.
    whole = rng.uniform(0, 0.16)
    haze = (base + root + whole) * lean + rng.uniform(0.02, 0.10) * chest.coarse.noise(rng, 0.3)
    chest.close(chest.canvas.take(np.clip(haze, 0, 0.5)))


def add_bones(chest: Chest, rng: np.random.Generator) -> None:
    """Draw ribs (broken where `chest.breaks` says), spine, collar bones, shoulder blades; `rng` poses the arms."""
    # The bones' texture is the body's and the same in every study; only the pose of the arms is the film's.
    lasting = stream("bones", chest.thorax.body.seed)
    uneven: Image = 1 + 0.22 * np.clip(chest.coarse.noise(lasting, 0.16), -2, 2)
    fade: Image = np.clip((np.abs(chest.coarse.grid[0]) - 0.05) / 0.16, 0.15, 1)
    strength = 0.55 + 0.6 * chest.thorax.body.bone
    # Each one's shapes are summed as bytes and softened at once: a float image a shape would cost three times as much.
    layer = chest.canvas.soften(_ribs(chest), 0.0055)
    layer *= chest.canvas.take(np.float32(strength) * uneven * fade)
    layer += chest.canvas.soften(summed(_spine(chest, lasting), *_girdle(chest, rng)), 0.0055, strength)
    chest.bone += layer


def _ribs(chest: Chest) -> Mask:
    canvas, thorax = chest.canvas, chest.thorax
    back: list[Points] = []
    front: list[Points] = []
    width = 0.040 + 0.0015 * np.minimum(np.arange(1, 12), 6)[:, None]
    for side in LATERALITIES:
        posterior, anterior = thorax.ribs(side)
        whole = ribbon(posterior, width)
        for number in range(1, 12):
            step = chest.breaks.get((side, number))
            pieces = _broken(posterior[number - 1], step) if step else []
            back += [ribbon(piece, width[number - 1]) for piece in pieces] or [whole[number - 1]]
        # The front parts of the lower ribs lie over the abdomen, where they hardly show. Ribs widen to the front.
        front += [*ribbon(anterior[:7], width[:7] * np.linspace(1.0, 1.25, anterior.shape[1]))]
    rims = [half for strip in (*back, *front) for half in np.split(strip, 2)]
    values = [0.12, 0.19] * len(back) + [0.085, 0.085] * len(front)
    y = np.linspace(-0.7, 0.7, 30)
    edges = [np.stack([sign(side) * (thorax.wall(y) + 0.012), y], 1) for side in LATERALITIES]
    return summed(
        canvas.filled(*back, value=0.20),
        canvas.filled(*front, value=0.13),
        canvas.stroked(rims, [0.008] * len(rims), values),
        canvas.stroked(edges, [0.03, 0.03], [0.12, 0.12]),
    )


def _broken(line: Points, broken: tuple[float, float]) -> list[Points]:
    at, step = broken
    cut = max(3, min(len(line) - 3, round(at * len(line))))
    return [line[:cut], line[cut:] + np.array([0, step])]


def _spine(chest: Chest, rng: np.random.Generator) -> Mask:
    canvas, thorax = chest.canvas, chest.thorax
    index = np.arange(22)
    top = np.cumsum(np.full(22, 0.128) * np.linspace(0.82, 1.3, 22)) - 1.35
    half, height = 0.058 + 0.0018 * index, 0.105 * (0.82 + 0.024 * index)
    x = thorax.middle(top) + rng.normal(0, 0.002, 22)
    corners = [(x - half, top), (x, top + 0.006), (x + half, top), (x + 0.88 * half, top + height / 2)]
    corners += [(x + half, top + height), (x, top + height - 0.006), (x - half, top + height)]
    corners.append((x - 0.88 * half, top + height / 2))
    bodies = smooth(np.array(corners).transpose(2, 0, 1), closed=True, rounds=2)
    ends = np.array([[(x - half, y), (x + half, y)] for y in (top, top + height)])
    plates = ends.transpose(0, 3, 1, 2).reshape(-1, 2, 2)
    # Of a vertebra two pedicles and a spinous process are seen end-on.
    rings = [
        *_each(x - 0.62 * half, top + 0.4 * height, ellipse(0, 0, 0.012, 0.02, points=16)),
        *_each(x + 0.62 * half, top + 0.4 * height, ellipse(0, 0, 0.012, 0.02, points=16)),
        *_each(x, top + 0.75 * height, ellipse(0, 0, 0.008, 0.028, points=12)),
    ]
    return summed(
        canvas.filled(*bodies, value=0.16),
        canvas.stroked(plates, [0.010] * len(plates), [0.16] * len(plates)),
        canvas.filled(*rings, value=0.10),
    )


def _each(x: Points, y: Points, shape: Points) -> Points:
    """Return a shape about 0, at each of the places: [N, points, 2]."""
    return np.stack([x, y], axis=1)[:, None] + shape


def _girdle(chest: Chest, rng: np.random.Generator) -> tuple[Mask, ...]:
    canvas, thorax = chest.canvas, chest.thorax
    # For a PA film the shoulders are rolled forwards, which draws the blades out of the lungs; at the bedside they
    # stay.
    out = (0.10 if not chest.portable else -0.04) + rng.normal(0, 0.025)
    # A patient who leans back is filmed a little from below: the collar bones, in front, are thrown higher.
    height = 0.03 + 0.05 * chest.portable + rng.normal(0, 0.02)
    bones, blades, edges = [], [], []
    for side in LATERALITIES:
        s = sign(side)
        line = thorax.clavicle(side, height)
        bones.append(ribbon(line, 0.048 + 0.022 * np.linspace(1, 0, len(line)) ** 3))
        shaft = smooth([(s * 1.0, -0.68), (s * 1.06, -0.45), (s * 1.12, 0.3)])
        bones.append(ribbon(shaft, np.interp(shaft[:, 1], [-0.7, -0.5], [0.17, 0.085])))
        border = smooth([(s * (0.62 + out), -0.72), (s * (0.60 + out), -0.4), (s * (0.68 + out), 0.0)], rounds=3)
        blade = np.vstack([border, [(s * (0.80 + out), -0.25), (s * (0.95 + out), -0.6)]])
        blades.append(blade)
        edges += [border, np.vstack([border[-1:], [(s * (0.80 + out), -0.25), (s * (0.93 + out), -0.55)]])]
    rims = [np.vstack([bone, bone[:1]]) for bone in bones]
    lines, widths = [*rims, *edges], [0.010] * len(rims) + [0.014] * len(edges)
    return (
        canvas.filled(*bones, value=0.34),
        canvas.filled(*blades, value=0.10),
        canvas.stroked(lines, widths, [0.20] * len(lines)),
    )
