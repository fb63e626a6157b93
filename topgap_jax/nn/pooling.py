"""Pooling of a class activation map: the mean of the k largest values (Top-GAP) and the plain mean (GAP).

The k largest values need no sorting. Floats of one sign are ordered like their bits, so the k-th largest value
can be built bit by bit from the top: a bit is set if at least k values remain at or above the result. That takes
as many passes as the type has bits, whatever the values and whatever k (which may be traced and may differ from row
to row), and each pass only compares and counts: no indices, no gathers, no communication along the batch. The passes
run over one byte of each value at a time, which is a quarter of the memory traffic for float32.
"""

import functools
import math
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.typing import ArrayLike

# Values are counted in blocks, then the blocks are added up. Up to 32 terms XLA's CPU compiler merges comparison and
# sum in one vectorised loop; longer sums it splits, after writing the mask to memory. A block's count fits int8.
BLOCK = 16


def topk_mean(x: jax.Array, k: ArrayLike, axis: int | Sequence[int] = (1, 2)) -> jax.Array:
    r"""Mean of the k largest values over `axis`: the pooling of Top-GAP.

    .. math::
        y = \frac{1}{k} \sum_{i=1}^{k} x_{(i)} = \min_t \; t + \frac{1}{k} \sum_j \max(x_j - t, 0),
        \qquad x_{(1)} \ge x_{(2)} \ge \dots

    The gradient is 1/k for every value above the k-th largest, :math:`x_{(k)}`; the values equal to it share the
    rest evenly. Forward and reverse mode and higher orders work (the second derivative in x is zero).
    A real-valued k has the derivative :math:`(x_{(k)} - y) / k`.

    NaN and infinities rank as in `lax.top_k`: -NaN, -inf, ..., inf, NaN. A NaN with its sign bit set, which is
    what x86 makes of `inf - inf`, therefore ranks last and shows only where k reaches it. -0 equals 0.

    Args:
      x: values `[..., reduced axes, ...]`, floating; `[B, H, W, K]` for a CAM. 16-bit types are summed in float32.
      k: how many values to average, 1 <= k <= n with n the number of values along `axis`. An integer, or an array
        that broadcasts with the result: one k for all, per class `[K]`, per image `[B, 1]` or both `[B, K]`.
        A traced k is clamped to 1..n, since it cannot be checked.
      axis: the axes to reduce.

    Returns:
      The means, with the shape of x without `axis` and its dtype.

    Raises:
      ValueError: a concrete k below 1 or above n.
      TypeError: x is not floating, or k is neither integer nor floating.
    """
    axes, n = _reduced(x, axis)
    _check(x, k, n)
    concrete = None if isinstance(k, jax.core.Tracer) else np.asarray(k)
    if concrete is not None and (concrete == n).all():
        return gap(x, axes)
    result_shape = [size for i, size in enumerate(x.shape) if i not in axes]
    before, after = result_shape[: axes[0]], result_shape[axes[0] :]
    rows = jnp.moveaxis(x, axes, range(axes[0], axes[0] + len(axes)))
    rows = rows.reshape(math.prod(before), n, math.prod(after))  # for a CAM [B, h*w, K]: nothing moves
    k = jnp.asarray(k)
    k = k.astype(jnp.int32 if jnp.issubdtype(k.dtype, jnp.integer) else _sum_dtype(x))
    k = jnp.broadcast_to(jnp.clip(k, 1, n), result_shape).reshape(len(rows), 1, -1)
    largest_only = concrete is not None and bool((concrete == 1).all())
    return _topk_mean(rows, k, largest_only).reshape(result_shape)


def topk_mean_reference(x: jax.Array, k: int, axis: int | Sequence[int] = (1, 2)) -> jax.Array:
    """`topk_mean` by `lax.top_k`, for a static k: the slow, obvious version that the fast one is tested against.

    Of values equal to the k-th largest, the first ones get the whole gradient.
    """
    axes, n = _reduced(x, axis)
    _check(x, k, n)
    rows = jnp.moveaxis(x, axes, range(-len(axes), 0))
    rows = rows.reshape(*rows.shape[: -len(axes)], n)
    return lax.top_k(rows, k)[0].mean(-1, dtype=_sum_dtype(x)).astype(x.dtype)


def gap(x: jax.Array, axis: int | Sequence[int] = (1, 2)) -> jax.Array:
    """Global average pooling: the mean over `axis`, summed in at least float32, in the dtype of x."""
    return x.mean(axis, dtype=_sum_dtype(x)).astype(x.dtype)


def _reduced(x: jax.Array, axis: int | Sequence[int]) -> tuple[tuple[int, ...], int]:
    """The axes to reduce, counted from the front and in order, and the number of values along them."""
    axes = (axis,) if isinstance(axis, int) else axis
    axes = tuple(sorted(range(x.ndim)[a] for a in axes))
    return axes, math.prod(x.shape[a] for a in axes)


def _check(x: jax.Array, k: ArrayLike, n: int) -> None:
    if not jnp.issubdtype(x.dtype, jnp.floating):
        raise TypeError(f"x must be floating, not {x.dtype}")
    if not (jnp.issubdtype(jnp.result_type(k), jnp.integer) or jnp.issubdtype(jnp.result_type(k), jnp.floating)):
        raise TypeError(f"k must be integer or floating, not {jnp.result_type(k)}")
    if isinstance(k, jax.core.Tracer):
        return
    values = np.asarray(k)
    smallest, largest = values.min(), values.max()
    if not (smallest >= 1 and largest <= n):
        wrong = largest if smallest >= 1 else smallest
        raise ValueError(f"k={wrong} does not fit x of shape {x.shape} with {n} values to choose from: 1 <= k <= {n}")


