"""Draw signs of disease on a lateral chest, the patient facing left; both lungs lie over each other there."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from cxr_ft.data.phantom.canvas import Canvas, Image, Points, ellipse, ribbon, smooth
from cxr_ft.data.phantom.findings import Sign

# Where a zone's consolidation or nodule lies.
# Lower lobes lie far back, over the spine.
_DEPTHS = {"upper": (0.02, -0.42), "mid": (-0.02, -0.05), "lower": (0.25, 0.22)}
_ROOT = (0.05, 0.0)


@dataclass(frozen=True, kw_only=True)
class Trace:
    """A sign's mark [H, W]: the share of the air it fills, what it adds to the density, the vessels it takes away.

    `mask` is where to put the box; a trace outside the lungs says so.
    """

    mask: Image
    share: Image | None = None
    dense: Image | None = None
    gone: Image | None = None
    outside: bool = False


@dataclass(frozen=True, kw_only=True)
class View:
    """The lateral chest to draw signs on: grids, the lungs' outline, the lines of great vessels and ribs."""

    canvas: Canvas
    coarse: Canvas
    outline: Points
    vessels: Points
    ribs: list[Points]


def trace(view: View, sign: Sign, rng: np.random.Generator) -> Trace | None:
    """Return the mark of a sign, or None for one that is drawn elsewhere (heart, devices)."""
    draw = _TRACES.get(sign.label)
    return draw(view, sign, rng) if draw else None


def _filled(share: Image) -> Trace:
    return Trace(mask=share / (float(share.max()) + 1e-6), share=share)


def _effusion(view: View, sign: Sign, rng: np.random.Generator) -> Trace:
    # The angle behind is the deepest: fluid gathers there first, and stands highest.
    level = 0.68 - 0.5 * sign.severity
    top = smooth([(-0.7, level + 0.16), (-0.1, level + 0.12), (0.35, level + 0.03), (0.7, level - 0.12)])
    return _filled(view.canvas.fill(np.vstack([top, [(0.8, 1.2), (-0.8, 1.2)]]), soft=0.014, value=0.9))


def _cloud(view: View, sign: Sign, rng: np.random.Generator) -> Trace:
    x, y = view.coarse.grid
    lesion = sign.label == "Lung Lesion"
    cx, cy = np.array(_DEPTHS[sign.zone]) + rng.normal(0, 0.07, 2)
    radius = 0.026 + 0.06 * sign.severity if lesion else 0.13 + 0.14 * sign.severity
    noise = 0.0 if lesion else 0.45 * view.coarse.noise(rng, 0.12)
    field = 1 - ((x - cx) ** 2 + (y - cy) ** 2) / radius**2 + noise
    blob: Image = (1 / (1 + np.exp(-np.clip(field * 4, -30, 30)))).astype(np.float32)
    return _filled(view.canvas.take(blob) * np.float32(0.25 + 0.4 * sign.severity))


def _edema(view: View, sign: Sign, rng: np.random.Generator) -> Trace:
    x, y = view.coarse.grid
    haze = np.exp(-(((x - 0.05) / 0.4) ** 2) - ((y + 0.02) / 0.4) ** 2) * (1 + 0.3 * view.coarse.noise(rng, 0.08))
    return _filled(view.canvas.take(np.clip(haze * (0.08 + 0.4 * sign.severity), 0, 0.9).astype(np.float32)))


def _atelectasis(view: View, sign: Sign, rng: np.random.Generator) -> Trace:
    # In the lower lobes, behind and just above the dome.
    cx, cy = rng.uniform(0.1, 0.3), rng.uniform(0.22, 0.34)
    line = smooth([(cx - 0.2, cy - 0.04), (cx, cy), (cx + 0.18, cy + 0.10)])
    width, value = 0.02 + 0.035 * sign.severity, 0.35 + 0.35 * sign.severity
    return _filled(view.canvas.fill(ribbon(line, width), soft=0.006, value=value))


