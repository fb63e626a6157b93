"""Adversarial images of one network on another; linear networks, where the outcome is known."""

import functools
import json

import jax.numpy as jnp
import numpy as np
import pytest
from jax.tree_util import Partial

from topgap_jax import attacks
from topgap_jax.attacks.ddn import ddn
from topgap_jax.attacks.transfer import judge_images, transfer

RNG = np.random.default_rng(0)
IMAGES = RNG.uniform(0.3, 0.7, (50, 4, 4, 2)).astype(np.float32)


def linear(weights, images):
    return (images - 0.5).reshape(len(images), -1) @ weights


def network(weights):
    return Partial(linear, jnp.asarray(weights, jnp.float32))


WEIGHTS = RNG.normal(size=(32, 3))
TARGET = network(WEIGHTS)
TWIN = network(2 * WEIGHTS)  # the same boundaries, another checkpoint
STRANGER = network(RNG.normal(size=(32, 3)))
LABELS = attacks.predict(TARGET, IMAGES)


def test_a_twin_transfers_wholly_and_a_stranger_hardly():
    own = attacks.pgd(TARGET, IMAGES, LABELS, eps=0.1)
    twin = transfer(TWIN, TARGET, IMAGES, LABELS, eps=0.1)
    stranger = transfer(STRANGER, TARGET, IMAGES, LABELS, eps=0.1)
    assert own.success.mean() > 0.5
    np.testing.assert_array_equal(twin.success, own.success)
    assert stranger.config["source_success"] > 0.5
    assert stranger.success.mean() < own.success.mean() - 0.3


def test_is_judged_on_the_target():
    result = transfer(STRANGER, TARGET, IMAGES, LABELS, eps=0.1)
    np.testing.assert_array_equal(result.predictions, attacks.predict(TARGET, result.images))
    np.testing.assert_array_equal(result.success, result.predictions != LABELS)
    np.testing.assert_array_equal(result.success, result.loss > 0)
    np.testing.assert_array_equal(result.queries, 1)
    crafted = attacks.pgd(STRANGER, IMAGES, LABELS, eps=0.1, steps=60, recipe="paper")
    np.testing.assert_array_equal(result.images, crafted.images)
    assert result.config["source_success"] == crafted.success.mean()
    np.testing.assert_allclose(result.distance, 0.1, rtol=1e-5)


def test_targeted():
    targets = (LABELS + 1) % 3
    result = transfer(TWIN, TARGET, IMAGES, LABELS, eps=0.2, targets=targets)
    assert result.success.mean() > 0.9
    np.testing.assert_array_equal(result.success, result.predictions == targets)
    np.testing.assert_array_equal(result.success, result.loss > 0)


def test_takes_any_attack_with_its_settings():
    strong = functools.partial(attacks.pgd, steps=10, norm="l2")
    result = transfer(TWIN, TARGET, IMAGES, LABELS, eps=0.5, attack=strong, restarts=2)
    assert result.config["source_attack"]["restarts"] == 2
    assert result.config["norm"] == "l2" and result.distance.max() <= 0.5 * (1 + 1e-5)
    np.testing.assert_array_equal(
        transfer(TWIN, TARGET, IMAGES, LABELS, eps=0.5, attack=ddn).success, result.success
    )


def test_config_says_both_networks():
    config = json.loads(json.dumps(transfer(TWIN, TARGET, IMAGES[:4], LABELS[:4], eps=0.1).config))
    back = transfer(TARGET, TWIN, IMAGES[:4], LABELS[:4], eps=0.1).config
    assert config["source"] == back["target"] != config["target"] == back["source"]
    assert config["attack"] == "transfer" and config["source_attack"]["steps"] == 60
    assert config["eps"] == 0.1 and config["norm"] == "linf"


class TestJudgeImages:
    def test_agrees_with_the_attack_that_made_them(self):
        own = attacks.pgd(TARGET, IMAGES, LABELS, eps=0.1, loss="margin")
        judged = judge_images(TARGET, own.images, IMAGES, LABELS, 0.1)
        for field in ("images", "success", "predictions", "distance"):
            np.testing.assert_array_equal(getattr(judged, field), getattr(own, field))
        np.testing.assert_allclose(judged.loss, own.loss, atol=1e-5)

    @pytest.mark.parametrize(
        ("change", "message"),
        [
            (lambda x: np.clip(x + 0.1, 0, 1), "50 of 50 .* outside the linf ball of eps=0.09, .* at 0.1"),
            (lambda x: x + np.where(np.arange(50) == 7, 0.2, 0)[:, None, None, None], r"images\[7\], at 0.2"),
            (lambda x: x - 0.5, r"must lie in \[0, 1\]"),
            (lambda x: x[:9], r"shape \(9, 4, 4, 2\), the clean ones \(50, 4, 4, 2\)"),
        ],
    )
    def test_images_that_do_not_fit(self, change, message):
        with pytest.raises(ValueError, match=message):
            judge_images(TARGET, change(IMAGES), IMAGES, LABELS, 0.09)

    def test_on_the_surface_of_the_ball_is_inside(self):
        judge_images(TARGET, np.clip(IMAGES + np.float32(8 / 255), 0, 1), IMAGES, LABELS, 8 / 255)

    def test_nan_logits(self):
        with pytest.raises(ValueError, match=r"NaN for 50 of 50"):
            judge_images(lambda x: jnp.nan * TARGET(x), IMAGES, IMAGES, LABELS, 0.1)
