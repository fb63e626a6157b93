"""Real pictures in every format and depth: the pixels that come out, and the size they come at."""

import pickle
import struct
import zlib

import numpy as np
import pytest
import tifffile
from PIL import Image
from skimage import data

from topgap_jax.data.files.decode import Decoder
from topgap_jax.data.files.defects import PictureError
from topgap_jax.data.files.scan import check_file

CAT = data.chelsea()[:120, :150]
CELL = data.cell()[:80, :100]
DEEP = CELL.astype(np.uint16) * 200 + 300


@pytest.mark.parametrize(
    ("name", "options"),
    [("a.png", {}), ("a.bmp", {}), ("a.ppm", {}), ("a.webp", {"lossless": True}), ("a.tif", {})],
)
def test_formats_without_loss_give_back_the_pixels(tmp_path, name, options):
    Image.fromarray(CAT).save(tmp_path / name, **options)
    np.testing.assert_array_equal(Decoder()(tmp_path / name), CAT)


@pytest.mark.parametrize("name", ["a.jpg", "a.webp", "a.gif"])
def test_formats_with_loss_come_close(tmp_path, name):
    Image.fromarray(CAT).save(tmp_path / name)
    pixels = Decoder()(tmp_path / name)
    assert pixels.shape == CAT.shape and np.abs(pixels.astype(int) - CAT).mean() < 8


@pytest.mark.parametrize("mode", ["RGBA", "L", "P", "1", "LA", "I;16"])
@pytest.mark.parametrize("channels", [1, 3])
def test_every_mode_becomes_rgb_or_grey(tmp_path, mode, channels):
    picture = Image.fromarray(DEEP) if mode == "I;16" else Image.fromarray(CAT).convert(mode)
    picture.save(tmp_path / "a.png")
    pixels = Decoder(channels=channels)(tmp_path / "a.png")
    assert pixels.shape == (*np.shape(picture)[:2], channels)
    assert pixels.dtype == (np.float32 if mode == "I;16" else np.uint8)


def test_transparency_of_a_palette_is_dropped(tmp_path):
    picture = Image.fromarray(CAT).quantize(16)
    picture.save(tmp_path / "a.png", transparency=bytes(range(16)))
    np.testing.assert_array_equal(Decoder()(tmp_path / "a.png"), np.asarray(picture.convert("RGB")))


