"""Square Attack (Andriushchenko et al., 2020): random search with squares; it needs no gradient, only logits.

Each step changes the best image so far inside a square window, and keeps the change where the loss grows.
In Linf the window gets one colour at the border of the ball; in L2 and L1 a patch of two peaks, paid for
with what another window held. The windows shrink by a schedule. AutoAttack draws one for a whole batch; here
every example has windows and signs of its own.
"""

import dataclasses
import functools
import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.tree_util import register_dataclass
from jax.typing import ArrayLike

from topgap_jax.attacks import base, checks, losses, networks, survivors, threat_models
from topgap_jax.attacks.base import AttackResult, Examples, Progress
from topgap_jax.attacks.journal import AttackLog

# The share of the image that a window covers halves after these iterations of 10,000.
HALVINGS = (10, 50, 200, 500, 1000, 2000, 4000, 6000, 8000)


class State(NamedTuple):
    """A random search remembers nothing but its best images."""

    progress: Progress


@register_dataclass
@dataclasses.dataclass(frozen=True)
class Square:
    """Random search; see `base.Attack`. An example is done at its first success, or after `queries` windows.

    Before its first pass, `progress.images` is the start: vertical stripes in Linf, a grid of patches else.
    """

    eps: float
    queries: int
    halvings: jax.Array  # int32 [9], the first iteration with the next smaller window, in growing order
    sizes: jax.Array  # int32 [10], sides of the windows in pixels, in falling order
    key: jax.Array
    norm: str = dataclasses.field(metadata={"static": True})
    loss: str = dataclasses.field(metadata={"static": True})
    targeted: bool = dataclasses.field(metadata={"static": True})

    def init(self, examples: Examples) -> State:
        progress = base.start_progress(examples)
        return State(progress._replace(images=_start(self.key, examples, self.eps, self.norm)))

    def step(self, logits_fn: networks.LogitsFn, examples: Examples, state: State) -> State:
        progress = state.progress
        images = base.select(progress.queries == 0, progress.images, self.propose(examples, progress))
        judgement = base.judge(logits_fn(images), examples, self.loss, self.targeted)
        progress = base.record(progress, images, judgement, keep_best=True)
        return State(progress._replace(done=progress.success | (progress.queries > self.queries)))

    def propose(self, examples: Examples, progress: Progress) -> jax.Array:
        """The best images with another window."""
        iterations = progress.queries - 1
        sizes = self.sizes[(iterations[:, None] >= self.halvings).sum(-1)]
        propose = _propose_colour if self.norm == "linf" else _propose_patch
        draws = _draw(self.key, examples, progress.queries, 5 + examples.images.shape[-1])
        return propose(draws, examples.images, progress.images, sizes, self.eps, self.norm)

    def conclude(self, logits_fn: networks.LogitsFn, examples: Examples, state: State) -> Progress:
        return state.progress


def _draw(key: jax.Array, examples: Examples, iterations: jax.Array, count: int) -> jax.Array:
    """Uniform in [0, 1), [B,count], the same for an example in whatever batch."""

    def draw(*numbers: jax.Array) -> jax.Array:
        return jax.random.uniform(functools.reduce(jax.random.fold_in, numbers, key), (count,))

    return jax.vmap(draw)(examples.indices, examples.attempts, iterations)


def _signs(draws: jax.Array) -> jax.Array:
    return jnp.where(draws < 0.5, -1.0, 1.0)


# --- Windows ----------------------------------------------------------------------------------------------


class Window(NamedTuple):
    """A square in each image."""

    rows: jax.Array  # int32 [B,H], counted from its upper edge
    columns: jax.Array  # int32 [B,W], counted from its left edge
    size: jax.Array  # int32 [B]

    @property
    def inside(self) -> jax.Array:
        """bool [B,H,W,1]"""
        rows, columns = (_inside(axis, self.size[:, None]) for axis in (self.rows, self.columns))
        return (rows[:, :, None] & columns[:, None, :])[..., None]


def _inside(places: jax.Array, size: jax.Array) -> jax.Array:
    return (places >= 0) & (places < size)


def _window(draws: jax.Array, size: jax.Array, shape: tuple[int, ...]) -> Window:
    """A square at a place drawn from [B,2] numbers in [0, 1), in images [B,H,W,C].

    As in AutoAttack it never touches the last row or column, unless it is as large as the image.
    """
    height, width = shape[1:3]
    top = (draws[:, 0] * (height - size)).astype(jnp.int32)
    left = (draws[:, 1] * (width - size)).astype(jnp.int32)
    return Window(jnp.arange(height) - top[:, None], jnp.arange(width) - left[:, None], size)


