import hashlib
import pickle

import numpy as np
import pytest
import sklearn
from sklearn.datasets import load_digits
from sklearn.model_selection import StratifiedKFold
from sklearn.utils.fixes import parse_version

from topgap_jax.data.arrays import ArraySource
from topgap_jax.data.folds import Subset, dealt, fold_parts, source_folds, stratified_folds
from topgap_jax.data.sources import load_source

LABELS = np.sort(load_digits().target)  # as in a folder with one subfolder per class
SPECIMENS = np.arange(len(LABELS)) // 7  # neighbours belong together, some across two classes


def digest(folds):
    indices = np.concatenate([np.sort(part) for fold in folds for part in fold])
    return hashlib.sha256(indices.astype("<i8").tobytes()).hexdigest()[:16]


def test_every_example_is_tested_once_and_in_one_part_of_each_fold():
    folds = stratified_folds(LABELS, 5)
    tested = np.concatenate([fold.test for fold in folds])
    assert sorted(tested) == list(range(len(LABELS)))
    for fold in folds:
        assert sorted(np.concatenate(fold)) == list(range(len(LABELS)))


def test_every_part_has_the_classes_in_the_proportions_of_the_whole():
    for fold in stratified_folds(LABELS, 5, validation=10):
        for part, share in (
            (fold.test, 1 / 5),
            (fold.validation, 4 / 5 / 10),
            (fold.train, 4 / 5 * 9 / 10),
        ):
            expected = np.bincount(LABELS) * share
            np.testing.assert_allclose(np.bincount(LABELS[part]), expected, atol=1.5)


def test_the_test_parts_are_those_of_scikit_learn():
    reference = StratifiedKFold(4, shuffle=True, random_state=3).split(LABELS, LABELS)
    for fold, (_, test) in zip(stratified_folds(LABELS, 4, seed=3), reference, strict=True):
        assert sorted(fold.test) == sorted(test)


def test_the_folds_of_a_seed_stay_the_same():
    """These change only if scikit-learn's algorithm does: then runs begun before cannot be resumed."""
    assert digest(stratified_folds(LABELS, 5, seed=0)) == "6264860ef5ecafec"
    assert digest(stratified_folds(LABELS, 5, seed=1)) == "ffd127474aed2260"


@pytest.mark.skipif(parse_version(sklearn.__version__) < parse_version("1.8"), reason="1.8 divides otherwise")
def test_the_folds_of_groups_stay_the_same():
    assert digest(stratified_folds(LABELS, 5, seed=0, groups=SPECIMENS)) == "728fde1ebe8c6a92"


def test_the_first_test_examples_are_a_sample_of_all_classes():
    fold = stratified_folds(LABELS, 5)[0]
    assert set(LABELS[fold.test[:100]]) == set(LABELS[fold.validation]) == set(range(10))
    again = stratified_folds(LABELS, 5)[0]
    np.testing.assert_array_equal(fold.test, again.test)


@pytest.mark.parametrize("seed", range(3))
def test_groups_stay_together(seed):
    folds = stratified_folds(LABELS, 5, seed=seed, groups=SPECIMENS)
    assert sorted(np.concatenate([fold.test for fold in folds])) == list(range(len(LABELS)))
    for fold in folds:
        found = [set(SPECIMENS[part]) for part in fold]
        assert not (found[0] & found[1] or found[0] & found[2] or found[1] & found[2])
        assert all(set(LABELS[part]) == set(range(10)) for part in fold)


