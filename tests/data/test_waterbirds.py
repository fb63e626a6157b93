"""Waterbirds in the original archive's format."""

import shutil

import numpy as np
import pytest
from PIL import Image

from data.original_sets import BIRDS, SPECIES, votes, write_cub, write_waterbirds
from topgap_jax.data.sources import load_source


@pytest.fixture(scope="module")
def data_dir(tmp_path_factory):
    folder = tmp_path_factory.mktemp("data")
    write_cub(folder)
    write_waterbirds(folder)
    return folder


@pytest.fixture
def own(data_dir, tmp_path):
    """A copy to damage, and its metadata.csv."""
    shutil.copytree(data_dir, tmp_path, dirs_exist_ok=True)
    return tmp_path, tmp_path / "waterbirds/waterbird_complete95_forest2water2/metadata.csv"


def waterbirds(data_dir, split="train", **options):
    return load_source("waterbirds", split, data_dir=str(data_dir), **options)


def names(source):
    return ["/".join(path.parts[-2:]) for path in source.paths]


def test_splits_part_the_birds_and_the_test_split_is_cubs(data_dir):
    splits = [names(waterbirds(data_dir, split)) for split in ("train", "validation", "test")]
    assert sorted(name for split in splits for name in split) == sorted(bird.name for bird in BIRDS) and all(
        splits
    )
    assert splits[2] == names(load_source("cub", "test", data_dir=str(data_dir)))


def test_groups_are_bird_and_background(data_dir):
    for split in ("train", "validation", "test"):
        source = waterbirds(data_dir, split)
        assert source.class_names == ["landbird", "waterbird"] and source.num_classes == 2
        for i, name in enumerate(names(source)):
            bird, number = name.startswith("001"), [bird.name for bird in BIRDS].index(name) + 1
            assert source.labels[i] == bird and source.groups[i] == 2 * bird + number % 2
            assert source[i]["group"] == source.groups[i] and source[i]["label"] == source.labels[i]
            expected = f"{'waterbird' if bird else 'landbird'} on {'water' if number % 2 else 'land'}"
            assert source.group_names[source.groups[i]] == expected


def test_training_group_counts_are_known_without_decoding(data_dir):
    source = waterbirds(data_dir)
    for path in source.paths:
        assert path.is_file()
    rows = [line.split(",") for line in metadata(data_dir).read_text().splitlines()[1:]]
    expected = [sum(row[2:5] == [y, "0", place] for row in rows) for y in "01" for place in "01"]
    assert np.bincount(source.groups, minlength=4).tolist() == expected and sum(expected) == len(source)


def metadata(data_dir):
    return data_dir / "waterbirds/waterbird_complete95_forest2water2/metadata.csv"


def test_species_are_the_classes_of_cub(data_dir):
    cub = load_source("cub", "test", data_dir=str(data_dir))
    source = waterbirds(data_dir, "test", classes="species")
    assert source.class_names == cub.class_names and source.labels.tolist() == cub.labels.tolist()
    assert source.groups.tolist() == waterbirds(data_dir, "test").groups.tolist()
    train = waterbirds(data_dir, "train", classes="species")
    assert train.class_names == cub.class_names
    assert [SPECIES[label] for label in train.labels] == [name.split("/")[0] for name in names(train)]


def test_masks_and_boxes_are_those_of_cub(data_dir):
    cub = load_source("cub", "test", data_dir=str(data_dir), size=48)
    source = waterbirds(data_dir, "test", masks=True, size=48)
    for i in range(len(source)):
        np.testing.assert_array_equal(source[i]["mask"], cub[i]["mask"])
        np.testing.assert_array_equal(source[i]["box"], cub[i]["box"])
    assert sorted(waterbirds(data_dir)[0]) == ["group", "image", "label"]


def test_birds_stay_where_they_were_in_cub(data_dir):
    cub = load_source("cub", "test", data_dir=str(data_dir))
    source = waterbirds(data_dir, "test", masks=True)
    for i, name in enumerate(names(source)):
        marks = votes(next(bird for bird in BIRDS if bird.name == name))
        change = np.abs(source[i]["image"].astype(int) - cub[i]["image"]).mean(-1)
        assert change[marks.all(0)].mean() < 0.3 * change[~marks.any(0)].mean()
        assert source[i]["mask"][marks.all(0)].all() and not source[i]["mask"][~marks.any(0)].any()


def test_masks_need_the_cub_that_the_birds_are_from(own):
    folder, _ = own
    other = names(waterbirds(folder, "test"))[1]
    path = folder / "waterbirds/waterbird_complete95_forest2water2" / other
    Image.open(path).resize((50, 40)).save(path)
    with pytest.raises(ValueError, match=rf"{other} is 40x50, not \d+x\d+"):
        waterbirds(folder, "test", masks=True)
    segmentation = (folder / "cub/segmentations" / other).with_suffix(".png")
    segmentation.unlink()
    with pytest.raises(ValueError, match=rf"lacks {segmentation}; run: topgap data prepare cub"):
        waterbirds(folder, "test", masks=True)
    shutil.rmtree(folder / "cub")
    with pytest.raises(ValueError, match=r"images\.txt.*run: topgap data prepare cub"):
        waterbirds(folder, masks=True)
    assert len(waterbirds(folder))


def test_what_cannot_be_used_is_reported_together(own):
    folder, metadata = own
    original = metadata.read_text()
    lines = original.splitlines()
    lines[2] = ",".join([*lines[2].split(",")[:2], "7", "3", *lines[2].split(",")[4:]])
    lines[5] = ",".join([*lines[5].split(",")[:4], "sea", "x"])
    metadata.write_text("\n".join(lines))
    with pytest.raises(ValueError, match=r"line 3 has y '7', split '3'; line 6 has place 'sea'; y and place"):
        waterbirds(folder)
    metadata.write_text(original.replace("img_filename,y", "file,label"))
    with pytest.raises(ValueError, match="has no column img_filename, y; there are img_id, file, label"):
        waterbirds(folder)
    metadata.write_text(original)
    for path in waterbirds(folder).paths[:2]:
        path.unlink()
    with pytest.raises(ValueError, match=r"lacks .*jpg; .*jpg; run: topgap data prepare waterbirds"):
        waterbirds(folder)


def test_unknown_names_say_what_there_is(tmp_path):
    with pytest.raises(ValueError, match=r"metadata\.csv; run: topgap data prepare waterbirds --data-dir"):
        waterbirds(tmp_path)
    with pytest.raises(ValueError, match="there are train, validation, test"):
        waterbirds(tmp_path, "all")
    with pytest.raises(ValueError, match="classes is 'waterbird' or 'species', not 'birds'"):
        waterbirds(tmp_path, classes="birds")
