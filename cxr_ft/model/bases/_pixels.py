"""Normalise grey images for a model: three channels, by the mean and deviation of its pretraining."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from torch import Tensor

#: Import lines of a model card for a base of images.
CARD_IMPORTS = ("import numpy as np", "from PIL import Image")


def normalised(
    images: NDArray[np.uint8], size: int, mean: Sequence[float], deviation: Sequence[float], scale: float = 1 / 255
) -> "Tensor":
    """Return (image * scale - mean) / deviation: uint8 [..., S, S], 0 (air, dark) to 255 -> float32 [..., 3, S, S].

    Raises:
        ValueError: for another dtype or size; an image in another range would be read wrongly, without any error.
    """
    import torch

    if images.dtype != np.uint8:
        lowest, highest = (images.min(), images.max()) if images.size else (0, 0)
        raise ValueError(
            f"images are {images.dtype} from {lowest:g} to {highest:g}; give uint8 from 0 to 255, "
            "as cxr_ft.data.dicom.read_xray does"
        )
    if images.ndim < 2 or images.shape[-2:] != (size, size):
        shape = " x ".join(map(str, images.shape))
        raise ValueError(f"images are {shape}; give ... x {size} x {size}, grey, the size this model reads")
    # One channel: broadcasting with the three means makes three of it, without a copy before.
    x = torch.from_numpy(images).float()[..., None, :, :] * scale
    means, deviations = (torch.tensor(v).view(3, 1, 1) for v in (mean, deviation))
    return (x - means) / deviations


def card_inputs(size: int, mean: Sequence[float], deviation: Sequence[float]) -> tuple[str, ...]:
    """Return the lines of a model card that make `pixels` [1, 3, S, S] from an image file, as `normalised` does."""
    means, deviations = ([float(value) for value in values] for values in (mean, deviation))
    return (
        f"# {size} pixels square, as cxr_ft.data.dicom.read_xray makes them",
        'image = torch.tensor(np.asarray(Image.open("image.png").convert("RGB"))) / 255',
        f"pixels = ((image - torch.tensor({means})) / torch.tensor({deviations})).permute(2, 0, 1)[None]",
    )
