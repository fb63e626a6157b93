"""FGSM and PGD on a network trained on real handwritten digits."""

import itertools
import json

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx
from jax.tree_util import Partial

from topgap_jax import attacks
from topgap_jax.attacks import losses, survivors, threat_models

EPS = {"linf": 0.1, "l2": 1.0}


def counted(model):
    """A network, and a list that grows whenever it is traced."""
    traces = []
    graphdef, parameters = nnx.split(model)

    def apply(parameters, images):
        traces.append(images.shape)
        return nnx.merge(graphdef, parameters)(images)

    return Partial(apply, nnx.to_pure_dict(parameters)), traces


def other_checkpoint(network):
    return Partial(network.func, jax.tree.map(lambda leaf: 0.9 * leaf, network.args[0]))


def same(first, second):
    np.testing.assert_array_equal(first.success, second.success)
    np.testing.assert_array_equal(first.queries, second.queries)
    np.testing.assert_array_equal(first.predictions, second.predictions)
    np.testing.assert_allclose(first.images, second.images, atol=1e-6)


class TestFGSM:
    def test_is_one_signed_step(self, trained):
        network, images, labels = trained

        def loss(x):
            return optax.softmax_cross_entropy_with_integer_labels(network(x), labels).sum()

        expected = np.clip(images + 0.1 * np.sign(jax.jit(jax.grad(loss))(images)), 0, 1)
        result = attacks.fgsm(network, images, labels, eps=0.1)
        # A gradient next to zero may round to either sign.
        assert (np.abs(result.images - expected) > 1e-6).mean() < 1e-3
        np.testing.assert_array_equal(result.queries, 2)

    @pytest.mark.parametrize("norm", EPS)
    def test_targeted_moves_towards_the_target(self, trained, norm):
        network, images, labels = trained
        targets = (labels + 1) % 10
        result = attacks.fgsm(network, images, labels, eps=EPS[norm], norm=norm, targets=targets)
        chance = (attacks.predict(network, images) == targets).mean()
        assert result.success.mean() > chance + 0.1
        np.testing.assert_array_equal(result.success, result.predictions == targets)


class TestPGD:
    @pytest.mark.parametrize("recipe", ["strong", "paper"])
    @pytest.mark.parametrize("norm", EPS)
    def test_result_is_consistent(self, trained, norm, recipe):
        network, images, labels = trained
        result = attacks.pgd(network, images, labels, eps=EPS[norm], norm=norm, recipe=recipe, steps=10)
        assert result.distance.max() <= EPS[norm] * (1 + 1e-5)
        assert result.images.min() >= 0 and result.images.max() <= 1
        order = threat_models.NORMS[norm].order
        distance = np.linalg.norm((result.images - images).reshape(200, -1), order, axis=-1)
        np.testing.assert_allclose(result.distance, distance, rtol=1e-5)
        np.testing.assert_array_equal(result.predictions, attacks.predict(network, result.images))
        np.testing.assert_array_equal(result.success, result.predictions != labels)
        logits = network(jnp.asarray(result.images))
        np.testing.assert_allclose(result.loss, losses.cross_entropy(logits, labels), rtol=1e-3, atol=1e-5)

    @pytest.mark.parametrize("norm", EPS)
    @pytest.mark.parametrize("loss", losses.LOSSES)
    def test_an_undefended_network_has_no_robust_accuracy(self, trained, norm, loss):
        network, images, labels = trained
        clean = attacks.predict(network, images)
        assert (clean == labels).mean() > 0.8
        result = attacks.pgd(
            network, images, labels, eps=2 * EPS[norm], norm=norm, loss=loss, steps=40, restarts=3
        )
        assert attacks.robust_accuracy(clean, result.predictions, labels) <= 0.01

    @pytest.mark.parametrize("norm", EPS)
    def test_the_strong_recipe_is_at_least_as_strong(self, trained, norm):
        network, images, labels = trained
        settings = dict(eps=EPS[norm] / 2, norm=norm, steps=20)
        strong = attacks.pgd(network, images, labels, **settings)
        paper = attacks.pgd(network, images, labels, recipe="paper", **settings)
        assert strong.success.sum() > paper.success.sum()

    def test_the_paper_recipe_takes_every_step_and_the_last_iterate(self, trained):
        network, images, labels = trained
        attack = dict(eps=0.1, recipe="paper", random_start=False)
        np.testing.assert_array_equal(attacks.pgd(network, images, labels, steps=7, **attack).queries, 8)
        # Two steps of eps/30 from the clean image end at most at eps/15.
        two = attacks.pgd(network, images, labels, steps=2, **attack)
        assert two.distance.max() == pytest.approx(0.1 / 15, rel=1e-4)

    def test_survivors_keep_the_iterate_with_the_highest_loss(self, trained):
        network, images, labels = trained
        settings = dict(eps=0.04, steps=20, random_start=False, step_size=0.03)
        best = attacks.pgd(network, images, labels, **settings)
        last = attacks.pgd(network, images, labels, recipe="paper", **settings)
        survivors = ~best.success & ~last.success
        assert survivors.sum() > 20
        assert (best.loss >= last.loss - 1e-4)[survivors].all()
        assert (best.loss > last.loss + 1e-4)[survivors].any()

    @pytest.mark.parametrize("recipe", ["strong", "paper"])
    @pytest.mark.parametrize("norm", EPS)
    def test_targeted_hits_the_target(self, trained, norm, recipe):
        network, images, labels = trained
        targets = (labels + 3) % 10
        result = attacks.pgd(
            network, images, labels, eps=3 * EPS[norm], norm=norm, recipe=recipe, steps=50, targets=targets
        )
        assert result.success.mean() > 0.95
        np.testing.assert_array_equal(result.success, result.predictions == targets)

    def test_more_restarts_never_lose(self, trained):
        network, images, labels = trained
        results = [
            attacks.pgd(network, images, labels, eps=0.05, steps=5, restarts=restarts)
            for restarts in (1, 2, 6)
        ]
        for fewer, more in itertools.pairwise(results):
            assert not (fewer.success & ~more.success).any()
            survivors = ~more.success
            assert (more.loss >= fewer.loss)[survivors].all()
            np.testing.assert_array_equal(more.images[fewer.success], fewer.images[fewer.success])
        assert results[-1].success.sum() > results[0].success.sum()
        np.testing.assert_array_equal(results[-1].queries[survivors], 6 * 6)

    def test_runs_on_bfloat16(self, trained):
        network, images, labels = trained
        half = jax.jit(lambda x: network(x.astype(jnp.bfloat16)).astype(jnp.bfloat16))
        result = attacks.pgd(half, jnp.asarray(images, jnp.bfloat16), labels, eps=0.1, steps=5)
        assert result.images.dtype == np.float32
        assert result.success.mean() > 0.5


