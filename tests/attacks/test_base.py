"""Threat models, logits functions, survivors and metrics, on small functions whose answers are known."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from jax.tree_util import Partial

from topgap_jax import attacks
from topgap_jax.attacks import losses, networks, survivors, threat_models
from topgap_jax.models import create_model

NORMS = sorted(threat_models.NORMS)


def random_images(seed, shape=(16, 6, 5, 3)):
    return np.random.default_rng(seed).uniform(size=shape).astype(np.float32)


def distances(images, clean, norm):
    return np.linalg.norm((images - clean).reshape(len(clean), -1), threat_models.NORMS[norm].order, axis=-1)


class TestThreatModels:
    @pytest.mark.parametrize("norm", NORMS)
    @pytest.mark.parametrize("eps", [8 / 255, 0.5])
    @pytest.mark.parametrize("seed", range(3))
    def test_projection_lands_in_ball_and_box_and_stays_there(self, norm, eps, seed):
        clean = random_images(seed)
        far = clean + np.random.default_rng(seed + 10).normal(scale=3 * eps, size=clean.shape)
        projected = threat_models.project(jnp.asarray(far, jnp.float32), clean, eps, norm)
        # The l1 length is a sum of 90 rounded differences.
        assert distances(projected, clean, norm).max() <= eps * (1 + 1e-5)
        assert projected.min() >= 0 and projected.max() <= 1
        np.testing.assert_allclose(threat_models.project(projected, clean, eps, norm), projected, atol=1e-6)

    @pytest.mark.parametrize("norm", NORMS)
    def test_projection_leaves_what_is_inside_alone(self, norm):
        clean = random_images(0)
        inside = np.clip(clean + 1e-3 * np.random.default_rng(1).normal(size=clean.shape), 0, 1)
        np.testing.assert_allclose(threat_models.project(inside, clean, 0.2, norm), inside, atol=1e-6)

    def test_l2_projection_is_the_nearest_point_of_the_ball(self):
        perturbation = jnp.asarray([[[[3.0]], [[4.0]]], [[[0.3]], [[0.4]]]])
        projected = threat_models.NORMS["l2"].project(perturbation, jnp.float32(1))
        np.testing.assert_allclose(projected.reshape(2, 2), [[0.6, 0.8], [0.3, 0.4]], rtol=1e-6)

    @pytest.mark.parametrize("norm", NORMS)
    def test_steepest_step_has_length_one_and_gains_most(self, norm):
        gradients = jnp.asarray(np.random.default_rng(0).normal(size=(8, 4, 4, 2)), jnp.float32)
        steps = threat_models.NORMS[norm].steepest(gradients)
        np.testing.assert_allclose(distances(steps, 0 * steps, norm), 1, rtol=1e-5)
        dual = {"linf": 1, "l2": 2, "l1": np.inf}[norm]
        gain = (steps * gradients).reshape(8, -1).sum(-1)
        np.testing.assert_allclose(gain, np.linalg.norm(gradients.reshape(8, -1), dual, axis=-1), rtol=1e-5)

    @pytest.mark.parametrize("norm", NORMS)
    def test_steepest_survives_tiny_and_zero_gradients(self, norm):
        direction = np.random.default_rng(0).normal(size=(1, 4, 4, 1)).astype(np.float32)
        steepest = threat_models.NORMS[norm].steepest
        np.testing.assert_allclose(steepest(1e-30 * direction), steepest(direction), rtol=1e-4)
        assert not steepest(0 * direction).any()

    def test_linf_start_is_uniform(self):
        clean = np.full((512, 4, 4, 1), 0.5, np.float32)
        start = self.starts(clean, 0.1, "linf") - clean
        assert np.abs(start).max() <= 0.1
        quartiles = np.quantile(start, [0.25, 0.5, 0.75])
        np.testing.assert_allclose(quartiles, [-0.05, 0, 0.05], atol=5e-3)

    def test_l2_start_is_uniform_in_volume(self):
        clean = np.full((4096, 2, 2, 1), 0.5, np.float32)
        radii = distances(self.starts(clean, 0.4, "l2"), clean, "l2") / 0.4
        # In n = 4 dimensions the share of the volume within r is r^4.
        np.testing.assert_allclose(np.quantile(radii**4, [0.25, 0.5, 0.75]), [0.25, 0.5, 0.75], atol=0.03)
        assert radii.max() <= 1 + 1e-6

    def test_starts_belong_to_example_and_restart(self):
        clean = random_images(0)
        together = self.starts(clean, 0.1, "linf")
        alone = self.starts(clean[5:6], 0.1, "linf", indices=[5])
        np.testing.assert_array_equal(alone[0], together[5])
        again = self.starts(clean, 0.1, "linf", attempt=1)
        assert (again != together).mean() > 0.9

    @staticmethod
    def starts(clean, eps, norm, indices=None, attempt=0):
        indices = np.arange(len(clean)) if indices is None else np.asarray(indices)
        attempts = np.full(len(clean), attempt)
        return np.asarray(
            threat_models.random_start(jax.random.key(0), indices, attempts, clean, eps, norm=norm)
        )


class TestLosses:
    def test_cross_entropy(self):
        logits = np.random.default_rng(0).normal(size=(5, 4)).astype(np.float32)
        labels = np.array([0, 1, 2, 3, 0])
        probabilities = np.exp(logits) / np.exp(logits).sum(-1, keepdims=True)
        expected = -np.log(probabilities[np.arange(5), labels])
        np.testing.assert_allclose(losses.cross_entropy(logits, labels), expected, rtol=1e-5)

    def test_margin_is_positive_exactly_where_the_label_is_missed(self):
        logits = np.random.default_rng(0).normal(size=(200, 4)).astype(np.float32)
        labels = np.arange(200) % 4
        margins = np.asarray(losses.margin(jnp.asarray(logits), labels))
        np.testing.assert_array_equal(margins > 0, logits.argmax(-1) != labels)
        np.testing.assert_allclose(losses.margin(jnp.asarray([[1.0, 5.0, 3.0]]), jnp.asarray([1])), [-2.0])


def linear(weights, images):
    return images.reshape(len(images), -1) @ weights


class TestLogitsFn:
    images = random_images(3, (8, 16, 16, 3))

    def test_module_function_and_partial_agree(self):
        weights = jnp.asarray(np.random.default_rng(0).normal(size=(90, 4)), jnp.float32)
        images = random_images(0)
        expected = linear(weights, images)
        for model in (lambda x: linear(weights, x), Partial(linear, weights)):
            np.testing.assert_allclose(attacks.logits_fn(model)(images), expected, rtol=1e-6)
        function = attacks.logits_fn(Partial(linear, weights))
        assert attacks.logits_fn(function) is function

    def test_our_models(self):
        model = create_model("resnet_narrow", num_classes=5, k=4)
        function = attacks.logits_fn(model)
        expected = jax.jit(lambda images: model(images).logits)(self.images)
        np.testing.assert_allclose(jax.jit(function)(self.images), expected, rtol=1e-5)
        assert attacks.logits_fn(function) is function

    def test_logits_are_float32(self):
        model = create_model("resnet_narrow", num_classes=5, k=4, dtype="bfloat16")
        assert jax.eval_shape(attacks.logits_fn(model), self.images).dtype == jnp.float32
        assert attacks.logits_fn(lambda x: x[:, 0, 0].astype(jnp.bfloat16))(self.images).dtype == jnp.float32

    def test_another_checkpoint_of_the_network_compiles_nothing(self):
        predictions = []
        for seed in range(3):
            model = create_model("resnet_narrow", num_classes=5, k=4, seed=seed)
            predictions.append(attacks.predict(model, self.images))
            if seed == 0:
                compiled = networks.forward._cache_size()
        assert networks.forward._cache_size() == compiled
        logits = [
            networks.forward(attacks.logits_fn(create_model("resnet_narrow", 5, k=4, seed=s)), self.images)
            for s in range(2)
        ]
        assert not np.allclose(*logits)

    @pytest.mark.parametrize(
        "layer", [nnx.BatchNorm(3, rngs=nnx.Rngs(0)), nnx.Dropout(0.5, rngs=nnx.Rngs(0))]
    )
    def test_a_model_in_training_mode_is_refused(self, layer):
        model = nnx.Sequential(layer, lambda x: x.mean((1, 2)))
        model.train()
        with pytest.raises(ValueError, match=r"in training mode \(layers\.0\); call model.eval\(\) first"):
            attacks.fgsm(model, self.images, np.zeros(8, int), eps=0.1)
        model.eval()
        assert attacks.fgsm(model, self.images, np.zeros(8, int), eps=0.1).images.shape == self.images.shape

    def test_what_cannot_be_called(self):
        with pytest.raises(ValueError, match="module or a function of images, got ndarray"):
            attacks.logits_fn(np.zeros(3))


class TestSurvivors:
    def test_buckets_halve(self):
        assert networks.buckets(256) == [256, 128, 64, 32, 16, 8, 4]
        assert networks.buckets(100) == [100, 50, 25, 12, 6]
        assert networks.buckets(7) == [7]

    def test_one_step_and_several_per_call_agree(self, monkeypatch):
        weights = jnp.asarray(np.random.default_rng(0).normal(size=(90, 4)), jnp.float32)
        network = Partial(linear, weights)
        images = random_images(0, (30, 6, 5, 3))
        labels = attacks.predict(network, images)
        settings = dict(eps=0.02, steps=9, restarts=2, batch_size=8)
        single = attacks.pgd(network, images, labels, **settings)
        monkeypatch.setattr(survivors, "steps_per_call", lambda: 4)
        several = attacks.pgd(network, images, labels, **settings)
        assert 0 < single.success.sum() < 30
        np.testing.assert_array_equal(several.success, single.success)
        np.testing.assert_array_equal(several.queries, single.queries)
        np.testing.assert_allclose(several.images, single.images, atol=1e-6)


class TestMetrics:
    labels = np.array([0, 1, 2, 3])
    clean = np.array([0, 1, 2, 0])

    def test_consistency_counts_what_is_wrong_all_along(self):
        adversarial = np.array([0, 1, 0, 0])
        assert attacks.robust_accuracy(self.clean, adversarial, self.labels) == 0.5
        assert attacks.prediction_consistency(self.clean, adversarial) == 0.75

    def test_a_wrong_clean_prediction_is_not_robust_even_if_the_attack_repairs_it(self):
        assert attacks.robust_accuracy(self.clean, self.labels, self.labels) == 0.75

    @pytest.mark.parametrize("adversarial", [np.zeros(3, int), np.zeros((4, 10)), np.zeros(0, int)])
    def test_shapes_that_do_not_fit(self, adversarial):
        with pytest.raises(ValueError, match="must have one shape"):
            attacks.robust_accuracy(self.clean, adversarial, self.labels)

    def test_predict_pads_the_last_batch(self):
        images = random_images(0, (13, 6, 5, 3))
        network = Partial(linear, jnp.asarray(np.random.default_rng(0).normal(size=(90, 4)), jnp.float32))
        expected = np.asarray(network(images)).argmax(-1)
        for batch_size in (4, 13, 64):
            np.testing.assert_array_equal(attacks.predict(network, images, batch_size=batch_size), expected)
