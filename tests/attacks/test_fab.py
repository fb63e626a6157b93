"""FAB's projections against slow exact ones, and the attack on a network trained on handwritten digits."""

import functools
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.optimize import brentq, linprog

from topgap_jax import attacks
from topgap_jax.attacks import hyperplane, networks

EPS = {"linf": 0.1, "l2": 1.0, "l1": 5.0}

# The other norms differ in the geometry only, which has tests of its own.
NORMS = ["linf", *(pytest.param(norm, marks=pytest.mark.slow) for norm in ("l2", "l1"))]
ORDERS = {"linf": np.inf, "l2": 2, "l1": 1}
project = jax.jit(hyperplane.project, static_argnames="norm")
fab = functools.partial(attacks.fab, batch_size=16)  # one size to compile


def planes(count, size, shares, seed=0):
    """Points, normals with some zeros, and gaps as shares of what the box allows."""
    rng = np.random.default_rng(seed)
    points = rng.random((count, size), np.float32)
    points[:, ::5], points[:, ::7] = 0, 1
    normals = rng.standard_normal((count, size)).astype(np.float32)
    normals[:, ::11] = 0
    side = rng.choice([-1.0, 1.0], (count, 1))
    downhill = -side * normals
    reach = (np.abs(normals) * np.where(downhill > 0, 1 - points, points)).sum(-1)
    return points, normals, (side[:, 0] * shares * reach).astype(np.float32)


def exact_move(x, w, gap, norm):
    """In float64: the multiplier by root finding, in L1 the linear program."""
    x, w = np.float64(x), -np.sign(gap) * np.float64(w)
    room, slopes, gap = np.where(w > 0, 1 - x, np.where(w < 0, x, 0)), np.abs(w), abs(float(gap))
    if gap >= slopes @ room:
        moves = room
    elif norm == "l1":
        bounds = np.stack([np.zeros_like(room), room], -1)
        moves = linprog(np.ones_like(x), A_eq=slopes[None], b_eq=[gap], bounds=bounds).x
    else:
        rate = np.ones_like(slopes) if norm == "linf" else slopes
        t = brentq(lambda t: slopes @ np.minimum(t * rate, room) - gap, 0, 1e6, xtol=1e-14)
        moves = np.minimum(t * rate, room)
    return np.sign(w) * moves


class TestProjection:
    @pytest.mark.parametrize("norm", ORDERS)
    def test_is_the_exact_one(self, norm):
        # Up to a gap that the box cannot close; near it, L1 leaves all rounding to the flattest pixel.
        points, normals, gaps = planes(40, 60, np.r_[np.linspace(0, 0.9, 39), 1.3])
        moves = project(points, normals, gaps, norm=norm)
        expected = [exact_move(*row, norm) for row in zip(points, normals, gaps, strict=True)]
        np.testing.assert_allclose(moves, expected, atol=2e-5)

    @pytest.mark.parametrize("norm", ORDERS)
    def test_lands_on_the_plane_in_the_box_in_many_dimensions(self, norm):
        points, normals, gaps = planes(8, 150_528, np.geomspace(1e-6, 0.9, 8))
        moved = np.float64(points) + np.asarray(project(points, normals, gaps, norm=norm))
        assert moved.min() >= 0 and moved.max() <= 1 + 1e-7
        left = gaps + (np.float64(normals) * (moved - points)).sum(-1)
        np.testing.assert_allclose(left / np.abs(gaps), 0, atol=1e-4)

    @pytest.mark.parametrize("norm", ORDERS)
    def test_out_of_reach_goes_as_far_as_the_box(self, norm):
        points, normals, gaps = planes(4, 60, 1.01)
        downhill = -np.sign(gaps)[:, None] * normals
        corner = np.where(downhill > 0, 1, np.where(downhill < 0, 0, points))
        np.testing.assert_allclose(points + project(points, normals, gaps, norm=norm), corner, atol=1e-6)

    @pytest.mark.parametrize("norm", ORDERS)
    def test_scale_of_the_normal_does_not_matter(self, norm):
        points, normals, gaps = planes(8, 60, 0.3)
        moves = project(points, normals, gaps, norm=norm)
        for scale in (1e-25, 1e25):
            again = project(points, np.float32(scale) * normals, np.float32(scale) * gaps, norm=norm)
            np.testing.assert_allclose(again, moves, atol=1e-4)

    @pytest.mark.parametrize("norm", ORDERS)
    def test_equal_slopes(self, norm):
        """Uniform normals, as averages have: all ties."""
        points = np.full((1, 10), 0.5, np.float32)
        moves = project(points, np.full((1, 10), -2.0, np.float32), np.float32([4.0]), norm=norm)
        assert np.asarray(moves).sum() == pytest.approx(2, rel=1e-5)
        assert (np.asarray(moves) >= 0).all()

    @pytest.mark.parametrize("norm", ORDERS)
    @pytest.mark.parametrize("gap", [0.0, 1.0, -1.0])
    def test_no_direction_no_move(self, norm, gap):
        points = np.random.default_rng(0).random((3, 10), np.float32)
        moves = project(points, np.zeros((3, 10), np.float32), np.full(3, gap, np.float32), norm=norm)
        np.testing.assert_array_equal(moves, 0)
        still = project(points, points - 0.5, np.zeros(3, np.float32), norm=norm)
        np.testing.assert_array_equal(still, 0)


