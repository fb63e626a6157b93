"""FrequencyLowCut pooling (Grabinski et al., 2022): halves a map without aliasing.

Cutting a map's spectrum is linear and works along height and width apart. So two products with small constant
matrices, one per axis, stand in for two Fourier transforms.
"""

import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np

from topgap_jax.nn.precision import sum_dtype

DOWNSAMPLINGS = ("strided", "flc")


def flc_pool(x: jax.Array) -> jax.Array:
    r"""Halves height and width, keeping exactly the frequencies that the smaller map can hold.

    .. math::
        y = \operatorname{Re} \left( A_H \, x \, A_W^T \right), \qquad
        A_N[m, n] = \frac{1}{N} \sum_{f=-\lfloor M/2 \rfloor}^{\lceil M/2 \rceil - 1}
        e^{2 \pi i f (m/M - n/N)}, \qquad M = \lceil N/2 \rceil

    which is: Fourier transform, cut to the M lowest frequencies of each axis, inverse transform, real part.
    Amplitudes stay. Of the two frequencies at the new Nyquist limit, -M/2 and M/2 for an even M, the first is
    kept, as in the published code.

    Args:
      x: maps `[B, H, W, C]`, floating, taken as periodic; computed in float32 at least.

    Returns:
      `[B, ceil(H/2), ceil(W/2), C]` of the dtype of x, the shape that a strided convolution gives. Where H or
      W leaves a remainder of 1 or 2 when divided by 4, the published code cuts beside the centre of the
      spectrum, or to one position less; this does not.

    Source: Grabinski et al., "FrequencyLowCut Pooling", ECCV 2022, section 3.
    """
    height, width = (_low_pass(size) for size in x.shape[1:3])
    y = _along_both(x.astype(sum_dtype(x)), height.real, width.real)
    # Frequencies come in conjugate pairs, so the matrices are real, but for -M/2 of an even M: it is alone.
    if len(height) % 2 == len(width) % 2 == 0:
        y -= _along_both(x.astype(sum_dtype(x)), height.imag, width.imag)
    return y.astype(x.dtype)


def split_stride(stride: int, downsampling: str) -> tuple[Callable[[jax.Array], jax.Array], int]:
    """What comes before a convolution of that stride, and the stride that is left to it.

    Args:
      stride: 1 or 2.
      downsampling: "strided" (nothing, and the stride itself) or "flc" (`flc_pool` and 1 for a stride of 2).
    """
    return (flc_pool, 1) if stride == 2 and downsampling == "flc" else (unchanged, stride)


def unchanged(x: jax.Array) -> jax.Array:
    """x."""
    return x


def _along_both(x: jax.Array, height: np.ndarray, width: np.ndarray) -> jax.Array:
    x = jnp.einsum("hH,bHWc->bhWc", height.astype(x.dtype), x, precision="highest")
    return jnp.einsum("wW,bhWc->bhwc", width.astype(x.dtype), x, precision="highest")


@functools.cache
def _low_pass(size: int) -> np.ndarray:
    """The complex matrix `[ceil(N/2), N]` that cuts the frequencies of one axis."""
    smaller = -(-size // 2)
    frequencies = np.arange(smaller) - smaller // 2
    there = _waves(frequencies, size).conj() / size
    back = _waves(frequencies, smaller).T
    return back @ there


def _waves(frequencies: np.ndarray, size: int) -> np.ndarray:
    """One wave of so many periods per row, `[frequencies, size]`; whole periods are left out of the angle."""
    return np.exp(2j * np.pi * (np.outer(frequencies, np.arange(size)) % size) / size)
