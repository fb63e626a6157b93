"""Depthwise convolution that is fast on CPU too."""

from collections.abc import Sequence
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from topgap_jax.nn.precision import sum_dtype

Pair = tuple[int, int]


def depthwise(
    x: jax.Array, kernel: jax.Array, strides: Sequence[int], padding: str | Sequence[Pair], **_: Any
) -> jax.Array:
    """A convolution of every channel with its own kernel: x `[B, H, W, C]`, kernel `[h, w, 1, C]`.

    It stands in for `lax.conv_general_dilated` in `nnx.Conv`, without dilation. XLA's convolution of this
    kind takes 5 to 20 times as long on a CPU (7x7), its gradient more still. Reverse mode only.
    """
    if isinstance(padding, str):
        padding = lax.padtype_to_pads(x.shape[1:3], kernel.shape[:2], strides, padding)
    return _depthwise(x, kernel, tuple(strides), tuple(padding))


@partial(jax.custom_vjp, nondiff_argnums=(2, 3))
def _depthwise(x: jax.Array, kernel: jax.Array, strides: Pair, padding: tuple[Pair, Pair]) -> jax.Array:
    return lax.platform_dependent(
        x,
        kernel,
        cpu=partial(_shifts, strides=strides, padding=padding),
        default=partial(_conv, strides=strides, padding=padding),
    )


def _forward(x: jax.Array, kernel: jax.Array, strides: Pair, padding: tuple[Pair, Pair]) -> Any:
    return _depthwise(x, kernel, strides, padding), (x, kernel)


def _backward(strides: Pair, padding: tuple[Pair, Pair], inputs: Any, dy: jax.Array) -> Any:
    return lax.platform_dependent(
        *inputs,
        dy,
        cpu=partial(_shifts_vjp, strides=strides, padding=padding),
        default=partial(_conv_vjp, strides=strides, padding=padding),
    )


_depthwise.defvjp(_forward, _backward)


def _conv(x: jax.Array, kernel: jax.Array, strides: Pair, padding: tuple[Pair, Pair]) -> jax.Array:
    return lax.conv_general_dilated(
        x,
        kernel,
        strides,
        padding,
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
        feature_group_count=x.shape[-1],
    )


def _conv_vjp(
    x: jax.Array, kernel: jax.Array, dy: jax.Array, strides: Pair, padding: tuple[Pair, Pair]
) -> Any:
    return jax.vjp(partial(_conv, strides=strides, padding=padding), x, kernel)[1](dy)


def _shifts(x: jax.Array, kernel: jax.Array, strides: Pair, padding: Sequence[Pair]) -> jax.Array:
    """Every weight times the map that it sees, added: XLA makes one vectorised loop of it."""
    padded, (down, right) = _pad(x, padding), strides
    rows = (padded.shape[1] - kernel.shape[0]) // down + 1
    columns = (padded.shape[2] - kernel.shape[1]) // right + 1
    total = jnp.zeros((), sum_dtype(x))
    for i in range(kernel.shape[0]):
        for j in range(kernel.shape[1]):
            seen = padded[:, i::down, j::right][:, :rows, :columns]
            total += seen.astype(total.dtype) * kernel[i, j]
    return total.astype(x.dtype)


def _shifts_vjp(
    x: jax.Array, kernel: jax.Array, dy: jax.Array, strides: Pair, padding: Sequence[Pair]
) -> Any:
    # dy spread by the stride and convolved with the kernel turned round.
    spread = _pad(dy, ((0, 0), (0, 0)), strides)
    height, width = spread.shape[1:3]
    around = [
        (k - 1 - low, n + low - m)
        for k, n, m, (low, _) in zip(kernel.shape, x.shape[1:], spread.shape[1:], padding, strict=False)
    ]
    dx = _shifts(spread, kernel[::-1, ::-1], (1, 1), around)

    padded, dtype = _pad(x, padding), sum_dtype(x)

    def of_weight(index: jax.Array) -> jax.Array:
        corner = (0, index // kernel.shape[1], index % kernel.shape[1], 0)
        seen = lax.dynamic_slice(padded, corner, (len(x), height, width, x.shape[3]))
        return (seen[:, :: strides[0], :: strides[1]].astype(dtype) * dy.astype(dtype)).sum((0, 1, 2))

    # One weight after the other: XLA would write all the products to memory first.
    dkernel = lax.map(of_weight, jnp.arange(kernel.shape[0] * kernel.shape[1]))
    return dx, dkernel.reshape(kernel.shape).astype(kernel.dtype)


def _pad(x: jax.Array, padding: Sequence[Pair], spread: Pair = (1, 1)) -> jax.Array:
    """Zeros around the map and between its positions."""
    sides = [(low, high, s - 1) for (low, high), s in zip(padding, spread, strict=True)]
    return lax.pad(x, jnp.zeros((), x.dtype), ((0, 0, 0), *sides, (0, 0, 0)))
