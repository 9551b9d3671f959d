"""The attenuation of a frontal chest, layer by layer.

The layers are physical: soft tissue, the air that the lungs take out of it, what fills that air again (heart, blood,
fluid, pus), bone, and things that do not belong there. So a sign is drawn by filling air, and hides what lies in it.
"""

from dataclasses import dataclass, field
from functools import lru_cache

import numpy as np

from cxr_ft.data.phantom.anatomy import SIDES, Thorax, sign
from cxr_ft.data.phantom.canvas import Canvas, Image, Points, ellipse, ribbon, smooth
from cxr_ft.data.phantom.chance import stream

AIR = 1.55
VESSEL = 0.42


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
        """The sum of the layers."""
        air = np.maximum(self.lung * self.open, 0)
        total: Image = np.sqrt(air)
        total *= self.vessels
        total *= VESSEL
        air *= AIR
        total -= air
        for layer in (self.tissue, self.bone, self.dense):
            total += layer
        return total


def healthy(canvas: Canvas, thorax: Thorax, rng: np.random.Generator, portable: bool) -> Chest:
    """A chest without disease, without its bones (`add_bones`, since fractures are decided first)."""
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
    belly = 0.45 / (1 + np.exp(-(y - 0.55) * 9))
    spine = 0.30 * np.exp(-((x / 0.17) ** 2))
    soft = depth + (belly + spine) * coarse.blur(skin, 0.03) + 0.05 * coarse.noise(rng, 0.35) * skin
    for breast in thorax.breasts():
        soft += coarse.blur(coarse.dome(coarse.fill(breast), 0.22), 0.012) * (
            0.12 + 0.18 * body.breast + 0.16 * body.fat
        )
    for side in SIDES:
        s = sign(side)
        muscle = coarse.fill(smooth([(s * 0.95, -0.75), (s * 0.45, -0.6), (s * 0.35, -0.25), (s * 0.8, -0.18)], True))
        soft += coarse.blur(muscle, 0.035) * (0.22 if body.sex == "M" else 0.12)
    return np.maximum(canvas.take(soft), 0) * canvas.fill(*thorax.trunk(), soft=0.004)


def _lungs(canvas: Canvas, coarse: Canvas, thorax: Thorax) -> Image:
    lungs = [thorax.lung(side) for side in SIDES]
    domes = [thorax.below(side) for side in SIDES]
    depth = canvas.take(coarse.blur(coarse.dome(coarse.fill(*lungs), 0.22), 0.006)) * canvas.fill(*lungs, soft=0.006)
    # Behind the dome the lung reaches a little further down.
    recess = canvas.take(coarse.fill(*(dome + np.array([0, 0.16]) for dome in domes), soft=0.05))
    air: Image = depth * (1 - canvas.fill(*domes, soft=0.005) * (0.86 + 0.14 * recess))
    return air


def _heart(chest: Chest) -> None:
    outline = chest.thorax.silhouette()
    inside = chest.canvas.fill(outline, soft=0.006)
    depth = chest.canvas.take(chest.coarse.blur(chest.coarse.dome(chest.coarse.fill(outline), 0.20), 0.02))
    chest.close(inside * (0.50 + 0.42 * depth))
    chest.tissue += 0.16 * inside * depth


def vessel_layer(canvas: Canvas, thorax: Thorax, seed: int, gain: float = 1.0) -> Image:
    """The lungs' vessels, 0..1, thinning from the hila outwards; the same tree for the same seed."""
    rng = stream("hila", seed)
    lines, widths = _tree(thorax.hilum("right"), thorax.hilum("left"), seed, gain)
    layer = canvas.strokes(lines, widths, np.minimum(1.0, 0.25 + np.asarray(widths) / 0.024), soft=0.0035)
    for side in SIDES:
        x, y = thorax.hilum(side)
        spots = rng.normal(0, 1, (6, 4))
        blobs = [ellipse(x + 0.028 * a, y + 0.055 * b, 0.026 + 0.006 * c, 0.034 + 0.008 * d) for a, b, c, d in spots]
        layer = np.maximum(layer, 0.8 * canvas.fill(*blobs, soft=0.012))
    coarse = canvas.coarse()
    mesh: Image = np.abs(coarse.noise(rng, 0.03)) + np.abs(coarse.noise(rng, 0.06))
    layer += np.float32(0.07) * canvas.take(mesh)
    return layer


@lru_cache(maxsize=4)
def _tree(
    right: tuple[float, float], left: tuple[float, float], seed: int, gain: float
) -> tuple[list[Points], list[float]]:
    # Kept for the subject's next films.
    rng = stream("vessels", seed)
    both = [branch for s, (x, y) in ((-1, right), (1, left)) for branch in branches(rng, x, y, s, gain)]
    return [line for line, _ in both], [width for _, width in both]


