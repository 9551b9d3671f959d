"""Signs of disease in a frontal chest, each drawn by what it does to air, vessels, bone and outlines.

A `Sign` is a study's; two films of the study show it in the same place. Severity runs from 0 (invisible) to 1.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np

from cxr_ft.data.phantom import devices
from cxr_ft.data.phantom.anatomy import LATERALITIES, Change, Thorax, sign
from cxr_ft.data.phantom.canvas import Box, Image, Points, box, ellipse, ribbon, smooth
from cxr_ft.data.phantom.frontal import Chest, vessel_layer
from cxr_ft.data.phantom.random_streams import stream

ZONES = ("upper", "mid", "lower")
# How far atelectasis draws up a dome.
_RAISED = 0.09
_HEIGHTS = {"upper": -0.42, "mid": -0.08, "lower": 0.22}


@dataclass(frozen=True, kw_only=True)
class Sign:
    """One finding: CheXpert label, severity 0..1, the patient's side ("right", "left", "both", ""), zone and kind."""

    label: str
    severity: float
    side: str = ""
    zone: str = ""
    kind: str = ""
    seed: int = 0

    def lateralities(self) -> tuple[str, ...]:
        """Return the lateralities it has: "right", "left" or both; ("",) where it has none."""
        return LATERALITIES if self.side == "both" else (self.side,)


def change(signs: Sequence[Sign], portable: bool, turn: float, breath: float) -> Change:
    """Return the outline changes; `breath` lowers the domes, a portable film magnifies the heart."""
    by = {s.label: s for s in signs}
    lift = [0.0, 0.0]
    if low := by.get("Atelectasis"):
        for side in low.lateralities():
            lift[LATERALITIES.index(side)] += _RAISED * low.severity
    heart = by["Cardiomegaly"].severity if "Cardiomegaly" in by else 0.0
    wide = by["Enlarged Cardiomediastinum"].severity if "Enlarged Cardiomediastinum" in by else 0.0
    return Change(
        # Shares of the chest (cardiothoracic ratio). The first term is a step, so that the faintest sign changes the
        # outline too.
        heart=0.02 * (heart > 0) + 0.15 * heart,
        mediastinum=0.05 * (wide > 0) + 0.48 * wide,
        lift=(lift[0], lift[1]),
        # Who sits or lies in bed does not breathe in as deeply.
        raised=0.05 * portable - breath,
        # At the bedside the rays come from the front: the heart is farther from the plate, and its shadow larger.
        magnified=1.07 if portable else 1.0,
        turn=turn,
    )


def draw(chest: Chest, sign_: Sign) -> list[Box]:
    """Draw a sign into the layers and say where, in pixels."""
    return DRAW[sign_.label](chest, sign_, stream("sign", sign_.seed))


def _lung(chest: Chest, side: str) -> Image:
    thorax, canvas = chest.thorax, chest.coarse
    return canvas.fill(thorax.lung(side)) * (1 - canvas.fill(thorax.below(side)))


def _boxes(chest: Chest, mask: Image, threshold: float = 0.3) -> list[Box]:
    around = box(chest.canvas.take(mask), threshold)
    return [around] if around else []


def _around(chest: Chest, points: Points, margin: float = 0.02) -> list[Box]:
    if not len(points):
        return []
    height, width = chest.canvas.shape
    pixels = chest.canvas.pixels(points)
    pad = margin * chest.canvas.unit + 1  # a line is never thinner than a pixel
    left, top = np.clip(np.floor(pixels.min(axis=0) - pad), 0, [width, height]).astype(int)
    right, bottom = np.clip(np.ceil(pixels.max(axis=0) + pad), 0, [width, height]).astype(int)
    return [(int(left), int(top), int(right), int(bottom))] if right > left and bottom > top else []


def _outline(chest: Chest, sign_: Sign, rng: np.random.Generator) -> list[Box]:
    # Already drawn with the outlines (`change`); the box is about what moved.
    del rng
    thorax = chest.thorax
    upper = sign_.label == "Enlarged Cardiomediastinum"
    # The outline as it would be without this sign: the box is about the difference alone.
    without = replace(thorax.change, mediastinum=0.0) if upper else replace(thorax.change, heart=0.0)
    outline = thorax.silhouette()
    moved = np.abs(outline - Thorax(thorax.body, without).silhouette()).max(axis=1)
    return _around(chest, outline[moved > 0.1 * moved.max()], 0.01)


