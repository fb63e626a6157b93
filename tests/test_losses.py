import jax
import jax.numpy as jnp
import numpy as np
import pytest

from topgap_jax.losses import (
    activation_l1,
    cam_l1,
    cross_entropy,
    grad_align,
    kl_divergence,
    logit_squeezing,
    top_gap_loss,
)

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


def test_l1_of_the_activations():
    """A mean of the last map, a sum over all of them."""
    features = (-jnp.ones((2, 4, 4, 3)), jnp.stack([jnp.ones((2, 2, 5)), -3 * jnp.ones((2, 2, 5))]))
    np.testing.assert_allclose(activation_l1(features, "last"), [1, 3])
    np.testing.assert_allclose(activation_l1(features, "all"), [48 + 20, 48 + 60])
    losses = top_gap_loss(LOGITS, jnp.ones((2, 4, 4, 3)), LABELS, l1=0.5, l1_of="all", features=features)
    np.testing.assert_allclose(losses["loss"], losses["cross_entropy"] + jnp.array([34, 54]), rtol=1e-6)


def test_logit_squeezing_is_the_squared_norm():
    np.testing.assert_allclose(logit_squeezing(LOGITS), [5.25, 0])
    losses = top_gap_loss(LOGITS, jnp.ones((2, 4, 4, 3)), LABELS, l1=0.0, squeezing=0.2)
    np.testing.assert_allclose(losses["loss"], losses["cross_entropy"] + jnp.array([1.05, 0]), rtol=1e-6)


def test_the_control_of_matching_strength_asks_for_the_confidence_of_top_gap():
    """`w = d K / (2 (K-1) ln((K-1)(1-d)/d))` puts the optimum of squeezing at `1 - p_y = d`."""
    classes, strength = 10, 0.05
    weight = strength * classes / (2 * (classes - 1) * np.log((classes - 1) * (1 - strength) / strength))
    # By symmetry and since the optimum has mean zero: z_y = (K-1) a, the others -a.
    a = jnp.linspace(0, 1, 100001)[:, None]
    logits = jnp.concatenate([(classes - 1) * a, -jnp.repeat(a, classes - 1, axis=1)], axis=1)
    loss = cross_entropy(logits, jnp.zeros(len(a), int)) + weight * logit_squeezing(logits)
    assert 1 - jax.nn.softmax(logits[loss.argmin()])[0] == pytest.approx(strength, abs=1e-3)


def test_kl_divergence_by_hand():
    other = jnp.array([[0.0, 1.0, 0.0], [0.0, 0.0, 0.0]])
    p, q = (np.exp(z) / np.exp(z).sum(-1, keepdims=True) for z in (np.asarray(LOGITS), np.asarray(other)))
    np.testing.assert_allclose(
        kl_divergence(LOGITS, other), (p * np.log(p / q)).sum(-1), rtol=1e-5, atol=1e-7
    )
    gradients = jax.grad(lambda a, b: kl_divergence(a, b).sum(), (0, 1))(LOGITS, other)
    np.testing.assert_allclose(gradients[1], q - p, atol=1e-6)
    assert jnp.abs(gradients[0]).max() > 0.1  # TRADES trains the clean prediction too


VECTORS = jnp.array([[1.0, 0, 0, 0], [0, 2, 0, 0], [1, 1, 0, 0], [0, 0, 0, 0], [1e-30, 0, 0, 0]])
OTHERS = jnp.array([[3.0, 0, 0, 0], [0, -1, 0, 0], [1, -1, 0, 0], [1, 0, 0, 0], [0, 1e-30, 0, 0]])


def test_grad_align_is_one_minus_the_cosine():
    gradients = (x.reshape(5, 2, 2, 1) for x in (VECTORS, OTHERS))
    np.testing.assert_allclose(grad_align(*gradients), [0, 2, 1, 0, 1], atol=1e-6)


def test_the_gradient_of_grad_align_flows_through_the_second_only():
    key = jax.random.key(0)
    first, second = (jax.random.normal(k, (3, 2, 2, 2)) for k in jax.random.split(key))
    first, second = first.at[1].set(0), second.at[2].set(0)

    def penalty(first, second):
        return grad_align(first, second).sum()

    to_first, to_second = jax.grad(penalty, (0, 1))(first, second)
    np.testing.assert_array_equal(to_first, 0)
    np.testing.assert_array_equal(to_second[1:], 0)  # no angle: no penalty, and no NaN
    direction = jax.random.normal(jax.random.key(1), second[:1].shape)
    ahead, behind = (penalty(first[:1], second[:1] + step * direction) for step in (1e-2, -1e-2))
    assert float(ahead - behind) / 2e-2 == pytest.approx(float((to_second[:1] * direction).sum()), rel=1e-2)
