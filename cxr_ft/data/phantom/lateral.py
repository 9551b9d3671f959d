"""A simple lateral chest, the patient facing left; `lateral_signs` holds what disease does to it."""

from collections.abc import Sequence

import numpy as np

from cxr_ft.data.phantom.anatomy import Body
from cxr_ft.data.phantom.canvas import Box, Canvas, Image, Points, box, ellipse, ribbon, smooth
from cxr_ft.data.phantom.findings import Sign
from cxr_ft.data.phantom.frontal import AIR, branches
from cxr_ft.data.phantom.lateral_signs import View, trace
from cxr_ft.data.phantom.random_streams import stream

# The breastbone lies at negative x, the spine at positive x.
_OUTLINE = smooth(
    [(0.06, -0.78), (-0.14, -0.66), (-0.36, -0.40), (-0.50, -0.05), (-0.55, 0.35), (-0.5, 0.9), (0.58, 0.9),
     (0.60, 0.45), (0.58, 0.0), (0.50, -0.35), (0.33, -0.64), (0.20, -0.76)],
    closed=True,
)  # fmt: skip
# The aorta: up from the heart, backwards in an arch, and down before the spine.
_GREAT_VESSELS = smooth(
    [(-0.22, 0.05), (-0.16, -0.22), (-0.10, -0.40), (0.06, -0.46), (0.20, -0.34), (0.30, -0.1)]
)  # fmt: skip


def draw(canvas: Canvas, body: Body, signs: Sequence[Sign]) -> tuple[Image, Image, dict[str, list[Box]]]:
    """Return attenuation [H, W], how deep the lungs are [H, W] (0..1), and boxes of the visible signs, in pixels."""
    rng = stream("lateral", body.seed)
    # The body's size is put into the map, so that every shape below is of one standard body.
    canvas = Canvas(canvas.shape, canvas.matrix * [body.width, body.length, 1])
    coarse = canvas.coarse()
    lung = _lung(canvas, coarse)
    heart, ribs = _heart_outline(body, signs), _ribs(body)
    great = canvas.fill(ribbon(_GREAT_VESSELS, 0.14 * body.mediastinum), soft=0.03)
    inside = np.maximum(canvas.fill(heart, soft=0.012), great)
    open_ = 1 - inside * (0.40 + 0.35 * canvas.take(coarse.dome(coarse.fill(heart), 0.2)))
    vessels, extra = _vessels(canvas, rng), np.zeros(canvas.shape, np.float32)
    boxes: dict[str, list[Box]] = {}
    if any(sign.label == "Cardiomegaly" for sign in signs):
        boxes["Cardiomegaly"] = _box_of(canvas.fill(heart))
    view = View(canvas=canvas, coarse=coarse, outline=_OUTLINE, vessels=_GREAT_VESSELS, ribs=ribs)
    for sign in signs:
        mark = trace(view, sign, stream("lateral sign", sign.seed))
        if mark is None:
            continue
        if mark.share is not None:
            open_ = open_ * (1 - mark.share)
        if mark.dense is not None:
            # Within the lungs only, unless the sign lies outside them: a soft edge would otherwise brighten the chest
            # wall.
            extra += mark.dense if mark.outside else mark.dense * np.minimum(2 * lung, 1)
        if mark.gone is not None:
            vessels = vessels * (1 - mark.gone)
        boxes.setdefault(sign.label, []).extend(
            _box_of(mark.mask if mark.outside else mark.mask * np.minimum(4 * lung, 1))
        )
    tissue = _tissue(canvas, coarse, body, rng) + _bones(canvas, body, ribs, rng) + extra
    air = np.maximum(lung * open_, 0)
    vessels = vessels * np.sqrt(air)
    metal, metal_boxes = _devices(canvas, signs)
    if metal_boxes:
        boxes["Support Devices"] = metal_boxes
    return tissue - AIR * air + 0.35 * vessels + metal, lung, boxes


