"""Augment training images mildly by albumentations, with draws from (seed, epoch, row) and nothing else.

So neither workers, nor a resumed run, nor the order of rows changes how a row looks in an epoch.
"""

import functools
import os
import random
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    import albumentations

    from cxr_ft.data.pixels.image_decode import Pixels

AUGMENT = ("none", "mild")
#: Degrees, share of the side, factor, share of the grey range: as two films of one patient may differ.
TURN, SHIFT, SCALE, EXPOSURE = 5.0, 0.03, 0.05, 0.1


@dataclass(frozen=True, kw_only=True)
class Augmentation:
    """Random changes of an image.

    Args:
        mild: change position (turn, shift, scale; one image in two) and exposure (brightness and contrast, gamma; each
            in one of two).
        flip: exchange left and right in one image of two. The text stays as it is, although it may say left and right.
        seed: of the run.
    """

    mild: bool
    flip: bool
    seed: int

    def __call__(self, image: "Pixels", epoch: int, row: int) -> "Pixels":
        """Return `image` uint8 [S, S] as `row` is shown in `epoch`, of the same shape; the input stays as it is."""
        # A generator for each image: it does not matter which worker asks, or in which order.
        draws = np.random.default_rng([self.seed, epoch, row])
        steps = _steps(self.mild, self.flip)
        # Not `set_random_seed`: it gives each step the same seed, so that they all happen or none does.
        steps.set_random_state(draws, random.Random(int(draws.integers(2**63))))
        changed: Pixels = steps(image=np.ascontiguousarray(image))["image"]
        return changed


@functools.cache
def _steps(mild: bool, flip: bool) -> "albumentations.Compose":
    """Return albumentations' pipeline; made once, its random state is set for each image."""
    # Else it asks the package index for a newer version when it is imported.
    os.environ["NO_ALBUMENTATIONS_UPDATE"] = "1"
    import albumentations as A
    import cv2

    moved = A.Affine(
        rotate=(-TURN, TURN),
        translate_percent={"x": (-SHIFT, SHIFT), "y": (-SHIFT, SHIFT)},
        scale=(1 - SCALE, 1 + SCALE),
        interpolation=cv2.INTER_LINEAR,
        border_mode=cv2.BORDER_CONSTANT,  # beyond the film it is dark, as air is
        fill=0,
        p=0.5,
    )
    exposed = [
        A.RandomBrightnessContrast(brightness_limit=EXPOSURE, contrast_limit=EXPOSURE, p=0.5),
        # In hundredths, as albumentations takes it: 90 to 110 is a gamma of 0.9 to 1.1.
        A.RandomGamma(gamma_limit=(100 - 100 * EXPOSURE, 100 + 100 * EXPOSURE), p=0.5),
    ]
    # Off unless asked for: a mirrored chest has its heart on the right, while the report still says left.
    return A.Compose([*([A.HorizontalFlip(p=0.5)] if flip else []), *([moved, *exposed] if mild else [])])
