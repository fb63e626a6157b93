"""Where the object is and how large it is, read off a heat map: boxes and areas."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from scipy import ndimage, stats

from topgap_jax.analysis.cam import THRESHOLDS


def component_boxes(lit: np.ndarray) -> np.ndarray:
    """The tight box of every 8-connected component of a map.

    Args:
      lit: bool [H,W].

    Returns:
      float64 [N,4]: top, left, bottom, right, edges in pixels; the component with most pixels first.
    """
    components, count = ndimage.label(lit, np.ones((3, 3)))
    sizes = np.bincount(components.ravel(), minlength=count + 1)[1:]
    slices = ndimage.find_objects(components)
    boxes = [(rows.start, columns.start, rows.stop, columns.stop) for rows, columns in slices]
    return np.array(boxes, np.float64).reshape(-1, 4)[np.argsort(-sizes, kind="stable")]


def box_iou(boxes: np.ndarray, box: np.ndarray) -> np.ndarray:
    """Intersection over union of boxes [N,4] with one box [4]; [N], 0 where both are empty."""
    low, high = np.maximum(boxes[:, :2], box[:2]), np.minimum(boxes[:, 2:], box[2:])
    overlap = np.clip(high - low, 0, None).prod(1)
    union = (boxes[:, 2:] - boxes[:, :2]).prod(1) + (box[2:] - box[:2]).prod() - overlap
    return overlap / np.where(union == 0, 1, union)


def box_iou_curve(
    heat: np.ndarray,
    boxes: np.ndarray,
    thresholds: Sequence[float] = THRESHOLDS,
    *,
    components: str = "largest",
) -> np.ndarray:
    """IoU of the object's box with the box of what is lit, at every threshold.

    Args:
      heat: heat maps in [0, 1], [B,H,W].
      boxes: [B,4]: top, left, bottom, right, edges in pixels of the heat map.
      thresholds: a pixel is lit where heat >= threshold.
      components: "largest" (the component with most pixels) or "any" (the best of all components).

    Returns:
      [T,B] in [0, 1]; 0 where nothing is lit, NaN where the object's box is empty.

    Raises:
      ValueError: arrays that do not fit together, or another value of `components`.
    """
    heat, boxes = np.asarray(heat), np.asarray(boxes, np.float64)
    if heat.ndim != 3 or boxes.shape != (len(heat), 4):
        raise ValueError(
            f"box_iou_curve wants heat [B,H,W] and boxes [B,4], got {heat.shape} and {boxes.shape}"
        )
    if components not in ("largest", "any"):
        raise ValueError(f"components is 'largest' or 'any', not {components!r}")
    curve = np.zeros((len(thresholds), len(heat)))
    for t, threshold in enumerate(thresholds):
        for i, (picture, box) in enumerate(zip(heat, boxes, strict=True)):
            found = box_iou(component_boxes(picture >= threshold), box)
            curve[t, i] = (found.max() if components == "any" else found[0]) if found.size else 0.0
    curve[:, ((boxes[:, 2:] - boxes[:, :2]) <= 0).any(1)] = np.nan
    return curve


def max_box_accuracy(curve: np.ndarray, delta: float | Sequence[float] = 0.5) -> float:
    """MaxBoxAcc: the share of objects whose box is met with IoU >= delta, at the best threshold for all.

    With `components="largest"` and one delta this is the first version of the measure; with
    `components="any"` and deltas (0.3, 0.5, 0.7), which are averaged, the second. The threshold is chosen on
    the images themselves: an upper bound. Objects without a box are left out.

    Args:
      curve: of `box_iou_curve`, [T,B].
      delta: one or several, in (0, 1].

    Raises:
      ValueError: no image has a box.

    Source: Choe et al., "Evaluating weakly supervised object localization methods right", 2020, section 3.3.
    """
    usable = curve[:, ~np.isnan(curve).any(0)]
    if usable.shape[1] == 0:
        raise ValueError(f"max_box_accuracy needs an object with a box, all {curve.shape[1]} boxes are empty")
    return float(np.mean([(usable >= each).mean(1).max() for each in np.atleast_1d(delta)]))


def area(heat: np.ndarray, threshold: float) -> np.ndarray:
    """Share of each picture that is lit, `mean(heat >= threshold)`: heat [B,H,W] to [B] in [0, 1]."""
    return (np.asarray(heat) >= threshold).mean((1, 2))


class AreaFit(NamedTuple):
    """How far the lit area tells the object's area."""

    spearman: float  # rank correlation; NaN where all areas are the same
    ratio: float  # median of lit area / object's area
    error: float  # median of |lit area - object's area|, as a share of the picture
    images: int


def area_fit(lit: np.ndarray, objects: np.ndarray) -> AreaFit:
    """Does the lit area follow the object's?

    Args:
      lit: share of the picture that is lit, from `area`, [B].
      objects: share that the mask covers, [B]; empty masks are left out.

    Raises:
      ValueError: arrays that do not fit together, or fewer than two objects.
    """
    lit, objects = np.asarray(lit, np.float64), np.asarray(objects, np.float64)
    if lit.ndim != 1 or lit.shape != objects.shape:
        raise ValueError(f"area_fit wants two arrays [B], got {lit.shape} and {objects.shape}")
    lit, objects = lit[objects > 0], objects[objects > 0]
    if len(lit) < 2:
        raise ValueError(f"area_fit needs at least two objects with a mask, not {len(lit)}")
    constant = np.ptp(lit) == 0 or np.ptp(objects) == 0
    correlation = np.nan if constant else stats.spearmanr(lit, objects).statistic
    return AreaFit(
        float(correlation),
        float(np.median(lit / objects)),
        float(np.median(abs(lit - objects))),
        len(lit),
    )
