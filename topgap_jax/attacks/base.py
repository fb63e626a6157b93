"""What all attacks share: logits functions, losses, threat models, survivors, the result and its metrics.

An attack is written as optax writes an optimiser, as functions of a batch of examples:

    state = attack.init(examples)                    # the start, for instance random inside the ball
    state = attack.step(logits_fn, examples, state)  # one pass through the network, one move

and `attack_survivors` drives it: an example leaves as soon as it is done, and a waiting one takes its place.
Every leaf of a state belongs to an example (leading axis B), so those in one batch may be at different steps.
"""

import functools
from collections import deque
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple, Protocol

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax import lax
from jax.tree_util import Partial

# Images [B,H,W,C] -> logits [B,K].
LogitsFn = Callable[[jax.Array], jax.Array]
# Logits [B,K] and classes [B] -> loss [B]; the larger, the more adversarial.
LossFn = Callable[[jax.Array, jax.Array], jax.Array]
# Perturbations [B,...] and eps -> the nearest perturbations in the ball.
ProjectFn = Callable[[jax.Array, jax.Array], jax.Array]

EMPTY = -1  # a slot of the batch where no example sits


# --- Logits functions -------------------------------------------------------------------------------------


def logits_fn(model: nnx.Module | Callable[[jax.Array], Any]) -> Partial:
    """Turns a classifier into a function of images whose parameters are data to `jax.jit`.

    Another checkpoint of the same network then compiles nothing. This holds for an `nnx.Module` and for a
    `Partial(apply, parameters)`; parameters that a plain function closes over are constants of its program.

    Args:
      model: an `nnx.Module`, a `jax.tree_util.Partial` or any function, from images [B,H,W,C] to logits [B,K]
        or to something that has them as `.logits`.

    Returns:
      A `Partial` from images to float32 logits [B,K]. Its own results it hands back unchanged.

    Raises:
      ValueError: `model` cannot be called.
    """
    if isinstance(model, nnx.Module):
        graphdef, state = nnx.split(model)
        return Partial(_network(graphdef), nnx.to_pure_dict(state))
    if not callable(model):
        raise ValueError(f"logits_fn takes a module or a function of images, got {type(model).__name__}")
    if not isinstance(model, Partial):
        model = Partial(model)
    return model if getattr(model.func, "returns_logits", False) else Partial(_logits, model)


def _logits(function: Callable[[jax.Array], Any], images: jax.Array) -> jax.Array:
    output = function(images)
    return jnp.asarray(getattr(output, "logits", output), jnp.float32)


@functools.cache
def _network(graphdef: nnx.GraphDef) -> Callable[[Any, jax.Array], jax.Array]:
    """One function per architecture: jit compares functions by identity, and graph definitions slowly."""

    def network(state: Any, images: jax.Array) -> jax.Array:
        return _logits(nnx.merge(graphdef, state), images)

    network.returns_logits = True  # type: ignore[attr-defined]
    return network


_logits.returns_logits = True  # type: ignore[attr-defined]


# --- Losses -----------------------------------------------------------------------------------------------


def cross_entropy(logits: jax.Array, classes: jax.Array) -> jax.Array:
    """`-log softmax(z)_y`, per example [B] in nats."""
    return -jnp.take_along_axis(jax.nn.log_softmax(logits), classes[:, None], axis=-1)[:, 0]


def margin(logits: jax.Array, classes: jax.Array) -> jax.Array:
    """`max_(j != y) z_j - z_y`, per example [B]; positive where y is missed (Carlini & Wagner, 2017, f_6)."""
    chosen = jax.nn.one_hot(classes, logits.shape[-1], dtype=bool)
    return jnp.where(chosen, -jnp.inf, logits).max(-1) - jnp.where(chosen, logits, 0).sum(-1)


LOSSES: Mapping[str, LossFn] = {"ce": cross_entropy, "margin": margin}


# --- Threat models ----------------------------------------------------------------------------------------


def lengths(perturbations: jax.Array, order: float) -> jax.Array:
    """Norm of each example's perturbation, [B,1,...,1] so that it scales them."""
    magnitudes = jnp.abs(perturbations).reshape(len(perturbations), -1)
    norms = magnitudes.max(-1) if order == np.inf else jnp.linalg.norm(magnitudes, order, axis=-1)
    return norms.reshape(-1, *[1] * (perturbations.ndim - 1))


def _project_linf(perturbations: jax.Array, eps: jax.Array) -> jax.Array:
    return jnp.clip(perturbations, -eps, eps)


