"""The contact sheet's pictures and places."""

import numpy as np
import pytest
from PIL import Image
from skimage import data

from topgap_jax.reports.contact_sheet import Row, draw_tile, write_contact_sheet
from topgap_jax.reports.pictures import to_rgb


def picture(height=40, width=80):
    return data.immunohistochemistry()[:height, :width]


def test_a_tile_keeps_the_shape_and_the_colours():
    tile = draw_tile(picture())
    assert tile.size == (112, 56)
    np.testing.assert_allclose(np.asarray(tile).mean((0, 1)), picture().mean((0, 1)), atol=2)
    np.testing.assert_array_equal(tile, draw_tile(picture() / np.float32(255)))
    assert draw_tile(picture(500, 250)).size == (56, 112)
    assert draw_tile(picture(3, 300)).size == (112, 1)


def test_a_mask_is_outlined_outside_the_object():
    mask = np.zeros((56, 56), bool)
    mask[20:40, 10:30] = True
    plain, outlined = (np.asarray(draw_tile(picture(56, 56), each)) for each in (None, mask))
    inside = np.kron(mask, np.ones((2, 2), bool))
    np.testing.assert_array_equal(plain[inside], outlined[inside])
    np.testing.assert_array_equal(outlined[39, 20:60], np.full((40, 3), 255))  # just above it
    changed = (plain != outlined).any(-1)
    assert changed.sum() < 4 * 46 * 2 + 8


def test_channels_become_colours_that_any_eye_tells_apart():
    two = np.zeros((2, 2, 2), np.float32)
    two[0, 0, 0] = two[0, 1, 1] = 1
    two[1, 0] = 1
    np.testing.assert_allclose(to_rgb(two)[0], [[1, 0, 1], [0, 1, 0]], atol=1e-6)
    np.testing.assert_allclose(to_rgb(two)[1], [[1, 1, 1], [0, 0, 0]], atol=1e-6)
    grey = np.full((2, 2, 1), 0.25, np.float32)
    assert (to_rgb(grey) == 0.25).all() and to_rgb(grey).shape == (2, 2, 3)
    five = np.eye(5, dtype=np.float32)[None]
    colours = to_rgb(five)[0]
    assert len({tuple(colour) for colour in colours.round(3)}) == 5
    assert to_rgb(np.ones((1, 1, 5), np.float32)).max() == 1


@pytest.mark.parametrize("count", [1, 25, 26])
def test_pages(tmp_path, count):
    rows = [Row(f"class {i}", "train: 3", [[draw_tile(picture())] * (i % 3), []]) for i in range(count)]
    pages = write_contact_sheet(tmp_path / "new" / "sheet.png", "cells", ["train", "test"], rows)
    assert [page.name for page in pages] == ["sheet.png", "sheet-2.png"][: 1 + count // 26]
    assert all(np.asarray(Image.open(page)).shape[2] == 3 for page in pages)


def test_a_long_name_does_not_reach_into_the_pictures(tmp_path):
    name = "Anthophora plumipes (Pallas, 1772), female, dorsal aspect, with a very long label"
    tile = draw_tile(picture(80, 80))
    [page] = write_contact_sheet(tmp_path / "sheet.png", "bees", ["train"], [Row(name, "9", [[tile]])])
    pixels = np.asarray(Image.open(page))
    gap = pixels[62 : 62 + 112, 16 + 210 : 16 + 210 + 20]
    assert (gap == 255).all()
    np.testing.assert_array_equal(pixels[62 : 62 + 112, 246 : 246 + 112], np.asarray(tile))
