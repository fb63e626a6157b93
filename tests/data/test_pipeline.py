import numpy as np
import pytest

from topgap_jax.data.pipeline import eval_batches, first_examples, train_batches


class Numbers:
    """Example i shows its own number."""

    def __init__(self, count):
        self.count = count

    def __len__(self):
        return self.count

    def __getitem__(self, index):
        image = np.full((2, 2, 1), index, np.uint8)
        return {"image": image, "label": index, "mask": image[..., 0] > 3, "group": np.int32(index % 2)}


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


def test_images_become_floats_in_the_unit_range():
    batch = next(train_batches(Numbers(256), batch_size=256, seed=0))
    assert batch["image"].dtype == np.float32 and batch["label"].dtype == np.int32
    np.testing.assert_allclose(batch["image"][:, 0, 0, 0] * 255, batch["label"], rtol=1e-6)
    assert set(batch) == {"image", "label"}


@pytest.mark.parametrize("processes", [2, 3, 4])
def test_processes_share_an_epoch_without_loss_or_repetition(processes):
    shown = [
        flat(
            labels(
                train_batches(Numbers(24), batch_size=2, seed=0, process_index=i, process_count=processes),
                12 // processes,
            )
        )
        for i in range(processes)
    ]
    assert sorted(flat(shown)) == list(range(24))


def noise(example, rng):
    return example | {"image": rng.random((2, 2, 1), np.float32)}


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
def test_the_order_does_not_depend_on_the_workers():
    threads, processes = (
        train_batches(Numbers(30), batch_size=4, seed=0, transforms=[noise], workers=workers)
        for workers in (0, 2)
    )
    for _ in range(10):
        ours, other = next(threads), next(processes)
        np.testing.assert_array_equal(ours["label"], other["label"])
        np.testing.assert_array_equal(ours["image"], other["image"])


@pytest.mark.parametrize(("count", "batch_size"), [(10, 4), (8, 4), (3, 4), (1, 1)])
def test_evaluation_shows_every_example_once_in_order(count, batch_size):
    shown = []
    for batch, valid in eval_batches(Numbers(count), batch_size=batch_size):
        assert len(batch["label"]) == batch_size
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


def test_first_examples_have_every_field():
    examples = first_examples(Numbers(10), 6)
    assert {name: value.shape for name, value in examples.items()} == {
        "image": (6, 2, 2, 1),
        "label": (6,),
        "mask": (6, 2, 2),
        "group": (6,),
    }
    assert len(first_examples(Numbers(3), 6)["label"]) == 3
