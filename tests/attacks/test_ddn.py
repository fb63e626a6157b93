"""DDN on networks whose nearest adversarial image is known."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.tree_util import Partial

from topgap_jax import attacks
from topgap_jax.attacks.ddn import ddn

RNG = np.random.default_rng(0)
WEIGHTS = RNG.normal(size=(4 * 4 * 2, 5)).astype(np.float32)


def linear(weights, images):
    return (images - 0.5).reshape(len(images), -1) @ weights


NETWORK = Partial(linear, jnp.asarray(WEIGHTS))
LABELS = RNG.integers(0, 5, 40)
# Away from the boundaries, so that there is a distance to find.
CENTRES = 0.5 + 0.6 * (WEIGHTS / np.linalg.norm(WEIGHTS, axis=0)).T[LABELS]
NOISE = RNG.normal(0, 0.02, CENTRES.shape)
IMAGES = (CENTRES + NOISE).reshape(40, 4, 4, 2).astype(np.float32)


def nearest(targets=None):
    """Distance to the class boundary of a linear network: gap of the logits over that of the weights."""
    logits = np.asarray(NETWORK(jnp.asarray(IMAGES)))
    rows = np.arange(len(LABELS))
    gaps = logits[rows, LABELS][:, None] - logits
    slopes = np.linalg.norm(WEIGHTS[:, LABELS].T[:, :, None] - WEIGHTS, axis=1)
    away = gaps / np.where(slopes > 0, slopes, 1)
    away[rows, LABELS] = np.inf
    return away.min(-1) if targets is None else away[rows, targets]


def test_finds_the_nearest_boundary():
    result = ddn(NETWORK, IMAGES, LABELS, steps=200)
    assert result.success.all()
    np.testing.assert_array_equal(result.predictions, attacks.predict(NETWORK, result.images))
    assert (result.predictions != LABELS).all()
    assert (result.distance >= nearest() * (1 - 1e-4)).all()
    assert (result.distance < 1.2 * nearest()).all()  # cross-entropy pulls towards all classes at once
    np.testing.assert_allclose(result.loss, -result.distance, rtol=1e-5)
    np.testing.assert_array_equal(result.queries, 200)


def test_two_classes_have_one_direction():
    difference = WEIGHTS[:, 0] - WEIGHTS[:, 1]
    side = np.sign((IMAGES - 0.5).reshape(40, -1) @ difference)
    result = ddn(Partial(linear, jnp.asarray(WEIGHTS[:, :2])), IMAGES, (side < 0).astype(int))
    exact = np.abs((IMAGES - 0.5).reshape(40, -1) @ difference) / np.linalg.norm(difference)
    far = exact > 0.05  # the steps are not shorter than 0.01
    assert far.sum() > 20
    np.testing.assert_allclose(result.distance[far], exact[far], rtol=0.03)


def test_targeted():
    logits = np.array(NETWORK(jnp.asarray(IMAGES)))
    logits[np.arange(40), LABELS] = -np.inf
    targets = logits.argmax(-1)
    result = ddn(NETWORK, IMAGES, LABELS, steps=200, targets=targets)
    assert result.success.all()
    np.testing.assert_array_equal(result.predictions, targets)
    assert (result.distance >= nearest(targets) * (1 - 1e-4)).all()
    assert np.median(result.distance / nearest(targets)) < 1.05


def test_eps_decides_success_and_ends_the_search():
    far = float(np.median(nearest())) * 1.03
    free = ddn(NETWORK, IMAGES, LABELS, steps=50)
    within = ddn(NETWORK, IMAGES, LABELS, steps=50, eps=far)
    np.testing.assert_array_equal(within.success, free.distance <= far)
    assert 0 < within.success.sum() < 40
    assert within.distance.max() <= far * (1 + 1e-5)
    assert (within.queries[within.success] < 50).all()
    np.testing.assert_array_equal(within.queries[~within.success], 50)
    # Without success: the clean image, so that accuracies counted from the predictions are right.
    np.testing.assert_array_equal(within.images[~within.success], IMAGES[~within.success])
    np.testing.assert_array_equal(within.predictions != LABELS, within.success)


def test_a_missed_label_needs_no_perturbation():
    wrong = (LABELS + 1) % 5
    result = ddn(NETWORK, IMAGES, wrong, steps=50)
    assert result.success.all() and not result.distance.any()
    np.testing.assert_array_equal(result.queries, 1)


def flat(images):
    """Logits that look at one pixel by its sign alone: no gradient anywhere."""
    first = jnp.where(images.mean((1, 2, 3)) > 0.5, 1.0, -1.0)
    return jnp.stack([first, jnp.zeros_like(first)], -1)


def test_a_gradient_of_zero_becomes_a_random_direction():
    images = np.full((40, 4, 4, 2), 0.5005, np.float32)
    labels = np.zeros(40, int)
    result = ddn(flat, images, labels, steps=20)
    assert 0.8 < result.success.mean() <= 1
    assert len(np.unique(result.distance)) > 10  # every example has a direction of its own
    again = ddn(flat, images, labels, steps=20, batch_size=7)
    np.testing.assert_array_equal(result.images, again.images)
    other = ddn(flat, images, labels, steps=20, key=1)
    assert (other.images != result.images).any()


@pytest.mark.parametrize("batch_size", [7, 256])
def test_batch_size_does_not_matter(batch_size):
    settings = dict(steps=20, init_eps=0.5, eps=float(np.median(nearest())) * 1.1)
    reference = ddn(NETWORK, IMAGES, LABELS, **settings)
    other = ddn(NETWORK, IMAGES, LABELS, batch_size=batch_size, **settings)
    assert 0 < reference.success.sum() < 40
    np.testing.assert_array_equal(reference.success, other.success)
    np.testing.assert_array_equal(reference.queries, other.queries)
    np.testing.assert_allclose(reference.images, other.images, atol=1e-6)


def test_compiles_once_and_says_all_settings():
    traces = []

    def counted(weights, images):
        traces.append(images.shape)
        return linear(weights, images)

    for scale, steps, gamma, eps in [(1, 10, 0.05, None), (0.9, 12, 0.1, 0.5)]:
        network = Partial(counted, scale * jnp.asarray(WEIGHTS))
        result = ddn(network, IMAGES[:8], LABELS[:8], steps=steps, gamma=gamma, eps=eps, key=5)
    assert len(traces) == 2  # to learn the number of classes, and the step
    assert json.loads(json.dumps(result.config)) == dict(
        attack="ddn", norm="l2", steps=12, init_eps=1.0, gamma=0.1, eps=0.5, targeted=False,
        key=jax.random.key_data(jax.random.key(5)).tolist(), batch_size=64,
    )  # fmt: skip


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (dict(steps=0), "steps=0 must be"),
        (dict(init_eps=0), "init_eps=0 must be positive"),
        (dict(gamma=1), "gamma=1 must lie between 0 and 1"),
        (dict(eps=128), "did you mean 128/255"),
        (dict(targets=LABELS), r"targets\[0\] is the label"),
    ],
)
def test_bad_settings(change, message):
    with pytest.raises(ValueError, match=message):
        ddn(NETWORK, IMAGES, LABELS, **change)


def test_nan_logits():
    with pytest.raises(ValueError, match="NaN for 40 of 40 images"):
        ddn(lambda images: jnp.nan * linear(WEIGHTS, images), IMAGES, LABELS, steps=5)
