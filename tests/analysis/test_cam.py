import jax
import jax.numpy as jnp
import numpy as np
import pytest

from topgap_jax.analysis.cam import (
    THRESHOLDS,
    best_threshold,
    cam_metrics,
    energy_in_mask,
    heatmap,
    iou,
    iou_curve,
    iou_oracle,
    pointing_game,
    resize_and_scale,
    sparsity,
)


@pytest.fixture
def cam() -> jax.Array:
    return jax.random.normal(jax.random.key(0), (5, 6, 7, 4))


@pytest.fixture
def labels() -> jax.Array:
    return jnp.array([3, 0, 1, 2, 3])


@pytest.fixture
def heat() -> jax.Array:
    return jax.random.uniform(jax.random.key(1), (5, 9, 8))


@pytest.fixture
def mask() -> jax.Array:
    return jax.random.bernoulli(jax.random.key(2), 0.3, (5, 9, 8))


def test_heatmap_is_the_closed_form_bilinear_map():
    cam = jnp.zeros((1, 2, 2, 3)).at[0, :, :, 1].set(jnp.array([[0.0, 1.0], [2.0, 3.0]]))
    heat = heatmap(cam, jnp.array([1]), (4, 4))
    ramp = np.array([0, 0.25, 0.75, 1])  # half-pixel centres: the outer pixels are clamped
    np.testing.assert_allclose(heat[0], (2 * ramp[:, None] + ramp[None, :]) / 3, atol=1e-6)


def test_heatmap_shows_the_channel_of_the_label(cam, labels):
    heat = heatmap(cam, labels, (6, 7))
    for index, label in enumerate(labels.tolist()):
        channel = np.asarray(cam[index, :, :, label])
        expected = (channel - channel.min()) / (channel.max() - channel.min())
        np.testing.assert_allclose(heat[index], expected, atol=1e-6)


@pytest.mark.parametrize("size", [(1, 1), (3, 4), (6, 7), (37, 53)])
def test_heatmap_fills_the_range(cam, labels, size):
    heat = np.asarray(heatmap(cam, labels, size))
    assert heat.shape == (5, *size)
    assert heat.min() == 0
    assert heat.max() == (0 if size == (1, 1) else 1)


def test_heatmap_is_the_same_under_jit_and_alone(cam, labels):
    together = heatmap(cam, labels, (20, 30))
    np.testing.assert_allclose(
        jax.jit(lambda c, y: heatmap(c, y, (20, 30)))(cam, labels), together, atol=1e-6
    )
    alone = [heatmap(cam[i : i + 1], labels[i : i + 1], (20, 30))[0] for i in range(5)]
    np.testing.assert_allclose(np.stack(alone), together, atol=1e-6)


def test_heatmap_ignores_scale_and_shift(cam, labels):
    np.testing.assert_allclose(
        heatmap(7 * cam - 3, labels, (12, 14)), heatmap(cam, labels, (12, 14)), atol=1e-5
    )


@pytest.mark.parametrize("value", [0.0, 0.1, -1e6, 1e-30])
def test_a_constant_map_is_dark_at_every_size(value):
    cam = jnp.full((2, 5, 5, 2), value)
    assert not np.asarray(heatmap(cam, jnp.array([0, 1]), (37, 53))).any()


def test_a_map_that_is_not_finite_stays_visible(cam, labels):
    heat = heatmap(cam.at[2, 0, 0, 1].set(jnp.nan), labels, (6, 7))
    assert np.isnan(heat[2]).all()
    assert np.isfinite(np.delete(np.asarray(heat), 2, axis=0)).all()


def test_bfloat16_is_upsampled_in_float32(cam, labels):
    heat = heatmap(cam.astype(jnp.bfloat16), labels, (48, 48))
    assert heat.dtype == jnp.float32
    assert len(np.unique(heat)) > 1000  # bfloat16 could not tell them apart


@pytest.mark.parametrize("label", [-1, 4])
def test_labels_outside_the_classes(cam, labels, label):
    with pytest.raises(ValueError, match=r"\[0, 3\].*4 classes"):
        heatmap(cam, labels.at[2].set(label), (6, 7))
    traced = jax.jit(lambda c, y: heatmap(c, y, (6, 7)))(cam, labels.at[2].set(4))
    assert np.isnan(traced[2]).all() and np.isfinite(traced[0]).all()


def test_heatmap_names_what_does_not_fit(cam, labels):
    with pytest.raises(ValueError, match="integers, got float32"):
        heatmap(cam, labels.astype(jnp.float32), (6, 7))
    with pytest.raises(ValueError, match=r"\(5, 6, 7, 4\) and \(4,\)"):
        heatmap(cam, labels[:4], (6, 7))
    with pytest.raises(ValueError, match=r"\(0, 7\)"):
        heatmap(cam, labels, (0, 7))


def test_sparsity_of_one_lit_pixel_and_of_a_half():
    maps = jnp.zeros((3, 4, 5)).at[0, 1, 1].set(8.0).at[1, :2].set(0.5)
    np.testing.assert_allclose(sparsity(maps), [1 / 20, 1 / 2, 0])


def test_iou_counts_pixels():
    heat = jnp.array([[[0.0, 0.2], [0.6, 1.0]]])
    mask = jnp.array([[[0, 1], [0, 1]]])
    assert iou(heat, mask, 0.1)[0] == pytest.approx(2 / 3)
    assert iou(heat, mask, 0.6)[0] == pytest.approx(1 / 3)
    assert iou(heat, mask, 1.0)[0] == pytest.approx(1 / 2)
    assert iou(heat, mask, 0.0)[0] == pytest.approx(2 / 4)


