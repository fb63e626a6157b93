import jax
import jax.numpy as jnp
import numpy as np
import pytest

from topgap_jax.training.mixing import mix
from training.processes import final_arrays, finish, metrics, start

IMAGES = np.random.default_rng(0).random((6, 20, 30, 3), np.float32)
LABELS = np.array([0, 1, 2, 3, 4, 5])
mixed = jax.jit(mix, static_argnames=("mixup", "cutmix"))


def test_mixup_is_a_weighted_mean_of_partners():
    shares = []
    for seed in range(20):
        images, others, share = mixed(jax.random.key(seed), IMAGES, LABELS, mixup=0.4)
        np.testing.assert_allclose(images, share * IMAGES + (1 - share) * IMAGES[::-1], atol=1e-6)
        np.testing.assert_array_equal(others, LABELS[::-1])
        shares.append(float(share))
    assert 0 <= min(shares) < 0.2 and 0.8 < max(shares) <= 1


def test_the_shares_follow_the_beta_distribution():
    share = jax.jit(jax.vmap(lambda key: mix(key, IMAGES[:2, :1, :1], LABELS[:2], mixup=0.2).share))
    shares = share(jax.random.split(jax.random.key(0), 4000))
    # Beta(a, a) has mean 1/2 and variance 1 / (4 (2 a + 1)).
    assert np.mean(shares) == pytest.approx(0.5, abs=0.03)
    assert np.var(shares) == pytest.approx(1 / (4 * 1.4), rel=0.05)


@pytest.mark.parametrize("seed", range(6))
def test_cutmix_pastes_the_box_of_the_paper(seed):
    """The box by NumPy, from the same draws: centre and area as in the paper's appendix, clipped."""
    key = jax.random.key(seed)
    images, others, share = mixed(key, IMAGES, LABELS, cutmix=1.0)
    area, down, right = jax.random.split(jax.random.split(key, 3)[2], 3)
    side = np.sqrt(1 - np.float32(jax.random.beta(area, 1.0, 1.0)))
    height, width = int(side * 20) // 2, int(side * 30) // 2
    y, x = int(jax.random.randint(down, (), 0, 20)), int(jax.random.randint(right, (), 0, 30))
    box = (slice(max(y - height, 0), y + height), slice(max(x - width, 0), x + width))
    expected = IMAGES.copy()
    expected[:, *box] = IMAGES[::-1][:, *box]
    np.testing.assert_array_equal(images, expected)
    np.testing.assert_array_equal(others, LABELS[::-1])
    own = np.ones((20, 30))
    own[box] = 0
    assert float(share) == pytest.approx(own.mean(), abs=1e-6)


def test_with_both_a_fair_coin_decides():
    def cuts(key):
        images = mix(key, jnp.asarray(IMAGES[:2, :8, :8]), LABELS[:2], mixup=1.0, cutmix=1.0).images
        unchanged = (images == IMAGES[:2, :8, :8]) | (images == IMAGES[1::-1, :8, :8])
        return unchanged.all()

    chosen = jax.jit(jax.vmap(cuts))(jax.random.split(jax.random.key(1), 400))
    assert np.mean(chosen) == pytest.approx(0.5, abs=0.1)


def test_the_key_decides():
    ours, again, other = (mixed(jax.random.key(seed), IMAGES, LABELS, cutmix=1.0) for seed in (3, 3, 4))
    np.testing.assert_array_equal(ours.images, again.images)
    assert float(ours.share) == float(again.share) != float(other.share)


@pytest.mark.slow
def test_real_runs_resume_to_the_bit_and_agree_on_four_devices(tiny, tmp_path):
    """Mixed and augmented batches of pictures that lie on the devices."""
    config = tmp_path / "mixing.py"
    data = '"mixup": 0.4, "cutmix": 1.0, "on_device": "always", "augment": ("pad_crop:2", "horizontal_flip")'
    config.write_text(tiny.read_text().replace('"data": {', '"data": {' + data + ", "))

    finish(start(config, tmp_path / "whole"))
    process = start(config, tmp_path / "killed")
    while not any(line["step"] >= 7 for line in metrics(tmp_path / "killed")):
        assert process.poll() is None, process.communicate()[0]
    process.kill()
    process.communicate()
    finish(start(config, tmp_path / "killed"))
    expected, resumed = final_arrays(tmp_path / "whole"), final_arrays(tmp_path / "killed")
    for name, value in expected.items():
        np.testing.assert_array_equal(value, resumed[name], err_msg=name)

    finish(start(config, tmp_path / "four", devices=4))
    ours, others = ([line["loss"] for line in metrics(tmp_path / name)] for name in ("four", "whole"))
    np.testing.assert_allclose(ours[:5], others[:5], rtol=1e-4)  # float32 rounding, which the steps amplify
    np.testing.assert_allclose(ours, others, rtol=2e-2)
