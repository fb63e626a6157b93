import numpy as np
import pytest
from PIL import Image
from skimage import data

from topgap_jax.reports import figures

CAT = data.chelsea()[::6, ::6][:48, :64] / 255


def test_panels_show_picture_and_maps(tmp_path):
    heat = np.zeros((2, 3, 48, 64))
    heat[0, 1, :24] = 1
    masks = np.zeros((2, 48, 64), bool)

    def draw():
        titles = ["k = 8", "k = 64", "plain"]
        return figures.cam_panels(np.stack([CAT, CAT]), heat, titles, ["cat", "again"], masks)

    figure = draw()
    axes = figure.get_axes()
    assert [axis.get_title() for axis in axes[:4]] == ["picture", "k = 8", "k = 64", "plain"]
    assert [axes[i].get_ylabel() for i in (0, 4)] == ["cat", "again"]
    hot, cold = (axes[i].get_images()[0].get_array().astype(float) for i in (2, 1))
    half = len(hot) // 2
    assert hot[: half - 20].mean() > cold[: half - 20].mean() + 50  # the upper half of the second map is lit
    png, pdf = figures.save(figure, tmp_path / "figure4")
    with Image.open(png) as picture:
        assert picture.width > picture.height > 300
    assert pdf.read_bytes().startswith(b"%PDF")
    before = png.read_bytes(), pdf.read_bytes()
    figures.save(draw(), tmp_path / "figure4")
    assert (png.read_bytes(), pdf.read_bytes()) == before


def test_sparsity_has_a_line_per_data_set_and_network():
    lines = [
        figures.Line(f"set {i}", [0.02, 0.1, 0.6], [0.1, 0.2, 0.3 + i / 50], [0.01] * 3) for i in range(8)
    ]
    axis = figures.sparsity_over_k(lines).get_axes()[0]
    assert [text.get_text() for text in axis.get_legend().get_texts()] == [line.name for line in lines]
    drawn = [container.lines[0] for container in axis.containers]
    np.testing.assert_allclose(drawn[7].get_ydata().astype(float), lines[7].sparsity)
    looks = {(line.get_color(), line.get_marker(), line.get_linestyle()) for line in drawn}
    assert len(looks) == 8


def test_receptive_fields_share_one_scale():
    fields = {"ours": np.ones((2, 10, 12)), "plain": np.full((2, 10, 12), 5.0)}
    fields["ours"][1] = 0.5
    figure = figures.erf_panels(fields, ["center", "corner"], [(1, 1, 8, 8), (0, 0, 4, 4)])
    shown = [axis.get_images()[0] for axis in figure.get_axes()[:4]]
    np.testing.assert_allclose([image.get_array().mean() for image in shown], [1, 0.5, 1, 1])
    assert all(image.get_clim() == (1e-3, 1) for image in shown)


def test_areas_lie_in_a_square():
    lit, objects = np.array([0.2, 0.4]), np.array([0.1, 0.3])
    axis = figures.area_reliability({"k = 64": (lit, objects)}).get_axes()[0]
    np.testing.assert_allclose(axis.collections[0].get_offsets(), np.stack([objects, lit], 1))
    assert axis.get_xlim() == axis.get_ylim()


@pytest.mark.parametrize(
    ("draw", "message"),
    [
        (lambda: figures.cam_panels(CAT[None], np.zeros((1, 2, 48, 60)), ["a", "b"]), "wants images"),
        (lambda: figures.cam_panels(CAT[None], np.zeros((1, 2, 48, 64)), ["a"]), "not 1 columns and 0 rows"),
        (lambda: figures.sparsity_over_k([]), "at least one line"),
        (lambda: figures.sparsity_over_k([figures.Line("x", [1, 2], [1])]), "'x' has 2 k and 1 values"),
        (lambda: figures.erf_panels({"x": np.ones((1, 4, 4))}, ["a", "b"]), r"must be \[2,H,W\]"),
        (lambda: figures.area_reliability({}), "at least one network"),
    ],
)
def test_what_does_not_fit_is_refused(draw, message):
    with pytest.raises(ValueError, match=message):
        draw()
