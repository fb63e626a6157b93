"""k from an object's size: how many positions of the CAM the object covers.

Top-GAP averages the k largest of the h * w positions of a class's map, so k says how large the network may
take an object to be. An object that covers the share s of the picture covers k = s * h * w positions.
"""

import math
import warnings
from collections.abc import Sequence

import numpy as np


def k_from_coverage(coverage: float, cam_shape: Sequence[int]) -> int:
    """Positions of the CAM that an object covers: coverage * h * w, rounded, at least 1.

    Args:
        coverage: share of the picture's area, in (0, 1].
        cam_shape: (h, w) of the CAM; the pyramid's is a quarter of the picture's height and width.

    Returns:
        k, in 1..h*w. Below half a position it is 1, with a warning: such an object is lost on this CAM.

    Raises:
        ValueError: a coverage outside (0, 1], a CAM without positions.
    """
    height, width = _shape(cam_shape, "cam_shape")
    if not 0 < coverage <= 1:
        raise ValueError(f"coverage is a share of the picture in (0, 1], not {coverage:g}")
    positions = coverage * height * width
    if positions < 0.5:
        warnings.warn(
            f"the object covers {positions:.2g} of a position on a CAM of {height} x {width}, so k is 1; "
            "larger pictures, or crops around the object, would show it",
            stacklevel=2,
        )
    return max(1, math.floor(positions + 0.5))


def k_from_masks(
    masks: np.ndarray | Sequence[np.ndarray], cam_shape: Sequence[int], quantile: float = 0.5
) -> int:
    """k from the share of the picture that masks cover.

    Args:
        masks: bool or 0/1, `[N, H, W]`, or a sequence of N masks `[H, W]` that differ in size. Empty ones
            (pictures without an object) are left out.
        cam_shape: (h, w) of the CAM.
        quantile: which object's share counts, in [0, 1]; 0.5 is the median.

    Raises:
        ValueError: no mask with an object, a mask that is not `[H, W]`, a quantile outside [0, 1].
    """
    shares = np.array([_share(np.asarray(mask), index) for index, mask in enumerate(masks)])
    if not (shares > 0).any():
        raise ValueError(f"none of the {len(shares)} masks shows an object, so they suggest no k")
    return k_from_coverage(_quantile(shares[shares > 0], quantile), cam_shape)


def k_from_boxes(
    boxes: np.ndarray,
    image_shapes: np.ndarray | Sequence[int],
    cam_shape: Sequence[int],
    quantile: float = 0.5,
    fill: float = 1.0,
) -> int:
    """k from the share of the picture that boxes cover.

    Args:
        boxes: `[N, 4]`, (top, left, bottom, right) in pixels, edges: the whole picture is 0, 0, H, W.
        image_shapes: (H, W) of every picture, or `[N, 2]`.
        cam_shape: (h, w) of the CAM.
        quantile: which object's share counts, in [0, 1]; 0.5 is the median.
        fill: share of its box that an object fills, in (0, 1]; an upright ellipse fills pi/4 of it.

    Raises:
        ValueError: no boxes, an empty box, one that leaves its picture, a quantile or fill out of range.
    """
    boxes = np.asarray(boxes, np.float64).reshape(-1, 4)
    if not len(boxes):
        raise ValueError("there are no boxes, so they suggest no k")
    if not 0 < fill <= 1:
        raise ValueError(f"fill is the share of its box that an object fills, in (0, 1], not {fill:g}")
    shapes = np.broadcast_to(np.asarray(image_shapes, np.float64)[..., :2], (len(boxes), 2))
    low, high = boxes[:, :2], boxes[:, 2:]
    bad = ~((low >= 0) & (low < high) & (high <= shapes)).all(axis=1)  # true for NaN too
    if bad.any():
        first = int(bad.argmax())
        raise ValueError(
            f"{bad.sum()} of {len(boxes)} boxes are empty or leave their picture; the first is box {first}, "
            f"{boxes[first].tolist()} (top, left, bottom, right) on a picture of "
            f"{shapes[first, 0]:g} x {shapes[first, 1]:g} pixels"
        )
    shares = (high - low).prod(axis=1) / shapes.prod(axis=1)
    return k_from_coverage(fill * _quantile(shares, quantile), cam_shape)


def k_from_size(
    size_um: float | Sequence[float],
    pixel_size_um: float,
    image_shape: Sequence[int],
    cam_shape: Sequence[int],
    count: float = 1,
) -> int:
    """k from an object's size in micrometres.

    Args:
        size_um: diameter of a disc, or (height, width) of a rectangle, in micrometres.
        pixel_size_um: side of a pixel in micrometres, of the picture as the network gets it: a picture
            shrunk to half its height has pixels twice as large.
        image_shape: (H, W) of that picture in pixels.
        cam_shape: (h, w) of the CAM.
        count: how many such objects a picture shows.

    Raises:
        ValueError: a size that is not positive, or an object larger than the picture.
    """
    height, width = _shape(image_shape[:2], "image_shape")
    sides = np.asarray(size_um, np.float64)
    if sides.shape not in ((), (2,)) or not (np.isfinite(sides) & (sides > 0)).all():
        raise ValueError(
            f"size_um is a diameter or (height, width), positive and in micrometres, not {size_um}"
        )
    for name, value in (("pixel_size_um", pixel_size_um), ("count", count)):
        if not 0 < value < math.inf:
            raise ValueError(f"{name} must be positive, not {value:g}")
    field = np.array([height, width]) * pixel_size_um
    if (np.broadcast_to(sides, 2) > field).any():
        raise ValueError(
            f"an object of {' x '.join(f'{side:g}' for side in np.atleast_1d(sides))} um does not fit into a "
            f"picture of {field[0]:g} x {field[1]:g} um ({height} x {width} pixels of {pixel_size_um:g} um)"
        )
    area = math.pi / 4 * float(sides) ** 2 if sides.ndim == 0 else float(sides.prod())
    if (coverage := count * area / float(field.prod())) > 1:
        raise ValueError(f"{count:g} objects of this size cover {coverage:.3g} times the picture")
    return k_from_coverage(coverage, cam_shape)


def _shape(shape: Sequence[int], name: str) -> tuple[int, int]:
    height, width = shape
    if not (height >= 1 and width >= 1):
        raise ValueError(f"{name} is (height, width), both at least 1, not {tuple(shape)}")
    return int(height), int(width)


def _share(mask: np.ndarray, index: int) -> float:
    if mask.ndim != 2 or not mask.size:
        raise ValueError(f"mask {index} must be [H, W], not {list(mask.shape)}")
    return np.count_nonzero(mask) / mask.size


def _quantile(shares: np.ndarray, quantile: float) -> float:
    if not 0 <= quantile <= 1:
        raise ValueError(f"quantile must lie in [0, 1], not {quantile:g}")
    return float(np.quantile(shares, quantile))
