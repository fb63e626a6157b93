"""The data sets of a run: test sets from elsewhere, pictures of one size, and what must agree."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np

from topgap_jax.data.augmentation.transforms import augmentation, check_augmentation
from topgap_jax.data.folds import TEST_FOLD, VALIDATION_FOLD, dealt, fold_parts
from topgap_jax.data.sources import Example, Source, load_source

ENTRY = {"source": str, "split": str, "options": Mapping}  # of data.tests_elsewhere; options may be left out
WITHOUT_CHANCE = ("resize", "resize_short", "center_crop")  # what evaluation may do to pictures


class DataError(RuntimeError):
    """Pictures that could be read when the run was prepared, and cannot be any more."""


@contextmanager
def reading() -> Iterator[None]:
    """Around the reading of pictures: whatever goes wrong there becomes a `DataError`."""
    try:
        yield
    except Exception as error:  # decoders and file systems have many kinds
        raise DataError(
            f"{error}; the checkpoints so far are kept, and a new start goes on from them"
        ) from error


class Prepared:
    """A source whose examples went through transforms without chance, such as `center_crop`.

    Args:
      source: the pictures as they are.
      spec: names of transforms, see `augmentation`.

    Raises:
      ValueError: transforms that are unknown or draw random numbers, or results that differ in size.
    """

    def __init__(self, source: Source, spec: Sequence[str]):
        if drawing := [entry for entry in spec if entry.partition(":")[0] not in WITHOUT_CHANCE]:
            there = ", ".join(WITHOUT_CHANCE)
            raise ValueError(f"data.eval_transforms has {drawing[0]!r}; for evaluation there are {there}")
        self.num_classes, self.class_names = source.num_classes, source.class_names
        self.labels = source.labels
        self.image_shape: tuple[int, int, int] | None = check_augmentation(spec, source)
        for name in ("groups", "group_names"):
            if hasattr(source, name):
                setattr(self, name, getattr(source, name))
        self._source, self._transforms = source, augmentation(spec)

    def __len__(self) -> int:
        return len(self._source)

    def __getitem__(self, index: int) -> Example:
        example, rng = self._source[index], np.random.default_rng(0)
        for transform in self._transforms:
            example = transform(example, rng)
        return example


def test_names(config: Any) -> tuple[str, ...]:
    """The test sets that `config` (the field `data`) names: its splits first, then those of other sources."""
    return (*config.test, *config.tests_elsewhere)


def first_test(config: Any) -> str:
    """The first test set of `config` (the field `data`), or its validation split where it has none."""
    return next(iter(test_names(config)), config.validation)


def load_sources(config: Any) -> dict[str, Source]:
    """Every data set that `config` (the field `data`) names.

    Raises:
      ValueError: what a source refuses, or a test set from elsewhere that is not described as
        `{"source": ..., "split": ..., "options": {...}}` or has the name of a split of this source.
    """
    if taken := {config.train, config.validation, *config.test} & set(config.tests_elsewhere):
        raise ValueError(f"data.tests_elsewhere names {min(taken)!r}, which is a split of this run already")
    fold = load_fold(config)
    names = {config.train, config.validation, *test_names(config)}
    return {name: load_split(config, name, fold) for name in sorted(names)}


def load_split(config: Any, name: str, fold: Mapping[str, Source] | None = None) -> Source:
    """One data set of a run: a part of its fold, a test set from elsewhere, or a split of its source."""
    fold = load_fold(config) if fold is None else fold
    if name in fold:
        source = fold[name]
    elif name in config.tests_elsewhere:
        source = _load_entry(name, config.tests_elsewhere.to_dict()[name])
    else:
        source = load_source(config.source, name, **config.options)
    if name == config.train:
        return source
    return Prepared(dealt(source), config.eval_transforms) if config.eval_transforms else dealt(source)


def load_fold(config: Any) -> dict[str, Source]:
    """The parts of the fold `config.fold`, all taken from the split `config.train`; none without folds."""
    if not config.folds:
        if config.fold != -1 or config.fold_groups:
            raise ValueError(
                f"data.fold={config.fold}, data.fold_groups={config.fold_groups} need data.folds, such as 5"
            )
        return {}
    whole = load_source(config.source, config.train, **config.options)
    train, validation, test = fold_parts(
        whole,
        config.folds,
        config.fold,
        seed=config.fold_seed,
        validation=config.fold_validation,
        by_group=config.fold_groups,
    )
    return {config.train: train, VALIDATION_FOLD: validation, TEST_FOLD: test}


def check_agreement(
    names: Sequence[str], sources: Mapping[str, Source], train: str, image_shape: tuple[int, ...]
) -> None:
    """Raises a ValueError, with every reason, if a network for `train` cannot be evaluated on `names`.

    `image_shape` is that of the pictures it is trained on; evaluation may have other heights and widths.
    """
    problems = []
    for name in names:
        ours, theirs = list(sources[train].class_names), list(sources[name].class_names)
        if ours != theirs:
            problems.append(f"the classes of {name!r} are not those of training: {_difference(theirs, ours)}")
        shape = sources[name].image_shape
        if shape is None:
            problems.append(
                f"the pictures of {name!r} differ in size: give the source the option size, or "
                "data.eval_transforms such as ('resize_short:256', 'center_crop:224')"
            )
        elif shape[-1] != image_shape[-1]:
            problems.append(f"the pictures of {name!r} have {shape[-1]} channels, not {image_shape[-1]}")
    shapes = {name: tuple(sources[name].image_shape or ()) for name in names}
    sized = {name: "x".join(map(str, shape[:2])) for name, shape in shapes.items() if shape}
    if len(set(sized.values())) > 1:
        each = ", ".join(f"{name!r} {size}" for name, size in sized.items())
        problems.append(f"validation and test sets need pictures of one size, not {each}")
    if problems:
        raise ValueError("; ".join(problems))


def _load_entry(name: str, entry: Any) -> Source:
    expected = "{'source': ..., 'split': ..., 'options': {...}}"
    complete = isinstance(entry, Mapping) and {"source", "split"} <= entry.keys() <= ENTRY.keys()
    if not complete or not all(isinstance(value, ENTRY[field]) for field, value in entry.items()):
        raise ValueError(f"data.tests_elsewhere.{name} must be {expected}, not {entry}")
    return load_source(entry["source"], entry["split"], **entry.get("options", {}))


def _difference(theirs: Sequence[str], ours: Sequence[str]) -> str:
    if len(theirs) != len(ours):
        return f"{len(theirs)}, not {len(ours)}"
    index = next(i for i, (one, other) in enumerate(zip(theirs, ours, strict=True)) if one != other)
    return f"number {index} is {theirs[index]!r}, not {ours[index]!r}"