class TestSmallestPerturbation:
    @pytest.mark.parametrize("norm", ORDERS)
    @pytest.mark.parametrize("num_classes", [2, 12])
    def test_of_a_linear_network_is_the_distance_to_its_boundary(self, norm, num_classes):
        """Known exactly; with 12 classes the gradients come in two groups."""
        rng = np.random.default_rng(0)
        weights = jnp.asarray(rng.standard_normal((48, num_classes)), jnp.float32)
        images = rng.uniform(0.3, 0.7, (16, 4, 4, 3)).astype(np.float32)

        def network(x):
            return x.reshape(len(x), -1) @ weights

        labels = attacks.predict(network, images)
        expected = [
            _linear_distance(*row, np.asarray(weights), norm) for row in zip(images, labels, strict=True)
        ]
        settings = dict(norm=norm, steps=15, num_targets=20)
        for targeted in (False, True):
            result = fab(network, images, labels, targeted=targeted, **settings)
            assert result.success.all()
            np.testing.assert_allclose(result.loss, -result.distance, rtol=1e-6)
            attempts = num_classes - 1 if targeted else 1
            assert result.config["num_targets"] == attempts
            np.testing.assert_array_equal(result.queries, 2 * 15 * attempts)
            excess = result.distance / np.array(expected)
            assert excess.min() > 0.999
            # Untargeted, it follows the boundary that is nearest without the box: not always the one.
            assert np.median(excess) < 1.01 and (excess.max() < 1.03 or not targeted)

    def test_more_work_never_loses(self, trained):
        network, images, labels = (trained[0], *(field[:32] for field in trained[1:]))
        few = fab(network, images, labels, steps=5)
        many = fab(network, images, labels, steps=20)
        again = fab(network, images, labels, steps=20, restarts=3)
        assert (many.distance <= few.distance).all() and (many.distance < few.distance).any()
        assert (again.distance <= many.distance).all() and (again.distance < many.distance).any()
        assert again.success.all() and (again.predictions != labels).all()

    def test_an_example_wrong_all_along_needs_nothing(self, trained):
        network, images = trained[0], trained[1][:16]
        wrong = (attacks.predict(network, images) + 1) % 10
        result = fab(network, images, wrong, steps=5)
        np.testing.assert_array_equal(result.images, images)
        np.testing.assert_array_equal(result.queries, 2)
        assert result.success.all() and (result.distance == 0).all()