def _effusion(chest: Chest, sign_: Sign, rng: np.random.Generator) -> list[Box]:
    boxes: list[Box] = []
    for side in sign_.lateralities():
        # Two sides seldom hold the same amount.
        severity = sign_.severity * rng.uniform(0.75, 1.0)
        s = sign(side)
        base = float(chest.thorax.diaphragm(side)[-1, 1])
        level = base - 0.05 - 0.60 * severity
        reach = float(chest.thorax.wall(level)) + 0.05
        t = np.linspace(0, 1, 24)
        # The meniscus: free fluid stands higher at the wall than at the heart. It is flat in a half upright patient.
        slope = (0.10 + 0.20 * rng.random()) * (0.4 if chest.portable else 1)
        top = np.stack([s * t * reach, level + slope * (1 - t**2.5)], axis=1)
        region = np.vstack([top, [(s * 1.0, base + 0.25), (0.0, base + 0.25)]])
        chest.close(0.97 * chest.canvas.fill(region, soft=0.014))
        # At the bedside the patient is half upright, and the fluid spreads behind the lung as a veil.
        veil = chest.coarse.fill(region - [0, 0.10 + 0.2 * chest.portable], soft=0.07)
        chest.close(chest.canvas.take(veil) * (0.10 + 0.25 * chest.portable * severity))
        boxes += _boxes(chest, np.maximum(chest.coarse.fill(region), veil) * chest.coarse.fill(chest.thorax.lung(side)))
    return boxes


def _pneumothorax(chest: Chest, sign_: Sign, rng: np.random.Generator) -> list[Box]:
    side, severity = sign_.side, sign_.severity
    outline = chest.thorax.lung(side)
    # A lung falls towards its hilum, where vessels and bronchus hold it.
    root = np.add(chest.thorax.hilum(side), (0, 0.12))
    # Air rises: in an upright patient the gap is widest at the apex.
    high = np.interp(outline[:, 1], [-0.7, 0.55], [1.0, rng.uniform(0.25, 0.7)])
    gap = (0.07 + 0.38 * severity) * high
    inner = root + (outline - root) * (1 - gap[:, None])
    whole, fallen = chest.canvas.fill(outline, soft=0.004), chest.canvas.fill(inner, soft=0.003)
    beyond = np.clip(whole - fallen, 0, 1) * (1 - chest.canvas.fill(chest.thorax.below(side)))
    # No vessel is seen beyond the line of the fallen lung: that, and the line, are the sign.
    chest.vessels = chest.vessels * (1 - beyond)
    chest.tissue -= (0.05 + 0.10 * severity) * beyond * chest.lung
    # A fallen lung holds less air in the same tissue.
    chest.close(fallen * chest.canvas.take(_lung(chest, side)) * 0.20 * severity)
    line = chest.canvas.strokes([np.vstack([inner, inner[:1]])], [0.010], [1.0], soft=0.002)
    chest.dense += 0.17 * line * np.clip(chest.lung * 2, 0, 1) * chest.open
    return _boxes(chest, beyond * (chest.lung > 0.2))


def _cloud(chest: Chest, centre: tuple[float, float], radius: float, rng: np.random.Generator, edge: float) -> Image:
    x, y = chest.coarse.grid
    ratio = rng.uniform(0.75, 1.35)
    far = ((x - centre[0]) / (radius * ratio)) ** 2 + ((y - centre[1]) / (radius / ratio)) ** 2
    field = 1 - far + 0.45 * chest.coarse.noise(rng, radius * 0.7) + 0.25 * chest.coarse.noise(rng, radius * 0.25)
    cloud: Image = (1 / (1 + np.exp(-np.clip(field * edge, -30, 30)))).astype(np.float32)
    return cloud


def _place(side: str, zone: str, rng: np.random.Generator) -> tuple[float, float]:
    return sign(side) * float(rng.uniform(0.30, 0.52)), _HEIGHTS[zone] + float(rng.uniform(-0.08, 0.08))


def _consolidation(chest: Chest, sign_: Sign, rng: np.random.Generator) -> list[Box]:
    patchy = sign_.kind == "patchy"
    radius = (0.11 + 0.17 * sign_.severity) * (0.6 if patchy else 1.0)
    cloud = np.zeros(chest.coarse.shape, np.float32)
    for side in sign_.lateralities():
        for _ in range(int(rng.integers(3, 6)) if patchy else 1):
            x, y = _place(side, sign_.zone, rng)
            spread = rng.normal(0, 0.11, 2) if patchy else np.zeros(2)
            part = _cloud(chest, (x + spread[0], y + spread[1]), radius, rng, 3.0 if patchy else 4.5)
            cloud = np.maximum(cloud, part * _lung(chest, side) * (rng.uniform(0.6, 1) if patchy else 1))
    share = chest.canvas.take(chest.coarse.blur(cloud, 0.012)) * (0.30 + 0.52 * sign_.severity)
    if not patchy:
        # Airways stay open in a lobar consolidation, and show as dark branches in it.
        share = share * (1 - 0.75 * np.clip(_extra_vessels(chest, sign_, 0.8) - 0.2, 0, 1))
    chest.close(share)
    return _boxes(chest, cloud, 0.4)


