"""Attacks that know Top-GAP: their gradients in closed form, and a network that only they fool."""

import json
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from jax.tree_util import Partial

from topgap_jax import attacks
from topgap_jax.attacks import networks, survivors
from topgap_jax.attacks.adaptive import SURROGATES, adaptive, adaptive_networks, soft_topk
from topgap_jax.attacks.base import check_examples
from topgap_jax.attacks.journal import Journal
from topgap_jax.attacks.losses import LOSSES
from topgap_jax.nn.pooling import topk_mean

RNG = np.random.default_rng(0)


class Output(NamedTuple):
    logits: jax.Array
    cam: jax.Array


class TopGAP(nnx.Module):
    """A CAM of one 1x1 convolution: its gradients can be written down."""

    def __init__(self, k, classes, rngs):
        self.kernel = nnx.Param(jax.random.normal(rngs.params(), (3, classes)))
        self.k = nnx.Variable(jnp.int32(k))

    def __call__(self, images):
        cam = images @ self.kernel[...]
        return Output(topk_mean(cam, self.k[...]), cam)


# --- Gradients --------------------------------------------------------------------------------------------

K, N = 4, 25
MODEL = TopGAP(K, 6, nnx.Rngs(0))
IMAGES = RNG.uniform(size=(7, 5, 5, 3)).astype(np.float32)
CAM = np.asarray(MODEL(jnp.asarray(IMAGES)).cam, np.float64).reshape(7, N, 6)
LOGITS = np.asarray(MODEL(jnp.asarray(IMAGES)).logits)


def weights_of_positions(name):
    """d substitute / d cam, [B,N,classes], for the surrogates that treat every class for itself."""
    ordered = -np.sort(-CAM, axis=1)
    if name == "gap":
        return np.full_like(CAM, 1 / N)
    if name == "larger_k":
        return (ordered[:, 9:10] <= CAM) / 10  # sqrt(4 * 25) = 10
    scores = (CAM - ordered[:, K - 1 : K]) / (0.5 * CAM.std(1, keepdims=True))
    weights = 1 / (1 + np.exp(-scores))
    return weights / weights.sum(1, keepdims=True)


@jax.jit
def pulled_back(network, cotangent):
    return jax.vjp(network, jnp.asarray(IMAGES))[1](cotangent)[0]


@pytest.mark.parametrize("name", ["gap", "larger_k", "soft_topk"])
def test_gradient_is_that_of_the_other_pooling(name):
    cotangent = RNG.normal(size=LOGITS.shape).astype(np.float32)
    in_cam = weights_of_positions(name) * cotangent[:, None]
    expected = (in_cam @ np.asarray(MODEL.kernel[...], np.float64).T).reshape(IMAGES.shape)
    found = pulled_back(adaptive_networks(MODEL, K)[name], cotangent)
    np.testing.assert_allclose(found, expected, atol=1e-5)
    assert np.abs(found - pulled_back(networks.logits_fn(MODEL), cotangent)).max() > 0.01


def mean_margin(images, predictions):
    """What "positions" increases, in float64."""
    cam = images.astype(np.float64).reshape(7, N, 3) @ np.asarray(MODEL.kernel[...], np.float64)
    total = 0.0
    for image, prediction in zip(cam, predictions, strict=True):
        total += (np.delete(image, prediction, -1).max(-1) - image[:, prediction]).mean()
    return total


@pytest.mark.parametrize("loss", ["margin", "ce"])
def test_positions_increases_the_mean_margin(loss):
    predictions = LOGITS.argmax(-1)
    network = adaptive_networks(MODEL, K)["positions"]
    gradient = jax.grad(lambda images: LOSSES[loss](network(images), predictions).sum())(jnp.asarray(IMAGES))
    slope = np.ones(7)  # of the loss in the predicted class's logit, with another sign
    if loss == "ce":
        slope = 1 - np.asarray(jax.nn.softmax(LOGITS))[np.arange(7), predictions]
    direction = RNG.normal(size=IMAGES.shape)
    for row in range(7):
        moved = np.where(np.arange(7)[:, None, None, None] == row, 1e-6 * direction, 0)
        finite = (mean_margin(IMAGES + moved, predictions) - mean_margin(IMAGES - moved, predictions)) / 2e-6
        found = (np.asarray(gradient)[row] * direction[row]).sum()
        assert found == pytest.approx(slope[row] * finite, rel=1e-3, abs=1e-5)


@pytest.mark.parametrize("name", SURROGATES)
@pytest.mark.parametrize("k", [1, K, N])
def test_logits_keep_every_bit(name, k):
    model = TopGAP(k, 6, nnx.Rngs(1))
    images = jnp.asarray(IMAGES)
    expected = np.asarray(networks.forward(networks.logits_fn(model), images))
    found = np.asarray(networks.forward(adaptive_networks(model, k)[name], images))
    np.testing.assert_array_equal(found.view(np.int32), expected.view(np.int32))
    assert np.isfinite(pulled_back(adaptive_networks(model, k)[name], jnp.ones((7, 6)))).all()


