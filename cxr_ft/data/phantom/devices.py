"""Tubes, lines, pacemakers and wires on a frontal film."""

from collections.abc import Callable

import numpy as np

from cxr_ft.data.phantom.anatomy import sign
from cxr_ft.data.phantom.canvas import Points, ellipse, smooth
from cxr_ft.data.phantom.frontal import Chest


def draw(chest: Chest, kind: str, side: str, rng: np.random.Generator) -> list[Points]:
    """Draw one kind of device; returns its lines in the frame."""
    return KINDS[kind](chest, sign(side), rng)


def monitor(chest: Chest, rng: np.random.Generator) -> None:
    """Draw the stickers and cables of a bedside monitor; no support device, and no report speaks of them."""
    hub = (float(rng.uniform(-0.3, 0.3)), 1.3)
    spots = [(s * rng.uniform(0.45, 0.75), y + rng.normal(0, 0.05)) for s, y in ((-1, -0.5), (1, -0.5), (1, 0.45))]
    chest.dense += chest.canvas.fill(*(ellipse(x, y, 0.028, 0.028) for x, y in spots), soft=0.003, value=0.35)
    for x, y in spots:
        bend = (0.6 * x + rng.normal(0, 0.15), 0.5 * (y + hub[1]) + rng.normal(0, 0.1))
        _line(chest, [(x, y), (x + rng.normal(0, 0.06), y + 0.12), bend, hub], 0.008, 0.45)


def _line(chest: Chest, points: list[tuple[float, float]], width: float, value: float, hollow: bool = False) -> Points:
    line = smooth(points, rounds=4)
    layer = chest.canvas.strokes([line], [width], [1.0], soft=0.0015)
    # Of a plastic tube the walls show, seen edge-on, and not its bore.
    if hollow:
        layer = layer - 0.55 * chest.canvas.strokes([line], [0.5 * width], [1.0], soft=0.0015)
    chest.dense += value * layer
    return line


def _tube(chest: Chest, s: int, rng: np.random.Generator) -> list[Points]:
    # In the windpipe, a little right of the midline; the tip belongs above the fork at -0.27 (`frontal._airway`).
    x, tip = float(chest.thorax.middle(-0.5)) - 0.012, -0.36 + rng.normal(0, 0.05)
    top = (x + rng.normal(0, 0.04), -1.5)
    return [_line(chest, [top, (x, -0.95), (x + rng.normal(0, 0.006), tip)], 0.032, 1.1, hollow=True)]


def _central_line(chest: Chest, s: int, rng: np.random.Generator) -> list[Points]:
    # Whatever side it comes from, the tip lies in the superior vena cava, right of the midline: x is negative.
    tip = (-0.105 + rng.normal(0, 0.012), -0.12 + rng.normal(0, 0.06))
    # Through the jugular vein of the neck; else through the subclavian vein beneath the collar bone.
    if rng.random() < 0.6:
        path = [(s * 0.34, -1.25), (s * 0.20, -0.92), (s * 0.13, -0.68), (-0.10, -0.48), tip]
    else:
        path = [(s * 0.75, -0.45), (s * 0.52, -0.66), (s * 0.25, -0.66), (-0.09, -0.52), tip]
    return [_line(chest, path, 0.014, 0.75)]


def _picc(chest: Chest, s: int, rng: np.random.Generator) -> list[Points]:
    # From a vein of the arm, through the armpit, to the same place as a central line.
    tip = (-0.10 + rng.normal(0, 0.012), -0.10 + rng.normal(0, 0.06))
    path = [
        (s * 1.15, -0.15),
        (s * 0.98, -0.55),
        (s * 0.72, -0.72),
        (s * 0.40, -0.70),
        (s * 0.14, -0.62),
        (-0.095, -0.46),
    ]
    return [_line(chest, [*path, tip], 0.010, 0.70)]


