import jax
import jax.numpy as jnp
import numpy as np
import pytest

from topgap_jax.losses import cam_l1, cross_entropy, top_gap_loss

LOGITS = jnp.array([[2.0, -1.0, 0.5], [0.0, 0.0, 0.0]])
LABELS = jnp.array([0, 2])


def test_cross_entropy_by_hand():
    expected = [np.log(np.exp([2, -1, 0.5]).sum()) - 2, np.log(3)]
    np.testing.assert_allclose(cross_entropy(LOGITS, LABELS), expected, rtol=1e-6)


def test_label_smoothing_mixes_with_the_uniform_distribution():
    uniform = -jax.nn.log_softmax(LOGITS).mean(-1)
    expected = 0.9 * cross_entropy(LOGITS, LABELS) + 0.1 * uniform
    np.testing.assert_allclose(cross_entropy(LOGITS, LABELS, label_smoothing=0.1), expected, rtol=1e-6)


def test_class_weights_scale_each_example():
    weighted = cross_entropy(LOGITS, LABELS, class_weights=(2.0, 1.0, 0.5))
    np.testing.assert_allclose(weighted, cross_entropy(LOGITS, LABELS) * jnp.array([2.0, 0.5]), rtol=1e-6)


def test_l1_is_a_mean_over_positions_and_classes():
    cam = jnp.stack([jnp.ones((2, 3, 4)), -jnp.arange(24.0).reshape(2, 3, 4)])
    np.testing.assert_allclose(cam_l1(cam), [1.0, 23 / 2])


def test_components_add_up_and_a_zero_weight_leaves_the_cam_out():
    cam = jax.random.normal(jax.random.key(0), (2, 4, 4, 3))
    losses = top_gap_loss(LOGITS, cam, LABELS, l1=0.3)
    np.testing.assert_allclose(losses["loss"], losses["cross_entropy"] + 0.3 * losses["l1"], rtol=1e-6)
    gradient = jax.grad(lambda cam: top_gap_loss(LOGITS, cam, LABELS, l1=0.0)["loss"].sum())(cam)
    np.testing.assert_array_equal(gradient, 0)


def test_the_optimum_of_top_gap_is_where_the_theory_puts_it():
    """At the optimum `1 - p_y = lambda * k / (H W K)`: k sets the scale of the logits."""
    positions, classes, k, l1 = 16, 5, 4, 1.0
    labels = jnp.array([1])

    def loss(cam):
        logits = jnp.sort(cam.reshape(1, positions, classes), axis=1)[:, -k:].mean(1)
        return top_gap_loss(logits, cam.reshape(1, 4, 4, classes), labels, l1=l1)["loss"].sum()

    # By symmetry k positions of the true class share one value, all else is zero: search for that value.
    values = jnp.linspace(0, 10, 10001)
    cams = jnp.zeros((len(values), positions, classes)).at[:, :k, 1].set(values[:, None])
    best = cams[jax.vmap(loss)(cams).argmin()]
    logits = jnp.sort(best, axis=0)[-k:].mean(0)
    assert 1 - jax.nn.softmax(logits)[1] == pytest.approx(l1 * k / (positions * classes), abs=1e-3)


def test_a_picture_of_two_examples_has_the_mean_of_both_cross_entropies():
    """By NumPy: the mixed targets, smoothed, each label's part with its own class weight."""
    others, share, weights, smoothing = np.array([1, 0]), 0.7, np.array([2.0, 1.0, 0.5]), 0.1
    cam = jnp.ones((2, 2, 2, 3))
    settings = {"label_smoothing": smoothing, "class_weights": weights}
    losses = top_gap_loss(LOGITS, cam, LABELS, l1=0.5, other_labels=others, share=share, **settings)
    log_p = np.asarray(LOGITS) - np.log(np.exp(LOGITS).sum(-1, keepdims=True))
    smooth = -log_p.mean(-1)
    expected = sum(
        part * weights[labels] * ((1 - smoothing) * -log_p[[0, 1], labels] + smoothing * smooth)
        for part, labels in ((share, np.asarray(LABELS)), (1 - share, others))
    )
    np.testing.assert_allclose(losses["cross_entropy"], expected, rtol=1e-6)
    np.testing.assert_allclose(losses["loss"], expected + 0.5, rtol=1e-6)  # the l1 term is untouched
