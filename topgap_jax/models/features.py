"""What every backbone declares and offers, and how it runs its blocks."""

from collections.abc import Iterable
from typing import Any, NamedTuple, Protocol

import jax
import jax.numpy as jnp
from flax import nnx

from topgap_jax.nn.dropout import fold


class FeatureInfo(NamedTuple):
    """One map of a backbone."""

    channels: int
    stride: int  # input pixels per position of the map


class OriginalHead(Protocol):
    """The classifier that a network was published with.

    Its last linear layer is the attribute `classifier`, which is what a new number of classes replaces.
    """

    def __call__(
        self, x: jax.Array, *, train: bool = False, key: jax.Array | None = None
    ) -> tuple[jax.Array, jax.Array]:
        """The backbone's last map `[B, h, w, C]` to logits `[B, K]` and a CAM `[B, h', w', K]`."""
        ...


class Backbone(Protocol):
    """A network without its classifier.

    `feature_info` describes the maps that a call returns, largest first. Blocks stand in `stages`, a list of
    lists, and a normalisation after the last one is called `final_norm`: layer-wise learning rates count
    depth along these.
    """

    feature_info: tuple[FeatureInfo, ...]

    def __call__(
        self, x: jax.Array, *, train: bool = False, key: jax.Array | None = None
    ) -> tuple[jax.Array, ...]:
        """Normalised images `[B, H, W, C]` to one map `[B, h, w, channels]` per entry of `feature_info`."""
        ...

    def original_head(
        self, num_classes: int, *, dropout: float = 0.0, dtype: jnp.dtype, rngs: nnx.Rngs
    ) -> OriginalHead:
        """The classifier of the publication, with fresh parameters."""
        ...


def run_blocks(
    blocks: Iterable[Any], x: jax.Array, *, train: bool, key: jax.Array | None, remat: bool = False
) -> jax.Array:
    """Applies `block(x, train=train, key=key)` one after the other, each with its own key.

    With `remat` the backward pass recomputes every block's inner activations instead of keeping them, which
    trades about a third more computation for memory that grows with the number of blocks only.
    """
    for index, block in enumerate(blocks):
        x = (_run_again if remat else _run)(block, x, fold(key, index), train)
    return x


def _run(block: Any, x: jax.Array, key: jax.Array | None, train: bool) -> jax.Array:
    return block(x, train=train, key=key)


_run_again = nnx.remat(_run, static_argnums=(3,))


def drop_path_rates(highest: float, depths: Iterable[int]) -> list[list[float]]:
    """Stochastic depth that rises linearly from 0 at the first block to `highest` at the last one."""
    depths = list(depths)
    last = max(sum(depths) - 1, 1)
    starts = [sum(depths[:stage]) for stage in range(len(depths))]
    return [
        [highest * (start + i) / last for i in range(depth)]
        for start, depth in zip(starts, depths, strict=True)
    ]