def _box_of(mask: Image, threshold: float = 0.3) -> list[Box]:
    around = box(mask, threshold)
    return [around] if around else []


def _diaphragm() -> Points:
    return smooth([(-0.62, 0.44), (-0.45, 0.34), (-0.15, 0.28), (0.15, 0.33), (0.40, 0.50), (0.60, 0.74)])


def _lung(canvas: Canvas, coarse: Canvas) -> Image:
    dome = _diaphragm()
    below = np.vstack([dome, [(0.8, 2.2), (-0.8, 2.2)]])
    depth = canvas.take(coarse.blur(coarse.dome(coarse.fill(_OUTLINE), 0.30), 0.006)) * canvas.fill(
        _OUTLINE, soft=0.006
    )
    # Each dome takes the air of one lung, half of what a ray meets.
    other = below + np.array([0, 0.035])  # the second dome, a little lower
    air: Image = depth * (1 - 0.49 * canvas.fill(below, soft=0.006) - 0.48 * canvas.fill(other, soft=0.006))
    return air


def _heart_outline(body: Body, signs: Sequence[Sign]) -> Points:
    size = body.heart / 0.45 + sum(0.08 + 0.32 * sign.severity for sign in signs if sign.label == "Cardiomegaly")
    outline = np.array(
        [
            (-0.16, -0.22),
            (-0.38, -0.02),
            (-0.52, 0.18),
            (-0.46, 0.40),
            (-0.1, 0.44),
            (0.10, 0.34),
            (0.12, 0.10),
            (0.04, -0.14),
        ]
    )
    # Breastbone and diaphragm hold the heart, so that a large one grows backwards and upwards.
    fixed = np.array([-0.30, 0.36])
    return smooth(fixed + (outline - fixed) * size, closed=True, rounds=3)


def _tissue(canvas: Canvas, coarse: Canvas, body: Body, rng: np.random.Generator) -> Image:
    fat = 0.06 * body.fat
    skin = smooth(
        [(-0.85, -2.2), (-0.70, -1.0), (-0.55, -0.72), (-0.62 - fat, -0.35), (-0.70 - fat, 0.10),
         (-0.72 - 2 * fat, 0.6), (-0.70, 2.2), (0.72, 2.2), (0.74 + fat, 0.5), (0.76 + fat, -0.1), (0.74, -0.55),
         (0.70, -0.9), (0.7, -2.2)],
        closed=True,
    )  # fmt: skip
    depth = coarse.dome(coarse.fill(skin), 0.45) * (2.2 + 0.3 * body.fat) + 0.05 * coarse.noise(rng, 0.3)
    _, y = coarse.grid
    # The abdomen below the domes; and the shoulders, which lie over both apices.
    depth = depth + 0.45 / (1 + np.exp(-(y - 0.55) * 9)) + 0.65 / (1 + np.exp((y + 0.62) * 14))
    trunk = canvas.take(depth) * canvas.fill(skin, soft=0.004)
    windpipe = ribbon(smooth([(0.0, -2.2), (0.02, -1.2), (0.03, -0.6), (0.06, -0.22)]), 0.07)
    return np.maximum(trunk - 0.40 * canvas.fill(windpipe, soft=0.012), 0)


_TOPS = np.arange(-1.1, 1.9, 0.135)


def _spine(y: float) -> float:
    return 0.40 + 0.10 * float(np.cos(1.3 * y))


def _ribs(body: Body) -> list[Points]:
    """Return the ribs' lines, from behind forwards, in pairs from the top."""
    lines = []
    fall = 0.9 + 1.2 * (body.rib_drop - 0.19)
    for top in _TOPS:
        for shift in (0.0, 0.04):
            x = _spine(top)
            back = [(x + 0.14, top - 0.02 + shift), (x + 0.05, top - 0.10), (0.15, top + 0.10 + shift)]
            lines.append(smooth([*back, (-0.2, top + 0.46 * fall + shift), (-0.5, top + 0.68 * fall + shift)]))
    return lines