def _feeding_tube(chest: Chest, s: int, rng: np.random.Generator) -> list[Points]:
    x = float(chest.thorax.middle(0)) + 0.01
    # Down the gullet behind the windpipe, then to the left: the stomach lies below the left dome.
    end = (0.28 + rng.normal(0, 0.05), 0.72 + rng.normal(0, 0.04))
    path = [(x + 0.02, -1.5), (x, -0.8), (x + 0.012, -0.2), (x + 0.02, 0.3), (0.09, 0.52), end]
    return [_line(chest, path, 0.016, 0.60, hollow=True)]


def _pacemaker(chest: Chest, s: int, rng: np.random.Generator) -> list[Points]:
    # The case lies on the chest muscle below the collar bone, the leads in the vein beneath it.
    x, y = s * (0.58 + rng.normal(0, 0.04)), -0.50 + rng.normal(0, 0.04)
    right, left, low = chest.thorax.heart()
    case = ellipse(x, y, 0.105, 0.085 + rng.normal(0, 0.006), rng.normal(0, 0.3))
    chest.dense += 1.3 * chest.canvas.fill(case, soft=0.003)
    vein = [(x - s * 0.07, y + 0.05), (x + s * 0.03, y - 0.13), (s * 0.35, -0.68), (s * 0.12, -0.58), (-0.10, -0.42)]
    # Through the right atrium to the right ventricle's tip, which lies left of the midline.
    ventricle = [*vein, (-0.12, -0.05), (-0.5 * right, low + 0.12), (0.25 * left, low + 0.2), (0.62 * left, low + 0.12)]
    lines = [case, _line(chest, ventricle, 0.013, 0.95)]
    # Most have a second lead, to the right atrium.
    if rng.random() < 0.7:
        lines.append(
            _line(chest, [*vein, (-0.11, 0.0), (-0.8 * right, low - 0.05), (-0.6 * right, low - 0.14)], 0.013, 0.95)
        )
    return lines


def _chest_tube(chest: Chest, s: int, rng: np.random.Generator) -> list[Points]:
    wall = float(chest.thorax.wall(0.25))
    # Between two ribs of the side and up to the apex, where free air gathers in an upright patient.
    tip = (s * rng.uniform(0.22, 0.4), -0.55 + rng.normal(0, 0.08))
    path = [(s * 1.1, 0.45), (s * (wall + 0.02), 0.25), (s * (wall - 0.12), -0.05), (s * (wall - 0.22), -0.3), tip]
    return [_line(chest, path, 0.034, 0.50, hollow=True)]


def _wires(chest: Chest, s: int, rng: np.random.Generator) -> list[Points]:
    lines = []
    # A breastbone that was sawn open for heart surgery is closed by a row of twisted wire loops.
    for y in np.linspace(-0.48, 0.25, int(rng.integers(5, 8))):
        x, height = 0.012 + rng.normal(0, 0.006), 0.018 + abs(rng.normal(0, 0.006))
        knot = ellipse(x, float(y), 0.028, height, rng.normal(0, 0.3), points=14)
        tail = knot[-1] + np.array([(0, 0), (0.02 * rng.choice([-1, 1]), 0.015)])
        lines.append(np.vstack([knot, knot[:1], tail]))
    chest.dense += 0.95 * chest.canvas.strokes(lines, [0.010] * len(lines), [1.0] * len(lines), soft=0.0015)
    return [np.vstack(lines)]


KINDS: dict[str, Callable[[Chest, int, np.random.Generator], list[Points]]] = {
    "endotracheal tube": _tube,
    "central venous line": _central_line,
    "PICC line": _picc,
    "enteric tube": _feeding_tube,
    "pacemaker": _pacemaker,
    "chest tube": _chest_tube,
    "sternal wires": _wires,
}
#: How often a device is of a kind, in the order of `KINDS`; they sum to 1.
SHARES = (0.17, 0.20, 0.14, 0.16, 0.14, 0.06, 0.13)
#: How often it comes from the right; without effect on what lies in the midline. The right jugular vein runs straight
#: into the vena cava; pacemakers are mostly put on the left.
RIGHT = {
    "endotracheal tube": 0.5,
    "central venous line": 0.7,
    "PICC line": 0.5,
    "enteric tube": 0.5,
    "pacemaker": 0.15,
    "chest tube": 0.5,
    "sternal wires": 0.5,
}
