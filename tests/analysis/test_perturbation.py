import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.tree_util import Partial

from topgap_jax.analysis import insertion_deletion

IMAGES = np.random.default_rng(0).uniform(0.2, 1, (3, 12, 16, 1)).astype(np.float32)
LABELS = np.array([0, 1, 1])


def two_corners(images):
    """Class 0 is bright at the top left, class 1 at the bottom right."""
    scores = jnp.stack([images[:, :4, :4].mean((1, 2, 3)), images[:, -4:, -4:].mean((1, 2, 3))], -1)
    return 10 * scores


def heat_at(rows, columns):
    heat = np.zeros((3, 12, 16))
    heat[:, rows, columns] = 1
    return heat


TOP_LEFT, BOTTOM_RIGHT = heat_at(slice(4), slice(4)), heat_at(slice(-4, None), slice(-4, None))


def test_curves_by_hand():
    """After 1/12 of the pixels the 16 hot ones are gone."""
    curves = insertion_deletion(two_corners, IMAGES, TOP_LEFT, LABELS, steps=12)
    np.testing.assert_allclose(curves.shares, np.arange(13) / 12)
    without = IMAGES.copy()
    without[:, :4, :4] = 0
    expected = jax.nn.softmax(two_corners(jnp.asarray(without)))[np.arange(3), LABELS]
    np.testing.assert_allclose(curves.deletion[1], expected, rtol=1e-5)
    np.testing.assert_allclose(curves.deletion[-1], 0.5, rtol=1e-5)  # nothing is left
    whole = jax.nn.softmax(two_corners(jnp.asarray(IMAGES)))[np.arange(3), LABELS]
    np.testing.assert_allclose(curves.deletion[0], whole, rtol=1e-5)
    np.testing.assert_allclose(curves.insertion[-1], whole, rtol=1e-5)


def test_the_right_map_beats_the_wrong_one():
    right = np.where((LABELS == 0)[:, None, None], TOP_LEFT, BOTTOM_RIGHT)
    wrong = np.where((LABELS == 1)[:, None, None], TOP_LEFT, BOTTOM_RIGHT)
    ours, theirs = (insertion_deletion(two_corners, IMAGES, heat, LABELS) for heat in (right, wrong))
    assert (ours.deletion_auc < theirs.deletion_auc - 0.2).all()
    contrast = IMAGES.copy()
    contrast[LABELS == 0, :4, :4], contrast[LABELS == 1, -4:, -4:] = 1, 1
    ours, theirs = (insertion_deletion(two_corners, contrast, heat, LABELS) for heat in (right, wrong))
    assert (ours.insertion_auc > theirs.insertion_auc).all()


def test_a_constant_map_is_taken_in_a_fixed_random_order():
    def halves(images):
        return jnp.stack([images[:, :, :8].mean((1, 2, 3)), images[:, :, 8:].mean((1, 2, 3))], -1)

    white = np.ones_like(IMAGES)
    curves = insertion_deletion(Partial(halves), white, np.zeros((3, 12, 16)), LABELS, steps=2)
    again = insertion_deletion(Partial(halves), white, np.ones((3, 12, 16)), LABELS, steps=2)
    np.testing.assert_array_equal(curves.deletion, again.deletion)
    # Both halves lose about half of their pixels; one half alone would give sigmoid(1) = 0.73.
    np.testing.assert_allclose(curves.deletion[1], 0.5, atol=0.05)
    assert (curves.deletion[1] != 0.5).any()


def test_area_under_the_curve():
    curves = insertion_deletion(lambda x: jnp.zeros((len(x), 4)), IMAGES, TOP_LEFT, LABELS, steps=3)
    np.testing.assert_allclose(curves.deletion_auc, 0.25, rtol=1e-6)
    np.testing.assert_allclose(curves.insertion_auc, 0.25, rtol=1e-6)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"heat": np.zeros((3, 12, 15))}, r"got \(3, 12, 16, 1\), \(3, 12, 15\) and \(3,\)"),
        ({"labels": LABELS[:2]}, r"and labels \[B\], got"),
        ({"heat": np.full((3, 12, 16), np.nan)}, "a heat map is not finite"),
        ({"steps": 0}, "steps must be at least 1, not 0"),
    ],
)
def test_what_cannot_be_measured_is_refused(change, message):
    arguments = {"heat": TOP_LEFT, "labels": LABELS, "steps": 4} | change
    with pytest.raises(ValueError, match=message):
        insertion_deletion(two_corners, IMAGES, arguments.pop("heat"), arguments.pop("labels"), **arguments)