def _bones(canvas: Canvas, body: Body, arcs: Sequence[Points], rng: np.random.Generator) -> Image:
    bodies, plates = [], []
    ribs = [ribbon(line, 0.032) for line in arcs]
    for top in _TOPS:
        x = _spine(top) + rng.normal(0, 0.003)
        corners = [(x - 0.075, top), (x + 0.075, top), (x + 0.07, top + 0.11), (x - 0.07, top + 0.11)]
        bodies.append(np.array(corners))
        plates += [np.array([(x - 0.07, y), (x + 0.07, y)]) for y in (top, top + 0.11)]
    breastbone = ribbon(smooth([(-0.30, -0.62), (-0.46, -0.30), (-0.575, 0.10)]), 0.035)
    layer = 0.42 * canvas.fill(*bodies, soft=0.007) + 0.25 * canvas.strokes(
        plates, [0.01] * len(plates), [1] * len(plates)
    )
    _, y = canvas.grid
    # Right and left ribs are filled apart and added: where they cross, a ray meets both.
    pairs = canvas.fill(*ribs[::2], soft=0.006) + canvas.fill(*ribs[1::2], soft=0.006)
    layer += 0.11 * pairs * np.clip(1.6 - 2.5 * y, 0.15, 1)
    layer += 0.25 * canvas.fill(breastbone, soft=0.006)
    layer *= 0.55 + 0.6 * body.bone
    return layer


def _vessels(canvas: Canvas, rng: np.random.Generator) -> Image:
    trees = [branches(rng, shift, -0.06, s, 1.0) for s, shift in ((1, 0.02), (-1, 0.06), (1, 0.08))]
    lines, widths = (np.concatenate(parts) for parts in zip(*trees, strict=True))
    hilum = canvas.fill(ellipse(0.05, -0.06, 0.07, 0.11), ellipse(0.10, -0.02, 0.06, 0.07), soft=0.025)
    layer = canvas.strokes(lines, widths, np.minimum(1.0, 0.2 + widths / 0.03), soft=0.004)
    mesh: Image = np.maximum(layer, 0.8 * hilum) + 0.06 * np.abs(canvas.noise(rng, 0.04))
    return mesh


def _devices(canvas: Canvas, signs: Sequence[Sign]) -> tuple[Image, list[Box]]:
    metal = np.zeros(canvas.shape, np.float32)
    kinds = {sign.kind for sign in signs if sign.label == "Support Devices"}
    if "pacemaker" in kinds:
        lead = smooth([(-0.38, -0.48), (-0.1, -0.6), (0.02, -0.3), (-0.05, 0.1), (-0.38, 0.26)], rounds=4)
        metal += 1.2 * canvas.fill(ellipse(-0.44, -0.50, 0.03, 0.11, 0.5), soft=0.003)
        metal += 0.9 * canvas.strokes([lead], [0.013], [1.0], soft=0.0015)
    if "sternal wires" in kinds:
        heights = np.linspace(-0.5, 0.05, 6)
        rings = [ellipse(-0.33 - 0.42 * (y + 0.55), y, 0.024, 0.012, 0.6, points=14) for y in heights]
        metal += 0.9 * canvas.strokes([np.vstack([r, r[:1]]) for r in rings], [0.01] * 6, [1.0] * 6, soft=0.0015)
    # From the side vena cava, windpipe and gullet are nearly one line. A chest tube is not drawn here and has no box.
    if kinds & {"central venous line", "PICC line", "enteric tube", "endotracheal tube"}:
        low = 0.6 if "enteric tube" in kinds else -0.05
        line = smooth([(0.0, -1.3), (0.04, -0.7), (0.03, -0.3), (0.06, low)], rounds=4)
        metal += 0.6 * canvas.strokes([line], [0.014], [1.0], soft=0.0015)
    return metal, _box_of(metal, 0.05)