@pytest.mark.parametrize("suffix", ["jpg", "png", "tif"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_the_orientation_is_applied_before_the_crop(tmp_path, orientation, suffix):
    stored = {
        1: CAT,
        2: CAT[:, ::-1],
        3: CAT[::-1, ::-1],
        4: CAT[::-1],
        5: CAT.swapaxes(0, 1),
        6: np.rot90(CAT),
        7: np.rot90(CAT, 2).swapaxes(0, 1),
        8: np.rot90(CAT, -1),
    }[orientation]
    path, exif = tmp_path / f"a.{suffix}", Image.Exif()
    exif[0x0112] = orientation
    extra = {"quality": 98, "subsampling": 0} if suffix == "jpg" else {}
    Image.fromarray(np.ascontiguousarray(stored)).save(path, exif=exif, **extra)
    header = check_file(path)
    assert (header.height, header.width) == CAT.shape[:2]
    expected = Decoder(size=(30, 50))(Image.fromarray(CAT))
    assert np.abs(Decoder(size=(30, 50))(path).astype(int) - expected).mean() < 3


def test_jpeg_decoded_at_a_smaller_scale_shows_the_same(tmp_path):
    photograph = Image.fromarray(data.chelsea())
    photograph.save(tmp_path / "a.jpg", quality=95)
    with Image.open(tmp_path / "a.jpg") as picture:
        whole = picture.convert("RGB")
    for options in ({"size": 36}, {"size": (31, 90)}, {"short_side": 64}, {"short_side": 70, "size": 50}):
        fast, slow = Decoder(**options)(tmp_path / "a.jpg"), Decoder(**options)(whole)
        assert fast.shape == slow.shape
        difference = np.abs(fast.astype(int) - slow)
        shifted = np.abs(fast[:, 1:].astype(int) - slow[:, :-1])
        assert difference.mean() < 3 and difference.mean() < shifted.mean() / 3  # sharper, not elsewhere


def test_mask_box_and_pixels_stay_together():
    image = np.zeros((60, 100, 3), np.uint8)
    image[20:40, 30:70] = 255
    box = np.array([20, 30, 40, 70])
    for options in ({"size": 30}, {"size": (90, 60)}, {"short_side": 24}, {"short_side": 48, "size": 40}, {}):
        pixels, framing = Decoder(**options).decode(Image.fromarray(image))
        mask, moved = framing.mask(image[..., 0] > 0), framing.box(box)
        assert mask.shape == pixels.shape[:2] and mask.dtype == bool and moved.dtype == np.float32
        assert (mask != (pixels[..., 0] > 127)).mean() < 0.02
        rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
        seen = [rows[0], columns[0], rows[-1] + 1, columns[-1] + 1]
        np.testing.assert_allclose(moved, seen, atol=1)


def test_shapes_and_scale():
    assert Decoder(short_side=30).decode(Image.fromarray(CAT))[0].shape == (30, 38, 3)
    assert Decoder(short_side=30).frame(120, 150).scale == 4
    assert Decoder(size=224, short_side=256).frame(512, 700)[1:5] == (32, 126, 480, 574)
    assert Decoder(size=(10, 1)).frame(3, 50).scale == 0.3
    assert Decoder(size=5).frame(5, 1)[1:] == (2, 0, 3, 1, 5, 5)
    with pytest.raises(ValueError, match="the mask is 2x3, the picture 5x5"):
        Decoder().frame(5, 5).mask(np.zeros((2, 3), bool))
    np.testing.assert_array_equal(Decoder(size=2).frame(2, 6).box(np.array([0, 0, 2, 1])), [0, 0, 2, 0])


def save(path, stored, **options):
    tifffile.imwrite(path, stored, **options)
    return path


def test_a_fixed_window_maps_stored_values(tmp_path):
    path = save(tmp_path / "a.tif", DEEP)
    low, high = 1000, 30000
    expected = np.clip((DEEP.astype(np.float32) - low) / (high - low), 0, 1)
    pixels = Decoder(channels=1, window=(low, high))(path)
    assert pixels.dtype == np.float32
    np.testing.assert_allclose(pixels[..., 0], expected, atol=1e-6)
    Image.fromarray(DEEP).save(tmp_path / "a.png")
    np.testing.assert_array_equal(Decoder(channels=1, window=[low, high])(tmp_path / "a.png"), pixels)
    in_bytes = Decoder(channels=1, window=(0, 255))(save(tmp_path / "b.tif", CELL))
    np.testing.assert_allclose(in_bytes[..., 0], CELL / 255, atol=1e-6)


@pytest.mark.parametrize("dtype", [np.uint16, np.int16, np.uint32, np.float16, np.float32, np.float64])
def test_percentiles_of_each_picture_and_channel_are_the_default(tmp_path, dtype):
    stored = np.stack([CELL * 10.0, CELL * 100.0 - 50], -1).astype(dtype)
    path = save(tmp_path / "a.tif", stored, metadata={"axes": "YXC"}, photometric="minisblack")
    pixels = Decoder(channels=2)(path)
    for channel in range(2):
        values = stored[..., channel].astype(np.float64)
        low, high = np.percentile(values, (0.1, 99.9))
        expected = np.clip((values - low) / (high - low), 0, 1)
        np.testing.assert_allclose(pixels[..., channel], expected, atol=1e-4)
    scaled = Decoder(channels=2, size=20, window=("percentile", 2, 98))(path)
    assert scaled.shape == (20, 20, 2) and 0 <= scaled.min() <= scaled.max() <= 1


def test_a_picture_of_one_value_is_black_not_nan(tmp_path):
    pixels = Decoder(channels=1)(save(tmp_path / "a.tif", np.full((4, 5), 700, np.uint16)))
    np.testing.assert_array_equal(pixels, np.zeros((4, 5, 1)))


STACK = np.stack([DEEP, DEEP // 2, DEEP // 3, DEEP // 4, DEEP // 5])


@pytest.mark.parametrize(
    ("axes", "options"), [("CYX", {}), ("YXC", {}), ("CYX", {"ome": True}), ("CYX", {"imagej": True})]
)
def test_channels_first_and_last_are_the_same(tmp_path, axes, options):
    stored = np.moveaxis(STACK, 0, -1) if axes == "YXC" else STACK
    path = save(tmp_path / "a.tif", stored, metadata={"axes": axes}, photometric="minisblack", **options)
    header = check_file(path)
    assert header[:4] == (*DEEP.shape, 5, "uint16")
    pixels = Decoder(channels=5, window=(0, 65535))(path)
    np.testing.assert_allclose(pixels, np.moveaxis(STACK, 0, -1) / 65535, atol=1e-6)
    chosen = Decoder(pages=[4, 0, 2], window=(0, 65535))(path)
    np.testing.assert_array_equal(chosen, pixels[..., [4, 0, 2]])


@pytest.mark.parametrize("options", [{}, {"imagej": True, "metadata": {"axes": "ZYX"}}])
def test_pages_are_chosen_joined_or_projected(tmp_path, options):
    path, window = save(tmp_path / "a.tif", STACK, photometric="minisblack", **options), (0, 65535)
    third = Decoder(channels=1, pages=2, window=window)(path)
    np.testing.assert_allclose(third[..., 0], STACK[2] / 65535, atol=1e-6)
    three = Decoder(channels=3, pages=(1, 2, 3), window=window)(path)
    np.testing.assert_array_equal(three[..., 1], third[..., 0])
    highest = Decoder(channels=1, pages="max", window=window)(path)
    np.testing.assert_allclose(highest[..., 0], STACK.max(0) / 65535, atol=1e-6)
    with pytest.raises(
        PictureError, match=r"a.tif has 5 pages \(axes .YX, 5x80x100\): give the option pages"
    ):
        Decoder(channels=1)(path)
    with pytest.raises(PictureError, match="has no page 5: it has 5 pages"):
        Decoder(channels=1, pages=[0, 5])(path)


def test_a_stack_with_channels_counts_its_planes(tmp_path):
    stored = np.stack([STACK[:2], STACK[2:4], STACK[3:5]])  # 3 planes of 2 channels
    path = save(tmp_path / "a.tif", stored, imagej=True, metadata={"axes": "ZCYX"})
    one = Decoder(channels=2, pages=1, window=(0, 65535))(path)
    np.testing.assert_allclose(one, np.moveaxis(STACK[2:4], 0, -1) / 65535, atol=1e-6)
    highest = Decoder(channels=2, pages="max", window=(0, 65535))(path)
    np.testing.assert_allclose(highest, np.moveaxis(stored.max(0), 0, -1) / 65535, atol=1e-6)
    assert Decoder(channels=4, pages=(0, 2))(path).shape[-1] == 4


def test_tiff_of_8_bits_stays_in_bytes(tmp_path):
    for name, stored, options in (
        ("rgb.tif", CAT, {"photometric": "rgb"}),
        ("planes.tif", np.moveaxis(CAT, -1, 0), {"photometric": "rgb", "planarconfig": "separate"}),
        ("alpha.tif", np.dstack([CAT, CAT[..., :1]]), {"photometric": "rgb"}),
        ("zip.tiff", CAT, {"photometric": "rgb", "compression": "zlib", "predictor": True}),
        ("big.tif", CAT, {"photometric": "rgb", "bigtiff": True, "byteorder": ">"}),
        ("tiles.tif", CAT, {"photometric": "rgb", "tile": (16, 16)}),
    ):
        np.testing.assert_array_equal(Decoder()(save(tmp_path / name, stored, **options)), CAT)
    grey = Decoder(channels=1)(save(tmp_path / "white.tif", 255 - CELL, photometric="miniswhite"))
    np.testing.assert_array_equal(grey[..., 0], CELL)
    bits = save(tmp_path / "bits.tif", CELL > 100, photometric="minisblack")
    np.testing.assert_array_equal(Decoder(channels=1)(bits)[..., 0], (CELL > 100) * 255)
    palette = Image.fromarray(CAT).quantize(200)
    palette.save(tmp_path / "palette.tif")
    np.testing.assert_array_equal(Decoder()(tmp_path / "palette.tif"), np.asarray(palette.convert("RGB")))


def test_real_tiffs_of_scikit_image():
    folder = data.__path__[0]
    assert Decoder(channels=1, pages=1)(f"{folder}/multipage.tif").shape == (15, 10, 1)
    assert Decoder(pages=0)(f"{folder}/multipage_rgb.tif").shape == (10, 10, 3)


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({"resolution": (20000, 20000), "resolutionunit": "CENTIMETER"}, 0.5),
        ({"resolution": (1200, 1200), "resolutionunit": "INCH"}, 25400 / 1200),
        ({"resolution": (300, 300), "resolutionunit": "INCH"}, None),
        ({"resolution": (72 / 2.54, 72 / 2.54), "resolutionunit": "CENTIMETER"}, None),
        ({"resolution": (2, 8), "imagej": True, "metadata": {"unit": "micron"}}, 0.25),
        ({"resolution": (4, 4), "imagej": True, "metadata": {"unit": "um"}}, 0.25),
        ({"resolution": (4, 4), "imagej": True, "metadata": {"unit": "\\u00B5m"}}, 0.25),
        ({"resolution": (4, 4), "imagej": True, "metadata": {"unit": "pixel"}}, None),
        ({"ome": True, "metadata": {"PhysicalSizeX": 0.3, "PhysicalSizeY": 0.3}}, 0.3),
        (
            {
                "ome": True,
                "metadata": {
                    "PhysicalSizeX": 300,
                    "PhysicalSizeXUnit": "nm",
                    "PhysicalSizeY": 0.3,
                    "PhysicalSizeYUnit": "µm",
                },
            },
            0.3,
        ),
        ({}, None),
    ],
)
def test_the_size_of_a_pixel_is_read(tmp_path, options, expected):
    found = check_file(save(tmp_path / "a.tif", DEEP, **options)).pixel_size
    assert found == (None if expected is None else pytest.approx(expected, rel=1e-4))


@pytest.mark.parametrize(
    ("stored", "options", "message"),
    [
        (np.full((4, 4), np.nan, np.float32), {}, "a.tif holds NaN or infinite values"),
        (np.zeros((4, 4), np.complex64), {}, "its values are complex64"),
        (CAT.repeat(2, -1)[..., :4].copy(), {"photometric": "separated"}, "a.tif is CMYK.*convert it to RGB"),
        (STACK, {"metadata": {"axes": "CYX"}}, "a.tif has 5 channels, not 3: give the option channels=5"),
    ],
)
def test_tiffs_that_cannot_be_used_say_why(tmp_path, stored, options, message):
    path = save(tmp_path / "a.tif", stored, **{"photometric": "minisblack"} | options)
    with pytest.raises(PictureError, match=message):
        Decoder()(path)


@pytest.mark.parametrize("compression", ["lzw", "packbits", "zlib", "zstd"])
def test_compressed_tiffs_give_the_stored_values(tmp_path, compression):
    """LZW is what many microscopes write."""
    values = CAT[..., 0].astype(np.uint16) * 257
    tifffile.imwrite(tmp_path / "a.tif", values, compression=compression, predictor=compression == "lzw")
    check_file(tmp_path / "a.tif")
    image = Decoder(channels=1, window=(0, 65535))(tmp_path / "a.tif")
    np.testing.assert_allclose(image[..., 0], CAT[..., 0] / 255, atol=1e-6)


def test_16_bits_in_several_channels_of_a_png_are_refused(tmp_path):
    # Pillow cannot write them; the header of an 8-bit file, changed to 16, is enough to be refused.
    Image.fromarray(CAT).save(tmp_path / "a.png")
    content = bytearray((tmp_path / "a.png").read_bytes())
    content[24] = 16
    content[29:33] = struct.pack(">I", zlib.crc32(content[12:29]))
    (tmp_path / "a.png").write_bytes(content)
    with pytest.raises(PictureError, match="has 16 bits in each of several channels"):
        Decoder()(tmp_path / "a.png")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"channels": 0}, r"channels is 3 \(RGB\), 1 \(grey\) or the number .*, not 0"),
        ({"channels": True}, "not True"),
        ({"size": 0}, "size is a whole number of pixels or .height, width., not 0"),
        ({"size": 2.5}, "not 2.5"),
        ({"size": (1, 2, 3)}, r"not \(1, 2, 3\)"),
        ({"short_side": 0}, "short_side is a whole number of pixels, not 0"),
        ({"short_side": 200, "size": 224}, "short_side=200 must not be less than size"),
        ({"pages": -1}, "pages is a page .*, not -1"),
        ({"pages": []}, "a list of pages"),
        ({"pages": "min"}, "not 'min'"),
        ({"window": (5, 5)}, r"window is \(low, high\)"),
        ({"window": ("percentile", 1, 101)}, "0 <= low < high <= 100"),
        ({"window": "percentile"}, "not 'percentile'"),
    ],
)
def test_options_are_checked(options, message):
    with pytest.raises(ValueError, match=message):
        Decoder(**options)


def test_decoders_and_errors_survive_pickle():
    decoder = Decoder(size=7, pages=[1, 2], window=(0, 5))
    assert pickle.loads(pickle.dumps(decoder)) == decoder
    error = pickle.loads(pickle.dumps(PictureError("truncated", "a.png ends")))
    assert (error.kind, str(error)) == ("truncated", "a.png ends")
