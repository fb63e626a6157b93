import jax
import jax.numpy as jnp
import numpy as np
import pytest

from topgap_jax.data.arrays import ArraySource
from topgap_jax.data.pipeline import train_batches
from topgap_jax.training import device_data
from topgap_jax.training.config import resolve
from topgap_jax.training.device_data import Indexed, as_float, lies_on_device, make_fetch, put_images
from topgap_jax.training.mesh import make_mesh

IMAGES = np.random.default_rng(0).integers(0, 256, (30, 8, 10, 3), np.uint8)
SOURCE = ArraySource(IMAGES, np.arange(30) % 3, ("a", "b", "c"))


def batches(source):
    return train_batches(source, batch_size=4, seed=5)


def settings(**data):
    return resolve({"data": data}).data


def fetching(*augment, seed=0):
    fetch = make_fetch(make_mesh(), jnp.asarray(IMAGES), seed=seed, augment=augment)
    return lambda step, batch: np.asarray(fetch(step, batch)["image"])


def test_bytes_become_the_floats_of_the_host_to_the_bit():
    values = np.arange(256, dtype=np.uint8)
    expected = values.astype(np.float32) / np.float32(255)
    np.testing.assert_array_equal(jax.jit(as_float)(values), expected)
    np.testing.assert_array_equal(as_float(jnp.asarray(expected)), expected)


def test_pictures_come_in_the_order_of_the_host():
    host, indices = batches(SOURCE), batches(Indexed(SOURCE))
    images = put_images(make_mesh(), SOURCE)
    fetch = make_fetch(make_mesh(), images, seed=0, augment=())
    for step in range(1, 20):  # more than two epochs
        expected, batch = next(host), fetch(step, next(indices))
        np.testing.assert_array_equal(as_float(batch["image"]), as_float(jnp.asarray(expected["image"])))
        np.testing.assert_array_equal(batch["label"], expected["label"])


def test_the_order_resumes():
    ours, resumed = batches(Indexed(SOURCE)), batches(Indexed(SOURCE))
    for _ in range(9):
        next(ours)
    resumed.set_state(ours.get_state())
    for _ in range(9):
        np.testing.assert_array_equal(next(resumed)["image"], next(ours)["image"])


def test_sources_that_are_no_array_are_decoded_once():
    class Decoded:
        labels = SOURCE.labels

        def __len__(self):
            return len(SOURCE)

        def __getitem__(self, index):
            return SOURCE[index]

    np.testing.assert_array_equal(put_images(make_mesh(), Decoded()), IMAGES)


def test_pad_crop_makes_the_pictures_of_the_host():
    """Every shift that the host's transform can draw, and no other; each about as often."""
    batch = {"image": np.zeros(1000, np.int32), "label": np.zeros(1000, np.int32)}
    around = np.pad(IMAGES[0], ((2, 2), (2, 2), (0, 0)), "reflect")
    possible = {around[top : top + 8, left : left + 10].tobytes() for top in range(5) for left in range(5)}
    made = [image.tobytes() for image in fetching("pad_crop:2")(1, batch)]
    assert set(made) == possible and len(possible) == 25
    assert max(made.count(image) for image in possible) < 80


def test_horizontal_flip_makes_the_pictures_of_the_host():
    batch = {"image": np.zeros(400, np.int32), "label": np.zeros(400, np.int32)}
    images = fetching("horizontal_flip:0.25")(1, batch)
    flipped, straight = ((images == other).all((1, 2, 3)) for other in (IMAGES[0][:, ::-1], IMAGES[0]))
    assert (flipped ^ straight).all() and 0.15 < flipped.mean() < 0.35


def test_the_draws_belong_to_seed_step_and_place():
    batch = {"image": np.arange(30, dtype=np.int32), "label": np.zeros(30, np.int32)}
    spec = ("pad_crop:2", "horizontal_flip")
    ours, other = fetching(*spec), fetching(*spec, seed=1)
    np.testing.assert_array_equal(ours(7, batch), ours(7, batch))
    assert (ours(7, batch) != ours(8, batch)).any() and (ours(7, batch) != other(7, batch)).any()


def test_when_pictures_lie_on_the_device(monkeypatch):
    assert not lies_on_device(settings(), SOURCE)  # on a CPU they already do
    assert lies_on_device(settings(on_device="always"), SOURCE)
    monkeypatch.setattr(device_data.jax, "default_backend", lambda: "gpu")
    assert lies_on_device(settings(augment=("pad_crop:2", "horizontal_flip")), SOURCE)
    assert not lies_on_device(settings(on_device="never"), SOURCE)
    assert not lies_on_device(settings(on_device_limit=IMAGES.nbytes - 1), SOURCE)
    assert not lies_on_device(settings(augment=("vertical_flip",)), SOURCE)


def test_what_cannot_lie_there_is_refused_in_one_message():
    source = ArraySource(IMAGES, np.arange(30) % 3, ("a", "b", "c"))
    source.image_shape = None
    with pytest.raises(
        ValueError, match=r"cannot be: data.augment has 'resize', and on the device .*; the training pictures"
    ):
        lies_on_device(settings(on_device="always", augment=("resize:8",)), source)
    with pytest.raises(ValueError, match=r"unknown data.on_device 'yes'; there are: auto, always, never"):
        lies_on_device(settings(on_device="yes"), source)
