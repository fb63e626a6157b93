"""The check before training: every kind of unusable file is named, together with the others."""

import re
import struct
import zlib

import numpy as np
import pytest
import tifffile
from PIL import Image
from skimage import data

from topgap_jax.data.files import scan
from topgap_jax.data.sources import load_source

CAT = data.chelsea()[:90, :120]


def damage(path, *, keep):
    content = path.read_bytes()
    path.write_bytes(content[: int(len(content) * keep)])


def png_of_size(width, height):
    """A valid PNG of so many black pixels; compressed, they take next to no room."""

    def chunk(kind, content):
        return (
            struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))
        )

    header = struct.pack(">IIBBBBB", width, height, 1, 0, 0, 0, 0)
    rows = zlib.compress(bytes((width + 7) // 8 + 1) * 100)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", rows) + chunk(b"IEND", b"")


@pytest.fixture
def bad(tmp_path):
    """A class of usable pictures, and one with every defect there is and a usable one at the end."""
    good, folder = tmp_path / "train" / "good", tmp_path / "train" / "bad"
    good.mkdir(parents=True)
    folder.mkdir()
    picture = Image.fromarray(CAT)
    for i in range(3):
        picture.save(good / f"{i}.jpg")
    picture.save(folder / "z.png")
    for suffix in ("png", "jpg", "webp", "bmp", "gif", "ppm", "tif"):
        picture.save(folder / f"truncated.{suffix}")
        damage(folder / f"truncated.{suffix}", keep=0.6)
    tifffile.imwrite(folder / "cut_zip.tif", CAT, photometric="rgb", compression="zlib")
    damage(folder / "cut_zip.tif", keep=0.9)
    tifffile.imwrite(folder / "cut_imagej.tif", np.stack([CAT] * 4), imagej=True)
    damage(folder / "cut_imagej.tif", keep=0.5)
    with tifffile.TiffWriter(folder / "cut_pages.tif") as file:
        for _ in range(4):
            file.write(CAT, photometric="rgb", metadata=None)
    damage(folder / "cut_pages.tif", keep=0.5)
    (folder / "empty.png").write_bytes(b"")
    (folder / "text.png").write_text("not a picture")
    (folder / "text.tif").write_text("not a picture")
    picture.save(folder / "a_jpeg.png", "JPEG")
    picture.save(folder / "a_png.tif", "PNG")
    picture.save(folder / "a_tiff.png", "TIFF")
    picture.convert("CMYK").save(folder / "printed.jpg")
    picture.convert("CMYK").save(folder / "printed.tif")
    frames = [Image.fromarray(CAT[i:, i:][:80, :80]) for i in range(3)]
    for suffix in ("gif", "webp", "png"):
        frames[0].save(folder / f"film.{suffix}", save_all=True, append_images=frames[1:])
    (folder / "bomb.png").write_bytes(png_of_size(60000, 60000))
    (folder / "large.png").write_bytes(png_of_size(10000, 10000))
    tifffile.imwrite(folder / "bomb.tif", np.zeros((10000, 10000), bool), compression="zlib")
    tifffile.imwrite(folder / "nan.tif", np.full((4, 5), np.nan, np.float32))
    tifffile.imwrite(folder / "five.tif", np.zeros((5, 30, 40), np.uint16), metadata={"axes": "CYX"})
    tifffile.imwrite(folder / "stack.tif", np.zeros((7, 30, 40), np.uint16), photometric="minisblack")
    return tmp_path


EXPECTED = {
    "truncated": r"truncated\.(png|jpg|bmp|gif|ppm|tif)|cut_\w+\.tif",
    "empty file": r"empty\.png has no bytes",
    "unreadable": r"(text\.(png|tif)|truncated\.webp) cannot be decoded",
    "wrong extension": r"a_jpeg\.png holds a JPEG: rename it|a_png\.tif holds a PNG|a_tiff\.png holds a TIFF",
    "CMYK": r"printed\.(jpg|tif) is CMYK.*convert it to RGB",
    "animated": r"film\.(gif|webp|png) has 3 frames",
    "gigantic": r"(bomb\.png|large\.png|bomb\.tif) has more than 89 million pixels",
    "not finite": r"nan\.tif holds NaN",
    "channels": r"five\.tif has 5 channels, not 3",
    "pages": r"stack\.tif has 7 pages",
}
COUNTS = {
    "truncated": 9,
    "empty file": 1,
    "unreadable": 3,
    "wrong extension": 3,
    "CMYK": 2,
    "animated": 3,
    "gigantic": 3,
    "not finite": 1,
    "channels": 1,
    "pages": 1,
}


def test_every_defect_is_named_under_its_kind(bad):
    with pytest.raises(ValueError) as error:
        load_source(f"folder:{bad}", "train", size=32)
    lines = str(error.value).splitlines()
    number = sum(COUNTS.values())
    assert lines[0].endswith(f"split 'train': {number} problems in {number + 4} pictures")
    assert lines[-1].startswith("Mend these files or take them out") and 'on_error="skip"' in lines[-1]
    sections: dict[str, list[str]] = {}
    for line in lines[1:-1]:
        if line.startswith("  "):
            sections[kind].append(line)  # noqa: F821
        else:
            kind = line.partition(" (")[0]
            sections[kind] = []
            assert line == f"{kind} ({COUNTS[kind]}):"
    assert {kind: len(found) for kind, found in sections.items()} == COUNTS
    for kind, pattern in EXPECTED.items():
        assert all(re.search(pattern, line) for line in sections[kind]), (kind, sections[kind])


def test_skipping_counts_and_warns_once(bad):
    with pytest.warns(UserWarning) as record:
        source = load_source(f"folder:{bad}", "train", size=32, on_error="skip")
    assert len(record) == 1 and "27 of 31 pictures are skipped: wrong extension (3), " in str(
        record[0].message
    )
    assert source.skipped == COUNTS and len(source) == len(source.labels) == 4
    assert all(source[i]["image"].shape == (32, 32, 3) for i in range(4))
    assert source.labels.tolist() == [0, 1, 1, 1] and source.class_names == ["bad", "good"]


def test_a_class_is_not_skipped_as_a_whole(bad):
    (bad / "train" / "bad" / "z.png").unlink()
    with pytest.raises(ValueError, match=r"(?s)27 problems.*nothing would be left of a class"):
        load_source(f"folder:{bad}", "train", size=32, on_error="skip")


def test_without_a_check_a_defect_shows_when_it_is_read(bad):
    source = load_source(f"folder:{bad}", "train", size=32, check=False)
    assert len(source) == 31
    for index, path in enumerate(source.paths[:27]):
        if path.name in ("a_jpeg.png", "a_tiff.png"):  # a wrong suffix alone prevents nothing
            assert source[index]["image"].shape == (32, 32, 3)
        else:
            with pytest.raises(ValueError, match=re.escape(str(path))):
                source[index]


def test_a_report_lists_ten_of_a_kind_and_counts_the_rest(tmp_path):
    (tmp_path / "train" / "x").mkdir(parents=True)
    for i in range(13):
        (tmp_path / "train" / "x" / f"{i}.png").write_bytes(b"")
    with pytest.raises(ValueError) as error:
        load_source(f"folder:{tmp_path}", "train")
    lines = str(error.value).splitlines()
    assert lines[1] == "empty file (13):" and lines[12] == "  and 3 more" and len(lines) == 14
    assert lines[-1] == "They cannot be skipped: nothing would be left of a class."
    with pytest.raises(ValueError, match="13 problems in 13 pictures"):  # nothing would be left
        load_source(f"folder:{tmp_path}", "train", on_error="skip")


def save(path, height=20, width=30):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(CAT[:height, :width]).save(path)


def test_what_is_wrong_with_classes_is_reported_too(tmp_path):
    for name in ("Cat/1.png", "Cat/2.png", "cat/1.png", "cat/2.png", "lonely/1.png"):
        save(tmp_path / "train" / name)
    (tmp_path / "train" / "empty").mkdir()
    expected = (
        r"(?s)3 problems in 5 pictures.*differ by case only \(1\):\n.*train: 'Cat' and 'cat'"
        r".*empty class \(1\):\n.*train/empty holds no pictures"
        r".*class with one picture \(1\):\n.*train/lonely holds one picture only"
    )
    with pytest.raises(ValueError, match=expected):
        load_source(f"folder:{tmp_path}", "train")
    with pytest.warns(UserWarning, match="classes that differ by case only .1., empty class .1., class"):
        assert len(load_source(f"folder:{tmp_path}", "train", on_error="skip")) == 5


def test_pictures_of_several_sizes_need_a_size_even_when_skipping(tmp_path):
    for i, height in enumerate((20, 20, 21)):
        save(tmp_path / "train" / "x" / f"{i}.png", height)
    expected = r"differ in size: 20x30 \(2, such as .*0.png\), 21x30 \(1, such as .*2.png\): give .* size=224"
    for on_error in ("stop", "skip"):
        with pytest.raises(ValueError, match=expected):
            load_source(f"folder:{tmp_path}", "train", on_error=on_error)


def test_a_mask_of_another_size_is_a_problem(tmp_path):
    for i in range(3):
        save(tmp_path / "train" / "x" / f"{i}.png")
        save(tmp_path / "masks" / "train" / "x" / f"{i}.png", 20 + i)
    (tmp_path / "masks" / "train" / "x" / "2.png").unlink()
    expected = r"(?s)1.png is 21x30, its picture .*1.png is 20x30.*2.png has no mask, but others have"
    with pytest.raises(ValueError, match=expected):
        load_source(f"folder:{tmp_path}", "train")
    unchecked = load_source(f"folder:{tmp_path}", "train", check=False)
    for index in (1, 2):
        with pytest.raises(ValueError, match=rf"mask of .*{index}.png"):
            unchecked[index]
    with pytest.warns(
        UserWarning, match="2 of 3 pictures are skipped: mask of another size .1., no mask .1."
    ):
        assert load_source(f"folder:{tmp_path}", "train", on_error="skip")[0]["mask"].shape == (20, 30)


def test_a_file_is_looked_at_again_only_if_it_changed(tmp_path, monkeypatch):
    seen = []
    look = scan.check_file
    monkeypatch.setattr(scan, "check_file", lambda path: seen.append(path) or look(path))
    for i in range(2):
        save(tmp_path / "train" / "x" / f"{i}.png")
    load_source(f"folder:{tmp_path}", "train")
    load_source(f"folder:{tmp_path}", "train", channels=1)
    assert len(seen) == 2
    (tmp_path / "train" / "x" / "1.png").write_bytes(b"")
    with pytest.raises(ValueError, match="1 problem in 2 pictures"):
        load_source(f"folder:{tmp_path}", "train")
    assert len(seen) == 3 and str(seen[-1]).endswith("1.png")


def test_a_telephones_jpeg_with_a_second_picture_is_fine(tmp_path):
    (tmp_path / "train" / "x").mkdir(parents=True)
    photograph = Image.fromarray(CAT)
    for i in range(2):
        photograph.save(
            tmp_path / "train" / "x" / f"{i}.jpg", "MPO", save_all=True, append_images=[photograph]
        )
    source = load_source(f"folder:{tmp_path}", "train", short_side=30)
    assert source[0]["image"].shape == (30, 40, 3)


def test_many_files_show_progress_on_a_terminal(tmp_path, monkeypatch, capsys):
    save(tmp_path / "train" / "x" / "0.png")
    save(tmp_path / "train" / "x" / "1.png")
    monkeypatch.setattr(scan, "PROGRESS_FROM", 1)
    monkeypatch.setattr("sys.stderr.isatty", lambda: True, raising=False)
    load_source(f"folder:{tmp_path}", "train")
    assert "Checking the pictures" in capsys.readouterr().err
