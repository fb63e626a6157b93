import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.tree_util import Partial

import topgap_jax as tg
from topgap_jax.analysis import effective_receptive_field
from topgap_jax.analysis import erf as fields

KERNEL = jax.random.normal(jax.random.key(0), (3, 3, 2, 4))
SECOND = jax.random.normal(jax.random.key(1), (3, 3, 4, 5))
IMAGES = jax.random.uniform(jax.random.key(2), (3, 9, 11, 2))


def convolve(x, kernel, stride=1):
    return jax.lax.conv_general_dilated(
        x, kernel, (stride, stride), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC")
    )


def one_layer(images):
    return convolve(images, KERNEL)


def two_layers(images):
    return convolve(jax.nn.relu(convolve(images, KERNEL, stride=2)), SECOND)


class TestErf:
    def test_of_one_convolution_it_is_the_kernel(self):
        (field,) = effective_receptive_field(one_layer, IMAGES, [(4, 5)])
        expected = np.zeros((9, 11))
        expected[3:6, 4:7] = np.abs(np.asarray(KERNEL).sum(-1)).sum(-1)
        np.testing.assert_allclose(field, np.broadcast_to(expected, (3, 9, 11)), rtol=1e-5, atol=1e-6)

    def test_of_two_linear_layers_it_is_the_kernels_convolved(self):
        from scipy.signal import convolve2d

        first, second = np.asarray(KERNEL)[:, :, :1, :1], np.asarray(SECOND)[:, :, :1, :1]
        image = jnp.zeros((1, 11, 11, 1))
        (field,) = effective_receptive_field(lambda x: convolve(convolve(x, first), second), image, [(5, 5)])
        kernel = convolve2d(first[..., 0, 0], second[..., 0, 0])
        np.testing.assert_allclose(field[0, 3:8, 3:8], np.abs(kernel), rtol=1e-5, atol=1e-6)
        assert float(field.sum()) == pytest.approx(np.abs(kernel).sum(), rel=1e-5)

    def test_at_the_border_the_kernel_is_cut_off(self):
        (field,) = effective_receptive_field(one_layer, IMAGES, [(0, -1)])
        expected = np.abs(np.asarray(KERNEL).sum(-1)).sum(-1)
        np.testing.assert_allclose(field[0, :2, -2:], expected[1:, :2], rtol=1e-5, atol=1e-6)
        assert not field[0, 2:].any()

    def test_one_by_one_it_is_the_same(self):
        positions = [(0, 0), (2, 3)]
        together = effective_receptive_field(two_layers, IMAGES, positions)
        for p, position in enumerate(positions):
            for i in range(3):
                (alone,) = effective_receptive_field(two_layers, IMAGES[i : i + 1], [position])
                np.testing.assert_allclose(together[p, i], alone[0], rtol=1e-5, atol=1e-6)

    @pytest.mark.parametrize("position", [(9, 0), (0, 11), (-10, 0)])
    def test_a_position_outside_the_map_is_refused(self, position):
        with pytest.raises(
            ValueError, match=rf"position \({position[0]}, {position[1]}\) lies outside the map of 9x11"
        ):
            effective_receptive_field(one_layer, IMAGES, [position])

    def test_a_network_without_a_map_is_refused(self):
        with pytest.raises(ValueError, match=r"that of a map \[B,h,w,K\], not of an output \[3, 4\]"):
            effective_receptive_field(lambda x: one_layer(x).mean((1, 2)), IMAGES, [(0, 0)])


class TestDistance:
    @staticmethod
    def by_hand(images, normalize):
        gradients = []
        for row, column in ((0, 0), (2, 2)):
            gradients.append(jax.grad(lambda x, r=row, c=column: two_layers(x)[:, r, c].sum())(images))
        g = np.asarray(jnp.stack(gradients), np.float64)
        axes = (0, 2, 3, 4) if normalize == "image" else None
        z = (g - g.mean(axes, keepdims=True)) / g.std(axes, keepdims=True)
        return np.abs(z).mean((2, 3, 4))

    @pytest.mark.parametrize("normalize", ["image", "dataset"])
    def test_as_defined(self, normalize):
        images = jax.random.normal(jax.random.key(5), (4, 9, 11, 2))
        corner, center = self.by_hand(images, normalize)
        found = fields.erf_distance(two_layers, [images[:3], images[3:]], normalize=normalize)
        assert found.center == pytest.approx(center.mean(), rel=1e-5)
        assert found.corner == pytest.approx(corner.mean(), rel=1e-5)
        assert found.distance == pytest.approx((center - corner).mean(), rel=1e-4, abs=1e-6)
        assert found.standard_error == pytest.approx((center - corner).std(ddof=1) / 2, rel=1e-4)
        assert found.images == 4

    def test_a_generator_is_read_twice_where_needed(self):
        whole = fields.erf_distance(two_layers, [IMAGES], normalize="dataset")
        assert fields.erf_distance(two_layers, iter([IMAGES]), normalize="dataset") == whole

    def test_without_any_influence_it_is_zero(self):
        found = fields.erf_distance(lambda x: jnp.zeros((*x.shape[:3], 2)) + 0 * x, [IMAGES])
        assert found.center == found.corner == found.distance == 0

    def test_errors(self):
        with pytest.raises(ValueError, match="at least one image"):
            fields.erf_distance(one_layer, [])
        with pytest.raises(ValueError, match="'image' or 'dataset', not 'map'"):
            fields.erf_distance(one_layer, [IMAGES], normalize="map")


