"""Pooling of a class activation map: the mean of the k largest values (Top-GAP) and the plain mean (GAP).

The k largest values need no sorting. Read as an integer, the k-th largest value can be built from its highest
bits down: a bit is set if at least k values are at or above the result. So the number of passes depends on
the type alone, not on the values or on k, which may be traced and may differ from row to row; a pass only
compares and counts: no indices, no gathers, nothing that crosses the batch. A pass decides two bits. To save
memory traffic the passes run over one byte of each value at a time; on TPUs, which compute in words of 32
bits, over the values themselves.
"""

import functools
import math
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.typing import ArrayLike
from numpy.lib.array_utils import normalize_axis_tuple

from topgap_jax.nn.precision import sum_dtype

# Sums run over blocks of this length, then over the blocks' sums: XLA's CPU compiler merges such a short sum
# with the comparison before it into one vectorised loop; of a longer one it first writes the mask to memory.
# A block's count fits int8. The TPU's compiler merges any sum.
BLOCK = 16


def topk_mean(
    x: jax.Array, k: ArrayLike, axis: int | Sequence[int] = (1, 2), *, dtype: jnp.dtype | None = None
) -> jax.Array:
    r"""Mean of the k largest values over `axis`: the pooling of Top-GAP.

    .. math::
        y = \frac{1}{k} \sum_{i=1}^{k} x_{(i)} = \min_t \; t + \frac{1}{k} \sum_j \max(x_j - t, 0),
        \qquad x_{(1)} \ge x_{(2)} \ge \dots

    The gradient is 1/k for every value above the k-th largest, :math:`x_{(k)}`; the values equal to it share
    the rest evenly. Forward mode, reverse mode and higher orders work (the second derivative in x is zero).
    A real-valued k is possible too: between two integers :math:`k y(k)` is linear, and
    :math:`dy/dk = (x_{(k)} - y) / k`.

    NaN and infinities rank as in `lax.top_k`: -NaN, -inf, ..., inf, NaN. A NaN with its sign bit set, which
    is what x86 makes of `inf - inf`, thus ranks last and shows only where k reaches it. Unlike there, -0
    equals 0.

    Args:
      x: values `[..., reduced axes, ...]`, floating; `[B, h, w, K]` for a CAM. 16-bit types are summed in
        float32.
      k: how many values to average, 1 <= k <= n with n the number of values along `axis`. One number, or
        an array that broadcasts with the result: per class `[K]`, per image `[B, 1]` or both `[B, K]`.
        A traced k cannot be checked and is clamped to 1..n.
      axis: the axes to reduce.
      dtype: of the result; default: that of x. A wider one keeps what 16-bit values would round off.

    Returns:
      The means, of the shape of x without `axis`.

    Raises:
      ValueError: a concrete k below 1 or above n.
      TypeError: x is not floating, or k is neither integer nor floating.
    """
    axes, n = _reduced(x, axis)
    _check(x, k, n)
    known_k = None if isinstance(k, jax.core.Tracer) else np.asarray(k)
    if known_k is not None and (known_k == n).all():
        return gap(x, axes, dtype=dtype)
    kept = [size for i, size in enumerate(x.shape) if i not in axes]
    before, after = math.prod(kept[: axes[0]]), math.prod(kept[axes[0] :])
    x = jnp.moveaxis(x, axes, range(axes[0], axes[0] + len(axes)))  # of a CAM nothing moves
    k = jnp.clip(jnp.asarray(k).astype(sum_dtype(x)), 1, n)
    k = jnp.broadcast_to(k, kept).reshape(before, 1, after)
    only_largest = known_k is not None and bool((known_k == 1).all())
    mean = _topk_mean(x.reshape(before, n, after), k, only_largest).reshape(kept)
    return mean.astype(x.dtype if dtype is None else dtype)


def topk_mean_reference(x: jax.Array, k: int, axis: int | Sequence[int] = (1, 2)) -> jax.Array:
    """`topk_mean` by `lax.top_k`, for a static k: slow and obvious, what the fast one is tested against.

    Of the values equal to the k-th largest, the first ones get the whole gradient.
    """
    axes, n = _reduced(x, axis)
    _check(x, k, n)
    rows = jnp.moveaxis(x, axes, range(-len(axes), 0))
    rows = rows.reshape(*rows.shape[: -len(axes)], n)
    return lax.top_k(rows, k)[0].mean(-1, dtype=sum_dtype(x)).astype(x.dtype)


def gap(x: jax.Array, axis: int | Sequence[int] = (1, 2), *, dtype: jnp.dtype | None = None) -> jax.Array:
    """Global average pooling: the mean over `axis`, summed in float32 at least; `dtype` as in `topk_mean`."""
    return x.mean(axis, dtype=sum_dtype(x)).astype(x.dtype if dtype is None else dtype)