def _project_l2(perturbations: jax.Array, eps: jax.Array) -> jax.Array:
    return perturbations * jnp.minimum(1, eps / jnp.maximum(lengths(perturbations, 2), 1e-12))


def _steepest_l2(gradients: jax.Array) -> jax.Array:
    # The largest entry becomes 1 first: squares of a saturated network's gradients underflow.
    largest = lengths(gradients, np.inf)
    gradients = gradients / jnp.where(largest > 0, largest, 1)
    return gradients / jnp.maximum(lengths(gradients, 2), 1e-12)


def _sample_linf(key: jax.Array, shape: tuple[int, ...]) -> jax.Array:
    return jax.random.uniform(key, shape, minval=-1.0, maxval=1.0)


def _sample_l2(key: jax.Array, shape: tuple[int, ...]) -> jax.Array:
    direction_key, radius_key = jax.random.split(key)
    direction = jax.random.normal(direction_key, shape)
    # The volume within radius r grows as r^n, so U^(1/n) is uniform in volume.
    radius = jax.random.uniform(radius_key) ** (1 / direction.size)
    return direction * (radius / jnp.linalg.norm(direction.ravel()))


class Norm(NamedTuple):
    """A ball of perturbations, and what an attack has to know about it."""

    order: float
    project: ProjectFn
    steepest: Callable[[jax.Array], jax.Array]  # gradients [B,...] -> unit steps that gain most
    sample: Callable[[jax.Array, tuple[int, ...]], jax.Array]  # key, shape -> uniform in the unit ball


NORMS: Mapping[str, Norm] = {
    "linf": Norm(np.inf, _project_linf, jnp.sign, _sample_linf),
    "l2": Norm(2, _project_l2, _steepest_l2, _sample_l2),
}


def project(images: jax.Array, clean: jax.Array, eps: jax.Array | float, norm: str) -> jax.Array:
    """Brings images into the eps ball around the clean ones and into [0, 1], in this order; both then hold.

    Args:
      images: [B,H,W,C], anything finite.
      clean: the ball's centres, [B,H,W,C] in [0, 1].
      eps: radius, in units of the image range [0, 1].
      norm: a name in `NORMS`.
    """
    return jnp.clip(clean + NORMS[norm].project(images - clean, jnp.asarray(eps)), 0, 1)


# Its own program, so that attacks which differ elsewhere share it: the generator compiles slowly.
@functools.partial(jax.jit, static_argnames="norm")
def random_start(
    key: jax.Array,
    indices: jax.Array,
    restarts: jax.Array,
    clean: jax.Array,
    eps: jax.Array | float,
    norm: str,
) -> jax.Array:
    """Draws a start uniformly inside each example's eps ball, clipped to [0, 1].

    Args:
      key: of the attack; each example's is `fold_in(fold_in(key, index), restart)`, so batches do not enter.
      indices: integers [B], where the examples stand in their data set.
      restarts: integers [B], 0 in the first attempt.
      clean: [B,H,W,C] in [0, 1].
      eps, norm: see `project`.
    """

    def sample(index: jax.Array, restart: jax.Array) -> jax.Array:
        example_key = jax.random.fold_in(jax.random.fold_in(key, index), restart)
        return NORMS[norm].sample(example_key, clean.shape[1:])

    return jnp.clip(clean + eps * jax.vmap(sample)(indices, restarts), 0, 1)


# --- Examples and what is known about them ----------------------------------------------------------------


class Examples(NamedTuple):
    """What is attacked. The leading axis of every field is the example; on the host, NumPy arrays."""

    images: jax.Array  # [B,H,W,C] float32 in [0, 1]
    labels: jax.Array  # int32 [B], the true classes
    targets: jax.Array  # int32 [B], the classes to reach; the labels where there are none
    indices: jax.Array  # int32 [B], where the example stands in its data set
    restarts: jax.Array  # int32 [B], 0 in the first attempt


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

    def conclude(self, logits_fn: Partial, examples: Examples, state: Any) -> Progress:
        """The outcome where `progress.done`. Called from the host; may look at the network once more."""