def test_the_mean_over_a_data_set_is_the_mean_of_the_batches():
    whole = np.asarray(effective_receptive_field(two_layers, IMAGES, [(1, 1)])).mean(1)
    np.testing.assert_allclose(
        fields.mean_erf(two_layers, [IMAGES[:2], IMAGES[2:]], [(1, 1)]), whole, rtol=1e-5, atol=1e-6
    )


def test_positions():
    assert fields.corner_and_center((7, 7)) == ((0, 0), (3, 3))
    assert fields.corner_and_center((56, 28)) == ((0, 0), (27, 13))
    assert fields.erf_grid((7, 5), 3)[3:6] == [(3, 0), (3, 2), (3, 4)]
    with pytest.raises(ValueError, match="3 x 3 does not fit a map of 2x5"):
        fields.erf_grid((2, 5), 3)


def test_effective_area_of_a_gaussian_is_a_disc():
    y, x = np.mgrid[-50:51, -50:51]
    sigma = 8.0
    field = jnp.asarray(np.exp(-(y**2 + x**2) / (2 * sigma**2)), jnp.float32)
    radius2 = -2 * sigma**2 * np.log(1 - fields.TWO_SIGMA)
    expected = (y**2 + x**2 <= radius2).mean()
    assert float(fields.effective_area(field)) == pytest.approx(expected, abs=1e-3)
    assert float(fields.effective_area(jnp.zeros((4, 4)))) == 0


class TestTheoreticalField:
    def test_two_convolutions_with_a_stride(self):
        # Three positions at stride 2, each of three pixels: seven pixels.
        top, left, bottom, right = fields.theoretical_field(two_layers, (9, 11, 2), (2, 3))
        assert (bottom - top, right - left) == (7, 7)
        (field,) = effective_receptive_field(two_layers, IMAGES, [(2, 3)])
        rows, columns = np.flatnonzero(field.max((0, 2))), np.flatnonzero(field.max((0, 1)))
        assert (rows[0], columns[0], rows[-1] + 1, columns[-1] + 1) == (top, left, bottom, right)

    def test_of_a_map_that_sees_everything(self):
        def everything(images):
            return one_layer(images) + images.mean((1, 2, 3), keepdims=True)

        assert fields.theoretical_field(everything, (9, 11, 2), (4, 4)) == (0, 0, 9, 11)


@pytest.fixture(scope="module")
def network():
    return tg.create_model("resnet18", 5, head="pyramid", k=8, in_channels=1)


class TestNetworks:
    @pytest.mark.slow
    def test_luo_untrained_it_is_smaller_than_the_theoretical_field(self, network):
        """Luo et al., 2016: Gaussian-like, most weight in the middle of the field."""
        maps = fields.maps_of(network, 1)  # stride 8: residual stages 1 and 2
        images = jax.random.uniform(jax.random.key(0), (4, 160, 160, 1))
        top, left, bottom, right = fields.theoretical_field(maps, (160, 160, 1), (10, 10))
        assert (bottom - top, right - left) == (99, 99)  # 7x7/2, pool 3/2, four 3x3, one 3x3/2, three 3x3
        (field,) = fields.mean_erf(maps, [images], [(10, 10)])
        outside = field.copy()
        outside[top:bottom, left:right] = 0
        assert not outside.any()
        assert float(fields.effective_area(jnp.asarray(field))) * 160**2 < 0.6 * 99**2
        middle = slice((top + bottom) // 2 - 25, (top + bottom) // 2 + 25)
        assert field[middle, middle].sum() > 0.6 * field.sum()

    def test_layers_that_do_not_exist_are_refused(self, network):
        with pytest.raises(ValueError, match="unknown layer 'stem'"):
            fields.maps_of(network, "stem")
        with pytest.raises(ValueError, match="layer 4 does not exist: the network has 4 maps"):
            effective_receptive_field(fields.maps_of(network, 4), jnp.zeros((1, 64, 64, 1)), [(0, 0)])

    def test_another_checkpoint_compiles_nothing(self, network):
        other = tg.create_model("resnet18", 5, head="pyramid", k=8, in_channels=1, seed=1)
        assert fields.maps_of(network).func is fields.maps_of(other).func
        assert isinstance(fields.maps_of(network), Partial)
