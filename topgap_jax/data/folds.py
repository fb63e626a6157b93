"""Stratified cross-validation: which examples a fold trains, validates and tests on."""

import warnings
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from topgap_jax.data.sources import Example, Source

TEST_FOLD, VALIDATION_FOLD = "test_fold", "validation_fold"  # names of a fold's own splits
PER_EXAMPLE = ("labels", "groups", "boxes")
OF_THE_WHOLE = ("num_classes", "class_names", "image_shape", "group_names", "pixel_size")


class Fold(NamedTuple):
    """Which examples, by their index in the whole; every example is in one of the three."""

    train: np.ndarray
    validation: np.ndarray
    test: np.ndarray


class Subset:
    """Some examples of a source, in the order of `indices`; picklable where the source is.

    Args:
        source: the whole.
        indices: whole numbers `[N]` in 0..len(source)-1.
    """

    num_classes: int
    class_names: list[str]
    labels: np.ndarray
    image_shape: tuple[int, int, int] | None

    def __init__(self, source: Source, indices: np.ndarray) -> None:
        self._source: Any = source
        self.indices = np.asarray(indices)
        for name in OF_THE_WHOLE:
            if hasattr(source, name):
                setattr(self, name, getattr(source, name))
        for name in PER_EXAMPLE:
            if getattr(source, name, None) is not None:
                setattr(self, name, np.asarray(getattr(source, name))[self.indices])
        if hasattr(source, "paths"):
            self.paths = [source.paths[index] for index in self.indices]

    @property
    def images(self) -> np.ndarray:
        """The pictures of a source that holds them in memory; there is no such attribute otherwise."""
        return self._source.images[self.indices]

    def __len__(self) -> int:
        return len(self.indices)

    def __getitem__(self, index: int) -> Example:
        return self._source[int(self.indices[index])]


def dealt(source: Source) -> Source:
    """A source whose examples lie class by class, as folders give them, dealt out like cards.

    Every beginning then shows the classes in about their proportions, so that "the first 512" is a fair
    sample. Other orders are left as they are.
    """
    labels = np.asarray(source.labels)
    if len(labels) < 2 or (np.diff(labels) < 0).any() or labels[0] == labels[-1]:
        return source
    counts = np.bincount(labels)
    starts = np.cumsum(counts) - counts
    turn = (np.arange(len(labels)) - starts[labels] + 0.5) / counts[labels]
    return Subset(source, np.lexsort((labels, turn)))


def stratified_folds(
    labels: np.ndarray,
    folds: int,
    *,
    seed: int = 0,
    validation: int = 10,
    groups: np.ndarray | None = None,
    class_names: Sequence[str] = (),
) -> list[Fold]:
    """Divides examples into folds that have the classes in the proportions of the whole.

    Every example is in the test part of exactly one fold. What a fold does not test on is divided again:
    one example in `validation` validates, stratified too, the others train. Test and validation come in
    mixed order, so that the first few are a fair sample; `train` ascends.

    Args:
        labels: class of each example, `[N]` in 0..num_classes-1.
        folds: how many, at least 2.
        seed: of the division; the same labels, groups and seed give the same folds.
        validation: one in so many of the rest, at least 2; fewer where no class has so many examples.
        groups: whole numbers `[N]`; examples of one group (a specimen, a patient) stay in one part.
        class_names: for messages.

    Raises:
        ValueError: counts out of range, or classes (all of them named) with fewer examples, or groups, than
            folds.

    The folds are scikit-learn's `StratifiedKFold`, or `StratifiedGroupKFold` with groups.
    """
    labels = np.asarray(labels)
    names = list(class_names) or [str(label) for label in range(int(labels.max(initial=-1)) + 1)]
    _check_counts(labels, folds, validation, groups, names)
    every = np.arange(len(labels))
    return [
        _fold(number, rest, test, labels, groups, seed, validation, names)
        for number, (rest, test) in enumerate(_splitter(folds, seed, groups).split(every, labels, groups))
    ]