def _extra_vessels(chest: Chest, sign_: Sign, gain: float) -> Image:
    """Return a second tree of vessels, for what is blurred anyway."""
    canvas = chest.canvas.coarse(256)
    return chest.canvas.take(vessel_layer(canvas, chest.thorax, sign_.seed, gain))


def _edema(chest: Chest, sign_: Sign, rng: np.random.Generator) -> list[Box]:
    severity = sign_.severity
    x, y = chest.coarse.grid
    both = np.maximum(_lung(chest, "right"), _lung(chest, "left"))
    # Fluid lies about the hila, in the shape of a bat's wings.
    wing = np.exp(-(((np.abs(x) - 0.24) / 0.24) ** 2) - ((y - 0.06) / 0.40) ** 2)
    grain = np.clip(1 + 0.35 * chest.coarse.noise(rng, 0.11) + 0.25 * chest.coarse.noise(rng, 0.045), 0, 2)
    haze = chest.coarse.blur(both * (wing * (0.02 + 0.34 * severity) + 0.04 * severity) * grain, 0.01)
    chest.close(np.clip(chest.canvas.take(haze), 0, 0.85))
    extra = (0.15 + 0.6 * severity) * _extra_vessels(chest, sign_, 1.15)
    # Fluid about the vessels makes them broader and their edges unsharp.
    chest.vessels = chest.canvas.blur(np.maximum(chest.vessels, extra), 0.004 + 0.006 * severity)
    chest.vessels *= 1.0 + 0.4 * severity
    # Kerley's B lines: septa full of fluid, short and level, at the wall of the lower lungs.
    lines = []
    for side in LATERALITIES:
        for height in rng.uniform(0.12, 0.5, int(6 + 12 * severity)):
            wall = sign(side) * (float(chest.thorax.wall(height)) - rng.uniform(0.015, 0.03))
            lines.append(np.array([(wall, height), (wall - sign(side) * rng.uniform(0.04, 0.09), height + 0.006)]))
    kerley = chest.canvas.strokes(lines, [0.006] * len(lines), [1.0] * len(lines), soft=0.002)
    chest.dense += (0.06 + 0.20 * severity) * kerley * chest.lung * chest.open
    return _boxes(chest, both)


def _atelectasis(chest: Chest, sign_: Sign, rng: np.random.Generator) -> list[Box]:
    boxes: list[Box] = []
    bands: list[Points] = []
    haze = np.zeros(chest.coarse.shape, np.float32)
    for side in sign_.lateralities():
        s, first = sign(side), len(bands)
        dome = chest.thorax.diaphragm(side)
        # Plates of airless lung are seen edge-on, as bands above the dome.
        for index in range(1 + int(rng.random() < 0.35 + 0.4 * sign_.severity)):
            start, end = rng.uniform(0.12, 0.28), rng.uniform(0.5, 0.70)
            base = float(dome[10, 1]) - 0.06 - 0.10 * index - rng.uniform(0, 0.07)
            bend = rng.normal(0, 0.03, 3)
            points = [
                (s * start, base + bend[0]),
                (s * (start + end) / 2, base + bend[1]),
                (s * end, base + 0.06 + bend[2]),
            ]
            line = smooth(points)
            width = (0.016 + 0.040 * sign_.severity) * np.sin(np.linspace(0.5, np.pi - 0.4, len(line)))
            bands.append(ribbon(line, width))
        top = float(dome[10, 1]) - 0.16
        under = np.clip((chest.coarse.grid[1] - top) / 0.16, 0, 1)
        haze = np.maximum(haze, under * _lung(chest, side) * (0.08 + 0.35 * sign_.severity))
        # The bands, the haze about them, and the dome, which is drawn up.
        fallen = dome[dome[:, 0] * s > 0.1] + [0, _RAISED * sign_.severity]
        boxes += _around(chest, np.vstack([*bands[first:], fallen, [(s * 0.1, top)]]), 0.01)
    mask = chest.canvas.fill(*bands, soft=0.005)
    chest.close(mask * (0.26 + 0.34 * sign_.severity))
    chest.close(chest.canvas.take(chest.coarse.blur(haze, 0.02)))
    return boxes


