"""Build the outlines of a frontal chest from one subject's body and disease.

Sides are the patient's. In a frontal film the patient's right lies at negative x. Units: see `canvas`.
"""

from dataclasses import dataclass
from typing import Literal

import numpy as np

from cxr_ft.data.phantom.canvas import Points, ellipse, smooth
from cxr_ft.data.phantom.random_streams import stream

Side = Literal["right", "left"]
LATERALITIES: tuple[Side, Side] = ("right", "left")
# The shapes of a rib's posterior arc (height, drop, reach) and anterior one (reach, turn, fall), along its length.
# A rib leaves the spine, rises a little and falls to the side; its front part turns back inwards and falls on.
_ALONG, _BACK = np.linspace(0, 1, 16), np.linspace(0, 1, 14)
_ARCH, _FALL, _OUT = np.sin(np.pi * _ALONG * 0.9), _ALONG**2.6, 1 - (1 - _ALONG) ** 1.35
_IN, _TURN, _DOWN = _BACK**1.25, 0.025 * np.sin(np.pi * np.minimum(_BACK * 2, 1)), _BACK**0.8


def sign(side: str) -> int:
    """Return -1 for the patient's right, 1 for the left: the direction of x in a frontal film."""
    return -1 if side == "right" else 1


@dataclass(frozen=True, kw_only=True)
class Body:
    """A subject's body, the same in all studies. Ratios are about 1; `fat` and `bone` are 0..1; `lift` raises the right
    and the left dome; `axis` is the heart's share on the right; `breast` a size."""

    sex: Literal["F", "M"]
    age: int
    width: float
    length: float
    fat: float
    bone: float
    heart: float
    knob: float
    mediastinum: float
    curve: float
    rib_drop: float
    dome: float
    lift: tuple[float, float]
    axis: float
    breast: float
    seed: int

    @classmethod
    def sample(cls, rng: np.random.Generator) -> "Body":
        """Return a body at random."""
        # Adults alone, as in MIMIC-CXR. MIMIC-IV writes 91 for everybody above 89.
        age = int(np.clip(rng.normal(60, 18), 18, 91))
        return cls(
            sex="F" if rng.random() < 0.47 else "M",
            age=age,
            width=float(np.clip(rng.normal(1.0, 0.06), 0.84, 1.14)),
            length=float(np.clip(rng.normal(1.0, 0.07), 0.82, 1.16)),
            fat=float(np.clip(rng.normal(0.4, 0.22), 0, 1)),
            # Bones lose mineral with age.
            bone=float(np.clip(rng.normal(0.75 - 0.004 * (age - 40), 0.12), 0.3, 1)),
            # The cardiothoracic ratio of a PA film: above about 0.5 a heart counts as enlarged. Healthy hearts come
            # near it, so that the width alone does not tell the label.
            heart=float(np.clip(rng.normal(0.44, 0.042), 0.34, 0.51)),
            mediastinum=float(np.clip(rng.normal(1.0, 0.16), 0.72, 1.4)),
            # The aorta lengthens with age, and its arch stands out as a knob.
            knob=float(np.clip(rng.normal(0.25 + 0.008 * (age - 30), 0.15), 0, 1)),
            curve=rng.normal(0, 0.018),
            rib_drop=float(np.clip(rng.normal(0.19, 0.05), 0.08, 0.32)),
            dome=float(np.clip(rng.normal(0.17, 0.04), 0.07, 0.27)),
            lift=(rng.normal(0, 0.03), rng.normal(0, 0.03)),
            # About a third of a heart's width lies to the right of the midline.
            axis=float(np.clip(rng.normal(0.30, 0.05), 0.18, 0.42)),
            breast=float(rng.uniform(0.5, 1.5)),
            seed=int(rng.integers(1 << 31)),
        )


@dataclass(frozen=True, kw_only=True)
class Change:
    """The outline changes by disease and projection: the heart's share of the chest, mediastinal width, diaphragms.

    `lift` is the right and the left dome's, by disease; `raised` is both domes' and the heart's, by breath and posture.
    """

    heart: float = 0.0
    mediastinum: float = 0.0
    lift: tuple[float, float] = (0.0, 0.0)
    raised: float = 0.0
    magnified: float = 1.0
    turn: float = 0.0


