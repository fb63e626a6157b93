import numpy as np
import pytest

from topgap_jax.data.arrays import ArraySource
from topgap_jax.data.embedded import TexturedDigits
from topgap_jax.training.evaluate import accuracy
from topgap_jax.training.groups import group_accuracies, group_shares

NAMES = ("landbird on land", "landbird on water", "waterbird on land", "waterbird on water")
TRAINING = np.repeat(np.arange(4), (3498, 184, 56, 1057))  # Waterbirds' own counts
TEST = np.repeat(np.arange(4), (2255, 2255, 642, 642))
CORRECT = np.arange(len(TEST)) % 10 < np.repeat([10, 8, 5, 9], (2255, 2255, 642, 642))


class Birds:
    groups, group_names = TRAINING, NAMES


def test_shares_of_the_groups():
    assert group_shares(Birds()) == pytest.approx(
        dict(zip(NAMES, np.array([3498, 184, 56, 1057]) / 4795, strict=True))
    )
    assert group_shares(ArraySource(np.zeros((2, 4, 4, 3), np.uint8), np.array([0, 1]), "ab")) == {}
    source = TexturedDigits("validation", num_images=40, size=24, object_size=12)
    assert sum(group_shares(source).values()) == pytest.approx(1)


def test_raw_re_weighted_and_worst_are_three_figures():
    result = {"prediction": CORRECT.astype(int), "label": np.ones(len(TEST), int), "group": TEST}
    raw, weighted, worst = accuracy("test", result, NAMES, group_shares(Birds()))
    of_group = [CORRECT[group == TEST].mean() for group in range(4)]
    assert raw == {"split": "test", "value": pytest.approx(CORRECT.mean()), "count": 5794}
    expected = np.average(of_group, weights=[3498, 184, 56, 1057])
    assert (weighted["split"], weighted["group"], weighted["count"]) == ("test", "re-weighted", 5794)
    assert weighted["value"] == pytest.approx(expected)
    shares = np.array([3498, 184, 56, 1057]) / 4795
    assert weighted["effective_count"] == pytest.approx(1 / (shares**2 / [2255, 2255, 642, 642]).sum())
    assert worst["value"] == pytest.approx(min(of_group)) and worst["count"] == 642
    assert (worst["group"], worst["name"]) == ("worst", "waterbird on land")
    assert len({round(figure["value"], 3) for figure in (raw, weighted, worst)}) == 3


def test_equal_shares_leave_the_mean_and_its_count():
    shares = group_shares(Birds())
    (weighted, _) = group_accuracies(np.arange(4795) % 3 > 0, TRAINING, NAMES, shares)
    assert weighted["value"] == pytest.approx((np.arange(4795) % 3 > 0).mean())
    assert weighted["effective_count"] == pytest.approx(4795)


@pytest.mark.parametrize(
    ("names", "training"),
    [
        (NAMES, {}),  # training has no groups
        (("calm", "rain", "snow", "fog"), group_shares(Birds())),  # other groups than in training
        ((*NAMES[:3], "a new one"), group_shares(Birds())),  # one of training's is missing
    ],
)
def test_groups_that_training_does_not_weigh_leave_the_worst_one(names, training):
    figures = group_accuracies(CORRECT, TEST, names, training)
    assert [figure["group"] for figure in figures] == ["worst"]


def test_groups_without_names_go_by_their_numbers():
    (figure,) = group_accuracies(CORRECT, TEST, (), {})
    assert figure["name"] == "2"
