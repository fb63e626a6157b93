"""Pictures that come twice: the same pixels, or the same picture saved, shrunk or brightened anew."""

import hashlib
from collections import defaultdict
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from PIL import Image

THUMBNAIL = 16  # pixels a side
# Correlation of two thumbnails. The same picture as a JPEG of quality 75, 20% darker or with some noise
# reaches it on photographs and tissue, and nine of ten do at half the size; different ones reach 0.88. Of 8
# million pairs of clothes (Fashion-MNIST, the most alike that were tried) one does that is not the same.
NEAR = 0.995
MOST_PAIRS = 10_000  # frames of a film all resemble each other
CHUNK = 1024  # rows of the correlation matrix at a time


class Pair(NamedTuple):
    """Positions of two pictures in the list that was searched, and the correlation of their thumbnails."""

    first: int
    second: int
    similarity: float


def digest(image: np.ndarray) -> str:
    """Equal for equal pixels of equal shape and dtype, and for those only."""
    header = f"{image.dtype}{image.shape}".encode()
    return hashlib.blake2b(header + np.ascontiguousarray(image).tobytes(), digest_size=16).hexdigest()


def thumbnail(image: np.ndarray) -> np.ndarray:
    """`[H, W, C]` to a grey thumbnail without mean and contrast, float32 `[256]` of length 1.

    A picture of one colour, in which there is nothing to recognise, becomes zeros.
    """
    grey = np.ascontiguousarray(image.mean(axis=-1, dtype=np.float32))
    small = Image.fromarray(grey).resize((THUMBNAIL, THUMBNAIL), Image.Resampling.BOX)
    values = np.asarray(small, np.float64).ravel()
    values -= values.mean()
    length, peak = np.linalg.norm(values), float(np.abs(grey).max(initial=0))
    # What rounding leaves of a constant picture is no contrast.
    return (values / length if length > 1e-4 * peak else np.zeros_like(values)).astype(np.float32)


def same_pixels(digests: Sequence[str]) -> list[list[int]]:
    """Positions of pictures with equal digests, one list per picture that comes more than once."""
    places: dict[str, list[int]] = defaultdict(list)
    for index, value in enumerate(digests):
        places[value].append(index)
    return [found for found in places.values() if len(found) > 1]


def near_pairs(thumbnails: np.ndarray, digests: Sequence[str]) -> list[Pair]:
    """Up to `MOST_PAIRS` pairs that correlate by at least `NEAR` but differ in pixels, the most alike first.

    Args:
        thumbnails: float32 `[N, 256]` of `thumbnail`.
        digests: N, of `digest`.
    """
    names = np.asarray(digests)
    pairs: list[Pair] = []
    for start in range(0, len(thumbnails), CHUNK):
        rest, rest_names = thumbnails[start:], names[start:]
        first, second = np.nonzero(np.triu(rest[:CHUNK] @ rest.T, 1) >= NEAR)
        differ = np.flatnonzero(rest_names[first] != rest_names[second])[: MOST_PAIRS - len(pairs)]
        first, second = first[differ], second[differ]
        similarity = np.minimum(1, np.einsum("ij,ij->i", rest[first], rest[second]))
        pairs += map(Pair, (start + first).tolist(), (start + second).tolist(), similarity.tolist())
    return sorted(pairs, key=lambda pair: -pair.similarity)