def patch(window: Window, transposed: jax.Array, norm: str) -> jax.Array:
    """The paper's eta: a positive and a negative peak in the halves of a window, together of norm 1.

    A half falls off with the Chebyshev distance d from its centre as `sum_(c >= d) 1 / (c + 1)^2`, in L1 with
    the fourth power. Sums fall with d, so the one at the larger of two distances is the smaller of two sums.

    Args:
      window: where.
      transposed: bool [B], left and right halves instead of upper and lower.
      norm: "l2" or "l1".

    Returns:
      [B,H,W], 0 outside the window.

    Andriushchenko et al., 2020, equation 2 and appendix A.
    """
    size, transposed = window.size[:, None], transposed[:, None]
    half = size // 2
    length = max(window.rows.shape[1], window.columns.shape[1]) + 2
    terms = 1 / np.arange(1, length + 1) ** (2.0 if norm == "l2" else 4.0)
    tails = jnp.asarray(np.cumsum(terms[::-1])[::-1], jnp.float32)

    def peaks(places: jax.Array, halved: jax.Array) -> jax.Array:
        lower = jnp.where(places < half, half // 2, half + (size - half) // 2)
        distance = jnp.abs(places - jnp.where(halved, lower, half))
        return jnp.where(_inside(places, size), tails[distance] - tails[half + 1], 0)

    height = jnp.minimum(
        peaks(window.rows, ~transposed)[:, :, None], peaks(window.columns, transposed)[:, None, :]
    )
    across = jnp.where(transposed[..., None], window.columns[:, None, :], window.rows[:, :, None])
    first = across < half[..., None]
    eta = _unit(jnp.where(first, height, 0), norm) - _unit(jnp.where(first, 0, height), norm)
    return _unit(eta, norm)


def _unit(perturbations: jax.Array, norm: str) -> jax.Array:
    order = threat_models.NORMS[norm].order
    return perturbations / jnp.maximum(threat_models.lengths(perturbations, order), 1e-12)


# --- Starts and proposals ---------------------------------------------------------------------------------


# A program of its own: the host calls it whenever an example sits down.
@functools.partial(jax.jit, static_argnames="norm")
def _start(key: jax.Array, examples: Examples, eps: jax.Array | float, norm: str) -> jax.Array:
    start = _stripes if norm == "linf" else _grid
    return _into_ball(start(key, examples, eps, norm), examples.images, eps, norm)


def _stripes(key: jax.Array, examples: Examples, eps: jax.Array | float, norm: str) -> jax.Array:
    """Columns one pixel wide, each channel at one border of the ball."""
    count, _, width, channels = examples.images.shape
    draws = _draw(key, examples, jnp.zeros_like(examples.indices), width * channels)
    return eps * _signs(draws).reshape(count, 1, width, channels)


def _grid(key: jax.Array, examples: Examples, eps: jax.Array | float, norm: str) -> jax.Array:
    """Patches side by side, a fifth of the image each, with signs and halves drawn for each."""
    count, height, width, channels = examples.images.shape
    size = max(min(height, width) // 5, 1)
    margin = max(min(height, width) - 5 * size, 0) // 2
    # Whole patches only, as AutoAttack has it; sides that no fifth divides may cut the last ones off.
    cells, places = zip(*(np.divmod(np.arange(side) - margin, size) for side in (height, width)), strict=True)
    one = Window(jnp.arange(size)[None], jnp.arange(size)[None], jnp.full(1, size))
    upright, lying = (patch(one, jnp.full(1, lie), norm)[0] for lie in (False, True))

    shape = (count, height // size, width // size, 1 + channels)
    draws = _draw(key, examples, jnp.zeros_like(examples.indices), math.prod(shape[1:])).reshape(shape)
    draws = draws[:, np.clip(cells[0], 0, shape[1] - 1)][:, :, np.clip(cells[1], 0, shape[2] - 1)]
    upright, lying = (eta[places[0]][:, places[1]] for eta in (upright, lying))
    eta = jnp.where(draws[..., 0] < 0.5, upright, lying)
    covered = [(cell >= 0) & (cell < limit) for cell, limit in zip(cells, shape[1:3], strict=True)]
    return jnp.where(np.outer(*covered)[..., None], eta[..., None] * _signs(draws[..., 1:]), 0)


def _into_ball(perturbations: jax.Array, clean: jax.Array, eps: jax.Array | float, norm: str) -> jax.Array:
    """In L2 all of eps is used before clipping to [0, 1]; in L1 it is the nearest image."""
    if norm == "l2":
        perturbations = eps * _unit(perturbations, norm)
    return threat_models.project(clean + perturbations, clean, eps, norm)


def _propose_colour(
    draws: jax.Array,
    clean: jax.Array,
    best: jax.Array,
    sizes: jax.Array,
    eps: jax.Array | float,
    norm: str,
) -> jax.Array:
    """Linf: each channel of the window at one border of the ball."""
    window = _window(draws, sizes, best.shape)
    coloured = jnp.clip(clean + eps * _signs(draws[:, None, None, 5:]), 0, 1)
    return jnp.where(window.inside, coloured, best)


def _propose_patch(
    draws: jax.Array,
    clean: jax.Array,
    best: jax.Array,
    sizes: jax.Array,
    eps: jax.Array | float,
    norm: str,
) -> jax.Array:
    """L2 and L1: a patch on top of what the window held, at the expense of another window.

    Per channel, the window gets the norm of both, and an equal part of what the image does not use of eps.
    """
    order = int(threat_models.NORMS[norm].order)
    to, giver = _window(draws, sizes, best.shape), _window(draws[:, 2:], sizes, best.shape)

    def power(perturbations: jax.Array) -> jax.Array:
        return (jnp.abs(perturbations) ** order).sum((1, 2), keepdims=True)

    def unit(perturbations: jax.Array) -> jax.Array:
        return perturbations / (1e-12 + power(perturbations) ** (1 / order))

    old = best - clean
    held = jnp.where(to.inside, old, 0)
    unused = jnp.maximum(eps**order - power(old).sum(-1, keepdims=True), 0)
    channels = best.shape[-1]
    budget = unused / channels + power(jnp.where(to.inside | giver.inside, old, 0))
    if norm == "l1":
        budget *= channels  # as in AutoAttack: more than there is, and the projection takes the smallest back
    new = patch(to, draws[:, 4] < 0.5, norm)[..., None] * _signs(draws[:, None, None, 5:])
    new = unit(new + unit(held)) * budget ** (1 / order)
    moved = jnp.where(to.inside, new, jnp.where(giver.inside, 0, old))
    return _into_ball(moved, clean, eps, norm)


# --- Schedule ---------------------------------------------------------------------------------------------


def schedule(queries: int, rescale: bool) -> np.ndarray:
    """int32 [9], the iterations from which on windows cover half of what they did before.

    With `rescale` they keep their place relative to `queries`, else to 10,000.
    """
    # The rounding is AutoAttack's.
    counted = [int(i / queries * 10_000) if rescale else i for i in range(queries)]
    return np.searchsorted(counted, HALVINGS, side="right").astype(np.int32)


def window_sizes(p: float, shape: tuple[int, ...], norm: str) -> np.ndarray:
    """int32 [10], sides of windows that cover `p / 2^k` of images [B,H,W,C]; in L2 and L1 odd, at least 3."""
    height, width = shape[1:3]
    sides = [round(math.sqrt(p / 2**k * height * width)) for k in range(len(HALVINGS) + 1)]
    sides = [max(side, 1) if norm == "linf" else max(side, 3) | 1 for side in sides]
    return np.minimum(sides, min(height, width)).astype(np.int32)


def square(
    logits_fn: Any,
    images: ArrayLike,
    labels: ArrayLike,
    *,
    eps: float,
    norm: str = "linf",
    queries: int = 5000,
    p: float = 0.8,
    loss: str = "margin",
    rescale_schedule: bool = False,
    restarts: int = 1,
    targets: ArrayLike | None = None,
    indices: ArrayLike | None = None,
    batch_size: int = 64,
    key: jax.Array | int = 0,
    log: AttackLog | None = None,
) -> AttackResult:
    """Random search with squares: `x <- x'` where `loss(x') > loss(x)`; it sees logits only, no gradient.

    Args:
      logits_fn: a classifier, see `networks.logits_fn`.
      images: [B,H,W,C] float in [0, 1].
      labels: the true classes, integers [B] in 0..K-1.
      eps: radius of the ball, in units of the image range, for instance 8/255.
      norm: "linf", "l2" or "l1".
      queries: windows tried per restart, at least 1; the start is one query more.
      p: share of the image that the first windows cover, in (0, 1].
      loss: "margin", "ce" or "dlr", see `losses.LOSSES`.
      rescale_schedule: shrink the windows relative to `queries`, else as for 10,000 (AutoAttack's choice).
      restarts: attempts with new random numbers; only survivors get the next.
      targets: classes to reach, integers [B]; default: miss the label.
      indices: where each image stands in its data set, integers [B], default 0..B-1. They choose the random
        numbers, so that an image fares alike in whatever batch it comes.
      batch_size: most images in one pass through the network.
      key: a JAX key, or a seed.
      log: where finished attempts are written, see `journal`.

    Returns:
      An `AttackResult`; its `config` has every setting.

    Raises:
      ValueError: input that cannot be meant, before any work; NaN logits.

    Andriushchenko et al., 2020, "Square Attack: a query-efficient black-box adversarial attack via random
    search"; L1 from Croce & Hein, 2021, "Mind the box: l1-APGD for sparse adversarial attacks".
    """
    checks.check_name(loss, "loss", losses.LOSSES)
    checks.check_counts(queries=queries, restarts=restarts)
    if not 0 < p <= 1:
        raise ValueError(f"p={p} must be a share of the image, in (0, 1]")
    network, examples = base.prepare(
        logits_fn,
        images,
        labels,
        norm=norm,
        eps=eps,
        targets=targets,
        indices=indices,
        batch_size=batch_size,
    )
    attack = Square(
        eps=float(eps),
        queries=int(queries),
        halvings=jnp.asarray(schedule(queries, rescale_schedule)),
        sizes=jnp.asarray(window_sizes(p, examples.images.shape, norm)),
        key=networks.as_key(key),
        norm=norm,
        loss=loss,
        targeted=targets is not None,
    )
    return survivors.run(
        "square",
        attack,
        network,
        examples,
        norm=norm,
        attempts=restarts,
        batch_size=batch_size,
        log=log,
        restarts=restarts,
        p=float(p),
        rescale_schedule=bool(rescale_schedule),
    )