def branches(rng: np.random.Generator, x: float, y: float, s: int, gain: float) -> list[tuple[Points, float]]:
    """The lines and widths of one lung's vessels, from the hilum (x, y) towards the side `s`."""
    angle = np.array([-1.3, -1.05, -0.8, -0.5, -0.2, 0.1, 0.35, 0.6, 0.8, 1.0, 1.2, 1.35]) + rng.normal(0, 0.13, 12)
    base = np.stack([x + s * rng.normal(0, 0.02, 12), y + 0.06 * angle + rng.normal(0, 0.03, 12)], axis=1)
    width = gain * 0.016 * rng.uniform(0.7, 1.2, 12) * (1 + 0.25 * (angle > 0.3))
    length = 0.17 * rng.uniform(0.75, 1.3, 12)
    found: list[tuple[Points, float]] = []
    for _ in range(5):
        steps = 6
        bend = angle[:, None] + np.cumsum(rng.normal(0, 0.09, (len(angle), steps)), axis=1)
        step = np.stack([s * np.cos(bend), np.sin(bend)], axis=2) * (length / steps)[:, None, None]
        path = np.concatenate([base[:, None], base[:, None] + np.cumsum(step, axis=1)], axis=1)
        found += [(line, w) for line, w in zip(path, width, strict=True)]
        count = len(angle)
        fork = rng.uniform(0.2, 0.55, (2, count)) * [[-1], [1]]
        where = np.stack([path[:, -1], path[np.arange(count), rng.integers(3, 7, count)]])
        base, angle = where.reshape(-1, 2), (bend[:, -1] + fork).ravel()
        width, length = np.tile(width, 2) * rng.uniform(0.58, 0.74, 2 * count), np.tile(length, 2) * 0.72
    return found


def _airway(chest: Chest) -> None:
    left, right = (0.14, -0.17), (-0.125, -0.14)
    middle = float(chest.thorax.middle(-0.5)) - 0.012
    carina = (middle, -0.27)
    line = smooth([(middle, -1.3), (middle, -0.6), carina])
    trachea = ribbon(line, np.interp(line[:, 1], [-0.4, -0.27], [0.062, 0.02]))
    bronchi = [ribbon(smooth([carina, (0.5 * (middle + x), -0.23), (x, y)]), 0.038) for x, y in (left, right)]
    tube = 0.45 * chest.canvas.fill(trachea, soft=0.008)
    chest.tissue -= np.maximum(tube, 0.28 * chest.canvas.fill(*bronchi, soft=0.012))


def _stomach(chest: Chest, rng: np.random.Generator) -> None:
    dome = chest.thorax.diaphragm("left")
    top = dome[10]
    size = rng.uniform(0.0, 1.0)
    bubble = chest.coarse.fill(
        ellipse(top[0] - 0.03, top[1] + 0.05 + 0.09 * size, 0.10 + 0.10 * size, 0.02 + 0.075 * size, 0.15), soft=0.015
    )
    gas = [ellipse(*rng.uniform((-0.6, 0.85), (0.6, 1.3)), *rng.uniform(0.04, 0.12, 2)) for _ in range(5)]
    bowel = chest.coarse.fill(*gas, soft=0.03)
    chest.tissue -= chest.canvas.take(0.55 * bubble + 0.18 * bowel)


def add_haze(chest: Chest, rng: np.random.Generator) -> None:
    """The unevenness of healthy lungs: some denser at the bases or about the hila, none like another."""
    x, y = chest.coarse.grid
    left, right = rng.normal(1, 0.3, 2).astype(np.float32)
    lean = np.where(x > 0, left, right)
    base = rng.uniform(0, 0.30) / (1 + np.exp(-(y - rng.uniform(0.0, 0.3)) * 7))
    root = rng.uniform(0, 0.34) * np.exp(-(((np.abs(x) - 0.22) / 0.22) ** 2) - ((y - 0.02) / 0.35) ** 2)
    whole = rng.uniform(0, 0.16)
    haze = (base + root + whole) * lean + rng.uniform(0.02, 0.10) * chest.coarse.noise(rng, 0.3)
    chest.close(chest.canvas.take(np.clip(haze, 0, 0.5)))


def add_bones(chest: Chest, rng: np.random.Generator) -> None:
    """Ribs (broken where `chest.breaks` says), spine, collar bones, shoulder blades; `rng` poses the arms."""
    body = chest.thorax.body
    lasting = stream("bones", body.seed)
    uneven = chest.canvas.take(1 + 0.22 * np.clip(chest.coarse.noise(lasting, 0.16), -2, 2))
    layers = _ribs(chest)
    layers *= uneven
    layers += _spine(chest, lasting)
    layers += _girdle(chest, rng)
    layers *= 0.55 + 0.6 * body.bone
    chest.bone += layers