def fold_parts(
    source: Source, folds: int, fold: int, *, seed: int = 0, validation: int = 10, by_group: bool = False
) -> tuple[Subset, Subset, Subset]:
    """The training, validation and test part of one fold of a source; see `stratified_folds`.

    Raises:
        ValueError: no such fold, a source without labels (or groups, with `by_group`), or one that cannot be
            divided so.
    """
    if not 0 <= fold < folds:
        raise ValueError(
            f"data.fold={fold} is none of the folds 0 to {folds - 1}; `cross_validate` trains them all"
        )
    parts = source_folds(source, folds, seed=seed, validation=validation, by_group=by_group)[fold]
    train, held_out, test = (Subset(source, indices) for indices in parts)
    return train, held_out, test


def source_folds(
    source: Source, folds: int, *, seed: int = 0, validation: int = 10, by_group: bool = False
) -> list[Fold]:
    """The folds of a source, known from its labels without decoding a picture."""
    labels, groups = getattr(source, "labels", None), getattr(source, "groups", None)
    if labels is None:
        raise ValueError(
            f"{type(source).__name__} does not know its labels without reading every example: "
            "stratified folds need `labels`, int32 [N]"
        )
    if by_group and groups is None:
        raise ValueError(
            "data.fold_groups: the examples of this data set belong to no groups; for a folder, give a "
            "manifest with a column 'group', for arrays an array 'groups'"
        )
    return stratified_folds(
        labels,
        folds,
        seed=seed,
        validation=validation,
        groups=groups if by_group else None,
        class_names=source.class_names,
    )


def _splitter(parts: int, seed: int, groups: np.ndarray | None) -> Any:
    # Here, since scikit-learn takes a second to import and a run without folds does not need it.
    from sklearn.model_selection import StratifiedGroupKFold, StratifiedKFold

    kind = StratifiedKFold if groups is None else StratifiedGroupKFold
    return kind(parts, shuffle=True, random_state=seed)


def _fold(
    number: int,
    rest: np.ndarray,
    test: np.ndarray,
    labels: np.ndarray,
    groups: np.ndarray | None,
    seed: int,
    validation: int,
    names: Sequence[str],
) -> Fold:
    if not len(test):
        raise ValueError(
            f"fold {number} would test nothing: the groups are too few or too large for so many folds"
        )
    train, held_out = _carve(number, rest, labels, groups, seed, validation, names)
    order = np.random.default_rng((seed, number))
    return Fold(train, order.permutation(held_out), order.permutation(test))


def _carve(
    number: int,
    rest: np.ndarray,
    labels: np.ndarray,
    groups: np.ndarray | None,
    seed: int,
    validation: int,
    names: Sequence[str],
) -> tuple[np.ndarray, np.ndarray]:
    """Training and validation indices: the first division that leaves every class something to train on."""
    members = None if groups is None else groups[rest]
    most = int(np.bincount(labels[rest]).max())
    parts = min(validation, most, most if members is None else len(np.unique(members)))
    missing = np.setdiff1d(np.arange(len(names)), labels[rest])
    if parts > 1 and not missing.size:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "The least populated class", UserWarning)
            splits = list(_splitter(parts, seed, members).split(rest, labels[rest], members))
        for train, held_out in splits:
            missing = np.setdiff1d(np.arange(len(names)), labels[rest[train]])
            if len(held_out) and not missing.size:
                return rest[train], rest[held_out]
    lacking = ", ".join(names[label] for label in missing) or "any class"
    raise ValueError(
        f"fold {number} leaves no examples to train on of {lacking}, once test and validation are taken out: "
        "use fewer folds, more examples or groups, or another data.fold_seed"
    )


def _check_counts(
    labels: np.ndarray, folds: int, validation: int, groups: np.ndarray | None, names: Sequence[str]
) -> None:
    if folds < 2:
        raise ValueError(f"data.folds={folds}: cross-validation needs at least 2 folds (0: none)")
    if validation < 2:
        raise ValueError(f"data.fold_validation={validation}: one example in 2 or more validates")
    if groups is None:
        counts = np.bincount(labels, minlength=len(names))
    else:
        pairs = np.unique(np.stack([labels, groups]), axis=1)
        counts = np.bincount(pairs[0], minlength=len(names))
    if (scarce := np.flatnonzero(counts < folds)).size:
        kind = "examples" if groups is None else "groups"
        found = ", ".join(f"{names[int(label)]} ({counts[label]})" for label in scarce)
        raise ValueError(f"{folds} folds need at least {folds} {kind} of every class; too few of: {found}")