class AttackResult(NamedTuple):
    """What an attack hands back: NumPy arrays, for they may be larger than a device's memory."""

    images: np.ndarray  # float32 [B,H,W,C], in the ball and in [0, 1], whether or not they fool the network
    success: np.ndarray  # bool [B], the label is missed (targeted: the target is reached)
    predictions: np.ndarray  # int32 [B], of `images`
    loss: np.ndarray  # float32 [B], of `images`
    queries: np.ndarray  # int32 [B], times the network saw the example, over all restarts
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
    """Loss (a name in `LOSSES`), prediction and success; a targeted attack wants its target's loss small."""
    predictions = logits.argmax(-1).astype(jnp.int32)
    if targeted:
        reached = predictions == examples.targets
        return Judgement(-LOSSES[loss](logits, examples.targets), predictions, reached)
    return Judgement(LOSSES[loss](logits, examples.labels), predictions, predictions != examples.labels)


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


# --- Survivors --------------------------------------------------------------------------------------------


def steps_per_call() -> int:
    """How many steps of an attack run on the device between two looks from the host.

    On the CPU, XLA takes a slower path for convolutions inside a loop or a conditional (a PGD step on 64
    images of 32x32 took 5 times longer inside `lax.fori_loop`), so every step is a call of its own. Elsewhere
    several steps per call save launches and transfers; how many is not measured yet.
    """
    return 1 if jax.default_backend() == "cpu" else 4