@jax.jit
def among_largest(x: jax.Array, k: ArrayLike) -> jax.Array:
    """Which values of each row of `x` `[B, n]` are at or above the row's k-th largest: bool `[B, n]`.

    Exact, for 1 <= k <= n; all values equal to the k-th largest count. No gradient passes.
    """
    values = lax.stop_gradient(x)[..., None]
    kth = _kth_largest(values, jnp.broadcast_to(k, (x.shape[0], 1, 1)))
    return (_ordered_bits(values) >= kth)[..., 0]


def _reduced(x: jax.Array, axis: int | Sequence[int]) -> tuple[tuple[int, ...], int]:
    """The axes to reduce, in order and counted from the front, and the number of values along them."""
    axes = tuple(sorted(normalize_axis_tuple(axis, x.ndim)))
    return axes, math.prod(x.shape[a] for a in axes)


def _check(x: jax.Array, k: ArrayLike, n: int) -> None:
    if not jnp.issubdtype(x.dtype, jnp.floating):
        raise TypeError(f"x must be floating, not {x.dtype}")
    k_dtype = jnp.result_type(k)
    if not (jnp.issubdtype(k_dtype, jnp.integer) or jnp.issubdtype(k_dtype, jnp.floating)):
        raise TypeError(f"k must be integer or floating, not {k_dtype}")
    if isinstance(k, jax.core.Tracer):
        return
    values = np.asarray(k)
    outside = values[~((values >= 1) & (values <= n))]
    if outside.size:
        raise ValueError(f"k={outside[0]} does not fit the {n} values of x {list(x.shape)}: 1 <= k <= {n}")


@functools.partial(jax.jit, static_argnames="only_largest")
def _topk_mean(x: jax.Array, k: jax.Array, only_largest: bool) -> jax.Array:
    """x `[A, n, D]`, k `[A, 1, D]` -> `[A, 1, D]` in the dtype of k."""
    fixed = lax.stop_gradient(x)
    bits = _ordered_bits(fixed)
    kth = jnp.max(bits, 1, keepdims=True) if only_largest else _kth_largest(fixed, lax.stop_gradient(k))
    total, above, equal = _sum(
        jnp.where(bits > kth, fixed.astype(k.dtype), 0),
        (bits > kth).astype(jnp.int32),
        (bits == kth).astype(jnp.int32),
    )
    return _mean(x, k, kth, total, above, equal)


@jax.custom_jvp
def _mean(
    x: jax.Array, k: jax.Array, kth: jax.Array, total: jax.Array, above: jax.Array, equal: jax.Array
) -> jax.Array:
    """The mean from the sum and the number of the values above the k-th, and the number equal to it."""
    return total / k + _float(kth, x.dtype).astype(k.dtype) * ((k - above) / k)


@_mean.defjvp
def _mean_jvp(primals: tuple[jax.Array, ...], tangents: tuple[jax.Array, ...]) -> tuple[jax.Array, jax.Array]:
    x, k, kth, _, above, equal = primals
    x_dot, k_dot, *_ = tangents
    mean = _mean(*primals)
    bits = _ordered_bits(x)
    weight = jnp.where(bits > kth, 1, (k - above) / equal) / k
    # Chosen, not multiplied by 0: an infinite tangent of a value outside the k largest must not count.
    mean_dot = jnp.sum(jnp.where(bits < kth, 0, weight * x_dot), 1, keepdims=True)
    mean_dot += k_dot * (_float(kth, x.dtype).astype(k.dtype) - mean) / k
    return mean, mean_dot


def _kth_largest(x: jax.Array, k: jax.Array) -> jax.Array:
    """Ordered bits of the k-th largest value along axis 1."""
    return lax.platform_dependent(x, k, tpu=_kth_largest_by_values, default=_kth_largest_by_bytes)


