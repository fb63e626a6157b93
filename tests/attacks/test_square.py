"""Square Attack on a network trained on real handwritten digits."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from topgap_jax import attacks
from topgap_jax.attacks import base, threat_models
from topgap_jax.attacks.square import Square, Window, patch, schedule, square, window_sizes

EPS = {"linf": 0.15, "l2": 1.0, "l1": 6.0}

# The other norms differ in the geometry only, which has tests of its own.
NORMS = ["linf", *(pytest.param(norm, marks=pytest.mark.slow) for norm in ("l2", "l1"))]


def attack_on(images, norm, eps, queries=100):
    """The attack, examples and its start."""
    count = len(images)
    sizes = window_sizes(0.8, images.shape, norm)
    attack = Square(
        eps,
        queries,
        jnp.asarray(schedule(queries, False)),
        jnp.asarray(sizes),
        jax.random.key(0),
        norm,
        "margin",
        False,
    )
    zeros = jnp.zeros(count, jnp.int32)
    examples = base.Examples(jnp.asarray(images), zeros, zeros, jnp.arange(count), zeros)
    return attack, examples, attack.init(examples).progress


def pictures(count, height=12, width=12, channels=3):
    return np.random.default_rng(0).uniform(0.3, 0.7, (count, height, width, channels)).astype(np.float32)


class TestWindows:
    def test_linf_starts_with_stripes(self):
        images = pictures(64, 9, 14)
        start = attack_on(images, "linf", 0.1)[2].images - images
        np.testing.assert_allclose(np.abs(start), 0.1, atol=1e-6)
        np.testing.assert_allclose(start, np.broadcast_to(start[:, :1], start.shape), atol=1e-6)
        assert abs(np.sign(start[:, 0]).mean()) < 0.1  # signs of 64 x 14 x 3 columns
        assert len(np.unique(np.sign(start[:, 0]).reshape(64, -1), axis=0)) == 64

    @pytest.mark.parametrize("query", [1, 20, 300])
    def test_linf_colours_one_square(self, query):
        """What AutoAttack draws, but for each example of its own."""
        images = pictures(2000)
        attack, examples, progress = attack_on(images, "linf", 0.1, 1000)
        progress = progress._replace(images=examples.images, queries=jnp.full(2000, query))
        change = np.asarray(jax.jit(attack.propose)(examples, progress)) - images
        side = {1: 11, 20: 8, 300: 4}[query]
        changed = np.abs(change) > 1e-6
        assert (changed.sum((1, 2, 3)) == 3 * side**2).all()
        top, left = changed.any((2, 3)).argmax(1), changed.any((1, 3)).argmax(1)
        assert (changed.any((2, 3)).sum(1) == side).all() and (changed.any((1, 3)).sum(1) == side).all()
        for corner in (top, left):  # 0 to 11 - side, all alike
            share = np.bincount(corner, minlength=12) / 2000
            np.testing.assert_allclose(
                share, np.where(np.arange(12) < 12 - side, 1 / (12 - side), 0), atol=0.04
            )
        colours = np.sign(change).sum((1, 2)) / side**2
        np.testing.assert_allclose(np.abs(colours), 1)
        share = np.unique(colours, axis=0, return_counts=True)[1] / 2000
        np.testing.assert_allclose(share, np.full(8, 1 / 8), atol=0.03)

    @pytest.mark.parametrize(("norm", "order"), [("l2", 2), ("l1", 1)])
    def test_patch_has_two_opposite_peaks(self, norm, order):
        rows, columns = jnp.arange(9)[None] - 1, jnp.arange(11)[None] - 3
        upright, lying = (
            np.asarray(patch(Window(rows, columns, jnp.full(1, 7)), jnp.full(1, lie), norm))[0]
            for lie in (False, True)
        )
        np.testing.assert_allclose((np.abs(upright) ** order).sum(), 1, rtol=1e-5)
        inside = np.zeros((9, 11), bool)
        inside[1:8, 3:10] = True
        assert ((upright != 0) == inside).all()
        # A half of 3 rows and one of 4.
        assert (upright[1:4, 3:10] > 0).all() and (upright[4:8, 3:10] < 0).all()
        assert np.unravel_index(upright.argmax(), upright.shape) == (2, 6)
        assert np.unravel_index(upright.argmin(), upright.shape) == (6, 6)
        np.testing.assert_allclose(upright[1:8, 3:10], lying[1:8, 3:10].T, atol=1e-7)

    @pytest.mark.parametrize("norm", ["l2", "l1"])
    @pytest.mark.parametrize("shape", [(8, 8, 1), (19, 19, 3), (3, 9, 5)])
    def test_starts_and_proposals_use_the_ball(self, norm, shape):
        eps = 0.5 if norm == "l2" else 1.5
        images = pictures(8, *shape)
        attack, examples, progress = attack_on(images, norm, eps)
        propose = jax.jit(attack.propose)
        for query in (1, 60):
            distance = threat_models.distances(np.asarray(progress.images) - images, norm)
            np.testing.assert_allclose(distance, eps, rtol=1e-4)
            progress = progress._replace(queries=jnp.full(8, query), images=propose(examples, progress))
        change = np.abs(np.asarray(progress.images) - images)
        assert np.isfinite(change).all() and change.max() > 0

    def test_schedule(self):
        np.testing.assert_array_equal(schedule(10_000, False)[:3], [11, 51, 201])
        np.testing.assert_array_equal(schedule(5000, False)[-4:], [2001, 4001, 5000, 5000])
        np.testing.assert_array_equal(schedule(5000, True)[:3], [6, 26, 101])
        np.testing.assert_array_equal(
            window_sizes(0.8, (1, 32, 32, 3), "linf"), [29, 20, 14, 10, 7, 5, 4, 3, 2, 1]
        )
        np.testing.assert_array_equal(window_sizes(0.8, (1, 8, 20, 3), "l2"), [8, 8, 7, 5, 3, 3, 3, 3, 3, 3])


class TestSquare:
    @pytest.mark.parametrize("norm", NORMS)
    def test_result_is_consistent_in_any_batch(self, trained, norm):
        network, images, labels = trained
        result = square(network, images, labels, eps=EPS[norm], norm=norm, queries=60)
        assert result.success.sum() > (attacks.predict(network, images) != labels).sum() + 20
        assert result.distance.max() <= EPS[norm] * (1 + 1e-5)
        assert result.images.min() >= 0 and result.images.max() <= 1
        np.testing.assert_array_equal(result.predictions, attacks.predict(network, result.images))
        np.testing.assert_array_equal(result.success, result.predictions != labels)
        np.testing.assert_array_equal(result.queries[~result.success], 61)
        rows = np.arange(120, 127)
        part = square(
            network,
            images[rows],
            labels[rows],
            eps=EPS[norm],
            norm=norm,
            queries=60,
            indices=rows,
            batch_size=7,
        )
        for whole, other in zip(result[:5], part[:5], strict=True):
            np.testing.assert_allclose(whole[rows], other, atol=1e-5)

    def test_an_undefended_network_has_no_robust_accuracy(self, trained):
        network, images, labels = trained
        result = square(network, images, labels, eps=0.3, queries=300)
        assert result.success.mean() >= 0.99

    def test_needs_no_gradient(self, trained):
        network, images, labels = trained

        def steps(images):
            return jnp.round(4 * network(jax.lax.stop_gradient(images)))

        assert square(steps, images, labels, eps=0.3, queries=100).success.mean() > 0.8

    @pytest.mark.parametrize("loss", ["margin", pytest.param("ce", marks=pytest.mark.slow)])
    def test_targeted_hits_the_target(self, trained, loss):
        network, images, labels = trained
        targets = (labels + 3) % 10
        settings = dict(eps=0.5, queries=250, loss=loss)
        result = square(network, images, labels, targets=targets, **settings)
        assert result.success.mean() > 0.8
        np.testing.assert_array_equal(result.success, result.predictions == targets)

    def test_restarts_help_and_the_key_decides(self, trained):
        network, images, labels = trained
        settings = dict(eps=0.1, queries=10)
        once, again, other, four = (
            square(network, images, labels, **settings, **change)
            for change in ({}, {"key": jax.random.key(0)}, {"key": 1}, {"restarts": 4})
        )
        np.testing.assert_array_equal(once.images, again.images)
        assert (once.images != other.images).mean() > 0.25
        assert four.success.sum() > once.success.sum()
        assert not (once.success & ~four.success).any()

    def test_config_is_complete_and_plain(self, trained):
        network, images, labels = trained
        result = square(network, images[:4], labels[:4], eps=0.1, queries=20, rescale_schedule=True)
        config = json.loads(json.dumps(result.config))
        assert config == dict(
            attack="square", norm="linf", eps=0.1, queries=20, p=0.8, loss="margin", restarts=1,
            batch_size=64, rescale_schedule=True, targeted=False, key=[0, 0],
            halvings=[1, 1, 1, 2, 3, 5, 9, 13, 17],
            sizes=[7, 5, 4, 3, 2, 1, 1, 1, 1, 1],
        )  # fmt: skip

    @pytest.mark.parametrize(
        ("change", "message"),
        [
            (dict(eps=8), r"did you mean 8/255\?"),
            (dict(norm="l3"), "unknown norm 'l3'"),
            (dict(loss="hinge"), "unknown loss 'hinge'"),
            (dict(p=0), r"p=0 must be a share of the image, in \(0, 1\]"),
            (dict(p=float("nan")), "p=nan must be a share"),
            (dict(queries=0), "queries=0 must be an integer of at least 1"),
            (dict(restarts=0), "restarts=0 must be"),
        ],
    )
    def test_bad_input(self, trained, change, message):
        network, images, labels = trained
        with pytest.raises(ValueError, match=message):
            square(network, images, labels, **(dict(eps=0.1) | change))
