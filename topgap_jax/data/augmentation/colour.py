"""Colour and sharpness of a picture; mask and box stay as they are."""

import numpy as np
from PIL import Image, ImageEnhance
from scipy.ndimage import gaussian_filter

from topgap_jax.data.augmentation.geometry import Transform
from topgap_jax.data.sources import Example

LUMA = np.array([0.299, 0.587, 0.114], np.float32)  # ITU-R 601-2, which Pillow takes too


def color_jitter(
    brightness: float = 0.4,
    contrast: float | None = None,
    saturation: float | None = None,
    hue: float = 0.0,
) -> Transform:
    """Random brightness, contrast, saturation and hue, in random order, as torchvision draws them.

    Brightness and contrast suit every picture; saturation needs three channels, hue also uint8. Where
    channels are no colours (1 channel, or more than 3), each keeps its own mean under a change of contrast.

    Args:
        brightness, contrast, saturation: the factor is drawn from [max(0, 1 - value), 1 + value]. By default
            contrast and saturation are as strong as brightness.
        hue: the turn is drawn from [-hue, hue]; 1 is the whole circle. At most 0.5.

    Raises:
        ValueError: a value outside its range; in the transform, pictures that have no saturation or hue.
    """
    contrast = brightness if contrast is None else contrast
    saturation = brightness if saturation is None else saturation
    if min(brightness, contrast, saturation) < 0 or not 0 <= hue <= 0.5:
        raise ValueError(
            "color_jitter takes brightness, contrast and saturation >= 0 and hue in [0, 0.5], "
            f"not {brightness}, {contrast}, {saturation}, {hue}"
        )
    strengths = (brightness, contrast, saturation)

    def transform(example: Example, rng: np.random.Generator) -> Example:
        image = example["image"]
        _check_colours(image, brightness, contrast, saturation, hue)
        factors = [rng.uniform(max(0, 1 - strength), 1 + strength) for strength in strengths]
        turn = rng.uniform(-hue, hue)
        for number in rng.permutation(4):
            if number == 3:
                image = turn_hue(image, turn) if hue else image
            elif strengths[number]:
                image = (scale_brightness, scale_contrast, scale_saturation)[number](image, factors[number])
        return {**example, "image": image}

    return transform


def gaussian_blur(probability: float = 0.5, smallest: float = 0.1, largest: float = 2.0) -> Transform:
    """Blur with this probability; the standard deviation is drawn evenly, by default as in SimCLR.

    Args:
        probability: in [0, 1].
        smallest, largest: standard deviation in pixels, above 0.

    Raises:
        ValueError: a value outside its range.
    """
    if not 0 <= probability <= 1:
        raise ValueError(f"gaussian_blur takes a probability in [0, 1], not {probability}")
    if not 0 < smallest <= largest:
        raise ValueError(f"gaussian_blur needs 0 < smallest <= largest, not {smallest}, {largest}")

    def transform(example: Example, rng: np.random.Generator) -> Example:
        if rng.random() >= probability:
            return example
        deviation, image = rng.uniform(smallest, largest), example["image"]
        blurred = gaussian_filter(image.astype(np.float32), (deviation, deviation, 0))
        return {**example, "image": _like(image, blurred)}

    return transform


def scale_brightness(image: np.ndarray, factor: float) -> np.ndarray:
    """0 is black, 1 the picture itself."""
    if _for_pillow(image):
        return _enhanced(ImageEnhance.Brightness, image, factor)
    return _like(image, image * np.float32(factor))


def scale_contrast(image: np.ndarray, factor: float) -> np.ndarray:
    """0 is even grey, 1 the picture itself."""
    if _for_pillow(image):
        return _enhanced(ImageEnhance.Contrast, image, factor)
    mean = (image @ LUMA).mean() if image.shape[-1] == 3 else image.mean((0, 1), dtype=np.float32)
    return _like(image, mean + (image - mean) * np.float32(factor))


def scale_saturation(image: np.ndarray, factor: float) -> np.ndarray:
    """0 is grey, 1 the picture itself; three channels."""
    if _for_pillow(image):
        return _enhanced(ImageEnhance.Color, image, factor)
    grey = (image @ LUMA)[..., None]
    return _like(image, grey + (image - grey) * np.float32(factor))


def turn_hue(image: np.ndarray, turn: float) -> np.ndarray:
    """Turn the colour circle, 1 is once around; uint8 with three channels."""
    hsv = np.array(Image.fromarray(image).convert("HSV"))
    hsv[..., 0] += np.int32(turn * 255).astype(np.uint8)  # wraps around, as it should
    return np.asarray(Image.fromarray(hsv, "HSV").convert("RGB"))


def _check_colours(
    image: np.ndarray, brightness: float, contrast: float, saturation: float, hue: float
) -> None:
    channels = image.shape[-1]
    if (saturation or hue) and channels != 3:
        raise ValueError(
            f"saturation and hue need pictures with 3 channels, not {channels}; "
            f"write color_jitter:{brightness:g}:{contrast:g}:0"
        )
    if hue and image.dtype != np.uint8:
        raise ValueError(
            f"hue needs pictures of uint8, not {image.dtype}; "
            f"write color_jitter:{brightness:g}:{contrast:g}:{saturation:g}"
        )


def _for_pillow(image: np.ndarray) -> bool:
    return image.dtype == np.uint8 and image.shape[-1] in (1, 3)


def _enhanced(enhancement: type, image: np.ndarray, factor: float) -> np.ndarray:
    picture = Image.fromarray(image[..., 0] if image.shape[-1] == 1 else image)
    return np.asarray(enhancement(picture).enhance(factor)).reshape(image.shape)


def _like(image: np.ndarray, changed: np.ndarray) -> np.ndarray:
    """Clipped to the range of the picture's dtype, and of that dtype."""
    if image.dtype == np.uint8:
        return np.clip(np.rint(changed), 0, 255).astype(np.uint8)
    return np.clip(changed, 0, 1).astype(np.float32)
