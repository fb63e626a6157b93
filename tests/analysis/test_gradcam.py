import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.tree_util import Partial

from topgap_jax.analysis import (
    grad_cam,
    grad_cam_plus_plus,
    hires_cam,
    layer_cam,
    recipro_cam,
    score_cam,
)

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


BY_GRADIENTS = [grad_cam, grad_cam_plus_plus, hires_cam, layer_cam]


def two_layers(features: jax.Array) -> jax.Array:
    """A second half whose gradient differs from position to position."""
    return jnp.tanh(features.reshape(len(features), -1) @ MIX) @ WEIGHTS


MIX = jax.random.normal(jax.random.key(2), (4 * 5 * 6, 6)) / 4


def test_methods_by_gradients_as_published():
    g = np.asarray(
        jax.grad(lambda x: jnp.take_along_axis(two_layers(x), LABELS[:, None], 1).sum())(FEATURES), np.float64
    )
    a = np.asarray(FEATURES, np.float64)
    alpha = g**2 / (2 * g**2 + a.sum((1, 2), keepdims=True) * g**3 + 1e-6)
    weights = (np.maximum(g, 0) * alpha).sum((1, 2), keepdims=True)
    expected = {
        grad_cam_plus_plus: (weights * a).sum(-1),
        hires_cam: (g * a).sum(-1),
        layer_cam: (np.maximum(g, 0) * a).sum(-1),
    }
    for method, maps in expected.items():
        found = method(two_layers, FEATURES, LABELS)
        np.testing.assert_allclose(found, np.maximum(maps, 0), rtol=1e-3, atol=1e-4, err_msg=method.__name__)


@pytest.mark.parametrize("method", BY_GRADIENTS)
def test_without_influence_the_map_is_empty(method):
    maps = method(lambda x: jnp.zeros((len(x), 7)) + 0 * x.sum(), FEATURES, LABELS)
    assert maps.shape == (3, 4, 5) and not maps.any()


def test_recipro_cam_position_by_position():
    kernel = np.array([[1, 2, 1], [2, 4, 2], [1, 2, 1]]) / 16
    for gaussian in (True, False):
        maps = recipro_cam(two_layers, FEATURES, LABELS, gaussian=gaussian, positions_per_pass=6)
        for image, row, column in ((0, 0, 0), (1, 2, 3), (2, 3, 4)):
            alone = np.zeros((6, 7, 6), np.float32)  # a border of one around 4x5
            vector = np.asarray(FEATURES[image, row, column])
            if gaussian:
                alone[row : row + 3, column : column + 3] = kernel[..., None] * vector
            else:
                alone[row + 1, column + 1] = vector
            logits = two_layers(jnp.asarray(alone[None, 1:-1, 1:-1]))
            expected = jax.nn.softmax(logits)[0, LABELS[image]]
            np.testing.assert_allclose(maps[image, row, column], expected, rtol=1e-5)


def test_score_cam_channel_by_channel():
    images = jax.random.uniform(jax.random.key(3), (3, 7, 9, 2))
    weights = jax.random.normal(jax.random.key(4), (7 * 9 * 2, 7))

    def network(images):
        return images.reshape(len(images), -1) @ weights

    maps = score_cam(network, FEATURES, images, LABELS, baseline=0.3, channels_per_pass=4)
    rows, columns = np.linspace(0, 3, 7), np.linspace(0, 4, 9)
    scores = np.zeros((3, 6))
    for image in range(3):
        for channel in range(6):
            map_ = np.asarray(FEATURES[image, ..., channel])
            lit = np.array([np.interp(columns, np.arange(5), line) for line in map_])
            lit = np.array([np.interp(rows, np.arange(4), column) for column in lit.T]).T
            lit = (lit - lit.min()) / (lit.max() - lit.min())
            faded = 0.3 + (np.asarray(images[image]) - 0.3) * lit[..., None]
            scores[image, channel] = network(jnp.asarray(faded[None], jnp.float32))[0, LABELS[image]]
    share = np.exp(scores - scores.max(1, keepdims=True))
    share /= share.sum(1, keepdims=True)
    expected = np.maximum((share[:, None, None] * np.asarray(FEATURES)).sum(-1), 0)
    np.testing.assert_allclose(maps, expected, rtol=1e-3, atol=1e-4)


def test_several_labels_at_once_add_their_logits():
    several = jax.nn.one_hot(LABELS, 7) + jax.nn.one_hot((LABELS + 1) % 7, 7)
    separate = [hires_cam_signed(two_layers, labels) for labels in (LABELS, (LABELS + 1) % 7)]
    np.testing.assert_allclose(
        hires_cam(two_layers, FEATURES, several), jax.nn.relu(sum(separate)), rtol=1e-4, atol=1e-5
    )
    single = recipro_cam(two_layers, FEATURES, LABELS)
    np.testing.assert_allclose(
        recipro_cam(two_layers, FEATURES, jax.nn.one_hot(LABELS, 7)), single, rtol=1e-5, atol=1e-7
    )


def hires_cam_signed(function, labels):
    def score(x):
        return jnp.take_along_axis(function(x), labels[:, None], 1).sum()

    return (jax.grad(score)(FEATURES) * FEATURES).sum(-1)


@pytest.mark.parametrize("method", [*BY_GRADIENTS, recipro_cam])
def test_what_cannot_be_explained_is_refused(method):
    with pytest.raises(ValueError, match=r"features must be a map \[B,h,w,C\], not \[3, 6\]"):
        method(two_layers, FEATURES.mean((1, 2)), LABELS)
    with pytest.raises(
        ValueError, match=r"labels must be integers \[\d+\] or weights \[\d+, 7\], not float32"
    ):
        method(two_layers, FEATURES, LABELS.astype(jnp.float32))


def test_passes_of_another_size_change_nothing():
    network = Partial(two_layers)
    np.testing.assert_allclose(
        recipro_cam(network, FEATURES, LABELS, positions_per_pass=7),
        recipro_cam(network, FEATURES, LABELS, positions_per_pass=20),
        rtol=1e-5,
    )
    with pytest.raises(ValueError, match="positions_per_pass must be at least 1, not 0"):
        recipro_cam(network, FEATURES, LABELS, positions_per_pass=0)