@pytest.mark.parametrize("count", [2, 3, 5])
def test_classes_with_just_as_many_examples_as_folds(count):
    labels = np.repeat([0, 1, 2], [count, 40, count])
    for fold in stratified_folds(labels, count):
        assert np.bincount(labels[fold.test], minlength=3)[[0, 2]].tolist() == [1, 1]
        assert set(labels[fold.train]) == {0, 1, 2} and len(fold.validation)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"folds": 1}, "data.folds=1: cross-validation needs at least 2 folds"),
        ({"folds": 3, "validation": 1}, "data.fold_validation=1"),
        ({"folds": 5}, r"at least 5 examples of every class; too few of: cat \(3\), emu \(0\)$"),
        (
            {"folds": 2, "groups": np.array([0, 0, 0, *range(9)])},
            r"2 folds need at least 2 groups of every class; too few of: cat \(1\), emu \(0\)$",
        ),
    ],
)
def test_what_cannot_be_divided_is_said_at_once(arguments, message):
    labels = np.repeat([0, 1], [3, 9])
    with pytest.raises(ValueError, match=message):
        stratified_folds(labels, class_names=["cat", "dog", "emu"], **arguments)


@pytest.mark.parametrize(
    ("labels", "groups", "lacking"),
    [(np.repeat([0, 0, 1, 1], 3), np.repeat(range(4), 3), "(cat|dog)"), ([0, 0, 1, 1], None, "any class")],
)
def test_a_class_that_would_not_be_trained_on_is_named(labels, groups, lacking):
    with pytest.raises(ValueError, match=f"fold 0 leaves no examples to train on of {lacking}, once test"):
        stratified_folds(labels, 2, groups=groups, class_names=["cat", "dog"])


def source(groups=True):
    rng = np.random.default_rng(0)
    labels = np.repeat([0, 1, 2], 20)
    return ArraySource(
        rng.integers(0, 256, (60, 4, 5, 1), dtype=np.uint8),
        labels,
        ["a", "b", "c"],
        masks=rng.random((60, 4, 5)) < 0.5,
        groups=np.arange(60) // 3 if groups else None,
    )


def test_a_part_is_a_view_of_the_source_that_can_be_pickled():
    whole = source()
    for part in fold_parts(whole, 4, 2, seed=1):
        view = pickle.loads(pickle.dumps(part))
        assert (view.num_classes, view.class_names, view.image_shape) == (3, ["a", "b", "c"], (4, 5, 1))
        assert len(view) == len(view.labels) == len(part) and view.labels.dtype == np.int32
        for place, index in enumerate(part.indices):
            for name, value in whole[index].items():
                np.testing.assert_array_equal(view[place][name], value)
            assert view.labels[place] == whole.labels[index]
        np.testing.assert_array_equal(view.images, whole.images[part.indices])


def test_groups_and_their_names_go_along():
    whole = load_source("embedded", "in_distribution", num_images=200, size=24, object_size=14)
    train, _, test = fold_parts(whole, 3, 0)
    assert test.group_names == whole.group_names
    for part in (train, test):
        assert [example["group"] for example in map(part.__getitem__, range(len(part)))] == list(part.groups)


def test_a_source_without_labels_or_groups():
    class Unlabelled:
        class_names = ("a",)

    with pytest.raises(ValueError, match="Unlabelled does not know its labels"):
        source_folds(Unlabelled(), 3)
    with pytest.raises(ValueError, match=r"data.fold_groups: .* belong to no groups"):
        source_folds(Subset(source(groups=False), np.arange(60)), 3, by_group=True)
    with pytest.raises(ValueError, match=r"data\.fold=4 is none of the folds 0 to 3"):
        fold_parts(source(), 4, 4)


def labelled(labels):
    images = np.zeros((len(labels), 2, 2, 1), np.uint8)
    return ArraySource(images, labels, [str(n) for n in range(labels.max() + 1)])


class TestDealt:
    def test_every_beginning_shows_the_classes_in_proportion(self):
        labels = np.repeat([0, 1, 2], [60, 30, 10])
        order = dealt(labelled(labels))
        assert sorted(order.indices) == list(range(100))
        for count in (10, 20, 50):
            np.testing.assert_allclose(
                np.bincount(order.labels[:count], minlength=3) / count, [0.6, 0.3, 0.1], atol=1.01 / count
            )
        assert [order[i]["label"] for i in range(100)] == order.labels.tolist()

    def test_a_mixed_order_stays(self):
        for labels in (np.array([0, 1, 0, 2]), np.zeros(5, int), np.array([3])):
            source = labelled(labels)
            assert dealt(source) is source
