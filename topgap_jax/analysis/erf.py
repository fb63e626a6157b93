"""The effective receptive field: how much each input pixel moves one position of a map.

    ERF_p(q) = sum over input channels of | d (sum over the map's channels of X_p) / d image_q |

for a position p of the map and a pixel q of the image (paper, definition 3.1; Luo et al., "Understanding the
Effective Receptive Field", 2016). A map is whatever a function of images gives: the class activation map, or
any map of the backbone (`maps_of`).
"""

import functools
from collections.abc import Callable, Iterable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.tree_util import Partial
from jax.typing import ArrayLike

# Images [B,H,W,C] -> a map [B,h,w,K]. Examples must not influence each other.
MapsFn = Callable[[jax.Array], jax.Array]
Position = tuple[int, int]

TWO_SIGMA = 0.9545  # Luo et al. call a pixel effective that has at least 1 - 0.9545 of the largest value


def maps_of(model: nnx.Module, layer: str | int = "cam") -> Partial:
    """A map of a network as a function of images, with the parameters as data to `jax.jit`.

    Args:
      model: in evaluation mode; its output has `cam` [B,h,w,K] and `features`, as `ModelOutput` does.
      layer: "cam", or the number of a map in `features`, largest first (-1: the last one).

    Raises:
      ValueError: a layer that does not exist; when called, an output without a spatial map.
    """
    if layer != "cam" and not isinstance(layer, int):
        raise ValueError(f"unknown layer {layer!r}: 'cam' or the number of one of the backbone's maps")
    graphdef, state = nnx.split(model)
    return Partial(_network(graphdef, layer), nnx.to_pure_dict(state))


@functools.cache  # jit compares functions by identity
def _network(graphdef: nnx.GraphDef, layer: str | int) -> Callable[[Any, jax.Array], jax.Array]:
    def maps(state: Any, images: jax.Array) -> jax.Array:
        out = nnx.merge(graphdef, state)(images)
        if layer == "cam":
            return out.cam
        if not -len(out.features) <= int(layer) < len(out.features):
            raise ValueError(f"layer {layer} does not exist: the network has {len(out.features)} maps")
        return out.features[int(layer)]

    return maps