def test_soft_topk_knows_the_kth_largest_even_of_all():
    cam = jnp.asarray(CAM, jnp.float32).reshape(7, 5, 5, 6)
    gradient = jax.grad(lambda cam: soft_topk(cam, jnp.asarray(LOGITS), jnp.int32(N)).sum())(cam)
    scores = (CAM - CAM.min(1, keepdims=True)) / (0.5 * CAM.std(1, keepdims=True))
    weights = 1 / (1 + np.exp(-scores))
    expected = weights / weights.sum(1, keepdims=True)
    np.testing.assert_allclose(gradient.reshape(7, N, 6), expected, atol=1e-5)
    flat = jax.grad(lambda cam: soft_topk(cam, jnp.asarray(LOGITS), jnp.int32(4)).sum())(0 * cam)
    np.testing.assert_allclose(flat, 1 / N, rtol=1e-5)


def test_another_checkpoint_and_another_k_compile_nothing():
    traces = []

    def apply(kernel, images):
        traces.append(images.shape)
        cam = images @ kernel
        return Output(cam.mean((1, 2)), cam)

    for scale, k in [(1, 4), (0.5, 4), (2, 9)]:
        model = Partial(apply, scale * MODEL.kernel[...])
        labels = attacks.predict(model, IMAGES)
        traces.clear()
        for network in adaptive_networks(model, k).values():
            attacks.pgd(network, IMAGES, labels, eps=0.01, steps=2, batch_size=7)
        # To learn the number of classes, and the step; all surrogates are one program.
        assert len(traces) == (2 if scale == 1 else 0)
    # Modules: one program per architecture.
    for seed in (0, 1):
        network = adaptive_networks(TopGAP(K, 6, nnx.Rngs(seed)), K)["gap"]
        networks.forward(network, IMAGES)
        if seed == 0:
            programs = networks.forward._cache_size()
    assert networks.forward._cache_size() == programs


# --- A network that masks its gradient --------------------------------------------------------------------

SIDE, CHANNELS, PIXELS = 8, 64, 8


def masked(slope, images):
    """Two classes; in row 0 both activations are saturated, and these are the k largest of the clean image.

    The other rows speak for class 1 as their brightness grows, unnoticed until they are among the k largest.
    """
    brightness = images.mean(-1)
    top = jnp.clip(100 * (brightness - 0.1), 0, 1)
    row = jnp.arange(SIDE)[:, None] == 0
    cam = jnp.stack([jnp.where(row, top, -1), jnp.where(row, top / 2, slope * (brightness - 0.4))], -1)
    return Output(topk_mean(cam, PIXELS), cam)


MASKED = Partial(masked, jnp.float32(5))
GREY = np.full((16, SIDE, SIDE, CHANNELS), 0.4, np.float32) + RNG.uniform(0, 0.01, (16, 1, 1, 1)).astype("f4")
ZEROS = np.zeros(16, int)


class TestPlanted:
    @pytest.mark.parametrize("loss", [pytest.param("ce", marks=pytest.mark.slow), "margin"])
    def test_the_plain_path_does_not_find_it(self, loss):
        result = attacks.pgd(MASKED, GREY, ZEROS, eps=0.25, steps=40, restarts=3, loss=loss)
        assert not result.success.any()

    @pytest.mark.parametrize("name", SURROGATES)
    @pytest.mark.parametrize("loss", [pytest.param("ce", marks=pytest.mark.slow), "margin"])
    def test_every_surrogate_finds_it(self, name, loss):
        result = adaptive(MASKED, GREY, ZEROS, k=PIXELS, eps=0.25, steps=20, surrogates=[name], loss=loss)
        assert result.success.all()
        assert (attacks.predict(MASKED, result.images) == 1).all()
        assert result.distance.max() <= 0.25 * (1 + 1e-5)
        assert result.config["robust_accuracy"] == {"clean": 1, name: 0}

    def test_outside_the_ball_there_is_nothing_to_find(self):
        result = adaptive(MASKED, GREY, ZEROS, k=PIXELS, eps=0.1, steps=20)
        assert not result.success.any()
        assert result.config["robust_accuracy"] == dict.fromkeys(("clean", *SURROGATES), 1)


# --- The worst case over surrogates -----------------------------------------------------------------------

MANY = RNG.uniform(0.2, 0.8, (60, 5, 5, 3)).astype(np.float32)
LABELS = attacks.predict(MODEL, MANY)
LABELS[:5] = (LABELS[:5] + 1) % 6  # wrong all along


