"""APGD: starts, L1 geometry against slow references, targets, fallbacks, independence of the batch."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from topgap_jax import attacks
from topgap_jax.attacks import networks, threat_models
from topgap_jax.attacks.apgd import AutoPGD, apgd, random_start, schedule
from topgap_jax.attacks.base import Examples

EPS = {"linf": 0.1, "l2": 1.0, "l1": 6.0}

# The other norms differ in the geometry only, which has tests of its own.
NORMS = ["linf", *(pytest.param(norm, marks=pytest.mark.slow) for norm in ("l2", "l1"))]


def linear(images):
    """A network of 10 classes that anything fools if eps is large enough."""
    weights = jnp.asarray(np.random.default_rng(0).normal(size=(images[0].size, 10)), jnp.float32)
    return images.reshape(len(images), -1) @ weights


def constant(images):
    return jnp.zeros((len(images), 10)).at[:, 0].set(1.0) + 0 * images.sum((1, 2, 3))[:, None]


class TestL1Geometry:
    rng = np.random.default_rng(0)
    clean = rng.uniform(size=(6, 5, 4, 3)).astype(np.float32)
    far = (clean + rng.normal(size=clean.shape)).astype(np.float32)

    def slow_projection(self, eps):
        """Bisection in double precision, one image at a time."""
        projected = []
        for clean, far in zip(self.clean.astype(float), self.far.astype(float), strict=True):
            step = far - clean
            room = np.where(step > 0, 1 - clean, clean)
            low, high = 0.0, np.abs(step).max()
            if np.clip(np.abs(step), 0, room).sum() <= eps:
                high = 0.0
            for _ in range(200):
                middle = (low + high) / 2
                outside = np.clip(np.abs(step) - middle, 0, room).sum() > eps
                low, high = (middle, high) if outside else (low, middle)
            projected.append(clean + np.sign(step) * np.clip(np.abs(step) - high, 0, room))
        return np.array(projected)

    @pytest.mark.parametrize("eps", [0.01, 0.5, 4.0, 1000.0])
    def test_projection(self, eps):
        projected = threat_models.project(self.far, self.clean, eps, "l1")
        np.testing.assert_allclose(projected, self.slow_projection(eps), atol=2e-6)

    def test_projection_is_the_nearest_point(self):
        projected = np.asarray(threat_models.project(self.far, self.clean, 2.0, "l1"))
        project = jax.jit(threat_models.project, static_argnames="norm")
        for seed in range(50):
            noise = np.random.default_rng(seed).normal(scale=0.05, size=self.clean.shape)
            other = np.asarray(project(projected + noise, self.clean, 2.0, norm="l1"))
            distances = [((points - self.far) ** 2).sum((1, 2, 3)) for points in (projected, other)]
            assert (distances[0] <= distances[1] + 1e-4).all()

    def test_projection_has_a_ball_for_each_image(self):
        eps = np.linspace(0.1, 3, 6).astype(np.float32)
        together = threat_models.project(self.far, self.clean, eps[:, None, None, None], "l1")
        for i in range(6):
            alone = threat_models.project(self.far[i : i + 1], self.clean[i : i + 1], eps[i], "l1")
            np.testing.assert_allclose(together[i], alone[0], atol=1e-6)

    @pytest.mark.parametrize("scale", [1.0, 1e-30, 0.0])
    def test_sparse_steps(self, scale):
        gradients = (scale * self.far).astype(np.float32)
        share = np.array([0.0, 0.1, 0.25, 0.5, 0.9, 1.0], np.float32)
        steps = np.asarray(threat_models.sparse_steepest(jnp.asarray(gradients), jnp.asarray(share)))
        flat = np.abs(gradients.reshape(6, 60))
        rank = np.clip(((1 - share) * np.float32(60)), 0, 59).astype(int)
        least = np.sort(flat, axis=-1)[np.arange(6), rank]
        signs = np.sign(gradients) * (np.abs(gradients) >= least[:, None, None, None])
        expected = signs / np.maximum(np.abs(signs).sum((1, 2, 3), keepdims=True), 1)
        np.testing.assert_allclose(steps, expected, rtol=1e-6)


class TestStart:
    @pytest.mark.parametrize("norm", EPS)
    def test_lies_on_the_surface(self, norm):
        clean = np.full((8, 6, 6, 3), 0.5, np.float32)
        rows = np.arange(8, dtype=np.int32)
        start = random_start(jax.random.key(0), Examples(clean, rows, rows, rows, 0 * rows), 0.3, norm)
        distances = threat_models.distances(np.asarray(start) - clean, norm)
        np.testing.assert_allclose(distances, 0.3, rtol=1e-4)

    def test_schedule(self):
        (phase,) = schedule(0.1, 100, "linf", larger_eps=False)
        assert phase == (0.1, 100, 22, 3, 6)
        phases = schedule(12.0, 100, "l1", larger_eps=True)
        assert [(phase.eps, phase.steps, phase.window) for phase in phases] == [
            (36, 30, 1),
            (24, 30, 1),
            (12, 40, 1),
        ]
        assert [phase.steps for phase in schedule(12.0, 10, "l1", larger_eps=True)] == [3, 3, 4]
        assert [phase.steps for phase in schedule(12.0, 1, "l1", larger_eps=True)] == [1, 1, 0]


class TestAttack:
    @pytest.mark.parametrize("norm", NORMS)
    def test_result_is_consistent_and_the_batch_does_not_matter(self, trained, norm):
        network, images, labels = trained
        settings = dict(eps=EPS[norm] / 4, norm=norm, steps=20)
        result = apgd(network, images[:90], labels[:90], batch_size=64, **settings)
        assert 0 < result.success.sum() < 90
        assert result.distance.max() <= settings["eps"] * (1 + 1e-5)
        assert result.images.min() >= 0 and result.images.max() <= 1
        np.testing.assert_array_equal(result.predictions, attacks.predict(network, result.images))
        np.testing.assert_array_equal(result.success, result.predictions != labels[:90])
        # In L1 two larger balls come first, and each is entered by a pass of its own.
        survivors = ~result.success
        np.testing.assert_array_equal(result.queries[survivors], 23 if norm == "l1" else 21)
        other = apgd(network, images[:90], labels[:90], batch_size=7, **settings)
        np.testing.assert_array_equal(other.success, result.success)
        # XLA rounds otherwise in a batch of 7, which may turn the sign of a gradient next to zero.
        same = np.isclose(other.images, result.images, atol=1e-5).all((1, 2, 3))
        assert (same & (other.queries == result.queries)).mean() > 0.95

    def test_is_at_least_as_strong_as_pgd(self, trained):
        network, images, labels = trained
        settings = dict(eps=0.05, steps=40)
        ours = apgd(network, images, labels, **settings).success.sum()
        assert ours >= attacks.pgd(network, images, labels, **settings).success.sum() - 2

    @pytest.mark.parametrize("loss", ["dlr-targeted", "ce-targeted"])
    def test_goes_through_the_likeliest_targets(self, trained, loss):
        network, images, labels = trained
        result = apgd(
            network, images[:64], labels[:64], eps=0.04, steps=5, loss=loss, num_targets=3, restarts=2
        )
        survivors = ~result.success
        assert 0 < survivors.sum() < 64
        np.testing.assert_array_equal(result.queries[survivors], 6 * 3 * 2)
        assert json.loads(json.dumps(result.config))["num_targets"] == 3

    @pytest.mark.parametrize("loss", ["ce", "dlr-targeted"])
    def test_reaches_given_targets(self, trained, loss):
        network, images, labels = trained
        targets = (labels + 3) % 10
        result = apgd(network, images[:64], labels[:64], eps=0.4, steps=40, loss=loss, targets=targets[:64])
        np.testing.assert_array_equal(result.success, result.predictions == targets[:64])
        assert result.success.mean() > 0.9

    @pytest.mark.parametrize("norm", NORMS)
    def test_zero_gradients(self, norm):
        images = np.random.default_rng(0).uniform(size=(4, 4, 4, 1)).astype(np.float32)
        result = apgd(constant, images, np.zeros(4, int), eps=0.1, norm=norm, loss="dlr", steps=10)
        assert not result.success.any() and np.isfinite(result.images).all()

    @pytest.mark.parametrize(
        ("classes", "loss", "fallback"),
        [
            (2, "dlr", "margin"),
            (3, "dlr", None),
            (3, "dlr-targeted", "margin-targeted"),
            (4, "dlr-targeted", None),
            (2, "ce", None),
        ],
    )
    def test_few_classes(self, classes, loss, fallback):
        images = np.random.default_rng(0).uniform(size=(4, 3, 3, 1)).astype(np.float32)

        def network(images):
            return linear(images)[:, :classes]

        result = apgd(network, images, np.zeros(4, int), eps=0.9, loss=loss, steps=5)
        assert result.config["loss_fallback"] == fallback and result.config["loss"] == loss

    @pytest.mark.slow
    def test_averages_over_the_draws(self):
        """The signal drowns in noise that four draws out of five do not share."""

        def network(images, key):
            noise = jax.random.normal(key, images.shape[1:]) * 3
            score = ((images - 0.5) * (0.5 + noise)).sum((1, 2, 3)) - 30
            return jnp.stack([-score, score], -1)

        images = np.full((16, 8, 8, 1), 0.5, np.float32)
        random, labels = networks.randomized(network), np.zeros(16, int)
        settings = dict(eps=0.1, steps=4, loss="margin", batch_size=16)
        rise = [(apgd(random, images, labels, eot=eot, **settings).images - images).mean() for eot in (1, 32)]
        assert rise[1] > rise[0] + 0.01
        np.testing.assert_array_equal(apgd(random, images, labels, eot=3, **settings).queries, 5 * 3)

    def test_more_draws_change_nothing_for_a_deterministic_network(self, trained):
        network, images, labels = trained
        settings = dict(eps=0.03, steps=5)
        one, two = (apgd(network, images[:32], labels[:32], eot=eot, **settings) for eot in (1, 2))
        np.testing.assert_allclose(two.images, one.images, atol=1e-6)
        np.testing.assert_array_equal(two.queries, 2 * one.queries)

    @pytest.mark.parametrize(
        ("change", "message"),
        [
            (dict(loss="dlr2"), "unknown loss 'dlr2'; there are ce, margin, dlr, ce-targeted"),
            (dict(norm="l3"), "unknown norm 'l3'"),
            (dict(eot=0), "eot=0 must be an integer of at least 1"),
            (dict(rho=1.5), "rho=1.5 is a share of the steps"),
            (dict(larger_eps=True), "larger_eps is for norm 'l1', not 'linf'"),
            (dict(eps=8), "did you mean 8/255"),
        ],
    )
    def test_bad_input(self, change, message):
        images = np.full((2, 4, 4, 1), 0.5, np.float32)
        with pytest.raises(ValueError, match=message):
            apgd(linear, images, np.zeros(2, int), **(dict(eps=0.1) | change))


def test_success_in_a_larger_ball_does_not_count():
    images = np.full((4, 4, 4, 1), 0.5, np.float32)
    rows = jnp.arange(4, dtype=jnp.int32)
    examples = Examples(jnp.asarray(images), 0 * rows, 0 * rows, rows, 0 * rows)

    def network(images):
        far = jnp.abs(images - 0.5).sum((1, 2, 3)) - 1.5
        return jnp.stack([-far, far], -1)

    attack = AutoPGD(
        phases=schedule(1.0, 10, "l1", larger_eps=True), rho=0.75, key=jax.random.key(0), eot=1, norm="l1",
        loss="ce", targeted=False,
    )  # fmt: skip
    state, fooled = attack.init(examples), []
    step = jax.jit(lambda state: attack.step(network, examples, state))
    for _ in range(13):
        fooled.append(np.asarray(network(state.images).argmax(-1)))
        state = step(state)
    assert np.array(fooled[:4]).all() and not np.array(fooled[-4:]).any()
    assert np.asarray(state.progress.done).all() and not np.asarray(state.progress.success).any()
    np.testing.assert_allclose(np.abs(state.progress.images - images).sum((1, 2, 3)), 1, rtol=1e-5)
