import jax
import jax.numpy as jnp
import numpy as np
import pytest

from topgap_jax.nn.flc_pooling import flc_pool, split_stride, unchanged


def by_fft(x):
    """The definition: the lowest frequencies of each axis, in the order in which `fftshift` puts them."""
    (height, width), (small_height, small_width) = x.shape[1:3], (-(-size // 2) for size in x.shape[1:3])
    spectrum = np.fft.fftshift(np.fft.fft2(x, axes=(1, 2), norm="forward"), axes=(1, 2))
    top, left = height // 2 - small_height // 2, width // 2 - small_width // 2
    spectrum = spectrum[:, top : top + small_height, left : left + small_width]
    return np.fft.ifft2(np.fft.ifftshift(spectrum, axes=(1, 2)), axes=(1, 2), norm="forward").real


def waves(size, frequency, phase=0.4):
    """A cosine of so many periods along both axes of a map, in one channel each, `[1, size, size, 2]`."""
    wave = np.cos(2 * np.pi * frequency * np.arange(size) / size + phase)
    return np.stack(np.broadcast_arrays(wave[:, None], wave[None, :]), -1)[None].astype(np.float32)


@pytest.mark.parametrize(
    "size", [(8, 12), (16, 4), (14, 10), (7, 9), (5, 6), (8, 7), (2, 2), (1, 1), (1, 8), (3, 2)]
)
def test_is_the_cut_of_the_fourier_transform(size):
    x = np.random.default_rng(0).normal(size=(3, *size, 2)).astype(np.float32)
    pooled = flc_pool(x)
    assert pooled.shape == (3, -(-size[0] // 2), -(-size[1] // 2), 2)
    np.testing.assert_allclose(pooled, by_fft(x), atol=2e-6)


@pytest.mark.parametrize("frequency", range(9))
def test_frequencies_below_the_new_limit_survive_and_those_above_are_gone(frequency):
    pooled = flc_pool(waves(16, frequency))
    if frequency < 4:
        np.testing.assert_allclose(pooled, waves(8, frequency), atol=1e-6)
    elif frequency > 4:
        np.testing.assert_allclose(pooled, 0, atol=1e-6)
    else:  # at the limit one of two conjugate frequencies is left: half of the samples
        np.testing.assert_allclose(pooled, 0.5 * waves(16, frequency)[:, ::2, ::2], atol=1e-6)


def test_a_strided_sample_would_alias_where_pooling_does_not():
    wave = waves(16, 7)
    np.testing.assert_allclose(wave[:, ::2, ::2], waves(8, 1, phase=-0.4), atol=1e-6)
    assert np.abs(flc_pool(wave)).max() < 1e-6


def test_frequencies_of_an_odd_size():
    np.testing.assert_allclose(flc_pool(waves(14, 3)), waves(7, 3), atol=1e-6)
    np.testing.assert_allclose(flc_pool(waves(14, 4)), 0, atol=1e-6)
    np.testing.assert_allclose(flc_pool(waves(9, 2)), waves(5, 2), atol=1e-6)
    np.testing.assert_allclose(flc_pool(waves(9, 3)), 0, atol=1e-6)


def test_a_constant_stays():
    np.testing.assert_allclose(flc_pool(jnp.full((2, 6, 5, 3), 2.5)), 2.5, rtol=1e-6)


def test_the_gradient_is_the_transpose():
    x, y = (
        jax.random.normal(jax.random.key(i), shape) for i, shape in enumerate([(2, 8, 8, 3), (2, 4, 4, 3)])
    )
    pooled, pull = jax.vjp(flc_pool, x)
    np.testing.assert_allclose(jnp.vdot(pooled, y), jnp.vdot(x, *pull(y)), rtol=1e-4)


def test_bfloat16_is_computed_in_float32():
    x = jax.random.normal(jax.random.key(0), (2, 16, 16, 3), jnp.bfloat16)
    pooled = flc_pool(x)
    assert pooled.dtype == jnp.bfloat16
    expected = flc_pool(x.astype(jnp.float32)).astype(jnp.bfloat16)
    np.testing.assert_array_equal(pooled.astype(jnp.float32), expected.astype(jnp.float32))


def test_split_stride():
    assert split_stride(2, "flc") == (flc_pool, 1)
    for stride, downsampling in ((1, "flc"), (1, "strided"), (2, "strided")):
        assert split_stride(stride, downsampling) == (unchanged, stride)