def _lesion(chest: Chest, sign_: Sign, rng: np.random.Generator) -> list[Box]:
    boxes: list[Box] = []
    outlines = []
    for _ in range(1 if rng.random() < 0.7 else int(rng.integers(2, 4))):
        radius = (0.026 + 0.065 * sign_.severity) * rng.uniform(0.85, 1.15)
        x, y = _place(sign_.side, sign_.zone, rng)
        outline = ellipse(x, y, radius, radius * rng.uniform(0.8, 1.2), rng.uniform(0, 3), points=14)
        wobble = 1 + rng.normal(0, 0.09, (len(outline), 1))
        outline = smooth((outline - [x, y]) * wobble + [x, y], closed=True, rounds=2)
        outlines.append(outline)
        boxes += _around(chest, outline, 0.008)
    mask = chest.canvas.fill(*outlines, soft=0.006)
    chest.close(mask * (0.26 + 0.40 * sign_.severity))
    chest.dense += (0.04 + 0.08 * sign_.severity) * mask
    return boxes


def _fracture(chest: Chest, sign_: Sign, rng: np.random.Generator) -> list[Box]:
    boxes: list[Box] = []
    # A blow breaks neighbouring ribs, mostly at their sides; a strong one more of them.
    first = int(rng.integers(3, 8))
    for number in range(first, first + 1 + int(4 * sign_.severity * rng.random())):
        at = float(rng.uniform(0.5, 0.8))
        line = chest.thorax.ribs(sign_.side)[0][number - 1]
        step = (0.020 + 0.034 * sign_.severity) * (1 if rng.random() < 0.6 else -1)
        # Recorded only: the ribs are drawn after all signs (`frontal.add_bones`), already broken.
        chest.breaks[sign_.side, number] = (at, step)
        x, y = line[round(at * len(line))]
        # Bone that heals is denser about the break.
        callus = 0.08 + 0.30 * sign_.severity
        chest.bone += chest.canvas.fill(ellipse(x, y, 0.026, 0.036), soft=0.008, value=callus)
        # The rib's outer part is moved as a whole.
        part = line[round(at * len(line)) - 1 :]
        boxes += _around(chest, np.vstack([part, part + np.array([0, step])]), 0.035)
    return boxes


def _pleura(chest: Chest, sign_: Sign, rng: np.random.Generator) -> list[Box]:
    boxes: list[Box] = []
    for side in sign_.lateralities():
        s, apical = sign(side), sign_.kind == "apical"
        top = chest.thorax.apex() if apical else rng.uniform(-0.45, -0.1)
        y = np.linspace(top, top + (0.22 if apical else rng.uniform(0.4, 0.7)), 24)
        wall = s * (chest.thorax.wall(y) + 0.01)
        thick = (0.03 + 0.06 * sign_.severity) * np.sin(np.linspace(0.2, np.pi - 0.2, 24)) ** 0.5
        thick = thick * (1 + 0.3 * np.sin(rng.uniform(8, 20) * y + rng.uniform(0, 6)))
        inner = np.stack([wall - s * thick * (1.6 if apical else 1), y], axis=1)
        region = np.vstack([np.stack([wall, y], axis=1), inner[::-1]])
        chest.close(chest.canvas.fill(region, soft=0.004) * (0.55 + 0.35 * sign_.severity))
        chest.dense += (0.10 + 0.22 * sign_.severity) * chest.canvas.fill(region, soft=0.005)
        boxes += _around(chest, region, 0.0)
    return boxes


def _devices(chest: Chest, sign_: Sign, rng: np.random.Generator) -> list[Box]:
    lines = devices.draw(chest, sign_.kind, sign_.side, rng)
    return [one for line in lines for one in _around(chest, line, 0.022)]


DRAW: dict[str, Callable[[Chest, Sign, np.random.Generator], list[Box]]] = {
    "Enlarged Cardiomediastinum": _outline,
    "Cardiomegaly": _outline,
    "Edema": _edema,
    "Consolidation": _consolidation,
    "Atelectasis": _atelectasis,
    "Lung Lesion": _lesion,
    "Pleural Effusion": _effusion,
    "Pleural Other": _pleura,
    "Pneumothorax": _pneumothorax,
    "Fracture": _fracture,
    "Support Devices": _devices,
}