def _ribs(chest: Chest) -> Image:
    canvas, thorax = chest.canvas, chest.thorax
    back, front, rims, rim_values = [], [], [], []
    for side in SIDES:
        for number in range(1, 12):
            posterior, anterior = thorax.rib(side, number)
            width = 0.040 + 0.0015 * min(number, 6)
            for piece in _broken(posterior, chest.breaks.get((side, number))):
                strip = ribbon(piece, width)
                back.append(strip)
                rims += [strip[: len(piece)], strip[len(piece) :]]
                rim_values += [0.5, 0.8]
            if number <= 7:
                strip = ribbon(anterior, width * np.linspace(1.0, 1.25, len(anterior)))
                front.append(strip)
                rims += [strip[: len(anterior)], strip[len(anterior) :]]
                rim_values += [0.35, 0.35]
    fade: Image = np.clip((np.abs(chest.coarse.grid[0]) - 0.05) / 0.16, 0.15, 1)
    layer = canvas.fill(*back, soft=0.006, value=0.20)
    layer += canvas.fill(*front, soft=0.009, value=0.13)
    layer += canvas.strokes(rims, [0.008] * len(rims), rim_values, soft=0.004, gain=0.24)
    edge = [np.stack([sign(s) * (thorax.wall(y) + 0.012), y], 1) for s in SIDES for y in [np.linspace(-0.7, 0.7, 30)]]
    layer += canvas.strokes(edge, [0.03, 0.03], [1, 1], soft=0.008, gain=0.12)
    layer *= canvas.take(fade)
    return layer


def _broken(line: Points, broken: tuple[float, float] | None) -> list[Points]:
    if broken is None:
        return [line]
    at, step = broken
    cut = max(3, min(len(line) - 3, round(at * len(line))))
    return [line[:cut], line[cut:] + np.array([0, step])]


def _spine(chest: Chest, rng: np.random.Generator) -> Image:
    canvas, thorax = chest.canvas, chest.thorax
    tops = np.cumsum(np.full(22, 0.128) * np.linspace(0.82, 1.3, 22)) - 1.35
    bodies, plates, rings = [], [], []
    for index, top in enumerate(tops):
        half, height = 0.058 + 0.0018 * index, 0.105 * (0.82 + 0.024 * index)
        x = float(thorax.middle(top)) + rng.normal(0, 0.002)
        corners = [(x - half, top), (x, top + 0.006), (x + half, top), (x + 0.88 * half, top + height / 2)]
        corners += [(x + half, top + height), (x, top + height - 0.006), (x - half, top + height)]
        bodies.append(smooth([*corners, (x - 0.88 * half, top + height / 2)], closed=True, rounds=2))
        plates += [np.array([(x - half, y), (x + half, y)]) for y in (top, top + height)]
        rings += [ellipse(x + s * 0.62 * half, top + 0.4 * height, 0.012, 0.02, points=16) for s in (-1, 1)]
        rings += [ellipse(x, top + 0.75 * height, 0.008, 0.028, points=12)]
    layer = canvas.fill(*bodies, soft=0.006, value=0.16)
    layer += canvas.strokes(plates, [0.010] * len(plates), [1] * len(plates), soft=0.004, gain=0.16)
    layer += canvas.fill(*rings, soft=0.004, value=0.10)
    return layer


def _girdle(chest: Chest, rng: np.random.Generator) -> Image:
    canvas, thorax = chest.canvas, chest.thorax
    out = (0.10 if not chest.portable else -0.04) + rng.normal(0, 0.025)
    height = 0.03 + 0.05 * chest.portable + rng.normal(0, 0.02)
    bones, blades, edges = [], [], []
    for side in SIDES:
        s = sign(side)
        line = thorax.clavicle(side, height)
        bones.append(ribbon(line, 0.048 + 0.022 * np.linspace(1, 0, len(line)) ** 3))
        shaft = smooth([(s * 1.0, -0.68), (s * 1.06, -0.45), (s * 1.12, 0.3)])
        bones.append(ribbon(shaft, np.interp(shaft[:, 1], [-0.7, -0.5], [0.17, 0.085])))
        border = smooth([(s * (0.62 + out), -0.72), (s * (0.60 + out), -0.4), (s * (0.68 + out), 0.0)], rounds=3)
        blade = np.vstack([border, [(s * (0.80 + out), -0.25), (s * (0.95 + out), -0.6)]])
        blades.append(blade)
        edges += [border, np.vstack([border[-1:], [(s * (0.80 + out), -0.25), (s * (0.93 + out), -0.55)]])]
    layer = canvas.fill(*bones, soft=0.007, value=0.34)
    layer += canvas.fill(*blades, soft=0.012, value=0.10)
    rims = [np.vstack([bone, bone[:1]]) for bone in bones]
    layer += canvas.strokes(rims, [0.010] * len(rims), [1] * len(rims), soft=0.005, gain=0.20)
    layer += canvas.strokes(edges, [0.014] * len(edges), [1] * len(edges), soft=0.006, gain=0.20)
    return layer