def corner_and_center(map_size: tuple[int, int]) -> tuple[Position, Position]:
    """(1, 1) and (h/2, w/2) of definition 4.1, counted from 0: of a 7x7 map (0, 0) and (3, 3)."""
    height, width = map_size
    return (0, 0), ((height - 1) // 2, (width - 1) // 2)


def effective_receptive_field(maps_fn: MapsFn, images: ArrayLike, positions: Sequence[Position]) -> jax.Array:
    """The effective receptive field of several positions, for every image.

    One backward pass per position for the whole batch, compiled once. Not for `jit`.

    Args:
      maps_fn: images to a map [B,h,w,K]; a `Partial` such as `maps_of` gives compiles once per shape.
      images: [B,H,W,C] float.
      positions: (row, column) of the map, counted from 0; negative ones count from the end.

    Returns:
      [P,B,H,W], at least 0.

    Raises:
      ValueError: a position outside the map, or an output that is no map.

    Source: paper, definition 3.1.
    """
    maps_fn, images = _partial(maps_fn), jnp.asarray(images)
    rows = _checked(maps_fn, images, positions)
    return jnp.abs(jnp.stack([_gradient(maps_fn, images, row) for row in rows])).sum(-1)


def erf_grid(map_size: tuple[int, int], count: int) -> list[Position]:
    """`count` x `count` positions spread evenly over a map, corners included; row by row.

    Raises:
      ValueError: a count below 2 or above the map's height or width.
    """
    if not 2 <= count <= min(map_size):
        raise ValueError(f"a grid of {count} x {count} does not fit a map of {map_size[0]}x{map_size[1]}")
    rows, columns = (np.rint(np.linspace(0, length - 1, count)).astype(int).tolist() for length in map_size)
    return [(row, column) for row in rows for column in columns]


class ErfFigures(NamedTuple):
    """What tables 2, A1 and A2 of the paper show."""

    center: float  # mean |z| of the gradient of the center position
    corner: float  # the same of the corner (1, 1)
    distance: float  # center - corner (definition 4.1)
    standard_error: float  # of the distance, over images
    images: int


def erf_distance(maps_fn: MapsFn, batches: Iterable[ArrayLike], *, normalize: str = "image") -> ErfFigures:
    """Center, corner and distance of the effective receptive field over a data set (definition 4.1).

    The gradients g of both positions with respect to every pixel and channel are z-normalised together,
    z = (g - mean) / deviation, and ERF = mean |z| of each position. Apart, each map would have the same scale
    by construction, and their difference would say nothing about the position.

    Args:
      maps_fn: images to a map [B,h,w,K].
      batches: images [B,H,W,C]; read twice where `normalize="dataset"`.
      normalize: "image": mean and deviation over both positions of one image, or "dataset": over both
        positions of all images. The paper does not say which.

    Raises:
      ValueError: another `normalize`, or no images.

    Source: paper, definition 4.1 and appendix B.1.
    """
    if normalize not in ("image", "dataset"):
        raise ValueError(f"normalize is 'image' or 'dataset', not {normalize!r}")
    batches = list(batches) if iter(batches) is batches else batches
    overall = _moments(maps_fn, batches) if normalize == "dataset" else None
    per_image = [np.abs(_normalized(g, overall)).mean((2, 3, 4)) for g in _both(maps_fn, batches)]
    if not per_image:
        raise ValueError("erf_distance needs at least one image")
    corner, center = np.concatenate(per_image, axis=1)
    distance = center - corner
    error = float(distance.std(ddof=1) / np.sqrt(len(distance))) if len(distance) > 1 else 0.0
    return ErfFigures(
        float(center.mean()), float(corner.mean()), float(distance.mean()), error, len(distance)
    )


def mean_erf(maps_fn: MapsFn, batches: Iterable[ArrayLike], positions: Sequence[Position]) -> np.ndarray:
    """`effective_receptive_field` averaged over the images of a data set, [P,H,W]; constant memory.

    Raises:
      ValueError: as `effective_receptive_field`; no images.
    """
    total, count = None, 0
    for images in batches:
        found = np.asarray(effective_receptive_field(maps_fn, images, positions), np.float64).sum(1)
        total, count = found if total is None else total + found, count + np.shape(images)[0]
    if total is None:
        raise ValueError("mean_erf needs at least one image")
    return total / count


def effective_area(field: jax.Array, share: float = TWO_SIGMA) -> jax.Array:
    """Share of the picture's pixels whose ERF is at least `1 - share` of its maximum.

    Args:
      field: effective receptive fields, at least 0, [...,H,W].
      share: in (0, 1).

    Returns:
      [...] in [0, 1]; 0 where the field is 0 everywhere.

    Source: Luo et al., 2016, section 4 ("ERF size").
    """
    top = field.max((-2, -1), keepdims=True)
    return ((field >= (1 - share) * top) & (top > 0)).mean((-2, -1))


def theoretical_field(
    maps_fn: MapsFn, image_shape: tuple[int, int, int], position: Position
) -> tuple[int, int, int, int]:
    """The pixels that can move a position at all: (top, left, bottom, right), the last two exclusive.

    Rows and columns of a picture are set to NaN, which every convolution, pooling and non-linearity hands on;
    where the position turns NaN, it depends on them. A layer that reads the whole map (squeeze and
    excitation, or an interpolation written as a matrix product, as in the pyramid head) gives the whole
    picture: ask for the backbone's maps instead.

    Args:
      maps_fn: images to a map [B,h,w,K].
      image_shape: (H, W, C).
      position: (row, column) of the map.

    Raises:
      ValueError: a position outside the map.
    """
    maps_fn = _partial(maps_fn)
    height, width, channels = image_shape
    images = jnp.full((1, height, width, channels), 0.5)
    (row,) = _checked(maps_fn, images, [position])

    def depends(axis: int, start: int, stop: int) -> bool:
        index = [slice(None)] * 4
        index[axis] = slice(start, stop)
        return bool(_turns_nan(maps_fn, images.at[tuple(index)].set(jnp.nan), row))

    def first(axis: int) -> int:
        return _largest(images.shape[axis], lambda i: not depends(axis, 0, i))

    def last(axis: int) -> int:
        return _largest(images.shape[axis], lambda i: depends(axis, i, images.shape[axis]))

    return first(1), first(2), last(1) + 1, last(2) + 1


def _largest(length: int, holds: Callable[[int], bool]) -> int:
    """The largest i in 0..length-1 with `holds(i)`, which is true up to there and false beyond."""
    low, high = 0, length
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if holds(middle) else (low, middle)
    return low


@jax.jit
def _turns_nan(maps_fn: MapsFn, images: jax.Array, position: jax.Array) -> jax.Array:
    return jnp.isnan(maps_fn(images)[0, position[0], position[1]]).any()


@jax.jit
def _gradient(maps_fn: MapsFn, images: jax.Array, position: jax.Array) -> jax.Array:
    """The gradient of one position, summed over the map's channels, [B,H,W,C]."""

    def at(images: jax.Array) -> jax.Array:
        return maps_fn(images)[:, position[0], position[1]].sum()

    return jax.grad(at)(images)


def _both(maps_fn: MapsFn, batches: Iterable[ArrayLike]) -> Iterable[np.ndarray]:
    """Gradients of the corner and of the center, [2,B,H,W,C] for every batch."""
    maps_fn = _partial(maps_fn)
    for images in batches:
        images = jnp.asarray(images)
        positions = corner_and_center(_map_size(maps_fn, images))
        rows = _checked(maps_fn, images, positions)
        yield np.stack([np.asarray(_gradient(maps_fn, images, row), np.float64) for row in rows])


def _moments(maps_fn: MapsFn, batches: Iterable[ArrayLike]) -> tuple[float, float]:
    """Mean and standard deviation of all gradients of both positions."""
    count, total, squares = 0, 0.0, 0.0
    for gradients in _both(maps_fn, batches):
        count += gradients.size
        total, squares = total + float(gradients.sum()), squares + float((gradients**2).sum())
    mean = total / max(count, 1)
    return mean, float(np.sqrt(max(squares / max(count, 1) - mean**2, 0.0)))


def _normalized(gradients: np.ndarray, overall: tuple[float, float] | None) -> np.ndarray:
    """z of gradients [2,B,H,W,C]; zeros where an image's gradients are all the same."""
    axes = (0, 2, 3, 4)
    if overall is None:
        mean, deviation = gradients.mean(axes, keepdims=True), gradients.std(axes, keepdims=True)
    else:
        mean, deviation = np.asarray(overall[0]), np.asarray(overall[1])
    return np.where(deviation == 0, 0.0, (gradients - mean) / np.where(deviation == 0, 1.0, deviation))


def _partial(maps_fn: MapsFn) -> Partial:
    return maps_fn if isinstance(maps_fn, Partial) else Partial(maps_fn)


def _map_size(maps_fn: MapsFn, images: jax.Array) -> tuple[int, int]:
    shape = jax.eval_shape(maps_fn, images).shape
    if len(shape) != 4:
        raise ValueError(f"the receptive field is that of a map [B,h,w,K], not of an output {list(shape)}")
    return shape[1], shape[2]


def _checked(maps_fn: MapsFn, images: jax.Array, positions: Sequence[Position]) -> list[jax.Array]:
    height, width = _map_size(maps_fn, images)
    for row, column in positions:
        if not (-height <= row < height and -width <= column < width):
            raise ValueError(f"position ({row}, {column}) lies outside the map of {height}x{width}")
    return [jnp.array([row % height, column % width]) for row, column in positions]
