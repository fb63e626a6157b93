"""ImageNet from its archives to labels, ImageNet-Sketch and ImageNet-C from their layouts."""

import io
import pickle
import shutil

import numpy as np
import pytest
from PIL import Image

from data.published_sets import SYNSETS, VALIDATION, imagenet_jpeg, write_imagenet_archives
from topgap_jax.data.published.archives import DATA_SETS
from topgap_jax.data.published.prepare import is_prepared, prepare
from topgap_jax.data.sources import load_source, split_names

WNIDS = sorted(wnid for wnid, _ in SYNSETS.values())
NAMES = ["tench", "crane (n02012849)", "kit fox", "crane (n03126707)"]


@pytest.fixture
def data_dir(tmp_path, monkeypatch):
    """ImageNet, prepared from small archives in the original's format."""
    write_imagenet_archives(tmp_path / "own")
    small = tuple(
        archive._replace(checksum="", exact=False, size=1) for archive in DATA_SETS["imagenet"].archives
    )
    monkeypatch.setitem(DATA_SETS, "imagenet", DATA_SETS["imagenet"]._replace(archives=small))
    prepare("imagenet", tmp_path, archives=tmp_path / "own", report=lambda line: None)
    return tmp_path


def test_archives_become_the_usual_layout(data_dir):
    root = data_dir / "imagenet"
    assert is_prepared("imagenet", data_dir)
    assert sorted(folder.name for folder in (root / "train").iterdir()) == WNIDS
    assert len(list((root / "train").rglob("*.JPEG"))) == 8
    for i, number in enumerate(VALIDATION):
        path = root / "val" / SYNSETS[number][0] / f"ILSVRC2012_val_{i + 1:08}.JPEG"
        assert path.read_bytes() == imagenet_jpeg(i)
    assert len(list((root / "val").rglob("*.JPEG"))) == len(VALIDATION)
    assert (root / "synset_words.txt").read_text().splitlines()[2] == "n02119789 kit fox, Vulpes macrotis"


def test_an_interrupted_training_archive_goes_on(data_dir):
    root = data_dir / "imagenet"
    (root / ".prepared").write_text("ILSVRC2012_devkit_t12.tar.gz\nILSVRC2012_img_val.tar\n")
    whole = root / "train" / WNIDS[0]
    (whole / "kept").write_text("a whole class is not unpacked again")
    (root / "train" / WNIDS[1]).rename(root / "train" / f".{WNIDS[1]}")
    (root / "train" / f".{WNIDS[1]}" / "half a picture").write_text("")
    prepare("imagenet", data_dir, archives=data_dir / "own", report=lambda line: None)
    assert (whole / "kept").exists()
    assert sorted(folder.name for folder in (root / "train").iterdir()) == WNIDS
    assert len(list((root / "train" / WNIDS[1]).iterdir())) == 2


def test_validation_pictures_need_the_devkit(data_dir):
    shutil.rmtree(data_dir / "imagenet")
    with pytest.raises(ValueError, match=r"img_val.tar needs the labels in ILSVRC2012_devkit_t12.tar.gz"):
        prepare("imagenet", data_dir, archives=data_dir / "own", only=["val"], report=lambda line: None)


def test_labels_follow_the_wnids_and_classes_have_words(data_dir):
    train = load_source("imagenet", "train", data_dir=str(data_dir), size=32)
    assert train.class_names == NAMES and train.num_classes == 4 and train.image_shape == (32, 32, 3)
    np.testing.assert_array_equal(train.labels, [0, 0, 1, 1, 2, 2, 3, 3])
    validation = load_source("imagenet", "validation", data_dir=str(data_dir))
    expected = [WNIDS.index(SYNSETS[number][0]) for number in sorted(VALIDATION, key=lambda n: SYNSETS[n][0])]
    np.testing.assert_array_equal(validation.labels, expected)
    picture = np.asarray(Image.open(io.BytesIO(imagenet_jpeg(2))).convert("RGB"))  # the only tench
    np.testing.assert_array_equal(validation[0]["image"], picture)
    assert split_names("imagenet", data_dir=str(data_dir)) == ["train", "validation"]


def test_cmyk_and_png_in_disguise_are_read(data_dir):
    train = load_source("imagenet", "train", data_dir=str(data_dir), size=64)
    for source in (train, pickle.loads(pickle.dumps(train))):
        pictures = [source[i]["image"] for i in range(len(source))]
        assert all(picture.shape == (64, 64, 3) and picture.std() > 5 for picture in pictures)
    fox = np.asarray(Image.open(io.BytesIO(imagenet_jpeg(1))).convert("RGB"))
    cmyk = load_source("imagenet", "train", data_dir=str(data_dir))[5]["image"]
    assert np.abs(cmyk.astype(float) - fox).mean() < 12


def test_other_classes_than_in_training_are_refused(data_dir):
    shutil.rmtree(data_dir / "imagenet" / "val" / WNIDS[1])
    with pytest.raises(
        ValueError, match=r"val differ from those of .*train: missing n02012849; only there none"
    ):
        load_source("imagenet", "validation", data_dir=str(data_dir))
    shutil.rmtree(data_dir / "imagenet" / "train")
    alone = load_source("imagenet", "validation", data_dir=str(data_dir))
    assert alone.num_classes == 3 and split_names("imagenet", data_dir=str(data_dir)) == ["validation"]


def test_sketch_and_corruptions_are_read_from_their_layouts(data_dir):
    for folder in ("imagenet_sketch/sketch", "imagenet_c/fog/1", "imagenet_c/fog/3", "imagenet_c/snow/1"):
        shutil.copytree(data_dir / "imagenet" / "val", data_dir / folder)
    sketch = load_source("imagenet_sketch", "test", data_dir=str(data_dir), size=8)
    assert sketch.class_names == NAMES and len(sketch) == 6
    fog = load_source("imagenet_c", "test", data_dir=str(data_dir), corruption="fog", severity=3, size=8)
    assert "fog/3" in str(fog.paths[0]) and len(fog) == 6
    (data_dir / "imagenet" / "synset_words.txt").unlink()
    assert load_source("imagenet_sketch", "test", data_dir=str(data_dir)).class_names == WNIDS
    for options, message in (
        ({"corruption": "rain"}, "imagenet_c has no corruption 'rain'; there are fog, snow"),
        ({}, "imagenet_c has no corruption ''; there are fog, snow"),
        ({"corruption": "fog", "severity": 6}, "severity is a whole number in 1..5, not 6"),
        ({"corruption": "fog", "severity": 2}, "fog/2 is no folder"),
    ):
        with pytest.raises(ValueError, match=message):
            load_source("imagenet_c", "test", data_dir=str(data_dir), **options)


def test_what_is_missing_is_said(tmp_path):
    for name in ("imagenet", "imagenet_sketch", "imagenet_c"):
        options = {"corruption": "fog"} if name == "imagenet_c" else {}
        split = "train" if name == "imagenet" else "test"
        with pytest.raises(
            ValueError, match=rf"{name} is missing; run: topgap data prepare {name} --data-dir"
        ):
            load_source(name, split, data_dir=str(tmp_path), **options)
    (tmp_path / "imagenet" / "val" / "n01440764").mkdir(parents=True)
    with pytest.raises(ValueError, match=r"val has no pictures of n01440764"):
        load_source("imagenet", "validation", data_dir=str(tmp_path))
