"""The losses that attacks increase: values by hand, gradients where logits tie, too few classes."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from topgap_jax.attacks import losses


def random_logits(classes, count=50, seed=0):
    rng = np.random.default_rng(seed)
    logits = rng.normal(size=(count, classes)).astype(np.float32)
    labels = rng.integers(0, classes, count)
    return logits, labels, (labels + rng.integers(1, classes, count)) % classes


def test_dlr_by_hand():
    logits = jnp.asarray([[5.0, 3.0, 1.0, 0.0], [5.0, 3.0, 1.0, 0.0], [5.0, 3.0, 1.0, 0.0]])
    # The label is the largest, the second, the last logit.
    values = losses.dlr(logits, jnp.asarray([0, 1, 3]))
    np.testing.assert_allclose(values, [-(5 - 3) / 4, -(3 - 5) / 4, 5 / 4], rtol=1e-6)


def test_targeted_dlr_by_hand():
    logits = jnp.asarray([[5.0, 3.0, 1.0, 0.0], [5.0, 3.0, 1.0, 0.0]])
    values = losses.dlr_targeted(logits, jnp.asarray([0, 1]), jnp.asarray([1, 3]))
    np.testing.assert_allclose(values, [-(5 - 3) / 4.5, -(3 - 0) / 4.5], rtol=1e-6)


def test_other_targeted_losses():
    logits, labels, targets = random_logits(6)
    rows = np.arange(50)
    margins = logits[rows, targets] - logits[rows, labels]
    np.testing.assert_allclose(losses.margin_targeted(logits, labels, targets), margins, rtol=1e-5)
    log_probabilities = logits - np.log(np.exp(logits).sum(-1, keepdims=True))
    expected = log_probabilities[rows, targets]
    np.testing.assert_allclose(losses.cross_entropy_targeted(logits, labels, targets), expected, rtol=1e-5)


@pytest.mark.parametrize("classes", [3, 10])
def test_dlr_ignores_scale_and_shift_and_is_positive_where_the_label_is_missed(classes):
    logits, labels, _ = random_logits(classes)
    values = losses.dlr(logits, labels)
    np.testing.assert_array_equal(values > 0, logits.argmax(-1) != labels)
    np.testing.assert_allclose(losses.dlr(1000 * logits + 3, labels), values, rtol=1e-2, atol=1e-4)


@pytest.mark.parametrize("name", ["dlr", "margin", "ce", "dlr-targeted", "margin-targeted", "ce-targeted"])
def test_equal_logits_give_finite_numbers(name):
    def total(logits):
        if name in losses.LOSSES:
            return losses.LOSSES[name](logits, jnp.zeros(2, int)).sum()
        return losses.TARGETED_LOSSES[name](logits, jnp.zeros(2, int), jnp.ones(2, int)).sum()

    value, gradient = jax.value_and_grad(total)(jnp.ones((2, 5)))
    assert np.isfinite(value) and np.isfinite(gradient).all()


def test_too_few_classes():
    with pytest.raises(ValueError, match="'dlr' needs 3 classes, the network has 2; use 'margin'"):
        losses.dlr(jnp.ones((1, 2)), jnp.zeros(1, int))
    with pytest.raises(ValueError, match="'dlr-targeted' needs 4 classes, the network has 3"):
        losses.dlr_targeted(jnp.ones((1, 3)), jnp.zeros(1, int), jnp.ones(1, int))
