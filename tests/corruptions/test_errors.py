"""The figures over corruptions, each by hand."""

import pytest

from topgap_jax.corruptions import (
    ALEXNET_ERRORS,
    PAPER,
    corruption_error,
    is_published_set,
    mean_accuracy,
    mean_corruption_error,
)

MEASURED = {"fog": {1: 0.9, 3: 0.5}, "snow": {1: 0.8, 3: 0.6}}


def test_figures_by_hand():
    assert corruption_error(MEASURED) == pytest.approx({"fog": 0.3, "snow": 0.3})
    assert mean_corruption_error(MEASURED) == pytest.approx(0.3)
    assert mean_accuracy(MEASURED) == pytest.approx(0.85)
    assert mean_accuracy(MEASURED, 3) == pytest.approx(0.55)


def test_alexnet_is_1():
    accuracies = {name: dict.fromkeys(range(1, 6), 1 - error) for name, error in ALEXNET_ERRORS.items()}
    assert set(accuracies) == set(PAPER) and is_published_set(accuracies)
    assert mean_corruption_error(accuracies, ALEXNET_ERRORS) == pytest.approx(1)
    halved = {name: {s: 1 - (1 - a) / 2 for s, a in found.items()} for name, found in accuracies.items()}
    assert mean_corruption_error(halved, ALEXNET_ERRORS) == pytest.approx(0.5)


def test_only_the_whole_set_has_a_published_figure():
    accuracies = {name: dict.fromkeys(range(1, 6), 0.5) for name in PAPER}
    assert not is_published_set(MEASURED)
    with pytest.raises(ValueError, match="differ by: brightness"):
        mean_corruption_error(MEASURED, ALEXNET_ERRORS)
    with pytest.raises(ValueError, match=r"fog was measured at severities \[1, 2\]"):
        mean_corruption_error({**accuracies, "fog": {1: 0.5, 2: 0.5}}, ALEXNET_ERRORS)
    with pytest.raises(ValueError, match="not measured at severity 2: fog, snow"):
        mean_accuracy(MEASURED, 2)
