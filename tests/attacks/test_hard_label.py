"""RayS on a linear network, where the nearest boundary is known, and on trained ones."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from topgap_jax import attacks
from topgap_jax.attacks.hard_label import rays


def test_approaches_the_nearest_boundary_from_above():
    """Two classes: the boundary is |z_1 - z_0| / ||w_1 - w_0||_1 away, in the direction of the signs."""
    rng = np.random.default_rng(0)
    images = rng.uniform(0.4, 0.6, (12, 6, 5, 2)).astype(np.float32)
    weights = rng.normal(size=(60, 2)).astype(np.float32)
    logits = images.reshape(12, -1) @ weights
    labels, margins = logits.argmax(-1), np.abs(logits[:, 1] - logits[:, 0])
    nearest = margins / np.abs(weights[:, 1] - weights[:, 0]).sum()

    def network(images):
        return images.reshape(len(images), -1) @ weights

    short, long = (
        -rays(network, images, labels, eps=1e-4, queries=queries, tolerance=1e-5).loss
        for queries in (60, 2000)
    )
    assert (short >= long).all() and (short > 1.2 * nearest).any()
    assert (long >= nearest * (1 - 1e-4)).all()
    np.testing.assert_allclose(long, nearest, rtol=1e-3, atol=2e-5)


def test_needs_only_predictions(trained):
    network, images, labels = trained

    def hard(images):
        return jax.lax.stop_gradient(7.0 * jax.nn.one_hot(network(images).argmax(-1), 10))

    soft = rays(network, images, labels, eps=0.2, queries=300)
    one_hot = rays(hard, images, labels, eps=0.2, queries=300)
    assert soft.success.mean() > 0.6
    np.testing.assert_array_equal(soft.success, one_hot.success)
    np.testing.assert_array_equal(soft.loss, one_hot.loss)


def test_result_is_consistent_in_any_batch(trained):
    network, images, labels = trained
    result = rays(network, images, labels, eps=0.15, queries=200)
    assert 0.1 < result.success.mean() < 1
    np.testing.assert_array_equal(result.predictions, attacks.predict(network, result.images))
    np.testing.assert_array_equal(result.success, result.predictions != labels)
    assert result.distance.max() <= 0.15 * (1 + 1e-5)
    assert (-result.loss[result.success] <= 0.15).all() and (-result.loss[~result.success] > 0.15).all()
    np.testing.assert_array_equal(result.images[~result.success], images[~result.success])
    np.testing.assert_array_equal(result.queries[~result.success], 200)
    wrong = attacks.predict(network, images) != labels
    assert wrong.any()
    np.testing.assert_array_equal(result.queries[wrong], 1)
    rows = np.arange(120, 140)
    part = rays(network, images[rows], labels[rows], eps=0.15, queries=200, indices=rows, batch_size=16)
    np.testing.assert_array_equal(part.success, result.success[rows])
    np.testing.assert_allclose(part.loss, result.loss[rows], atol=1e-5)


def test_targeted_reaches_the_target(trained):
    network, images, labels = trained
    targets = (labels + 3) % 10
    result = rays(network, images[:64], labels[:64], eps=0.6, queries=400, targets=targets[:64])
    np.testing.assert_array_equal(result.success, result.predictions == targets[:64])
    assert result.success.sum() > 0


def test_config_is_complete_and_plain(trained):
    network, images, labels = trained
    config = json.loads(json.dumps(rays(network, images[:4], labels[:4], eps=0.1, queries=5).config))
    assert config == dict(
        attack="rays", norm="linf", eps=0.1, queries=5, tolerance=1e-3 / 8, targeted=False, batch_size=64,
        key=[0, 0],
    )  # fmt: skip


def test_bad_input(trained):
    network, images, labels = trained
    with pytest.raises(ValueError, match=r"did you mean 8/255\?"):
        rays(network, images, labels, eps=8)
    with pytest.raises(ValueError, match="queries=0 must be"):
        rays(network, images, labels, eps=0.1, queries=0)
    with pytest.raises(ValueError, match="tolerance=0 must be positive"):
        rays(network, images, labels, eps=0.1, tolerance=0)
    with pytest.raises(ValueError, match="NaN for 4 of 4 images"):
        rays(lambda x: x.mean((1, 2)) * jnp.nan * jnp.ones(10), images[:4], labels[:4], eps=0.1, batch_size=4)