class TestRandomness:
    @pytest.mark.parametrize("recipe", ["strong", "paper"])
    @pytest.mark.parametrize("norm", EPS)
    def test_batch_size_does_not_matter(self, trained, norm, recipe):
        network, images, labels = trained
        settings = dict(eps=EPS[norm] / 3, norm=norm, recipe=recipe, steps=6, restarts=2)
        reference = attacks.pgd(network, images, labels, **settings)
        assert 0 < reference.success.sum() < 200
        for batch_size in (7, 64, 256):
            same(reference, attacks.pgd(network, images, labels, batch_size=batch_size, **settings))

    def test_an_example_fares_alike_in_any_part_of_the_data(self, trained):
        network, images, labels = trained
        settings = dict(eps=0.04, steps=6, restarts=2)
        reference = attacks.pgd(network, images, labels, **settings)
        for rows in (np.arange(60, 67), np.arange(200)[::-1]):
            part = attacks.pgd(network, images[rows], labels[rows], indices=rows, **settings)
            same(part, type(reference)(*(field[rows] for field in reference[:-1]), reference.config))

    def test_the_key_decides(self, trained):
        network, images, labels = trained
        settings = dict(eps=0.04, steps=2, recipe="paper")
        first = attacks.pgd(network, images, labels, key=1, **settings)
        np.testing.assert_array_equal(
            first.images, attacks.pgd(network, images, labels, key=jax.random.key(1), **settings).images
        )
        assert (first.images != attacks.pgd(network, images, labels, key=2, **settings).images).mean() > 0.5


class TestWork:
    def test_fooled_examples_leave(self, trained, monkeypatch):
        network, images, labels = trained
        sizes, advance = [], survivors._advance
        monkeypatch.setattr(
            survivors,
            "_advance",
            lambda *args, **kwargs: (sizes.append(len(args[2].labels)), advance(*args, **kwargs))[1],
        )
        result = attacks.pgd(network, images, labels, eps=0.06, steps=20, batch_size=64)
        left = ~result.success
        np.testing.assert_array_equal(result.queries[left], 21)
        assert result.queries[result.success].mean() < 10
        # Slots are empty only when nobody waits and the batch has not shrunk yet.
        assert result.queries.sum() <= sum(sizes) < result.queries.sum() + 64 * 21
        assert sizes[0] == 64 and set(sizes) <= {64, 16, 4} and sizes[-1] < 64

    def test_traces_once_per_bucket(self, trained):
        model, images, labels = trained
        network, traces = counted(model)
        attacks.pgd(network, images, labels, eps=0.05, steps=5, batch_size=64)
        # The forward pass is traced to learn the number of classes, the gradient step once per bucket.
        assert sorted(count for count, *_ in traces) == [4, 16, 64, 64]
        attacks.pgd(network, images[:100], labels[:100], eps=0.06, steps=7, step_size=0.01, key=3)
        attacks.pgd(other_checkpoint(network), 0.9 * images, labels, eps=0.05, steps=5, restarts=2)
        attacks.pgd(network, images, labels, eps=0.05, steps=5, recipe="paper")
        attacks.fgsm(network, images, labels, eps=0.05)
        assert len(traces) == 4

    def test_config_is_complete_and_plain(self, trained):
        network, images, labels = trained
        result = attacks.pgd(network, images[:8], labels[:8], eps=8 / 255, steps=4, recipe="paper", key=5)
        config = json.loads(json.dumps(result.config))
        assert config == dict(
            attack="pgd", recipe="paper", norm="linf", eps=8 / 255, steps=4, restarts=1, random_start=True,
            step_size=pytest.approx(8 / 255 / 30), reach=pytest.approx(4 / 30), loss="ce", keep_best=False,
            targeted=False, batch_size=64, key=[0, 5],
        )  # fmt: skip


