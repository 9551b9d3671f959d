"""Grey images as a model reads them: three channels, with the mean and deviation its weights were made with."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from torch import Tensor


def normalised(
    images: NDArray[np.uint8], size: int, mean: Sequence[float], deviation: Sequence[float], scale: float = 1 / 255
) -> "Tensor":
    """uint8 [..., S, S], from 0 (air, dark) to 255 -> float32 [..., 3, S, S]: (image * scale - mean) / deviation.

    Raises:
        ValueError: for another dtype or size: a film in another range would be read without an error, and wrongly.
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
    x = torch.from_numpy(images).float()[..., None, :, :] * scale
    means, deviations = (torch.tensor(v).view(3, 1, 1) for v in (mean, deviation))
    return (x - means) / deviations
