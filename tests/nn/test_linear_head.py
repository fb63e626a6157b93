import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from topgap_jax.nn.linear_head import LinearHead

CHANNELS, CLASSES = 6, 4


def head(**settings):
    return LinearHead(CHANNELS, CLASSES, rngs=nnx.Rngs(0), **settings)


@pytest.fixture
def x():
    return jax.random.normal(jax.random.key(0), (3, 5, 2, CHANNELS))


def test_logits_are_the_linear_layer_of_the_mean_and_the_cam_is_the_layer_without_bias(x):
    ours = head()
    kernel, bias = np.asarray(ours.classifier.kernel[...], np.float64), np.arange(4.0)
    ours.classifier.bias[...] = jnp.float32(bias)
    logits, cam = ours(x)
    np.testing.assert_allclose(logits, np.asarray(x, np.float64).mean((1, 2)) @ kernel + bias, atol=1e-5)
    np.testing.assert_allclose(cam, np.asarray(x, np.float64) @ kernel, atol=1e-5)
    np.testing.assert_allclose(logits, cam.mean((1, 2)) + bias, atol=1e-5)


def test_it_starts_as_a_linear_layer_of_pytorch():
    ours = LinearHead(400, 300, rngs=nnx.Rngs(0)).classifier
    kernel = np.asarray(ours.kernel[...])
    # U(-1, 1) / sqrt(400).
    assert 0.0499 < np.abs(kernel).max() <= 0.05
    np.testing.assert_allclose(kernel.std(), 0.05 / np.sqrt(3), rtol=0.01)


def test_another_initialiser():
    ours = head(kernel_init=nnx.initializers.constant(2.0))
    np.testing.assert_array_equal(ours.classifier.kernel[...], 2.0)


def test_bfloat16_pools_and_classifies_in_float32():
    # In bfloat16, 1 + 1/256 is 1 again: a sum of 4096 positions in it would stop growing at 256.
    x = jnp.ones((1, 64, 64, CHANNELS), jnp.bfloat16)
    ours = head(dtype=jnp.bfloat16, kernel_init=nnx.initializers.constant(1.0))
    assert ours.classifier.kernel[...].dtype == jnp.float32
    logits, cam = ours(x)
    assert (logits.dtype, cam.dtype) == (jnp.float32, jnp.bfloat16)
    np.testing.assert_array_equal(logits, CHANNELS)
    np.testing.assert_array_equal(cam, CHANNELS)


def test_dropout_is_drawn_by_the_key_on_the_pooled_vector_only(x):
    dropping, plain = head(dropout=0.5), head()
    with pytest.raises(ValueError, match="needs a key while training"):
        dropping(x, train=True)
    logits, cams = zip(*(dropping(x, train=True, key=jax.random.key(s)) for s in (0, 0, 1)), strict=True)
    np.testing.assert_array_equal(logits[0], logits[1])
    assert not np.array_equal(logits[0], logits[2])
    for array in (*cams, plain(x)[1]):
        np.testing.assert_array_equal(array, cams[0])
    np.testing.assert_array_equal(dropping(x)[0], plain(x, train=True)[0])
