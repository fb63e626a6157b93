import jax
import jax.numpy as jnp
import numpy as np

from topgap_jax.analysis import grad_cam

FEATURES = jax.random.normal(jax.random.key(0), (3, 4, 5, 6))
WEIGHTS = jax.random.normal(jax.random.key(1), (6, 7))
LABELS = jnp.array([6, 0, 2])


def gap_and_linear(features: jax.Array) -> jax.Array:
    return features.mean(axis=(1, 2)) @ WEIGHTS


def test_behind_gap_and_a_linear_layer_it_is_the_cam():
    cam = jnp.take_along_axis(FEATURES @ WEIGHTS, LABELS[:, None, None, None], axis=-1)[..., 0]
    np.testing.assert_allclose(
        grad_cam(gap_and_linear, FEATURES, LABELS), jax.nn.relu(cam) / (4 * 5), rtol=1e-4, atol=1e-6
    )


def test_gradients_are_averaged_over_the_map():
    def squares(features: jax.Array) -> jax.Array:
        return (features**2).sum(axis=(1, 2)) @ WEIGHTS

    features, weights = np.asarray(FEATURES, np.float64), np.asarray(WEIGHTS, np.float64)
    channel = 2 * features.mean(axis=(1, 2)) * weights.T[np.asarray(LABELS)]
    expected = np.maximum((channel[:, None, None] * features).sum(-1), 0)
    np.testing.assert_allclose(grad_cam(squares, FEATURES, LABELS), expected, rtol=1e-4, atol=1e-5)


def test_jit_and_batch_change_nothing():
    together = grad_cam(gap_and_linear, FEATURES, LABELS)
    jitted = jax.jit(lambda features, labels: grad_cam(gap_and_linear, features, labels))(FEATURES, LABELS)
    np.testing.assert_allclose(jitted, together, rtol=1e-5, atol=1e-7)
    np.testing.assert_allclose(
        grad_cam(gap_and_linear, FEATURES[1:2], LABELS[1:2])[0], together[1], rtol=1e-5, atol=1e-7
    )
