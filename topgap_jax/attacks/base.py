"""What all attacks share: examples, the protocol of an attack, its result and the metrics.

An attack is written as optax writes an optimiser, as functions of a batch of examples:

    state = attack.init(examples)                    # the start, for instance random inside the ball
    state = attack.step(logits_fn, examples, state)  # one pass through the network, one move

and `survivors.attack_survivors` drives it: an example leaves as soon as it is done, and a waiting one takes
its place. Every leaf of a state belongs to an example (leading axis B), so those in one batch may be at
different steps.
"""

from typing import Any, NamedTuple, Protocol

import jax
import jax.numpy as jnp
import numpy as np
from jax.tree_util import Partial

from topgap_jax.attacks import checks
from topgap_jax.attacks.losses import LOSSES, TARGETED_LOSSES
from topgap_jax.attacks.networks import LogitsFn, forward, smallest_bucket
from topgap_jax.attacks.networks import logits_fn as as_logits_fn
from topgap_jax.attacks.threat_models import NORMS, distances


class Examples(NamedTuple):
    """What is attacked. The leading axis of every field is the example; on the host, NumPy arrays."""

    images: jax.Array  # [B,H,W,C] float32 in [0, 1]
    labels: jax.Array  # int32 [B], the true classes
    targets: (
        jax.Array
    )  # int32 [B], the classes to reach (on the host also [B,A], one per attempt); else labels
    indices: jax.Array  # int32 [B], where the example stands in its data set
    attempts: jax.Array  # int32 [B], 0 in the first attempt, then counted over restarts and targets


class Progress(NamedTuple):
    """How far an attack has come with each example; on the host, NumPy arrays."""

    images: jax.Array  # [B,H,W,C], the most adversarial so far
    predictions: jax.Array  # int32 [B], of these images; -1 before the first pass
    loss: jax.Array  # float32 [B], of these images
    success: jax.Array  # bool [B], of these images
    queries: jax.Array  # int32 [B], times the network saw the example
    done: jax.Array  # bool [B], nothing is left to do in this attempt


class Attack(Protocol):
    """A pytree: its leaves are numbers, its static fields choose the program that `step` compiles to.

    A state is a NamedTuple of arrays [B,...] with a field `progress` and whatever else the attack remembers.
    """

    def init(self, examples: Examples) -> Any:
        """The state before the first pass through the network; called from the host."""

    def step(self, logits_fn: LogitsFn, examples: Examples, state: Any) -> Any:
        """One pass through the network; sets `progress.done` where it was the last one."""

    def conclude(self, logits_fn: LogitsFn, examples: Examples, state: Any) -> Progress:
        """The outcome where `progress.done`. Called from the host; may look at the network once more."""


class AttackResult(NamedTuple):
    """What an attack hands back: NumPy arrays, for they may be larger than a device's memory."""

    images: np.ndarray  # float32 [B,H,W,C], in the ball and in [0, 1], whether or not they fool the network
    success: np.ndarray  # bool [B], the label is missed (targeted: the target is reached)
    predictions: np.ndarray  # int32 [B], of `images`
    loss: np.ndarray  # float32 [B], of `images`
    queries: np.ndarray  # int32 [B], times the network saw the example, over all attempts
    distance: np.ndarray  # float32 [B], norm of the perturbation
    config: dict[str, Any]  # every setting, ready for JSON


@jax.jit
def start_progress(examples: Examples) -> Progress:
    """Nothing known yet: the clean image, at a loss below every other."""
    count = len(examples.labels)
    return Progress(
        images=examples.images,
        predictions=jnp.full(count, -1, jnp.int32),
        loss=jnp.full(count, -jnp.inf, jnp.float32),
        success=jnp.zeros(count, bool),
        queries=jnp.zeros(count, jnp.int32),
        done=jnp.zeros(count, bool),
    )


class Judgement(NamedTuple):
    """What the logits of some images say about an attack."""

    loss: jax.Array  # float32 [B], to increase
    predictions: jax.Array  # int32 [B]
    success: jax.Array  # bool [B]


def judge(logits: jax.Array, examples: Examples, loss: str, targeted: bool) -> Judgement:
    """Loss, prediction and success: a targeted attack must reach its targets, any other miss the labels.

    Args:
      logits: [B,K].
      examples: with their labels and targets.
      loss: a name in `TARGETED_LOSSES`, which also lead attacks to their targets that need not reach them; or
        in `LOSSES`: of the label, to increase, or in a targeted attack of the target, to decrease.
      targeted: whether success means the target.
    """
    predictions = logits.argmax(-1).astype(jnp.int32)
    success = predictions == examples.targets if targeted else predictions != examples.labels
    if loss in TARGETED_LOSSES:
        value = TARGETED_LOSSES[loss](logits, examples.labels, examples.targets)
    else:
        value = -LOSSES[loss](logits, examples.targets) if targeted else LOSSES[loss](logits, examples.labels)
    return Judgement(value, predictions, success)


