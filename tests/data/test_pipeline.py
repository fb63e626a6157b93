"""Batches: each epoch complete, the same whatever the processes and workers, resumed to the bit."""

import numpy as np
import pytest

from topgap_jax.data.augmentation.transforms import augmentation
from topgap_jax.data.pipeline import eval_batches, first_examples, train_batches


class Numbers:
    """Example i shows its own number."""

    num_classes = 256
    class_names = [str(i) for i in range(256)]  # noqa: RUF012
    image_shape = (2, 2, 1)

    def __init__(self, count):
        self.count = count
        self.labels = np.arange(count, dtype=np.int32)

    def __len__(self):
        return self.count

    def __getitem__(self, index):
        image = np.full((2, 2, 1), index, np.uint8)
        box = np.array([0, 0, 2, 1], np.float32)
        fields = {"image": image, "label": np.int32(index), "mask": image[..., 0] > 3, "box": box}
        return fields | {"group": np.int32(index % 2)}


def labels(batches, count):
    return [next(batches)["label"].tolist() for _ in range(count)]


def flat(lists):
    return [value for part in lists for value in part]


def test_every_epoch_shows_every_example_once_in_another_order():
    shown = flat(labels(train_batches(Numbers(30), batch_size=5, seed=0), 12))
    first, second = shown[:30], shown[30:]
    assert sorted(first) == sorted(second) == list(range(30))
    assert first != second and first != list(range(30))


def test_batches_run_on_over_the_end_of_an_epoch():
    shown = flat(labels(train_batches(Numbers(7), batch_size=3, seed=0), 7))
    assert all(sorted(shown[start : start + 7]) == list(range(7)) for start in (0, 7, 14))


def test_the_seed_decides_the_order():
    ours, again, other = (
        labels(train_batches(Numbers(30), batch_size=5, seed=seed), 6) for seed in (0, 0, 1)
    )
    assert ours == again != other


def test_bytes_stay_bytes_and_other_fields_stay_behind():
    batch = next(train_batches(Numbers(256), batch_size=256, seed=0))
    assert set(batch) == {"image", "label"}
    assert batch["image"].dtype == np.uint8 and batch["label"].dtype == np.int32
    np.testing.assert_array_equal(batch["image"][:, 0, 0, 0], batch["label"])
    transforms = augmentation(["to_float"])
    batch = next(train_batches(Numbers(256), batch_size=256, seed=0, transforms=transforms))
    assert batch["image"].dtype == np.float32
    np.testing.assert_array_equal(batch["image"][:, 0, 0, 0], batch["label"].astype(np.float32) / 255)


def test_masks_and_boxes_come_along_when_asked_for_and_follow_the_pictures():
    fields, transforms = ("image", "label", "mask", "box"), augmentation(["horizontal_flip:1", "resize:4"])
    batches = train_batches(Numbers(12), batch_size=5, seed=0, fields=fields, transforms=transforms)
    for _ in range(4):
        batch = next(batches)
        assert set(batch) == set(fields)
        assert batch["mask"].shape == (5, 4, 4) and batch["mask"].dtype == bool
        np.testing.assert_array_equal(batch["mask"][:, 0, 0], batch["label"] > 3)
        assert batch["box"].dtype == np.float32
        np.testing.assert_array_equal(batch["box"], np.tile([0, 2, 4, 4], (5, 1)))
    with pytest.raises(
        ValueError, match="examples have no 'depth'; they have image, label, mask, box, group"
    ):
        train_batches(Numbers(12), batch_size=5, seed=0, fields=("image", "depth"))


def noise(example, rng):
    return example | {"image": rng.random((2, 2, 1), np.float32)}


@pytest.mark.parametrize("count", [24, 7])
@pytest.mark.parametrize("processes", [2, 3, 4])
def test_processes_share_the_examples_and_the_augmentation_of_one(processes, count):
    """Dealt in turn, what the processes see is what one process sees, also the noise."""

    def one_by_one(**share):
        return train_batches(Numbers(count), batch_size=1, seed=0, transforms=[noise, noise], **share)

    alone = one_by_one()
    shared = [one_by_one(process_index=i, process_count=processes) for i in range(processes)]
    for _ in range(20):
        for part in shared:
            ours, expected = next(part), next(alone)
            np.testing.assert_array_equal(ours["label"], expected["label"])
            np.testing.assert_array_equal(ours["image"], expected["image"])