def _kth_largest_by_values(x: jax.Array, k: jax.Array) -> jax.Array:
    """Reads the values in every pass, and writes nothing."""
    width = 8 * x.dtype.itemsize

    def decide_two_bits(i: jax.Array, kth: jax.Array) -> jax.Array:
        # The barrier keeps the compiler from writing the ordered bits, twice as large as 16-bit values.
        values, kth = lax.optimization_barrier((x, kth))
        bits = _ordered_bits(values).astype(kth.dtype)
        step = np.array(1 << (width - 2), kth.dtype) >> (2 * i).astype(kth.dtype)
        counts = _sum_at_once(*(bits >= kth + step * np.array(j, kth.dtype) for j in (1, 2, 3)))
        return kth + step * sum((count >= k).astype(kth.dtype) for count in counts)

    word = jnp.promote_types(f"uint{width}", jnp.uint32)
    kth = lax.fori_loop(0, width // 2, decide_two_bits, jnp.zeros_like(x[:, :1], word))
    return kth.astype(f"uint{width}")


def _kth_largest_by_bytes(x: jax.Array, k: jax.Array) -> jax.Array:
    """Byte by byte from the top."""
    rows, n, columns = x.shape
    # Where D is small, several positions side by side make the innermost loop long enough for a vector unit.
    # 224 because the sides of feature maps are products of 2 and 7.
    abreast = math.gcd(n // BLOCK, 224) if columns < 128 and n % BLOCK == 0 else 1
    bits = _ordered_bits(x.reshape(rows, n // abreast, abreast * columns))
    kth = jnp.zeros_like(bits[:, :1])
    for shift in reversed(range(0, 8 * x.dtype.itemsize, 8)):
        # The next byte of the values that agree with kth so far; 0 for those below, 255 for those above.
        byte = jnp.minimum((jnp.maximum(bits, kth) - kth) >> shift, 255).astype(jnp.uint8)
        kth += _kth_largest_byte(byte, k).astype(kth.dtype) << shift
    return kth[:, :, :columns]


def _kth_largest_byte(byte: jax.Array, k: jax.Array) -> jax.Array:
    """byte `[A, n / abreast, abreast * D]`, k `[A, 1, D]` -> `[A, 1, abreast * D]`, one result repeated."""
    abreast = byte.shape[2] // k.shape[2]

    def decide_two_bits(i: jax.Array, kth: jax.Array) -> jax.Array:
        step = jnp.uint8(64) >> (2 * i).astype(jnp.uint8)
        counts = _sum_by_blocks(*((byte >= kth + step * np.uint8(j)).astype(jnp.int8) for j in (1, 2, 3)))
        counts = _sum_by_blocks(*(c.reshape(-1, abreast, k.shape[2]) for c in counts))
        digit = sum((count >= k).astype(jnp.uint8) for count in counts)
        return kth + step * jnp.tile(digit, (1, 1, abreast))

    return lax.fori_loop(0, 4, decide_two_bits, jnp.zeros_like(byte[:, :1]))


def _sum(*arrays: jax.Array) -> list[jax.Array]:
    """Sums over axis 1, in one pass over all arrays; integers come back as int32."""
    return lax.platform_dependent(*arrays, tpu=_sum_at_once, default=_sum_by_blocks)


def _sum_at_once(*arrays: jax.Array) -> list[jax.Array]:
    sums = _reduce([a.astype(jnp.promote_types(a.dtype, jnp.int32)) for a in arrays])
    return [a[:, None] for a in sums]


def _sum_by_blocks(*arrays: jax.Array) -> list[jax.Array]:
    # An int8 holds the sum of one block, and no more.
    sums = [a.astype(jnp.promote_types(a.dtype, jnp.int32)) for a in _sum_blocks(arrays)]
    while sums[0].shape[1] > 1:
        sums = _sum_blocks(sums)
    return sums


def _sum_blocks(arrays: Sequence[jax.Array]) -> list[jax.Array]:
    """`[A, n, D]` -> `[A, ceil(n / BLOCK), D]`."""
    block = min(BLOCK, arrays[0].shape[1])
    padded = [jnp.pad(a, ((0, 0), (0, -a.shape[1] % block), (0, 0))) for a in arrays]
    return _reduce([a.reshape(a.shape[0], block, -1, a.shape[2]) for a in padded])


def _reduce(arrays: list[jax.Array]) -> list[jax.Array]:
    """Sums over axis 1, each in its own dtype."""
    zeros = [np.zeros((), a.dtype) for a in arrays]
    return lax.reduce(arrays, zeros, lambda a, b: list(map(lax.add, a, b)), (1,))


def _ordered_bits(x: jax.Array) -> jax.Array:
    """Unsigned integers in the order of the floats: -NaN, -inf, ..., -0 = 0, ..., inf, NaN."""
    width = 8 * x.dtype.itemsize
    bits = _twos_complement(lax.bitcast_convert_type(x, f"int{width}"))
    return lax.bitcast_convert_type(bits, f"uint{width}") ^ _sign_bit(width)


def _float(bits: jax.Array, dtype: jnp.dtype) -> jax.Array:
    """The inverse of `_ordered_bits`."""
    width = 8 * bits.dtype.itemsize
    return lax.bitcast_convert_type(
        _twos_complement(lax.bitcast_convert_type(bits ^ _sign_bit(width), f"int{width}")), dtype
    )


def _twos_complement(bits: jax.Array) -> jax.Array:
    """From sign and magnitude, as floats are stored, and back: the map is its own inverse."""
    return jnp.where(bits < 0, jnp.iinfo(bits.dtype).min - bits, bits)


def _sign_bit(width: int) -> np.ndarray:
    return np.array(1 << (width - 1), f"uint{width}")
