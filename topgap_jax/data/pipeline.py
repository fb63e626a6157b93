"""From a source to batches: shuffle, augment, shard, batch (Grain); and every example once for evaluation."""

import os
from collections.abc import Iterator, Sequence

import grain
import numpy as np
from absl import flags

from topgap_jax.data.augmentation.transforms import Transform, to_float
from topgap_jax.data.sources import Example, Source

# Endless, but small enough that Grain can compute with the number in floating point.
ENDLESS = 2**50


def train_batches(
    source: Source,
    *,
    batch_size: int,
    seed: int,
    transforms: Sequence[Transform] = (),
    fields: Sequence[str] = ("image", "label"),
    process_index: int = 0,
    process_count: int = 1,
    workers: int = 0,
    start: int = 0,
) -> grain.DatasetIterator:
    """An endless iterator of batches: `image` `[B, H, W, C]`, `label` int32 `[B]` and what else is asked for.

    Images are uint8, or float32 in [0, 1], as source and transforms leave them. Every epoch visits each
    example once, in an order that depends on `seed` and the epoch alone; batches run on over the end of an
    epoch. Each example has a generator for its transforms that belongs to the seed and its place in the
    order, so neither workers nor processes change what is seen. `start` resumes in mid-epoch to the bit,
    also with another number of workers, and so do the iterator's `get_state`/`set_state` with the same.

    Args:
      source: examples with `image` and `label`.
      batch_size: of this process.
      seed: of the order and of the augmentation.
      transforms: applied per example, in order.
      fields: of the examples, such as `("image", "label", "mask", "box")`; the others are left behind.
      process_index, process_count: this process reads every `process_count`-th batch of the endless order, so
          that lengths need not divide and no process runs dry before another. Put one after the other, the
          processes' batches are the batch of a single process.
      workers: processes that load and augment; 0 for threads.
      start: batches of this process to pass over, which costs nothing.

    Raises:
      ValueError: a field that the examples do not have.
    """
    dataset = grain.MapDataset.source(_Fields(source, fields)).seed(seed).shuffle()
    dataset = dataset.repeat(max(1, ENDLESS // len(source)))
    for transform in transforms:
        dataset = dataset.random_map(transform)
    dataset = dataset.batch(batch_size)
    dataset = dataset[process_index::process_count] if process_count > 1 else dataset
    batches = dataset[start:].to_iter_dataset(_read_options(1 if workers else _cores()))
    if workers:
        if not flags.FLAGS.is_parsed():  # in a notebook; Grain's workers read absl's flags
            flags.FLAGS.mark_as_parsed()
        batches = batches.mp_prefetch(grain.MultiprocessingOptions(num_workers=workers))
    return iter(batches)


def eval_batches(
    source: Source,
    *,
    batch_size: int,
    process_index: int = 0,
    process_count: int = 1,
) -> Iterator[tuple[dict[str, np.ndarray], int]]:
    """Every example once, in order, as `(batch, valid)`: the last batch is filled up with copies.

    A batch has `image`, `label` and, where there are groups, `group`. `batch_size` is the global one; this
    process gets its contiguous part of each batch, and `valid` counts the real examples of the global batch,
    which stand first. Threads load a few batches ahead.
    """
    there = source[0]
    fields = [name for name in ("image", "label", "group") if name in there]
    part = batch_size // process_count
    dealt = _Dealt(_Fields(source, fields), batch_size, process_index * part, part)
    batches = grain.MapDataset.source(dealt).batch(part).to_iter_dataset(_read_options(_cores()))
    for start, batch in zip(range(0, len(source), batch_size), batches, strict=True):
        yield batch, min(batch_size, len(source) - start)


def first_examples(source: Source, count: int) -> dict[str, np.ndarray]:
    """The first `count` examples (or all) with every field they have, `image` as float32 in [0, 1]."""
    rng, as_float = np.random.default_rng(0), to_float()
    examples = [as_float(source[index], rng) for index in range(min(count, len(source)))]
    return {name: np.stack([example[name] for example in examples]) for name in examples[0]}


class _Fields:
    """The wanted fields: decoding and batching the others costs time."""

    def __init__(self, source: Source, fields: Sequence[str]):
        there = source[0]
        if missing := [name for name in fields if name not in there]:
            raise ValueError(f"the examples have no {missing[0]!r}; they have {', '.join(there)}")
        self._source, self._fields = source, tuple(fields)

    def __len__(self) -> int:
        return len(self._source)

    def __getitem__(self, index: int) -> Example:
        example = self._source[index]
        return {name: np.asarray(example[name]) for name in self._fields}


class _Dealt:
    """The part of one process of each batch, in order; the last example fills up the last batch."""

    def __init__(self, examples: _Fields, batch_size: int, offset: int, part: int):
        self._examples, self._batch_size, self._offset, self._part = examples, batch_size, offset, part

    def __len__(self) -> int:
        return -(-len(self._examples) // self._batch_size) * self._part

    def __getitem__(self, position: int) -> Example:
        batch, within = divmod(position, self._part)
        index = batch * self._batch_size + self._offset + within
        return self._examples[min(index, len(self._examples) - 1)]


def _cores() -> int:
    """Threads that help: Pillow and NumPy let them run at the same time."""
    return min(16, len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1)


def _read_options(threads: int) -> grain.ReadOptions:
    """Each thread makes whole batches; two more wait for the device."""
    return grain.ReadOptions(num_threads=threads, prefetch_buffer_size=threads + 2)