@pytest.mark.parametrize("workers", [0, pytest.param(2, marks=pytest.mark.slow)])
def test_resumes_in_mid_epoch_with_the_same_augmentation(workers):
    def batches():
        return train_batches(Numbers(30), batch_size=4, seed=0, transforms=[noise], workers=workers)

    ours = batches()
    for _ in range(5):
        next(ours)
    state = ours.get_state()
    expected = [next(ours) for _ in range(6)]
    resumed = batches()
    resumed.set_state(state)
    for batch in expected:
        again = next(resumed)
        np.testing.assert_array_equal(again["label"], batch["label"])
        np.testing.assert_array_equal(again["image"], batch["image"])


@pytest.mark.slow
@pytest.mark.parametrize("workers", [1, 3])
def test_the_order_does_not_depend_on_the_workers(workers):
    """Transforms by name travel to the worker processes as well as functions."""
    transforms = [noise, *augmentation(["pad_crop:1", "dihedral", "color_jitter:0.4:0.4:0"])]
    threads, processes = (
        train_batches(Numbers(30), batch_size=4, seed=0, transforms=transforms, workers=each)
        for each in (0, workers)
    )
    for _ in range(10):
        ours, other = next(threads), next(processes)
        np.testing.assert_array_equal(ours["label"], other["label"])
        np.testing.assert_array_equal(ours["image"], other["image"])


class Vanishing(Numbers):
    def __getitem__(self, index):
        if index > 5:
            raise ValueError(f"picture {index} is gone")
        return super().__getitem__(index)


def test_a_picture_that_cannot_be_read_stops_the_batches_with_its_message():
    batches = train_batches(Vanishing(8), batch_size=8, seed=0)
    with pytest.raises(ValueError, match=r"picture [67] is gone"):
        next(batches)
    with pytest.raises(ValueError, match=r"picture 6 is gone"):
        list(eval_batches(Vanishing(8), batch_size=3))


@pytest.mark.parametrize(("count", "batch_size"), [(10, 4), (8, 4), (3, 4), (1, 1), (200, 3)])
def test_evaluation_shows_every_example_once_in_order(count, batch_size):
    shown = []
    for batch, valid in eval_batches(Numbers(count), batch_size=batch_size):
        assert len(batch["label"]) == batch_size and set(batch) == {"image", "label", "group"}
        assert batch["image"].dtype == np.uint8
        shown += batch["label"][:valid].tolist()
    assert shown == list(range(count))


def test_evaluation_by_two_processes_joins_to_the_same_batches():
    whole = list(eval_batches(Numbers(10), batch_size=4))
    parts = [
        list(eval_batches(Numbers(10), batch_size=4, process_index=i, process_count=2)) for i in range(2)
    ]
    for (batch, valid), (first, valid_first), (second, valid_second) in zip(whole, *parts, strict=True):
        assert valid == valid_first == valid_second
        np.testing.assert_array_equal(np.concatenate([first["label"], second["label"]]), batch["label"])


def test_evaluation_loads_ahead_in_threads_but_not_without_bound():
    class Counted(Numbers):
        loaded = 0

        def __getitem__(self, index):
            Counted.loaded += 1
            return super().__getitem__(index)

    batches = eval_batches(Counted(10_000), batch_size=2)
    next(batches)
    assert Counted.loaded < 500


def test_first_examples_have_every_field():
    examples = first_examples(Numbers(10), 6)
    assert {name: value.shape for name, value in examples.items()} == {
        "image": (6, 2, 2, 1),
        "label": (6,),
        "mask": (6, 2, 2),
        "box": (6, 4),
        "group": (6,),
    }
    assert examples["image"].dtype == np.float32 and examples["image"].max() == np.float32(5) / 255
    assert len(first_examples(Numbers(3), 6)["label"]) == 3
