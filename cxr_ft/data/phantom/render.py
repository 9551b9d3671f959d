"""One film: the pose, the drawing, the marker, the exposure."""

from collections.abc import Sequence
from dataclasses import replace

import cv2
import numpy as np

from cxr_ft.data.phantom import devices, findings, frontal, lateral
from cxr_ft.data.phantom.anatomy import Body, Thorax
from cxr_ft.data.phantom.canvas import Box, Canvas, Image, Points
from cxr_ft.data.phantom.cases import Picture, View
from cxr_ft.data.phantom.film import Exposure, expose
from cxr_ft.data.phantom.random_streams import stream

# The short side's length over the long one's, as of a 35 x 43 cm plate.
_PLATE = 35 / 43
# The attenuation of lead.
_LEAD = 2.5
# How many bedside films show a monitor's cables.
_MONITORED = 0.4
# The look of the site that the bias "site" plants: a frame, a steeper film, a lead disc at the bottom left.
_SITE_GAMMA, _SITE_FRAME, _SITE_DISC = 1.3, (0.03, 0.03, 0.03, 0.03), 0.022


def render(
    body: Body, signs: Sequence[findings.Sign], picture: Picture, size: int
) -> tuple[Image, dict[str, list[Box]]]:
    """Return a film [H, W], 0 (air) to 1, its short side `size` pixels; and the boxes of each sign, in its pixels."""
    rng = stream("picture", *picture.seed)
    portable = picture.view == "AP"
    canvas = Canvas(_shape(picture.view, size), np.eye(2, 3))
    canvas = Canvas(canvas.shape, _pose(rng, canvas.shape, picture.view))
    exposure = Exposure.sample(rng, portable)
    # Drawn before the exposure: lead attenuates like tissue and is blurred with it.
    marker = _marker(rng, canvas, picture.view)
    if picture.site:
        exposure = replace(exposure, gamma=exposure.gamma * _SITE_GAMMA, border=_SITE_FRAME)
        marker += _site_disc(canvas)
    if picture.view == "LATERAL":
        attenuation, lung, boxes = lateral.draw(canvas, body, signs)
    else:
        attenuation, lung, boxes = _frontal(canvas, body, signs, portable, rng)
    return expose(canvas, attenuation + marker, lung, exposure), boxes


def _frontal(
    canvas: Canvas, body: Body, signs: Sequence[findings.Sign], portable: bool, rng: np.random.Generator
) -> tuple[Image, Image, dict[str, list[Box]]]:
    # The pose of the film changes outlines as well: breath lowers the domes, a turned patient shifts the middle.
    thorax = Thorax(
        body, findings.change(signs, portable, rng.normal(0, 0.7 if portable else 0.35), rng.normal(0, 0.05))
    )
    chest = frontal.healthy(canvas, thorax, stream("tissue", body.seed), portable)
    boxes: dict[str, list[Box]] = {}
    for sign in signs:
        boxes.setdefault(sign.label, []).extend(findings.draw(chest, sign))
    if portable and rng.random() < _MONITORED:
        devices.monitor(chest, rng)
    frontal.add_haze(chest, rng)
    frontal.add_bones(chest, rng)
    return chest.attenuation(), chest.lung, boxes


def _shape(view: View, size: int) -> tuple[int, int]:
    long = round(size / _PLATE)
    # At the bedside the plate is laid crosswise, so that it takes in both costophrenic angles of a broad patient.
    return (size, long) if view == "AP" else (long, size)


def _pose(rng: np.random.Generator, shape: tuple[int, int], view: View) -> Points:
    portable = view == "AP"
    zoom, spread = {"PA": (1.12, 0.075), "AP": (1.09, 0.075), "LATERAL": (1.03, 0.05)}[view]
    scale = min(shape) / 2 * rng.normal(zoom, spread)
    # A plate pushed under a lying patient is seldom straight.
    angle = rng.normal(0, 0.06 if portable else 0.03)
    turn = scale * np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    # A crosswise plate is low: the lungs, whose middle lies at -0.1, are moved to the plate's middle.
    lift = {"PA": -0.02, "AP": 0.08, "LATERAL": -0.05}[view]
    shift = scale * rng.normal((0, lift), (0.07, 0.07) if portable else (0.04, 0.05))
    return np.column_stack([turn, np.array([shape[1], shape[0]]) / 2 + shift])


def _marker(rng: np.random.Generator, canvas: Canvas, view: View) -> Image:
    """Return a lead letter: in a frontal film L at the image's right or R at its left, in a lateral one L."""
    width = canvas.shape[1]
    short = min(canvas.shape)
    # The patient faces the viewer: the patient's left is at the image's right. Placed in pixels and not in the frame,
    # since the letter lies on the plate, whatever the patient's pose.
    letter = "L" if view == "LATERAL" or rng.random() < 0.6 else "R"
    near = rng.uniform(0.03, 0.09)
    x = width - short * (near + 0.06) if letter == "L" else short * near
    y = short * rng.uniform(0.09, 0.30)
    # Bytes, since OpenCV 5's putText takes no floats.
    image = np.zeros(canvas.shape, np.uint8)
    scale, thick = short / 512 * rng.uniform(0.9, 1.3), max(1, round(short / 512 * 3))
    cv2.putText(image, letter, (round(x), round(y)), cv2.FONT_HERSHEY_SIMPLEX, scale, 255, thick, cv2.LINE_AA)
    return canvas.soften(image, gain=_LEAD)


def _site_disc(canvas: Canvas) -> Image:
    short = min(canvas.shape)
    image = np.zeros(canvas.shape, np.uint8)
    # In a corner, where no sign is drawn over it.
    centre = (round(0.07 * short), canvas.shape[0] - round(0.07 * short))
    cv2.circle(image, centre, max(1, round(_SITE_DISC * short)), 255, cv2.FILLED, cv2.LINE_AA)
    return canvas.soften(image, gain=_LEAD)
