"""Common corruptions of pictures: the 15 types of ImageNet-C and its 4 extra ones, at severities 1 to 5."""

from topgap_jax.corruptions.batch import CORRUPTIONS, chosen_variant, corrupt, needs_colour
from topgap_jax.corruptions.errors import (
    ALEXNET_ERRORS,
    corruption_error,
    is_published_set,
    mean_accuracy,
    mean_corruption_error,
)
from topgap_jax.corruptions.severities import EXTRA, PAPER, VARIANTS

__all__ = [
    "ALEXNET_ERRORS",
    "CORRUPTIONS",
    "EXTRA",
    "PAPER",
    "VARIANTS",
    "chosen_variant",
    "corrupt",
    "corruption_error",
    "is_published_set",
    "mean_accuracy",
    "mean_corruption_error",
    "needs_colour",
]
