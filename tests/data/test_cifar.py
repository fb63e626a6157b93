"""CIFAR from its binary archives, and the split that is held out."""

import numpy as np
import pytest

from data.published_sets import CIFAR10_NAMES, samples, write_cifar10, write_cifar100
from topgap_jax.data.published.hold_out import hold_out
from topgap_jax.data.sources import load_source, split_names


@pytest.fixture
def data_dir(tmp_path):
    write_cifar10(tmp_path)
    write_cifar100(tmp_path)
    return tmp_path


@pytest.mark.parametrize("name", ["cifar10", "cifar100"])
def test_pictures_and_labels_come_back(data_dir, name):
    source = load_source(name, "train", data_dir=str(data_dir))
    pictures, labels = samples(name)
    np.testing.assert_array_equal(np.stack([source[i]["image"] for i in range(20)]), pictures)
    np.testing.assert_array_equal(source.labels, labels)
    assert source.image_shape == (32, 32, 3) and source[3]["image"].dtype == np.uint8
    assert source[3]["label"] == labels[3] and source[3]["label"].dtype == np.int32


def test_classes_are_named_by_the_meta_files(data_dir):
    assert load_source("cifar10", "test", data_dir=str(data_dir)).class_names == CIFAR10_NAMES
    hundred = load_source("cifar100", "test", data_dir=str(data_dir))
    assert hundred.num_classes == 100 and hundred.class_names[99] == "class_99" and len(hundred) == 5


def test_validation_is_carved_from_training(data_dir):
    options = {"data_dir": str(data_dir), "validation": 6}
    train, held, test = (
        load_source("cifar10", split, **options) for split in ("train", "validation", "test")
    )
    assert (len(train), len(held), len(test)) == (14, 6, 20)
    both = {source[i]["image"].tobytes() for source in (train, held) for i in range(len(source))}
    assert both == {picture.tobytes() for picture in samples("cifar10")[0]}
    again = load_source("cifar10", "validation", **options)
    np.testing.assert_array_equal(held.images, again.images)
    assert split_names("cifar10", **options) == ["train", "validation", "test"]
    with pytest.raises(ValueError, match=r"no split 'validation'; there are train, test"):
        load_source("cifar10", "validation", data_dir=str(data_dir))


def test_hold_out_takes_the_same_number_of_every_class():
    labels = np.repeat([0, 1, 2], [50, 30, 3])
    rest, held = hold_out(labels, 12)
    np.testing.assert_array_equal(np.bincount(labels[held]), [5, 4, 3])
    np.testing.assert_array_equal(np.sort(np.concatenate([rest, held])), np.arange(83))
    assert len(hold_out(labels, 0)[1]) == 0 and not np.array_equal(hold_out(labels, 12, seed=1)[1], held)
    for count in (-1, 83):
        with pytest.raises(ValueError, match=rf"validation is a number of examples in 0..82, not {count}"):
            hold_out(labels, count)


def test_missing_and_damaged_files_are_named(data_dir):
    folder = data_dir / "cifar10" / "cifar-10-batches-bin"
    (folder / "data_batch_3.bin").write_bytes(bytes(3000))
    with pytest.raises(
        ValueError, match=r"data_batch_3.bin has 3000 bytes, not a multiple of 3073: it is damag"
    ):
        load_source("cifar10", "train", data_dir=str(data_dir))
    (folder / "data_batch_3.bin").unlink()
    with pytest.raises(
        ValueError, match=r"lacks .*data_batch_3.bin; run: topgap data prepare cifar10 --data-dir"
    ):
        load_source("cifar10", "train", data_dir=str(data_dir))
    with pytest.raises(ValueError, match=r"nowhere/cifar10 is missing; run: topgap data prepare cifar10"):
        load_source("cifar10", "train", data_dir="nowhere")