class TestBadInput:
    images = np.full((4, 8, 8, 1), 0.5, np.float32)
    labels = np.arange(4)

    @staticmethod
    def network(images):
        return images.mean((1, 2)) * jnp.arange(10.0)

    @pytest.mark.parametrize(
        ("change", "message"),
        [
            (dict(eps=0), "eps=0 must be positive"),
            (dict(eps=float("nan")), "eps=nan must be positive"),
            (dict(eps=8), r"eps=8 is larger than the image range \[0, 1\]; did you mean 8/255\?"),
            (dict(eps=128, norm="l2"), "larger than the images' l2 diameter 8; did you mean 128/255"),
            (dict(norm="l3"), "unknown norm 'l3'; there are linf, l2"),
            (dict(loss="dlr2"), "unknown loss 'dlr2'; there are ce, margin"),
            (dict(recipe="weak"), "unknown recipe 'weak'; there are strong, paper"),
            (dict(steps=0), "steps=0 must be an integer of at least 1"),
            (dict(steps=2.5), "steps=2.5 must be an integer"),
            (dict(restarts=0), "restarts=0 must be"),
            (dict(restarts=2, random_start=False), "restarts=2 without random_start would repeat"),
            (dict(step_size=-0.1), "step_size=-0.1 must be positive"),
            (dict(batch_size=0), "batch_size=0 must be"),
            (dict(images=np.zeros((4, 8, 8, 1), np.uint8)), "dtype uint8, not float: divide 8-bit"),
            (dict(images=images * 255), r"must lie in \[0, 1\], got 127.5 to 127.5"),
            (dict(images=images - 0.6), r"must lie in \[0, 1\], got -0.1"),
            (dict(images=images * np.nan), r"must lie in \[0, 1\], got nan"),
            (dict(images=images[0]), r"shape \(B, H, W, C\), none of them 0, got \(8, 8, 1\)"),
            (dict(images=images[:0]), r"none of them 0, got \(0, 8, 8, 1\)"),
            (dict(labels=np.arange(3)), r"labels must have shape \(4,\), one class per image, got \(3,\)"),
            (dict(labels=np.eye(4)), r"labels must have shape \(4,\), one class per image, got \(4, 4\)"),
            (dict(labels=np.arange(4.0)), "labels must be integers, got float64"),
            (dict(labels=np.array([0, 1, 2, 10])), r"labels\[3\] is 10, outside .* classes 0 to 9"),
            (dict(labels=np.array([0, -1, 2, 3])), r"labels\[1\] is -1, outside"),
            (dict(targets=np.array([1, 1, 1, 1])), r"targets\[1\] is the label 1; choose another class"),
            (dict(indices=np.arange(5)), "indices must be 4 integers"),
            (dict(network=lambda x: x), r"must give logits \(B, K\) with K >= 2, got \(4, 8, 8, 1\)"),
            (dict(network=lambda x: x[:, 0, 0]), r"must give logits \(B, K\) with K >= 2, got \(4, 1\)"),
        ],
    )  # fmt: skip
    def test_pgd(self, change, message):
        arguments = dict(network=self.network, images=self.images, labels=self.labels, eps=0.1) | change
        network, images, labels = (arguments.pop(name) for name in ("network", "images", "labels"))
        with pytest.raises(ValueError, match=message):
            attacks.pgd(network, images, labels, batch_size=arguments.pop("batch_size", 4), **arguments)

    @pytest.mark.parametrize("change", [dict(eps=8), dict(norm="l3"), dict(loss="dlr2"), dict(batch_size=0)])
    def test_fgsm(self, change):
        with pytest.raises(ValueError, match=r"eps=8|'l3'|'dlr2'|batch_size=0"):
            attacks.fgsm(self.network, self.images, self.labels, **(dict(eps=0.1) | change))

    @pytest.mark.parametrize("recipe", ["strong", "paper"])
    def test_nan_logits(self, recipe):
        images = np.array(self.images)
        images[2] = 0.9

        def network(x):
            logits = self.network(x)
            return jnp.where(logits[:, 1:2] > 0.7, jnp.nan, logits)

        settings = dict(eps=0.01, steps=3, recipe=recipe, batch_size=4)
        with pytest.raises(ValueError, match=r"NaN for 1 of 4 images, the first is images\[2\]"):
            attacks.pgd(network, images, self.labels, **settings)
        with pytest.raises(ValueError, match=r"the first is images\[2\]"):
            attacks.predict(network, images)
