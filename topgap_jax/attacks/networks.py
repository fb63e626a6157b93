"""Any classifier as a function from images to logits, and its predictions in padded batches of few sizes."""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec
from jax.tree_util import Partial, register_dataclass
from jax.typing import ArrayLike

from topgap_jax.attacks import checks

# Images [B,H,W,C] -> logits [B,K].
LogitsFn = Callable[[jax.Array], jax.Array]

LAST_PASS = np.iinfo(np.int32).max  # the pass that judges an attack's outcome


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
      ValueError: `model` cannot be called, or is in training mode.
    """
    if isinstance(model, nnx.Module):
        _check_evaluation_mode(model)
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


def _check_evaluation_mode(model: nnx.Module) -> None:
    for path, module in nnx.iter_graph(model):
        batch_statistics = getattr(module, "use_running_average", None) is False
        dropping = getattr(module, "deterministic", None) is False and getattr(module, "rate", 1) > 0
        if batch_statistics or dropping:
            where = ".".join(map(str, path))
            raise ValueError(f"the model is in training mode ({where}); call model.eval() first")


# --- Networks with a random answer ------------------------------------------------------------------------


def randomized(function: Callable[[jax.Array, jax.Array], Any], key: jax.Array | int = 0) -> Partial:
    """A network whose answer is random, as attacks take it.

    Every example, attempt and pass draws with a key of its own, so that batches do not enter.

    Args:
      function: (images [B,H,W,C], key) -> logits [B,K], or something that has them as `.logits`. It is
        called under `jax.vmap`, with one image at a time. A `Partial(apply, parameters)` keeps the parameters
        data to `jax.jit`.
      key: of the network, or a seed.
    """
    if not callable(function):
        raise ValueError(f"randomized takes a function of images and a key, got {type(function).__name__}")
    partial = function if isinstance(function, Partial) else Partial(function)
    return Partial(_random_logits, partial, as_key(key))


def _random_logits(function: Partial, key: jax.Array, images: jax.Array) -> jax.Array:
    return RandomPass(
        function, jax.vmap(lambda number: jax.random.fold_in(key, number))(jnp.arange(len(images)))
    )(images)


_random_logits.returns_logits = True  # type: ignore[attr-defined]


@register_dataclass
@dataclasses.dataclass(frozen=True)
class RandomPass:
    """One pass of a randomised network: a key per example."""

    function: Partial
    keys: jax.Array  # [B]

    def __call__(self, images: jax.Array) -> jax.Array:
        def one(image: jax.Array, key: jax.Array) -> jax.Array:
            return _logits(lambda images: self.function(images, key), image[None])[0]

        return jax.vmap(one)(images, self.keys)


def at_pass(logits_fn: LogitsFn, *numbers: ArrayLike) -> LogitsFn:
    """The network as it answers in one pass; the `numbers` [B] index, attempt, pass choose the draws."""
    if not is_randomized(logits_fn):
        return logits_fn
    function, key = logits_fn.args  # type: ignore[attr-defined]
    count = max(jnp.shape(number) for number in numbers)[0]
    keys = jax.vmap(lambda *parts: functools.reduce(jax.random.fold_in, parts, key))(
        *(jnp.broadcast_to(number, count) for number in numbers)
    )
    return RandomPass(function, keys)


def another_draw(logits_fn: LogitsFn, number: int) -> LogitsFn:
    """The same pass with other random numbers; a deterministic network comes back as it is."""
    if not isinstance(logits_fn, RandomPass):
        return logits_fn
    keys = jax.vmap(lambda key: jax.random.fold_in(key, number))(logits_fn.keys)
    return dataclasses.replace(logits_fn, keys=keys)


def is_randomized(logits_fn: LogitsFn) -> bool:
    """Whether the network was made by `randomized`."""
    return isinstance(logits_fn, Partial) and logits_fn.func is _random_logits


def as_key(key: jax.Array | int) -> jax.Array:
    """A JAX key from a seed, or the key itself."""
    return key if isinstance(key, jax.Array) else jax.random.key(key)


# --- Batches ----------------------------------------------------------------------------------------------


@jax.jit
def forward(logits_fn: LogitsFn, images: jax.Array) -> jax.Array:
    """Logits of one bucket: one program for all forward passes without a gradient."""
    return logits_fn(images)


def buckets(batch_size: int) -> list[int]:
    """The batch sizes that may get compiled: `batch_size`, then half of the one before.

    Never under 4 per device: XLA rounds otherwise in batches of 1 to 3.
    """
    sizes = [batch_size]
    while sizes[-1] // 2 >= 4 * jax.local_device_count():
        sizes.append(sizes[-1] // 2)
    return sizes


def smallest_bucket(count: int, batch_size: int) -> int:
    """The smallest of the `buckets` that holds `count` examples, else the largest."""
    return min((size for size in buckets(batch_size) if size >= count), default=batch_size)


def place(batch: Any) -> Any:
    """Spreads a pytree of arrays [B,...] over the local devices; where they do not divide B, each has all."""
    devices = jax.local_devices()
    if len(devices) == 1:
        return jax.device_put(batch)
    whole = len(jax.tree.leaves(batch)[0]) % len(devices) != 0
    return jax.device_put(batch, _sharding(PartitionSpec() if whole else PartitionSpec("data")))


def replicate(logits_fn: Partial) -> Partial:
    """Puts the network's parameters on every local device."""
    if jax.local_device_count() == 1:
        return logits_fn
    return jax.device_put(logits_fn, _sharding(PartitionSpec()))


def _sharding(spec: PartitionSpec) -> NamedSharding:
    return NamedSharding(Mesh(np.array(jax.local_devices()), ("data",), axis_types=(AxisType.Auto,)), spec)


def logits_of(model: Any, images: ArrayLike, *, batch_size: int = 64) -> np.ndarray:
    """Logits of every image, float32 [B,K] on the host, in padded batches of one size.

    Args:
      model: a classifier, see `logits_fn`.
      images: [B,H,W,C] float in [0, 1].
      batch_size: images per pass through the network.

    Raises:
      ValueError: images of another shape, dtype or range; NaN logits.
    """
    network, pictures = replicate(logits_fn(model)), checks.check_images(images)
    size = smallest_bucket(len(pictures), batch_size)
    found = []
    for start in range(0, len(pictures), size):
        batch = pictures[start : start + size]
        padding = [(0, size - len(batch))] + [(0, 0)] * (pictures.ndim - 1)
        this_pass = at_pass(network, start + np.arange(size), 0, 0)
        logits = np.asarray(forward(this_pass, place(np.pad(batch, padding))))[: len(batch)]
        checks.check_numbers(logits.min(-1), start + np.arange(len(batch)))
        found.append(logits)
    return np.concatenate(found)


def predict(model: Any, images: ArrayLike, *, batch_size: int = 64) -> np.ndarray:
    """Predicted class of every image, int32 [B]; see `logits_of`."""
    return logits_of(model, images, batch_size=batch_size).argmax(-1).astype(np.int32)


def likeliest_targets(
    model: Any, images: ArrayLike, labels: ArrayLike, count: int, *, batch_size: int = 64
) -> np.ndarray:
    """The `count` classes with the largest logits besides the label, the likeliest first, int32 [B,count].

    Fewer where the network has fewer: at most K - 1.
    """
    logits = logits_of(model, images, batch_size=batch_size)
    logits[np.arange(len(logits)), np.asarray(labels)] = -np.inf
    return np.argsort(-logits, axis=-1, kind="stable")[:, : min(count, logits.shape[1] - 1)].astype(np.int32)
