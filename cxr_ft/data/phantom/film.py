"""Turn attenuation into a film: scatter, blur, quantum noise, and the look of the detector's processing."""

from dataclasses import dataclass
from statistics import NormalDist

import cv2
import numpy as np

from cxr_ft.data.phantom.canvas import Canvas, Image
from cxr_ft.data.phantom.random_streams import stream

_LEVELS = 1 << 13


def _curve() -> Image:
    """Return the film's response to log exposure from -1.5 to 2.5: toe below 0.1, shoulder above 0.8."""
    level = (np.arange(_LEVELS) / _LEVELS) * 4 - 1.5
    toe = 0.1 * np.exp((np.minimum(level, 0.1) - 0.1) * 10)
    shoulder = 1 - 0.2 * np.exp(-(np.maximum(level, 0.8) - 0.8) * 5)
    return np.where(level < 0.1, toe, np.where(level > 0.8, shoulder, level)).astype(np.float32)


_CURVE = _curve()
# Normal deviates by 256 quantiles: a byte and a look-up cost a tenth of a true deviate, and no one sees the difference.
_NORMAL = np.array([NormalDist().inv_cdf((index + 0.5) / 256) for index in range(256)], np.float32)


@dataclass(frozen=True, kw_only=True)
class Exposure:
    """Exposure and processing of a film. `scatter` 0..1, `dose` in photons per pixel at 512, the rest as fractions."""

    scatter: float
    dose: float
    blur: float
    sharpen: float
    low: float
    high: float
    gamma: float
    border: tuple[float, float, float, float] | None
    seed: int

    @classmethod
    def sample(cls, rng: np.random.Generator, portable: bool) -> "Exposure":
        """Return an exposure at random; a portable one has more scatter, noise and blur, and is collimated less."""
        left, top, right, bottom = (rng.uniform(0, 0.07, 4) * (rng.random(4) < 0.7)).tolist()
        return cls(
            # At the bedside there is mostly no grid to stop scattered rays.
            scatter=float(np.clip(rng.normal(0.42 if portable else 0.30, 0.07), 0.05, 0.65)),
            # exp(9.2) is 10,000 photons a pixel at 512, a noise of 1 % where nothing lies in the beam.
            dose=float(np.exp(rng.normal(8.7 if portable else 9.2, 0.5))),
            blur=float(rng.uniform(0.0025, 0.006) + 0.0015 * portable),
            sharpen=float(rng.uniform(0, 0.9)),
            low=float(np.clip(rng.normal(0.18, 0.06), 0.04, 0.34)),
            high=float(np.clip(rng.normal(0.84, 0.05), 0.7, 0.97)),
            gamma=float(np.exp(rng.normal(0, 0.2))),
            border=(left, top, right, bottom) if rng.random() < (0.15 if portable else 0.35) else None,
            seed=int(rng.integers(1 << 31)),
        )


def expose(canvas: Canvas, attenuation: Image, lung: Image, exposure: Exposure) -> Image:
    """Return the film, 0 (air) to 1 (metal), [H, W], as the processing would show it; collimated borders are 0."""
    rng = stream("exposure", exposure.seed)
    # Written over in place wherever it can be: new arrays would cost as much as the arithmetic.
    light = canvas.blur(attenuation, exposure.blur)
    # Beer and Lambert's law: light falls exponentially with what lies in the beam.
    cv2.exp(np.multiply(light, np.float32(-1.25), out=light), dst=light)
    cv2.addWeighted(light, 1 - exposure.scatter, _spread(canvas, light), exposure.scatter, 0, dst=light)
    # The same film in larger pixels collects more photons in each, hence less noise.
    photons = exposure.dose * (512 / min(canvas.shape)) ** 2
    quanta = cv2.LUT(rng.integers(0, 256, canvas.shape, np.uint8), _NORMAL * np.float32(photons**-0.5))
    # Photons are counted: Poisson's deviation is the root of their number.
    quanta *= np.sqrt(light)
    light += quanta
    # Behind metal noise may leave no light at all, or less.
    cv2.log(np.maximum(light, np.float32(1e-3), out=light), dst=light)
    # With the sign turned: where little light arrives, a film is bright.
    log: Image = cv2.addWeighted(
        light, -1 - exposure.sharpen, canvas.blur(light, 0.02), exposure.sharpen, 0, dst=quanta
    )
    film = tone(log, lung, exposure)
    return _collimate(film, exposure.border)


def tone(log: Image, lung: Image, exposure: Exposure) -> Image:
    """Return log attenuation [H, W] as a film, 0..1: lungs dark, densest parts bright, as automatic exposure does."""
    # Percentiles need a sort; every sixteenth pixel gives nearly the same ones.
    few = (slice(None, None, 4), slice(None, None, 4))
    inside = lung[few] > 0.5
    # Percentiles and not extremes: a lead marker or a pacemaker must not set the exposure.
    dark = float(np.percentile(log[few][inside], 10)) if inside.any() else float(np.percentile(log[few], 10))
    bright = float(np.percentile(log[few], 93))
    # At least 0.2, so that a film without contrast is not stretched until its noise is all there is.
    scale = (exposure.high - exposure.low) / max(bright - dark, 0.2)
    # One table for the whole curve: exponentials and powers of each pixel would cost more than all else here.
    curve = _CURVE ** np.float32(exposure.gamma)
    slope = scale * _LEVELS / 4
    index = log * np.float32(slope)
    index += np.float32((exposure.low + 1.5) * _LEVELS / 4 - dark * slope)
    shown: Image = curve.take(index.astype(np.intp), mode="clip")
    return shown


def _spread(canvas: Canvas, light: Image) -> Image:
    # Scatter is so wide a blur that 48 columns hold all of it.
    small = cv2.resize(light, (48, max(1, round(48 * canvas.shape[0] / canvas.shape[1]))), interpolation=cv2.INTER_AREA)
    return canvas.take(cv2.GaussianBlur(small, (0, 0), 6))


def _collimate(film: Image, border: tuple[float, float, float, float] | None) -> Image:
    # No ray falls outside the collimated field, which would be white there; processing shows it black.
    if border is not None:
        height, width = film.shape
        left, top, right, bottom = border
        inside = np.zeros_like(film)
        inside[
            round(top * height) : height - round(bottom * height), round(left * width) : width - round(right * width)
        ] = 1
        film = film * cv2.blur(inside, (3, 3))
    return film
