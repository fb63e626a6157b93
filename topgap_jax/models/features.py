"""What a backbone declares about the maps that it returns."""

from typing import NamedTuple, Protocol

import jax


class FeatureInfo(NamedTuple):
    """One map of a backbone."""

    channels: int
    stride: int  # input pixels per position of the map


class Backbone(Protocol):
    """Normalised images `[B, H, W, C]` to one map `[B, h, w, channels]` per entry of `feature_info`."""

    feature_info: tuple[FeatureInfo, ...]

    def __call__(self, x: jax.Array, *, train: bool = False) -> tuple[jax.Array, ...]: ...
