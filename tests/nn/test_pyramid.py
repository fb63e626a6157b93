import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from topgap_jax.nn.pyramid import PyramidHead, upsample

FEATURES = ((2, 12, 8, 6), (2, 6, 4, 10), (2, 3, 2, 12))


@pytest.fixture
def features():
    keys = jax.random.split(jax.random.key(0), len(FEATURES))
    return tuple(jax.random.normal(key, shape) for key, shape in zip(keys, FEATURES, strict=True))


def head(num_classes, **settings):
    return PyramidHead(
        [shape[-1] for shape in FEATURES], num_classes, channels=16, rngs=nnx.Rngs(3), **settings
    )


def written_out(head, features):
    """The head as figure 2 draws it, map by map."""
    size = features[0].shape[1:3]
    return head.classifier(
        sum(upsample(lateral(x), size) for lateral, x in zip(head.laterals, features, strict=True))
    )


def test_few_classes_compose_the_kernels_and_change_nothing(features):
    few = head(4)
    for lateral in few.laterals:
        lateral.bias[...] = jax.random.normal(jax.random.key(7), (16,))
    few.classifier.bias[...] = jnp.arange(4.0)
    assert few(features).shape == (2, 12, 8, 4)
    np.testing.assert_allclose(few(features), written_out(few, features), atol=2e-5)


def test_composed_kernels_have_the_same_gradients(features):
    graphdef, state = nnx.split(head(4))
    weights = jax.random.normal(jax.random.key(1), (2, 12, 8, 4))

    def gradient(function):
        return jax.grad(lambda state: (function(nnx.merge(graphdef, state), features) * weights).sum())(state)

    ours, expected = gradient(lambda head, x: head(x)), gradient(written_out)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=2e-4), ours, expected)


def test_many_classes(features):
    many = head(20)
    np.testing.assert_allclose(many(features), written_out(many, features), atol=1e-6)


def test_dropout_needs_a_key_draws_by_it_and_keeps_the_mean(features):
    dropping = head(4, dropout=0.5)
    with pytest.raises(ValueError, match=r"0\.5 needs a key"):
        dropping(features, train=True)
    first, again, other = (dropping(features, train=True, key=jax.random.key(i)) for i in (0, 0, 1))
    np.testing.assert_array_equal(first, again)
    assert not np.allclose(first, other)
    keys = jax.random.split(jax.random.key(0), 2000)
    mean = jax.vmap(lambda key: dropping(features, train=True, key=key))(keys).mean(0)
    np.testing.assert_allclose(mean, dropping(features), atol=0.2)


def test_upsample_is_bilinear_with_half_pixel_centres():
    x = jnp.array([0.0, 1.0]).reshape(1, 1, 2, 1)
    np.testing.assert_allclose(upsample(x, (1, 4))[0, 0, :, 0], [0, 0.25, 0.75, 1])


def test_bfloat16(features):
    half = PyramidHead([6, 10, 12], 4, channels=16, dtype=jnp.bfloat16, rngs=nnx.Rngs(3))
    cam = half([x.astype(jnp.bfloat16) for x in features])
    assert cam.dtype == jnp.bfloat16
    np.testing.assert_allclose(cam.astype(jnp.float32), head(4)(features), atol=0.1)