def test_iou_against_numpy_sets(heat, mask):
    for threshold in (0.2, 0.5, 0.9):
        lit = np.asarray(heat) >= np.float32(threshold)
        both, either = lit & np.asarray(mask), lit | np.asarray(mask)
        np.testing.assert_allclose(
            iou(heat, mask, threshold), both.sum((1, 2)) / either.sum((1, 2)), rtol=1e-6
        )


def test_masks_of_0_and_255_count_as_boolean(heat, mask):
    np.testing.assert_array_equal(iou(heat, mask.astype(jnp.uint8) * 255, 0.5), iou(heat, mask, 0.5))


def test_iou_under_jit_with_a_traced_threshold(heat, mask):
    np.testing.assert_allclose(jax.jit(iou)(heat, mask, jnp.float32(0.5)), iou(heat, mask, 0.5), rtol=1e-6)


def test_oracle_is_the_best_threshold_of_each_image(heat, mask):
    by_hand = np.stack([iou(heat, mask, threshold) for threshold in THRESHOLDS])
    np.testing.assert_allclose(iou_oracle(heat, mask), by_hand.max(0), rtol=1e-6)
    np.testing.assert_allclose(iou_curve(heat, mask), by_hand, rtol=1e-6)


def test_a_map_that_is_its_mask_is_perfect(mask):
    heat = mask.astype(jnp.float32)
    np.testing.assert_array_equal(iou_oracle(heat, mask), 1)
    np.testing.assert_array_equal(energy_in_mask(heat, mask), 1)
    np.testing.assert_array_equal(pointing_game(heat, mask), 1)


def test_best_threshold_is_found_and_shared():
    heat = jnp.stack([jnp.array([[0.9, 0.6], [0.3, 0.0]]), jnp.array([[0.9, 0.5], [0.1, 0.0]])])
    mask = jnp.array([[[1, 1], [0, 0]], [[1, 1], [0, 0]]])
    threshold = best_threshold(heat, mask)
    assert 0.3 < threshold <= 0.5
    assert float(iou(heat, mask, threshold).mean()) == 1


def test_an_empty_mask_is_left_out_and_counted(heat, mask):
    holed = mask.at[3].set(False)
    for metric in (iou_oracle, energy_in_mask, pointing_game, lambda h, m: iou(h, m, 0.4)):
        values = np.asarray(metric(heat, holed))
        assert np.isnan(values[3]) and np.isfinite(np.delete(values, 3)).all()
    rest = np.array([0, 1, 2, 4])
    assert best_threshold(heat, holed) == best_threshold(heat[rest], mask[rest])
    metrics = cam_metrics(heat, holed, threshold=0.4)
    assert (metrics["count"], metrics["empty_masks"]) == (5, 1)
    assert metrics["iou_global"] == pytest.approx(float(iou(heat[rest], mask[rest], 0.4).mean()), rel=1e-6)
    assert metrics["sparsity"] == pytest.approx(float(sparsity(heat).mean()), rel=1e-6)


def test_only_empty_masks(heat, mask):
    with pytest.raises(ValueError, match="all 5 masks are empty"):
        best_threshold(heat, mask & False)
    metrics = cam_metrics(heat, mask & False, threshold=0.5)
    assert "iou_global" not in metrics and metrics["empty_masks"] == 5


@pytest.mark.parametrize("metric", [iou_oracle, energy_in_mask, pointing_game, best_threshold, cam_metrics])
def test_a_mask_of_another_size(heat, mask, metric):
    with pytest.raises(ValueError, match=r"\(5, 9, 8\) and \(5, 8, 8\)"):
        metric(heat, mask[:, :8])


def test_an_even_map_scores_the_covered_share(mask):
    covered = np.asarray(mask).mean((1, 2))
    np.testing.assert_allclose(energy_in_mask(jnp.full(mask.shape, 0.3), mask), covered, rtol=1e-5)
    np.testing.assert_allclose(pointing_game(jnp.zeros(mask.shape), mask), covered, rtol=1e-5)


def test_a_dark_map_has_no_energy(mask):
    np.testing.assert_array_equal(energy_in_mask(jnp.zeros(mask.shape), mask), 0)


def test_pointing_game_hits_and_misses():
    heat = jnp.zeros((2, 3, 3)).at[:, 1, 2].set(1.0)
    mask = jnp.zeros((2, 3, 3), bool).at[0, 1, 2].set(True).at[1, 0, 0].set(True)
    np.testing.assert_array_equal(pointing_game(heat, mask), [1, 0])


def test_cam_metrics_means_and_standard_errors(heat, mask):
    metrics = cam_metrics(heat, mask, 0.5)
    energy = np.asarray(energy_in_mask(heat, mask), np.float64)
    assert metrics["energy_in_mask"] == pytest.approx(energy.mean())
    assert metrics["standard_error"]["energy_in_mask"] == pytest.approx(energy.std(ddof=1) / 5**0.5)
    assert set(cam_metrics(heat)) == {"sparsity", "standard_error", "count", "empty_masks"}
    assert cam_metrics(heat[:1])["standard_error"] == {}


def test_cam_metrics_refuses_a_diverged_map(heat):
    with pytest.raises(ValueError, match="1 of 5 heat maps"):
        cam_metrics(heat.at[2, 0, 0].set(jnp.nan))


def test_resize_and_scale_downwards_takes_no_average():
    maps = jnp.zeros((1, 9, 9)).at[0, 4, 4].set(1.0).at[0, 1, 1].set(0.5)
    np.testing.assert_allclose(resize_and_scale(maps, (3, 3))[0], [[0.5, 0, 0], [0, 1, 0], [0, 0, 0]])
