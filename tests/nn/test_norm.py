import jax
import jax.numpy as jnp
import jax.test_util
import numpy as np
import pytest
from flax import nnx

from topgap_jax.nn.norm import BatchNorm


def torch_batch_norm(x, scale, bias, mean, var, momentum=0.1, eps=1e-5):
    """PyTorch's definition in float64: the result and the new running statistics."""
    batch_mean, batch_var = x.mean((0, 1, 2)), x.var((0, 1, 2))
    y = (x - batch_mean) / np.sqrt(batch_var + eps) * scale + bias
    unbiased = x.var((0, 1, 2), ddof=1)
    return y, (1 - momentum) * mean + momentum * batch_mean, (1 - momentum) * var + momentum * unbiased


@pytest.fixture
def norm():
    norm = BatchNorm(5)
    norm.scale[...] = jnp.linspace(0.5, 1.5, 5)
    norm.bias[...] = jnp.linspace(-1, 1, 5)
    return norm


def test_training_follows_pytorch(norm):
    rng = np.random.default_rng(0)
    mean, var = np.zeros(5), np.ones(5)
    for _ in range(3):
        x = rng.normal(3, 2, (4, 3, 2, 5)) * np.arange(1, 6)
        expected, mean, var = torch_batch_norm(x, np.linspace(0.5, 1.5, 5), np.linspace(-1, 1, 5), mean, var)
        np.testing.assert_allclose(norm(jnp.asarray(x, jnp.float32), train=True), expected, atol=2e-5)
        np.testing.assert_allclose(norm.mean[...], mean, rtol=1e-5)
        np.testing.assert_allclose(norm.var[...], var, rtol=1e-5)


def test_evaluation_uses_the_running_statistics_and_leaves_them(norm):
    norm.mean[...], norm.var[...] = jnp.full(5, 2.0), jnp.full(5, 4.0)
    x = jnp.full((1, 1, 1, 5), 6.0)
    expected = (6 - 2) / np.sqrt(4 + 1e-5) * np.linspace(0.5, 1.5, 5) + np.linspace(-1, 1, 5)
    np.testing.assert_allclose(norm(x)[0, 0, 0], expected, atol=1e-5)
    np.testing.assert_array_equal(norm.mean[...], 2.0)


def test_a_large_mean_does_not_cancel_the_variance_once_the_running_mean_is_near(norm):
    x = 1000 + jax.random.normal(jax.random.key(0), (64, 4, 4, 5))
    norm.mean[...] = jnp.full(5, 1000.0)
    y = norm(x, train=True)
    deviations = y.std((0, 1, 2)) / norm.scale[...]
    np.testing.assert_allclose(deviations, 1.0, atol=1e-3)


def test_bfloat16_input_keeps_float32_statistics(norm):
    x = (100 + jax.random.normal(jax.random.key(0), (64, 4, 4, 5))).astype(jnp.bfloat16)
    y = norm(x, train=True)
    assert y.dtype == jnp.bfloat16
    assert norm.mean[...].dtype == jnp.float32
    np.testing.assert_allclose(norm.mean[...], 0.1 * np.asarray(x, np.float64).mean((0, 1, 2)), rtol=1e-5)


def test_gradient_passes_through_the_batch_statistics(norm):
    graphdef, state = nnx.split(norm)
    state = nnx.to_pure_dict(state)  # variables belong to the trace that made them
    x = jax.random.normal(jax.random.key(1), (4, 2, 2, 5))

    def total(x):
        return (nnx.merge(graphdef, state)(x, train=True) ** 3).sum()

    jax.test_util.check_grads(total, (x,), order=1, modes=["rev"], eps=1e-2, rtol=1e-2)