def record(
    progress: Progress, images: jax.Array, judgement: Judgement, *, keep_best: jax.Array | bool
) -> Progress:
    """Counts a query and keeps its images: always, or with `keep_best` on success or with a higher loss."""
    old = progress._replace(queries=progress.queries + 1)
    new = old._replace(images=images, **judgement._asdict())
    better = (new.success & ~old.success) | ((new.success == old.success) & (new.loss > old.loss))
    # NaN compares false; it is kept for the host to see.
    return select(better | jnp.isnan(new.loss) | jnp.logical_not(keep_best), new, old)


def select(chosen: jax.Array, new: Any, old: Any) -> Any:
    """One of two pytrees, example by example: `new` where `chosen` [B]."""

    def leaf(new: jax.Array, old: jax.Array) -> jax.Array:
        return jnp.where(chosen.reshape(-1, *[1] * (new.ndim - 1)), new, old)

    return jax.tree.map(leaf, new, old)


def attack_result(outcome: Progress, examples: Examples, norm: str, config: dict[str, Any]) -> AttackResult:
    """The outcome as the user gets it, with the size of every perturbation."""
    fields = {name: np.asarray(field) for name, field in outcome._asdict().items() if name != "done"}
    distance = distances(fields["images"] - np.asarray(examples.images), norm)
    return AttackResult(**fields, distance=distance, config=config)


def prepare(
    logits_fn: Any,
    images: Any,
    labels: Any,
    *,
    norm: str,
    eps: float | None,
    targets: Any = None,
    indices: Any = None,
    batch_size: int,
) -> tuple[Partial, Examples]:
    """The network and the examples, or a ValueError; the cheap checks first. No eps: no ball."""
    checks.check_counts(batch_size=batch_size)
    if eps is None:
        checks.check_name(norm, "norm", NORMS)
    else:
        checks.check_eps(eps, norm, jnp.shape(images)[1:])
    network = as_logits_fn(logits_fn)
    return network, check_examples(network, images, labels, targets, indices, batch_size=batch_size)


def check_examples(
    logits_fn: Partial, images: Any, labels: Any, targets: Any = None, indices: Any = None, *, batch_size: int
) -> Examples:
    """All examples on the host, or a ValueError; traces the network, but runs nothing."""
    images = checks.check_images(images)
    count = len(images)
    num_classes = _num_classes(logits_fn, (smallest_bucket(count, batch_size), *images.shape[1:]))
    labels = checks.check_classes(labels, "labels", count, num_classes)
    targets = labels if targets is None else _check_targets(targets, labels, num_classes)
    indices = np.arange(count) if indices is None else np.asarray(indices)
    if indices.shape != (count,) or not np.issubdtype(indices.dtype, np.integer):
        raise ValueError(f"indices must be {count} integers, got {indices.dtype} of shape {indices.shape}")
    attempts: Any = np.zeros(count, np.int32)
    return Examples(images, labels, targets, indices.astype(np.int32), attempts)


def _num_classes(logits_fn: Partial, shape: tuple[int, ...]) -> int:
    logits = forward.eval_shape(logits_fn, jax.ShapeDtypeStruct(shape, np.float32))
    if logits.ndim != 2 or logits.shape[0] != shape[0] or logits.shape[1] < 2:
        raise ValueError(f"the network must give logits (B, K) with K >= 2, got {logits.shape} for {shape}")
    return logits.shape[1]


def _check_targets(targets: Any, labels: np.ndarray, num_classes: int) -> np.ndarray:
    targets = checks.check_classes(targets, "targets", len(labels), num_classes)
    same = targets == labels
    if same.any():
        raise ValueError(f"targets[{same.argmax()}] is the label {labels[same][0]}; choose another class")
    return targets


def robust_accuracy(
    clean_predictions: np.ndarray, adversarial_predictions: np.ndarray, labels: np.ndarray
) -> float:
    """Share of images classified correctly both clean and attacked: the clean image is in the ball, too."""
    clean, adversarial, labels = _one_shape(clean_predictions, adversarial_predictions, labels)
    return float(((clean == labels) & (adversarial == labels)).mean())


def prediction_consistency(clean_predictions: np.ndarray, adversarial_predictions: np.ndarray) -> float:
    """Share of images whose prediction the attack did not change.

    The paper calls this robust accuracy (section 4.3). It also counts images that are wrong all along, so it
    is never below `robust_accuracy`; report both.
    """
    clean, adversarial = _one_shape(clean_predictions, adversarial_predictions)
    return float((clean == adversarial).mean())


def _one_shape(*classes: np.ndarray) -> list[np.ndarray]:
    arrays = [np.asarray(array) for array in classes]
    shapes = [array.shape for array in arrays]
    if len(set(shapes)) > 1 or len(shapes[0]) != 1 or not shapes[0][0]:
        raise ValueError(f"predictions and labels must have one shape (B,) with B >= 1, got {shapes}")
    return arrays
