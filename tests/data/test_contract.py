"""What every source promises, and what it becomes in the pipeline; `contract.py` lists the sources."""

import itertools
import pickle

import numpy as np
import pytest

from data.contract import SOURCES, Entry
from topgap_jax.data.augmentation.transforms import resize
from topgap_jax.data.pipeline import eval_batches, train_batches
from topgap_jax.data.sources import Example, Source

TYPES = {
    "image": (np.uint8, np.float32),
    "label": np.int32,
    "mask": bool,
    "box": np.float32,
    "group": np.int32,
}


@pytest.fixture(scope="module", params=SOURCES, ids=lambda entry: entry.name)
def entry(request) -> Entry:
    return request.param


@pytest.fixture(scope="module")
def folder(entry, tmp_path_factory):
    return tmp_path_factory.mktemp(entry.name)


@pytest.fixture(scope="module")
def source(entry, folder) -> Source:
    return entry.factory(folder)


class Numbered:
    """The same examples, each labelled with its index; brought to one size where pictures differ."""

    def __init__(self, source: Source):
        self.source = source
        self.labels = np.arange(len(source), dtype=np.int32)
        self.image_shape = source.image_shape or (16, 20, source[0]["image"].shape[-1])
        self.num_classes = len(source)
        self.class_names = [str(index) for index in range(len(source))]

    def __len__(self) -> int:
        return len(self.source)

    def __getitem__(self, index: int) -> Example:
        example = self.source[index]
        if self.source.image_shape is None:
            example = resize(self.image_shape[:2])(example, np.random.default_rng(0))
        return example | {"label": np.int32(index)}


def assert_same(ours: Example, expected: Example) -> None:
    assert ours.keys() == expected.keys()
    for name, value in expected.items():
        np.testing.assert_array_equal(ours[name], value, err_msg=name)


def test_it_says_what_it_holds(source):
    assert len(source) > 1 and source.num_classes == len(source.class_names) == len(set(source.class_names))
    assert all(isinstance(name, str) for name in source.class_names)
    assert source.labels.shape == (len(source),) and source.labels.dtype == np.int32
    assert source.labels.min() >= 0 and source.labels.max() < source.num_classes
    groups = getattr(source, "groups", None)
    if groups is not None:
        assert groups.shape == (len(source),) and groups.dtype == np.int32 and groups.min() >= 0


def test_every_example_has_the_promised_types_shapes_and_ranges(source):
    fields = source[0].keys()
    assert {"image", "label"} <= fields <= TYPES.keys()
    for index, example in enumerate(source[index] for index in range(len(source))):
        assert example.keys() == fields
        for name, value in example.items():
            assert value.dtype in np.atleast_1d(TYPES[name]), name
        image = example["image"]
        assert image.ndim == 3 and image.size and source.image_shape in (None, image.shape)
        assert image.dtype == np.uint8 or 0 <= image.min() <= image.max() <= 1
        assert example["label"].shape == () and example["label"] == source.labels[index]
        if "mask" in example:
            assert example["mask"].shape == image.shape[:2]
        if "box" in example:
            top, left, bottom, right = example["box"].tolist()
            assert 0 <= top <= bottom <= image.shape[0] and 0 <= left <= right <= image.shape[1]
        if "group" in example and hasattr(source, "groups"):
            assert example["group"] == source.groups[index]


def test_an_index_gives_the_same_example_whenever_and_wherever_it_is_opened(source, entry, folder):
    again, sent = entry.factory(folder), pickle.loads(pickle.dumps(source))
    for index in reversed(range(len(source))):
        example = source[index]
        for other in (source, again, sent):
            assert_same(other[np.int64(index)], example)
    for other in (again, sent):
        assert len(other) == len(source) and other.class_names == source.class_names
        np.testing.assert_array_equal(other.labels, source.labels)


@pytest.mark.parametrize("processes", [1, 2, 3, 4, 5])
def test_processes_share_epochs_without_loss_or_repetition(source, processes):
    """The processes' examples, dealt in turn, are one epoch after the other, whatever the length."""
    numbered = Numbered(source)
    epochs = 2
    each = -(-epochs * len(source) // processes)
    fields = tuple(source[0])
    readers = [
        train_batches(
            numbered, batch_size=1, seed=3, fields=fields, process_index=index, process_count=processes
        )
        for index in range(processes)
    ]
    shown = [[next(reader) for _ in range(each)] for reader in readers]
    dealt = list(itertools.chain(*zip(*shown, strict=True)))
    order = [batch["label"].item() for batch in dealt]
    for epoch in range(epochs):
        assert sorted(order[epoch * len(source) :][: len(source)]) == list(range(len(source)))
    for batch, index in zip(dealt[: len(source)], order, strict=False):
        assert_same({name: batch[name][0] for name in fields}, numbered[index])


def test_training_resumes_in_mid_epoch_to_the_bit(source):
    numbered = Numbered(source)
    ours, resumed = (train_batches(numbered, batch_size=3, seed=0, transforms=[noise]) for _ in range(2))
    for _ in range(len(source) // 3 + 1):
        next(ours)
    resumed.set_state(ours.get_state())
    for _ in range(4):
        assert_same(next(resumed), next(ours))


def noise(example: Example, rng: np.random.Generator) -> Example:
    return example | {"label": example["label"] + np.int32(1000 * rng.integers(1000))}


@pytest.mark.parametrize("processes", [1, 2])
def test_evaluation_shows_each_example_once_in_order(source, processes):
    numbered = Numbered(source)
    parts = [
        eval_batches(numbered, batch_size=4, process_index=index, process_count=processes)
        for index in range(processes)
    ]
    shown: list[int] = []
    for batches in zip(*parts, strict=True):
        labels = np.concatenate([batch["label"] for batch, _ in batches])
        shown += labels[: batches[0][1]].tolist()
    assert shown == list(range(len(source)))


DECODED = [entry for entry in SOURCES if entry.name in ("folder", "tfds", "microscope")]


@pytest.mark.slow
@pytest.mark.parametrize("entry", DECODED, ids=lambda entry: entry.name, scope="module")
def test_worker_processes_give_the_same_batches_as_threads(source):
    threads, processes = (
        train_batches(Numbered(source), batch_size=3, seed=0, transforms=[noise], workers=workers)
        for workers in (0, 2)
    )
    for _ in range(5):
        assert_same(next(processes), next(threads))