def _sum_dtype(x: jax.Array) -> jnp.dtype:
    return jnp.promote_types(x.dtype, jnp.float32)


@functools.partial(jax.jit, static_argnames="largest_only")
def _topk_mean(x: jax.Array, k: jax.Array, largest_only: bool) -> jax.Array:
    """`[A, n, D]` and k `[A, 1, D]` -> `[A, 1, D]`."""
    fixed = lax.stop_gradient(x)
    kth = _kth_largest(fixed, lax.stop_gradient(k), largest_only)
    bits, values = _ordered_bits(fixed), fixed.astype(_sum_dtype(x))
    total, above, equal = _sum(
        jnp.where(bits > kth, values, 0), (bits > kth).astype(jnp.int32), (bits == kth).astype(jnp.int32)
    )
    return _mean(x, k, kth, total, above, equal)


@jax.custom_jvp
def _mean(
    x: jax.Array, k: jax.Array, kth: jax.Array, total: jax.Array, above: jax.Array, equal: jax.Array
) -> jax.Array:
    """The mean, from the sum and the number of the values above the k-th and the number equal to it."""
    mean = total / k + _float(kth, x.dtype).astype(total.dtype) * ((k - above) / k)
    return mean.astype(x.dtype)


@_mean.defjvp
def _mean_jvp(primals: tuple, tangents: tuple) -> tuple[jax.Array, jax.Array]:
    x, k, kth, total, above, equal = primals
    x_dot, k_dot, *_ = tangents
    mean = _mean(*primals)
    bits = _ordered_bits(x)
    weight = jnp.where(bits > kth, 1, (k - above) / equal) / k
    # Selected, not multiplied by 0: an infinite or NaN tangent of a value outside the k largest must not count.
    mean_dot = jnp.sum(jnp.where(bits < kth, 0, weight * x_dot), 1, keepdims=True, dtype=total.dtype)
    if jnp.issubdtype(k.dtype, jnp.floating):
        mean_dot += k_dot * (_float(kth, x.dtype) - mean).astype(total.dtype) / k
    return mean, mean_dot.astype(x.dtype)


def _kth_largest(x: jax.Array, k: jax.Array, largest_only: bool) -> jax.Array:
    """Ordered bits of the k-th largest value along axis 1, found byte by byte from the top."""
    if largest_only:
        return jnp.max(_ordered_bits(x), 1, keepdims=True)
    kth = jnp.zeros_like(_ordered_bits(x[:, :1]))
    for shift in reversed(range(0, 8 * x.dtype.itemsize, 8)):
        # The next byte of the values that agree with kth so far; 0 for those below, 255 for those above.
        byte = jnp.minimum((jnp.maximum(_ordered_bits(x), kth) - kth) >> shift, 255).astype(jnp.uint8)
        kth += _kth_largest_byte(byte, k).astype(kth.dtype) << shift
    return kth


def _kth_largest_byte(byte: jax.Array, k: jax.Array) -> jax.Array:
    def decide_two_bits(i: jax.Array, kth: jax.Array) -> jax.Array:
        step = jnp.uint8(64) >> (2 * i).astype(jnp.uint8)
        counts = _sum(*((byte >= kth + step * np.uint8(digit)).astype(jnp.int8) for digit in (1, 2, 3)))
        return kth + step * sum((count >= k).astype(jnp.uint8) for count in counts)

    return lax.fori_loop(0, 4, decide_two_bits, jnp.zeros_like(byte[:, :1]))


def _sum(*arrays: jax.Array) -> list[jax.Array]:
    """Sums over axis 1 in one pass over the arrays; int8 is summed in int32."""
    arrays = _sum_blocks(*arrays)
    while arrays[0].shape[1] > 1:
        arrays = _sum_blocks(*(a.astype(jnp.promote_types(a.dtype, jnp.int32)) for a in arrays))
    return arrays


def _sum_blocks(*arrays: jax.Array) -> list[jax.Array]:
    """`[A, n, D]` -> `[A, ceil(n / BLOCK), D]`."""
    blocks = []
    for a in arrays:
        a = jnp.pad(a, ((0, 0), (0, -a.shape[1] % BLOCK), (0, 0)))
        blocks.append(a.reshape(len(a), BLOCK, -1, a.shape[2]))
    zeros = [np.zeros((), a.dtype) for a in arrays]
    return lax.reduce(blocks, zeros, lambda a, b: [lax.add(*pair) for pair in zip(a, b, strict=True)], (1,))


def _ordered_bits(x: jax.Array) -> jax.Array:
    """Unsigned integers in the order of the floats: -NaN, -inf, ..., -0 = 0, ..., inf, NaN."""
    width = 8 * x.dtype.itemsize
    bits = _twos_complement(lax.bitcast_convert_type(x, f"int{width}"))
    return lax.bitcast_convert_type(bits, f"uint{width}") ^ _sign_bit(f"uint{width}")


def _float(bits: jax.Array, dtype: jnp.dtype) -> jax.Array:
    bits = lax.bitcast_convert_type(bits ^ _sign_bit(bits.dtype), f"int{8 * bits.dtype.itemsize}")
    return lax.bitcast_convert_type(_twos_complement(bits), dtype)


def _twos_complement(bits: jax.Array) -> jax.Array:
    """Sign and magnitude, as floats are stored, to two's complement, and back: it is its own inverse."""
    return jnp.where(bits < 0, jnp.iinfo(bits.dtype).min - bits, bits)


def _sign_bit(dtype: jnp.dtype | str) -> np.ndarray:
    return np.array(1 << (jnp.iinfo(dtype).bits - 1), dtype)
