"""Real photographs that scikit-image ships, cut to the sizes that tests need."""

from functools import cache

import numpy as np
from PIL import Image
from skimage import data


@cache
def photographs(height: int, width: int) -> np.ndarray:
    """Two photographs, uint8 [2, height, width, 3]; read only."""
    pictures = (data.chelsea()[20:280, 90:350], data.coffee()[60:340, 100:480])
    batch = np.stack([np.asarray(Image.fromarray(picture).resize((width, height))) for picture in pictures])
    batch.flags.writeable = False
    return batch


def psnr(images: np.ndarray, others: np.ndarray) -> float:
    """Peak signal-to-noise ratio in dB, over uint8 pictures together."""
    return float(10 * np.log10(255**2 / np.mean((images.astype(float) - others) ** 2)))