@pytest.fixture(scope="module")
def result():
    return adaptive(MODEL, MANY, LABELS, k=K, eps=0.18, steps=10, batch_size=16)


class TestAdaptive:
    def test_is_the_worst_case(self, result):
        fooled_by = np.array(result.config["fooled_by"])
        assert (fooled_by[:5] == "clean").all() and not result.distance[:5].any()
        np.testing.assert_array_equal(fooled_by != "", result.success)
        np.testing.assert_array_equal(result.success, result.predictions != LABELS)
        np.testing.assert_array_equal(result.predictions, attacks.predict(MODEL, result.images))
        assert len(set(fooled_by) - {"clean", ""}) > 1
        assert 5 < result.success.sum() < 60
        clean = np.asarray(LOGITS_OF_MANY)
        assert (result.loss >= LOSSES["margin"](clean, LABELS) - 1e-5).all()
        standing = result.config["robust_accuracy"]
        assert list(standing) == ["clean", *SURROGATES]
        left = 60
        for name in standing:
            left -= (fooled_by == name).sum()
            assert standing[name] == pytest.approx(left / 60)
        first = adaptive(
            MODEL, MANY, LABELS, k=K, eps=0.18, steps=10, batch_size=16, surrogates=["positions"]
        )
        assert first.config["robust_accuracy"]["positions"] == standing["positions"]
        never = ~result.success
        np.testing.assert_array_equal(result.queries[never], 1 + 4 * 11)

    @pytest.mark.slow
    def test_batch_size_and_order_of_the_data_do_not_matter(self, result):
        rows = np.arange(60)[::-1]
        settings = dict(k=K, eps=0.18, steps=10, indices=rows, batch_size=20)
        other = adaptive(MODEL, MANY[rows], LABELS[rows], **settings)
        np.testing.assert_array_equal(other.success[::-1], result.success)
        assert other.config["fooled_by"][::-1] == result.config["fooled_by"]

    def test_targeted(self):
        targets = np.argsort(LOGITS_OF_MANY, -1)[:, -2]
        right = LABELS[5:]
        result = adaptive(
            MODEL,
            MANY[5:],
            right,
            k=K,
            eps=0.3,
            steps=20,
            surrogates=["larger_k"],
            batch_size=16,
            targets=targets[5:],
        )
        np.testing.assert_array_equal(result.success, result.predictions == targets[5:])
        assert result.success.mean() > 0.7

    def test_config_is_plain(self, result):
        config = json.loads(json.dumps(result.config))
        assert config["attack"] == "adaptive" and config["k"] == K and config["steps"] == 10
        assert config["surrogates"] == list(SURROGATES) == list(config["attacks"])

    def test_goes_on_from_its_journal(self, result, tmp_path):
        settings = dict(k=K, eps=0.18, steps=10, batch_size=16)
        network = networks.logits_fn(MODEL)
        examples = check_examples(network, MANY, LABELS, batch_size=64)
        adaptive(MODEL, MANY, LABELS, log=Journal(tmp_path, network, examples, settings).log, **settings)
        again = Journal(tmp_path, network, examples, settings).log
        steps = []
        advance = survivors._advance
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(survivors, "_advance", lambda *a, **k: (steps.append(1), advance(*a, **k))[1])
            resumed = adaptive(MODEL, MANY, LABELS, log=again, **settings)
        assert not steps
        np.testing.assert_array_equal(resumed.images, result.images)
        np.testing.assert_array_equal(resumed.queries, result.queries)


LOGITS_OF_MANY = networks.logits_of(MODEL, MANY)


class TestBadInput:
    @pytest.mark.parametrize(
        ("change", "message"),
        [
            (dict(k=0), "k=0 must be an integer of at least 1"),
            (dict(surrogates=["mean"]), "unknown surrogate 'mean'; there are positions, gap"),
            (dict(surrogates=[]), "no surrogates; there are positions, gap"),
            (dict(loss="dlr-targeted"), "unknown loss 'dlr-targeted'"),
            (dict(eps=8), "did you mean 8/255"),
            (dict(model=lambda images: images.mean((1, 2))), r"must return .logits \[B,K\] and .cam"),
            (dict(model=nnx.Dropout(0.5, deterministic=False)), "training mode"),
            (dict(model=3), "takes a module or a function"),
        ],
    )
    def test_adaptive(self, change, message):
        arguments = dict(model=MODEL, k=K, eps=0.03) | change
        with pytest.raises(ValueError, match=message):
            adaptive(arguments.pop("model"), MANY[:4], LABELS[:4] * 0, **arguments)

    def test_nan_logits(self):
        def broken(images):
            output = MODEL(images)
            return output._replace(logits=output.logits * jnp.nan)

        with pytest.raises(ValueError, match="NaN for"):
            adaptive(broken, MANY, LABELS, k=K, eps=0.03)
