"""k-winners-take-all (Xiao et al., 2019): an activation that keeps the largest values of a whole map."""

import dataclasses

import jax
import jax.numpy as jnp

from topgap_jax.nn.pooling import among_largest


@dataclasses.dataclass(frozen=True)
class KWTA:
    """`k_winners_take_all` with a fixed share, as an activation: two of the same share are equal.

    Args:
      share: the gamma of the paper, in (0, 1] (paper: 0.1 and 0.2).

    Raises:
      ValueError: a share outside (0, 1].
    """

    share: float

    def __post_init__(self) -> None:
        _check(self.share)

    def __call__(self, x: jax.Array) -> jax.Array:
        return k_winners_take_all(x, self.share)


def k_winners_take_all(x: jax.Array, share: float) -> jax.Array:
    r"""Keeps the k largest values of every example and sets the others to 0.

    .. math::
        y_i = x_i \text{ if } x_i \ge x_{(k)} \text{ else } 0, \qquad k = \lfloor \gamma C H W \rfloor

    Large means large with its sign: negative values are kept where there are not k positive ones. All values
    equal to the k-th largest are kept. The gradient passes through what is kept.

    Args:
      x: maps `[B, ...]`, floating; the winners are those of all positions and channels of one example.
      share: gamma in (0, 1]; at least one value is kept.

    Returns:
      An array of the shape and dtype of x.

    Raises:
      ValueError: a share outside (0, 1].

    Source: Xiao et al., "Enhancing Adversarial Defense by k-Winners-Take-All", 2019, section 2, for
    convolutional layers over height, width and channels together.
    """
    _check(share)
    n = x[0].size
    keep = among_largest(x.reshape(x.shape[0], n), max(int(share * n), 1))
    return jnp.where(keep.reshape(x.shape), x, 0)


def _check(share: float) -> None:
    if not 0 < share <= 1:
        raise ValueError(f"share={share} of the values to keep is outside (0, 1]")