def buckets(batch_size: int) -> list[int]:
    """The batch sizes that may get compiled: `batch_size`, then half of the one before, never under 16."""
    sizes = [batch_size]
    while sizes[-1] // 2 >= 16:
        sizes.append(sizes[-1] // 2)
    return sizes


def _smallest_bucket(count: int, batch_size: int) -> int:
    return min((size for size in buckets(batch_size) if size >= count), default=batch_size)


@functools.partial(jax.jit, static_argnames="steps", donate_argnames="state")
def _advance(attack: Attack, logits_fn: LogitsFn, examples: Examples, state: Any, steps: int) -> Any:
    def step(state: Any) -> Any:
        return select(state.progress.done, state, attack.step(logits_fn, examples, state))

    def busy(carry: tuple[jax.Array, Any]) -> jax.Array:
        return (carry[0] < steps) & ~carry[1].progress.done.all()

    if steps == 1:
        return step(state)
    return lax.while_loop(busy, lambda carry: (carry[0] + 1, step(carry[1])), (jnp.int32(0), state))[1]


@jax.jit
def forward(logits_fn: LogitsFn, images: jax.Array) -> jax.Array:
    """Logits of one bucket: one program for all forward passes without a gradient."""
    return logits_fn(images)


_select = jax.jit(select)


@jax.jit
def _take(tree: Any, rows: jax.Array) -> Any:
    return jax.tree.map(lambda leaf: leaf[rows], tree)


class Slots(NamedTuple):
    """Who sits where in the batch; NumPy arrays that change in place."""

    examples: np.ndarray  # int [b], rows of the data, or EMPTY
    restarts: np.ndarray  # int32 [b]

    @property
    def taken(self) -> np.ndarray:
        return self.examples != EMPTY


def attack_survivors(
    attack: Attack, logits_fn: Partial, examples: Examples, *, restarts: int = 1, batch_size: int = 64
) -> Progress:
    """Runs an attack over all examples, in batches of those that still have something to do.

    An example leaves its slot when its attempt is done, and a waiting one takes it. A survivor waits for its
    next restart behind all others. When nobody waits, the batch shrinks along `buckets`. What happens to an
    example does not depend on who else is in the batch. It is the same to the bit in another bucket if XLA
    rounds alike in both; on the CPU it was seen to, from 4 examples on.

    Args:
      attack: see `Attack`.
      logits_fn: see the function `logits_fn`.
      examples: all of them, on the host.
      restarts: attempts per example, at least 1.
      batch_size: most examples in one pass through the network.

    Returns:
      On the host, for every example its first success, else its attempt with the highest loss.

    Raises:
      ValueError: the network returned NaN.
    """
    waiting = deque((example, 0) for example in range(len(examples.labels)))
    outcome = jax.tree.map(np.array, start_progress(examples))
    size = _smallest_bucket(len(waiting), batch_size)
    slots = Slots(np.full(size, EMPTY), np.zeros(size, np.int32))
    batch: Any = None
    state: Any = None
    while waiting or slots.taken.any():
        fresh = _fill(slots, waiting)
        if fresh.any():
            batch = jax.device_put(_gather(examples, slots))
            started = attack.init(batch)
            # Always a new buffer: the state is donated, and `init` may hand out the batch's own arrays.
            state = _select(fresh, started, started if state is None else state)
        state = _advance(attack, logits_fn, batch, state, steps=steps_per_call())
        _check_numbers(np.asarray(state.progress.loss)[slots.taken], slots.examples[slots.taken])
        done = np.asarray(state.progress.done) & slots.taken
        if done.any():
            _harvest(outcome, attack.conclude(logits_fn, batch, state), slots, done)
            again = done & ~outcome.success[slots.examples] & (slots.restarts + 1 < restarts)
            waiting.extend(zip(slots.examples[again], slots.restarts[again] + 1, strict=True))
            slots.examples[done] = EMPTY
            if not waiting:
                slots, batch, state = _shrink(slots, batch, state, batch_size)
    return outcome


def _fill(slots: Slots, waiting: deque[tuple[int, int]]) -> np.ndarray:
    """Seats waiting examples in free slots; true [b] where one sat down."""
    fresh = np.zeros(len(slots.examples), bool)
    for slot in np.flatnonzero(~slots.taken)[: len(waiting)]:
        slots.examples[slot], slots.restarts[slot] = waiting.popleft()
        fresh[slot] = True
    return fresh


def _gather(examples: Examples, slots: Slots) -> Examples:
    """The batch; an empty slot holds some example whose result nobody reads."""
    batch = jax.tree.map(lambda field: field[np.maximum(slots.examples, 0)], examples)
    return batch._replace(restarts=slots.restarts.copy())


def _harvest(outcome: Any, progress: Progress, slots: Slots, done: np.ndarray) -> None:
    """Writes the attempts that are done into the outcome."""
    rows, first = slots.examples[done], slots.restarts[done] == 0
    found: Any = jax.tree.map(lambda leaf: np.asarray(leaf)[done], progress)
    _check_numbers(found.loss, rows)
    better = first | found.success | (found.loss > outcome.loss[rows])
    outcome.queries[rows] += found.queries
    found = found._replace(queries=outcome.queries[rows])
    for kept, new in zip(outcome, found, strict=True):
        kept[rows[better]] = new[better]


def _shrink(slots: Slots, batch: Examples, state: Any, batch_size: int) -> tuple[Slots, Examples, Any]:
    """Moves the survivors into the smallest bucket that holds them, everywhere to the same seats."""
    size = _smallest_bucket(int(slots.taken.sum()), batch_size)
    if size == len(slots.examples) or not slots.taken.any():
        return slots, batch, state
    rows = np.argsort(~slots.taken, kind="stable")[:size]
    return Slots(*(field[rows] for field in slots)), *_take((batch, state), rows)


def attack_result(outcome: Progress, examples: Examples, norm: str, config: dict[str, Any]) -> AttackResult:
    """The outcome as the user gets it, with the size of every perturbation."""
    fields = {name: np.asarray(field) for name, field in outcome._asdict().items() if name != "done"}
    perturbations = (fields["images"] - np.asarray(examples.images)).reshape(len(fields["images"]), -1)
    distance = np.linalg.norm(perturbations, NORMS[norm].order, axis=-1)
    return AttackResult(**fields, distance=distance, config=config)


# --- Predictions and metrics ------------------------------------------------------------------------------


def predict(model: Callable[[jax.Array], Any], images: jax.Array, *, batch_size: int = 64) -> np.ndarray:
    """Predicted class of every image, int32 [B], in padded batches of one size.

    Args:
      model: a classifier, see `logits_fn`.
      images: [B,H,W,C] float in [0, 1].
      batch_size: images per pass through the network.

    Raises:
      ValueError: images of another shape, dtype or range; NaN logits.
    """
    network, pictures = logits_fn(model), check_images(images)
    size = _smallest_bucket(len(pictures), batch_size)
    predictions = []
    for start in range(0, len(pictures), size):
        batch = pictures[start : start + size]
        padding = [(0, size - len(batch))] + [(0, 0)] * (pictures.ndim - 1)
        logits = np.asarray(forward(network, np.pad(batch, padding)))[: len(batch)]
        _check_numbers(logits.min(-1), start + np.arange(len(batch)))
        predictions.append(logits.argmax(-1))
    return np.concatenate(predictions).astype(np.int32)


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


# --- Bad input --------------------------------------------------------------------------------------------


def _check_numbers(values: np.ndarray, rows: np.ndarray) -> None:
    broken = np.isnan(values)
    if broken.any():
        raise ValueError(
            f"the network returned NaN for {broken.sum()} of {len(values)} images, the first is images"
            f"[{rows[broken].min()}]; nothing can be said about their robustness"
        )


def check_images(images: Any) -> np.ndarray:
    """Images as float32 [B,H,W,C] on the host, or a ValueError."""
    images = np.asarray(images)
    if not jnp.issubdtype(images.dtype, jnp.floating):
        raise ValueError(f"images have dtype {images.dtype}, not float: divide 8-bit images by 255")
    if images.ndim != 4 or not images.size:
        raise ValueError(f"images must have shape (B, H, W, C), none of them 0, got {images.shape}")
    images = images.astype(np.float32)
    low, high = images.min(), images.max()
    if not (low >= 0 and high <= 1):
        raise ValueError(
            f"images must lie in [0, 1], got {low:g} to {high:g}; normalisation belongs inside the model"
        )
    return images


def check_classes(classes: Any, name: str, count: int, num_classes: int) -> np.ndarray:
    """Labels or targets as int32 [B] in 0..K-1, or a ValueError."""
    classes = np.asarray(classes)
    if classes.shape != (count,):
        raise ValueError(f"{name} must have shape ({count},), one class per image, got {classes.shape}")
    if not np.issubdtype(classes.dtype, np.integer):
        raise ValueError(f"{name} must be integers, got {classes.dtype}")
    wrong = (classes < 0) | (classes >= num_classes)
    if wrong.any():
        raise ValueError(
            f"{name}[{wrong.argmax()}] is {classes[wrong][0]}, outside the network's classes "
            f"0 to {num_classes - 1}"
        )
    return classes.astype(np.int32)


def check_eps(eps: float, norm: str, shape: tuple[int, ...]) -> None:
    """A ValueError where eps makes no sense for images of this shape (H,W,C) in [0, 1]."""
    check_name(norm, "norm", NORMS)
    if not eps > 0:
        raise ValueError(f"eps={eps} must be positive")
    largest = 1.0 if norm == "linf" else float(np.prod(shape)) ** (1 / NORMS[norm].order)
    if eps > largest:
        limit = "the image range [0, 1]" if norm == "linf" else f"the images' {norm} diameter {largest:.4g}"
        raise ValueError(f"eps={eps:g} is larger than {limit}; did you mean {eps:g}/255?")


def check_name(name: str, what: str, known: Mapping[str, Any] | tuple[str, ...]) -> None:
    """A ValueError that lists what exists."""
    if name not in known:
        raise ValueError(f"unknown {what} {name!r}; there are {', '.join(known)}")


def check_counts(**counts: int) -> None:
    """A ValueError where one of them is not an integer of at least 1."""
    for name, count in counts.items():
        if isinstance(count, bool) or not isinstance(count, int | np.integer) or count < 1:
            raise ValueError(f"{name}={count!r} must be an integer of at least 1")


def check_examples(
    logits_fn: Partial, images: Any, labels: Any, targets: Any = None, indices: Any = None, *, batch_size: int
) -> Examples:
    """All examples on the host, or a ValueError; traces the network, but runs nothing."""
    images = check_images(images)
    count = len(images)
    num_classes = _num_classes(logits_fn, (_smallest_bucket(count, batch_size), *images.shape[1:]))
    labels = check_classes(labels, "labels", count, num_classes)
    targets = labels if targets is None else _check_targets(targets, labels, num_classes)
    indices = np.arange(count) if indices is None else np.asarray(indices)
    if indices.shape != (count,) or not np.issubdtype(indices.dtype, np.integer):
        raise ValueError(f"indices must be {count} integers, got {indices.dtype} of shape {indices.shape}")
    restarts: Any = np.zeros(count, np.int32)
    return Examples(images, labels, targets, indices.astype(np.int32), restarts)


def _num_classes(logits_fn: Partial, shape: tuple[int, ...]) -> int:
    logits = forward.eval_shape(logits_fn, jax.ShapeDtypeStruct(shape, np.float32))
    if logits.ndim != 2 or logits.shape[0] != shape[0] or logits.shape[1] < 2:
        raise ValueError(f"the network must give logits (B, K) with K >= 2, got {logits.shape} for {shape}")
    return logits.shape[1]


def _check_targets(targets: Any, labels: np.ndarray, num_classes: int) -> np.ndarray:
    targets = check_classes(targets, "targets", len(labels), num_classes)
    same = targets == labels
    if same.any():
        raise ValueError(f"targets[{same.argmax()}] is the label {labels[same][0]}; choose another class")
    return targets