def _mediastinum(view: View, sign: Sign, rng: np.random.Generator) -> Trace:
    """Return the great vessels broader, the clear space behind the breastbone closing."""
    band = view.canvas.fill(ribbon(view.vessels, 0.15 + 0.24 * sign.severity), soft=0.025)
    front = view.canvas.fill(ellipse(-0.30, -0.26, 0.13, 0.24, -0.4), soft=0.05)
    return Trace(mask=band, share=np.clip(band * (0.15 + 0.35 * sign.severity) + 0.45 * sign.severity * front, 0, 0.8))


def _pneumothorax(view: View, sign: Sign, rng: np.random.Generator) -> Trace:
    """Return the line of the fallen lung in front, behind and above; the other lung lies over the gap."""
    gap = (0.05 + 0.22 * sign.severity) * np.interp(view.outline[:, 1], [-0.7, 0.6], [1.0, rng.uniform(0.2, 0.6)])
    inner = _ROOT + (view.outline - _ROOT) * (1 - gap[:, None])
    beyond = np.clip(view.canvas.fill(view.outline, soft=0.004) - view.canvas.fill(inner, soft=0.004), 0, 1)
    line = view.canvas.strokes([np.vstack([inner, inner[:1]])], [0.010], [1.0], soft=0.002, gain=0.16)
    return Trace(mask=beyond, dense=line - np.float32(0.04 + 0.08 * sign.severity) * beyond, gone=0.6 * beyond)


def _fracture(view: View, sign: Sign, rng: np.random.Generator) -> Trace:
    """Return a step in the arc of a rib, with a little density about it."""
    line = view.ribs[int(rng.integers(6, 14))]
    at = int(rng.integers(len(line) // 2, 3 * len(line) // 4))
    step = np.array([0.0, (0.014 + 0.026 * sign.severity) * (1 if rng.random() < 0.6 else -1)])
    piece = ribbon(line[at : at + len(line) // 4] + step, 0.034)
    x, y = line[at].tolist()
    spot = view.canvas.fill(ellipse(x, y, 0.03, 0.036), soft=0.008)
    moved = view.canvas.fill(piece, soft=0.006)
    dense = (0.10 + 0.16 * sign.severity) * np.maximum(spot, 0.6 * moved)
    mask = np.maximum(view.canvas.fill(ellipse(x, y, 0.06, 0.06)), moved)
    # A rib's arc runs beyond the lungs' outline, which must not cut its mark.
    return Trace(mask=mask, dense=dense.astype(np.float32), outside=True)


def _pleura(view: View, sign: Sign, rng: np.random.Generator) -> Trace:
    """Return a rind along the back wall, or a cap over the apex."""
    outline = view.outline
    middle = np.array([0.05, -0.80]) if sign.kind == "apical" else np.array([0.58, rng.uniform(0.0, 0.3)])
    near = np.hypot(*(outline - middle).T) < (0.24 if sign.kind == "apical" else 0.32)
    # A ribbon needs neighbours in order, and the closed outline may begin within the part.
    order = np.argsort(outline[near][:, 0 if sign.kind == "apical" else 1])
    edge = outline[near][order]
    thick = (0.04 + 0.07 * sign.severity) * np.sin(np.linspace(0.2, np.pi - 0.2, len(edge)))
    rind = view.canvas.fill(ribbon(edge, 2 * thick), soft=0.005)
    return Trace(mask=rind, share=(0.40 + 0.35 * sign.severity) * rind, dense=(0.06 + 0.12 * sign.severity) * rind)


_TRACES: dict[str, Callable[[View, Sign, np.random.Generator], Trace]] = {
    "Pleural Effusion": _effusion,
    "Consolidation": _cloud,
    "Lung Lesion": _cloud,
    "Edema": _edema,
    "Atelectasis": _atelectasis,
    "Enlarged Cardiomediastinum": _mediastinum,
    "Pneumothorax": _pneumothorax,
    "Fracture": _fracture,
    "Pleural Other": _pleura,
}
