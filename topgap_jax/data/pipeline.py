"""From a source to batches: shard, shuffle, augment, batch (Grain); and every example once for evaluation."""

from collections.abc import Iterator, Sequence

import grain
import numpy as np
from absl import flags

from topgap_jax.data.sources import Example, Source
from topgap_jax.data.transforms import Transform


def train_batches(
    source: Source,
    *,
    batch_size: int,
    seed: int,
    transforms: Sequence[Transform] = (),
    process_index: int = 0,
    process_count: int = 1,
    workers: int = 0,
) -> grain.DatasetIterator:
    """An endless iterator of batches: `image` float32 `[B, H, W, C]` in [0, 1] and `label` int32 `[B]`.

    Every epoch visits each example once, in an order that depends on `seed` and the epoch alone; batches run
    on over the end of an epoch. The iterator's `get_state`/`set_state` resume in mid-epoch to the bit.

    Args:
      source: examples with `image` and `label`.
      batch_size: of this process.
      seed: of the order and of the augmentation.
      transforms: applied per example, in order, with a generator that belongs to seed and position.
      process_index, process_count: this process reads every `process_count`-th example of the global order.
      workers: processes that load and augment; 0 for threads.
    """
    dataset = grain.MapDataset.source(_ImageAndLabel(source)).seed(seed).shuffle().repeat(None)
    dataset = dataset[process_index::process_count] if process_count > 1 else dataset
    for transform in transforms:
        dataset = dataset.random_map(transform)
    dataset = dataset.map(_as_float).batch(batch_size)
    batches = dataset.to_iter_dataset(grain.ReadOptions(num_threads=2, prefetch_buffer_size=4))
    if workers:
        if not flags.FLAGS.is_parsed():  # in a notebook; Grain's workers read absl's flags
            flags.FLAGS.mark_as_parsed()
        batches = batches.mp_prefetch(grain.MultiprocessingOptions(num_workers=workers))
    return iter(batches)


def eval_batches(
    source: Source, *, batch_size: int, process_index: int = 0, process_count: int = 1
) -> Iterator[tuple[dict[str, np.ndarray], int]]:
    """Every example once, in order, as `(batch, valid)`: the last batch is filled up with copies.

    `batch_size` is the global one; this process gets its contiguous part of each batch, and `valid` counts
    the real examples of the global batch, which stand first.
    """
    part = batch_size // process_count
    for start in range(0, len(source), batch_size):
        stop = min(start + batch_size, len(source))
        mine = range(start + process_index * part, start + (process_index + 1) * part)
        examples = [_as_float(source[min(index, stop - 1)]) for index in mine]
        names = [name for name in ("image", "label", "group") if name in examples[0]]
        yield {name: np.stack([example[name] for example in examples]) for name in names}, stop - start


def first_examples(source: Source, count: int) -> dict[str, np.ndarray]:
    """The first `count` examples (or all) with every field they have, `image` as float32 in [0, 1]."""
    examples = [_as_float(source[index]) for index in range(min(count, len(source)))]
    return {name: np.stack([example[name] for example in examples]) for name in examples[0]}


class _ImageAndLabel:
    """Masks and groups stay behind: training does not read them, and batching them costs time."""

    def __init__(self, source: Source):
        self._source = source

    def __len__(self) -> int:
        return len(self._source)

    def __getitem__(self, index: int) -> Example:
        example = self._source[index]
        return {"image": example["image"], "label": example["label"]}


def _as_float(example: Example) -> Example:
    image = example["image"]
    if image.dtype == np.uint8:
        image = image.astype(np.float32) / np.float32(255)
    return {**example, "image": image, "label": np.int32(example["label"])}