class TestInTheBall:
    @pytest.mark.parametrize("targeted", [False, True])
    @pytest.mark.parametrize("norm", NORMS)
    def test_result_is_consistent(self, trained, norm, targeted):
        network, images, labels = (trained[0], *(field[:64] for field in trained[1:]))
        eps = EPS[norm] / 3
        settings = dict(norm=norm, targeted=targeted, num_targets=3, steps=10, restarts=2)
        result = fab(network, images, labels, eps=eps, **settings)
        assert 0.1 < result.success.mean() < 0.95
        assert result.distance.max() <= eps * (1 + 1e-5)
        assert result.images.min() >= 0 and result.images.max() <= 1
        np.testing.assert_array_equal(result.predictions, attacks.predict(network, result.images))
        np.testing.assert_array_equal(result.success, result.predictions != labels)
        np.testing.assert_allclose(result.loss[result.success], -result.distance[result.success], rtol=1e-5)
        attempts = 6 if targeted else 2
        np.testing.assert_array_equal(result.queries[~result.success], 2 * 10 * attempts)
        assert result.queries[result.success].mean() < 20
        # The same search without a ball finds them, and no others: success is a matter of distance.
        free = fab(network, images, labels, norm=norm, targeted=targeted, num_targets=3, steps=10)
        assert (free.distance[~result.success] > eps * (1 - 1e-5)).all()

    @pytest.mark.parametrize("norm", NORMS)
    def test_an_undefended_network_has_no_robust_accuracy(self, trained, norm):
        network, images, labels = trained
        result = fab(network, images, labels, eps=3 * EPS[norm], norm=norm, steps=20)
        clean = attacks.predict(network, images)
        assert attacks.robust_accuracy(clean, result.predictions, labels) <= 0.01

    @pytest.mark.parametrize("norm", NORMS)
    def test_reaches_the_users_targets(self, trained, norm):
        network, images, labels = (trained[0], *(field[:64] for field in trained[1:]))
        targets = (labels + 3) % 10
        result = fab(network, images, labels, eps=4 * EPS[norm], norm=norm, steps=40, targets=targets)
        assert result.success.mean() > 0.9
        np.testing.assert_array_equal(result.success, result.predictions == targets)

    @pytest.mark.slow
    @pytest.mark.parametrize("targeted", [False, True])
    def test_batch_size_does_not_matter(self, trained, targeted):
        network, images, labels = (trained[0], *(field[:40] for field in trained[1:]))
        settings = dict(eps=0.03, targeted=targeted, num_targets=2, steps=6, restarts=2)
        reference = fab(network, images, labels, **settings)
        assert 0 < reference.success.sum() < 40
        for batch_size in (7, 64):
            other = fab(network, images, labels, batch_size=batch_size, **settings)
            np.testing.assert_array_equal(other.success, reference.success)
            np.testing.assert_array_equal(other.queries, reference.queries)
            np.testing.assert_allclose(other.images, reference.images, atol=1e-5)

    def test_a_randomised_network(self, trained):
        def noisy(images, key):
            return trained[0](images + 0.02 * jax.random.normal(key, images.shape))

        images, labels = trained[1][:16], trained[2][:16]
        result = fab(networks.randomized(noisy), images, labels, eps=0.3, targeted=True, steps=10)
        assert result.success.mean() > 0.8

    def test_config_is_complete_and_plain(self, trained):
        network, images, labels = (trained[0], *(field[:8] for field in trained[1:]))
        result = fab(network, images, labels, targeted=True, num_targets=2, steps=2, restarts=2, key=5)
        assert json.loads(json.dumps(result.config, allow_nan=False)) == dict(
            attack="fab", norm="linf", eps=None, start_eps=0.3, targeted=True, reach=False, num_targets=2,
            steps=2, restarts=2, alpha_max=0.1, eta=1.05, beta=0.9, batch_size=16, key=[0, 5],
        )  # fmt: skip


class TestBadInput:
    images = np.full((4, 8, 8, 1), 0.5, np.float32)
    labels = np.arange(4)

    @pytest.mark.parametrize("norm", NORMS)
    @pytest.mark.parametrize("targeted", [False, True])
    def test_a_constant_network_is_never_fooled(self, norm, targeted):
        def network(x):
            return jnp.broadcast_to(jnp.eye(10)[2], (len(x), 10))

        labels = np.full(4, 2)
        result = fab(network, self.images, labels, norm=norm, targeted=targeted, steps=3, batch_size=4)
        assert not result.success.any()
        np.testing.assert_array_equal(result.images, self.images)
        np.testing.assert_array_equal(result.predictions, 2)

    def test_nan_logits(self):
        images = np.array(self.images)
        images[2] = 0.9

        def network(x):
            logits = x.mean((1, 2)) * jnp.arange(10.0)
            return jnp.where(logits[:, 1:2] > 0.7, jnp.nan, logits)

        with pytest.raises(ValueError, match=r"NaN for 1 of 4 images, the first is images\[2\]"):
            fab(network, images, np.full(4, 9), eps=0.01, steps=3, batch_size=4)

    @pytest.mark.parametrize(
        ("change", "message"),
        [
            (dict(eps=8), "did you mean 8/255"),
            (dict(norm="l3"), "unknown norm 'l3'"),
            (dict(steps=0), "steps=0 must be an integer of at least 1"),
            (dict(num_targets=0), "num_targets=0 must be"),
            (dict(alpha_max=1.5), r"alpha_max=1.5 must lie in \[0, 1\]"),
            (dict(eta=0.9), "eta=0.9 must be at least 1"),
            (dict(beta=0), r"beta=0 must lie in \(0, 1\]"),
        ],
    )
    def test_settings(self, change, message):
        with pytest.raises(ValueError, match=message):
            fab(lambda x: x.mean((1, 2)) * jnp.arange(10.0), self.images, self.labels, **change)


def _linear_distance(image, label, weights, norm):
    """To the nearest rival's boundary; far enough inside the box not to meet it."""
    dual = {"linf": 1, "l2": 2, "l1": np.inf}[norm]
    found = []
    for rival in set(range(weights.shape[1])) - {label}:
        difference = weights[:, rival] - weights[:, label]
        moves = exact_move(image.ravel(), difference, image.ravel() @ difference, norm)
        found.append(np.linalg.norm(moves, ORDERS[norm]))
        assert found[-1] >= abs(image.ravel() @ difference) / np.linalg.norm(difference, dual) - 1e-6
    return min(found)