class Thorax:
    """The outlines of one frontal chest."""

    def __init__(self, body: Body, change: Change) -> None:
        self.body, self.change = body, change
        rng = stream("thorax", body.seed)
        self.lift: dict[str, float] = {
            side: change.raised + change.lift[index] + body.lift[index] + (0.0, 0.035)[index]
            for index, side in enumerate(LATERALITIES)
        }
        # From the body's seed, so that a subject's outlines are the same in all studies.
        self._wall_jitter = rng.normal(0, 0.012, 7)
        self._rib_jitter = rng.normal(0, 0.008, (2, 11, 4))
        # The chest is narrow at the neck and widest at the heart and the domes.
        rows = np.array([-0.84, -0.74, -0.56, -0.25, 0.1, 0.45, 0.9]) * body.length
        walls = np.array([0.22, 0.46, 0.625, 0.735, 0.785, 0.80, 0.78]) * body.width + self._wall_jitter
        curve = smooth(np.stack([rows, walls], axis=1), rounds=3)
        self._rows, self._walls = curve[:, 0], curve[:, 1]

    def wall(self, y: float | Points) -> Points:
        """Return the inner chest wall's distance from the midline at the heights `y`."""
        return np.asarray(np.interp(y, self._rows, self._walls))

    def middle(self, y: float | Points) -> Points:
        """Return the spine's x at the heights `y`: straight but for a scoliosis."""
        return self.body.curve * np.sin(2.2 * np.asarray(y) + 1)

    def apex(self) -> float:
        """Return the height of the lungs' tips."""
        return -0.80 * self.body.length

    def lung(self, side: str) -> Points:
        """Return a lung's outline, closed, running on below the diaphragm."""
        s, top = sign(side), self.apex()
        down = np.linspace(top + 0.05, 0.92, 24)
        lateral = np.stack([s * self.wall(down), down], axis=1)
        tip = [(s * 0.17, top - 0.005), (s * 0.25, top - 0.02)]
        # The inner edge lies behind heart and spine, which hide it.
        medial = [(s * 0.06, 0.92), (s * 0.055, 0.3), (s * 0.06, -0.2), (s * 0.075, -0.55), (s * 0.10, top + 0.07)]
        return smooth(np.vstack([tip, lateral, medial]), closed=True, rounds=2)

    def diaphragm(self, side: str) -> Points:
        """Return a dome's contour from the midline to the wall."""
        s, body = sign(side), self.body
        t = np.linspace(0, 1, 28)
        base = 0.60 * body.length - self.lift[side]
        # The top lies nearer to the heart than to the wall, where the line falls steeply into the costophrenic angle.
        arch = np.sin(np.pi * np.clip(0.16 + 0.86 * t, 0, 1)) ** 0.75
        y = base - body.dome * arch + 0.03 * t**8
        x = 0.02 + t * (self.wall(base) + 0.01 - 0.02)
        return np.stack([s * x, y], axis=1)

    def below(self, side: str) -> Points:
        """Return the closed region beneath a dome, down past the film's edge."""
        line = self.diaphragm(side)
        s = sign(side)
        return np.vstack([[(s * 0.02, 1.6)], line, [(s * 1.3, line[-1, 1] + 0.02), (s * 1.3, 1.6)]])

    def heart(self) -> tuple[float, float, float]:
        """Return the heart's reach to the right and left of the midline and the height of its widest place."""
        share = self.body.heart + self.change.heart
        # The cardiothoracic ratio times the chest's inner width at the heart's height.
        width = share * 2 * float(self.wall(0.3)) * self.change.magnified
        return (
            self.body.axis * width,
            (1 - self.body.axis) * width,
            # The heart rests on the diaphragm and rises with it.
            0.30 * self.body.length - self.change.raised,
        )

    def silhouette(self) -> Points:
        """Return heart and great vessels, one closed outline."""
        right, left, low = self.heart()
        body = self.body
        wide = body.mediastinum + self.change.mediastinum
        knob = (0.10 + 0.055 * body.knob) * wide
        waist = 0.085 * wide + 0.16 * left
        shift = -0.06 * self.change.turn
        bottom = 0.62 * body.length
        # From above: vessels of the neck, aortic knob, pulmonary trunk, left ventricle, apex.
        left_border = [
            (0.14, -1.1), (0.125 * wide, -0.80), (0.095 * wide, -0.62), (0.095 * wide, -0.53), (knob, -0.46),
            (knob + 0.012, -0.38), (knob - 0.01, -0.30), (0.9 * waist, -0.23), (waist + 0.015, -0.12),
            (0.55 * left, low - 0.24), (0.86 * left, low - 0.12), (left, low), (0.99 * left, low + 0.10),
            (0.85 * left, low + 0.22), (0.5 * left, bottom),
        ]  # fmt: skip
        # From below: right atrium, then the superior vena cava, nearly straight, and the vessels of the neck.
        right_border = [
            (-0.3 * right, bottom), (-0.80 * right, low + 0.22), (-0.98 * right, low + 0.10), (-right, low - 0.02),
            (-0.88 * right, low - 0.18), (-0.105 * wide - 0.1 * right, low - 0.34), (-0.115 * wide, -0.25),
            (-0.115 * wide, -0.45), (-0.105 * wide, -0.6), (-0.13 * wide, -0.80), (-0.15, -1.1),
        ]  # fmt: skip
        outline = smooth(left_border + right_border, closed=True, rounds=3)
        moved: Points = outline + np.array([shift, 0])
        return moved

    def hilum(self, side: str) -> tuple[float, float]:
        """Return the point where a lung's vessels enter; the left one lies higher."""
        # The left pulmonary artery arches over its bronchus, the right one does not.
        return (-0.155, -0.07) if side == "right" else (0.155, -0.12)

    def ribs(self, side: str) -> tuple[Points, Points]:
        """Return ribs 1 to 11: posterior arcs [11, 16, 2], medial to lateral; anterior ones [11, 14, 2], inwards."""
        s, body, number = sign(side), self.body, np.arange(1, 12)[:, None]
        rise, steep, high, short = self._rib_jitter[int(s > 0)].T[:, :, None]
        start = (-0.81 + 0.118 * number - 0.0012 * (number - 5) ** 2) * body.length + rise
        drop = body.rib_drop * (0.4 + 0.12 * number) + steep
        y = start - (0.045 + high) * _ARCH + drop * _FALL
        # Just outside the lung: the arc turns forwards in the chest wall.
        reach = self.wall(start + drop) + 0.012
        x = 0.055 + (reach - 0.055) * _OUT
        fall = (0.20 + 0.016 * number) * body.length
        # Cartilage casts no shadow, and is longer from rib to rib: the bone ends ever further from the breastbone.
        front_x = reach - (reach - 0.16 - 0.028 * number - short) * _IN
        front_y = y[:, -1:] + _TURN + fall * _DOWN
        return np.stack([s * x, y], axis=2), np.stack([s * front_x, front_y], axis=2)

    def clavicle(self, side: str, height: float) -> Points:
        """Return a collar bone's line from the breastbone outwards."""
        # The collar bones' inner ends lie far in front of the spine: by their offset from it a reader sees that a
        # patient is turned.
        s, turn = sign(side), 0.05 * self.change.turn
        top = (-0.56 - height) * self.body.length
        line = [
            (0.06, top),
            (0.15, top - 0.05),
            (0.32, top - 0.07),
            (0.50, top - 0.15),
            (0.68, top - 0.20),
            (0.84, top - 0.19),
        ]
        return smooth([(s * x + turn, y) for x, y in line], rounds=2)

    def trunk(self) -> list[Points]:
        """Return the skin's outline: trunk, neck, and shoulders with the upper arms."""
        w, fat = self.body.width, 0.10 * self.body.fat
        side = [
            (0.24, -1.6), (0.24, -1.08), (0.30, -1.0), (0.55, -0.92), (0.85, -0.87), (1.08, -0.72), (1.14, -0.45),
            (1.20, -0.1), (1.24, 0.5), (1.04, 0.5), (0.985, 0.0), (0.93 + fat, -0.30), (0.875 + fat, -0.22),
            (0.87 + fat, 0.1), (0.865 + fat, 0.5), (0.88 + 1.3 * fat, 1.6),
        ]  # fmt: skip
        half = smooth([(x * w, y) for x, y in side], rounds=2)
        return [np.vstack([half, half[::-1] * [-1, 1]])]

    def breasts(self) -> list[Points]:
        """Return breast shadows; empty for men."""
        if self.body.sex == "M":
            return []
        # Breasts lie over the lower lungs, where their edge and haze can be taken for a sign.
        size, fat = self.body.breast, self.body.fat
        low, wide, high = 0.14 + 0.10 * fat + 0.05 * size, 0.24 + 0.09 * size, 0.18 + 0.08 * size + 0.04 * fat
        return [ellipse(sign(side) * 0.46, low, wide, high, 0.25 * sign(side)) for side in LATERALITIES]
