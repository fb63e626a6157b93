"""Figures over corruptions; the same tables of accuracies under several names, each stated with its own."""

from collections.abc import Mapping

import numpy as np

from topgap_jax.corruptions.severities import PAPER

Accuracies = Mapping[str, Mapping[int, float]]  # corruption -> severity -> accuracy in [0, 1]

# Error of AlexNet on ImageNet-C, a mean over severities 1 to 5 (Hendrycks and Dietterich, 2019, table 1, with
# the digits of the published code).
ALEXNET_ERRORS = {
    "gaussian_noise": 0.886428,
    "shot_noise": 0.894468,
    "impulse_noise": 0.922640,
    "defocus_blur": 0.819880,
    "glass_blur": 0.826268,
    "motion_blur": 0.785948,
    "zoom_blur": 0.798360,
    "snow": 0.866816,
    "frost": 0.826572,
    "fog": 0.819324,
    "brightness": 0.564592,
    "contrast": 0.853204,
    "elastic_transform": 0.646056,
    "pixelate": 0.717840,
    "jpeg_compression": 0.606500,
}


def corruption_error(accuracies: Accuracies) -> dict[str, float]:
    """Per corruption the mean of 1 - accuracy over its severities: "unnormalised corruption error"."""
    return {name: float(1 - np.mean(list(found.values()))) for name, found in accuracies.items()}


def mean_corruption_error(accuracies: Accuracies, baseline: Mapping[str, float] | None = None) -> float:
    """The mean over corruptions of their errors, each divided by a baseline's error where one is given.

    With `ALEXNET_ERRORS` this is the published mCE of ImageNet-C, meaningful for that data set alone (1.0 is
    as bad as AlexNet); without, "unnormalised mCE", as CIFAR-10-C is reported.

    Args:
      accuracies: corruption -> severity -> accuracy in [0, 1].
      baseline: corruption -> error of the network to compare with.

    Raises:
      ValueError: with a baseline, a corruption that it lacks, a missing one, or other than five severities.
    """
    errors = corruption_error(accuracies)
    if baseline is None:
        return float(np.mean(list(errors.values())))
    if set(errors) != set(baseline):
        missing = sorted(set(errors) ^ set(baseline))
        raise ValueError(f"the baseline and the measured corruptions differ by: {', '.join(missing)}")
    for name, found in accuracies.items():
        if set(found) != {1, 2, 3, 4, 5}:
            raise ValueError(
                f"{name} was measured at severities {sorted(found)}; the baseline is over 1 to 5"
            )
    return float(np.mean([errors[name] / baseline[name] for name in errors]))


def mean_accuracy(accuracies: Accuracies, severity: int = 1) -> float:
    """The mean over corruptions of the accuracy at one severity; at 1 the Top-GAP paper's figure (table 6).

    Raises:
      ValueError: a corruption that was not measured at this severity.
    """
    missing = [name for name, found in accuracies.items() if severity not in found]
    if missing:
        raise ValueError(f"not measured at severity {severity}: {', '.join(missing)}")
    return float(np.mean([found[severity] for found in accuracies.values()]))


def is_published_set(accuracies: Accuracies) -> bool:
    """Whether all 15 corruptions of ImageNet-C were measured at all five severities, and nothing else."""
    return set(accuracies) == set(PAPER) and all(
        set(found) == {1, 2, 3, 4, 5} for found in accuracies.values()
    )
