"""Which parameters a fine-tuning run trains, and how fast: freezing by pattern, learning rates by depth."""

import re
from collections.abc import Sequence
from typing import Any

import jax
import optax

Params = dict[str, Any]
BLOCK = re.compile(r"backbone\.stages\.(\d+)\.(\d+)\.")


def frozen_mask(params: Params, patterns: Sequence[str]) -> Params:
    """True for every parameter whose path starts with one of the `patterns` (regular expressions).

    `("backbone",)` trains the head alone; `(r"backbone\\.(conv1|bn1|stages\\.[01])",)` freezes stem and first
    stages. BatchNorm's running statistics are not parameters: `model.frozen_batch_norm` stops those.

    Raises:
      ValueError: a pattern that is no regular expression or matches no parameter, or nothing left to train.
    """
    paths = _paths(params)
    for pattern in patterns:
        try:
            used = any(re.match(pattern, path) for path in jax.tree.leaves(paths))
        except re.error as error:
            raise ValueError(
                f"optimizer.freeze: {pattern!r} is not a regular expression ({error})"
            ) from error
        if not used:
            raise ValueError(
                f"optimizer.freeze: {pattern!r} matches no parameter; paths look like "
                f"{', '.join(jax.tree.leaves(paths)[:3])}"
            )
    mask = jax.tree.map(lambda path: any(re.match(pattern, path) for pattern in patterns), paths)
    if all(jax.tree.leaves(mask)):
        raise ValueError(f"optimizer.freeze={tuple(patterns)} freezes every parameter")
    return mask


def train_only(
    optimizer: optax.GradientTransformation, patterns: Sequence[str]
) -> optax.GradientTransformation:
    """`optimizer` for the parameters that are not frozen; the others get neither updates nor state."""
    if not patterns:
        return optimizer

    def labels(params: Params) -> Params:
        return jax.tree.map(lambda frozen: "frozen" if frozen else "trained", frozen_mask(params, patterns))

    return optax.partition({"trained": optimizer, "frozen": optax.set_to_zero()}, labels)


def stop_gradients(params: Params, patterns: Sequence[str]) -> Params:
    """The parameters, without a gradient into the frozen ones: their backward pass is never computed."""
    if not patterns:
        return params
    mask = frozen_mask(params, patterns)
    return jax.tree.map(lambda p, frozen: jax.lax.stop_gradient(p) if frozen else p, params, mask)


def scale_by_depth(decay: float) -> optax.GradientTransformation:
    """Layer-wise learning rates (Clark et al., 2020): `decay ** distance to the head`.

    Counted in blocks: the head has distance 0, the last block and a final normalisation 1, and the stem one
    more than the first block.
    """

    def scale(updates: Params, params: Params | None = None) -> Params:
        distances = head_distances(updates)
        return jax.tree.map(lambda update, distance: update * decay**distance, updates, distances)

    return optax.stateless(scale)


def head_distances(params: Params) -> Params:
    """For every parameter, how many blocks lie between it and the input of the head, itself included."""
    paths = _paths(params)
    blocks = sorted(
        {tuple(map(int, match.groups())) for match in map(BLOCK.match, jax.tree.leaves(paths)) if match}
    )

    def distance(path: str) -> int:
        if match := BLOCK.match(path):
            return len(blocks) - blocks.index(tuple(map(int, match.groups())))
        if path.startswith("backbone.final_norm."):
            return 1
        return len(blocks) + 1 if path.startswith("backbone.") else 0

    return jax.tree.map(distance, paths)


def _paths(params: Params) -> Params:
    return jax.tree_util.tree_map_with_path(
        lambda path, _: jax.tree_util.keystr(path, simple=True, separator="."), params
    )
