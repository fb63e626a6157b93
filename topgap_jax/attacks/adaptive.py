"""Attacks that know Top-GAP: the true logits, with the gradient of another pooling (Athalye et al., 2018).

Top-GAP lets a gradient through only k of the h*w positions of the class activation map (CAM). If these are
saturated, the loss looks flat although it is not. So the backward pass takes a surrogate of the logits in
which the other positions count, too (Backward Pass Differentiable Approximation, BPDA), and the forward pass
stays as it is: no attack here can report a success that the network does not show.
"""

import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax import lax
from jax.tree_util import Partial
from jax.typing import ArrayLike

from topgap_jax.attacks import base, checks, losses, networks, survivors
from topgap_jax.attacks.apgd import apgd
from topgap_jax.attacks.base import AttackResult, Examples, Progress
from topgap_jax.attacks.journal import AttackLog
from topgap_jax.nn.pooling import topk_mean

# CAM [B,h,w,K], logits [B,K], the network's k -> something [B,K] whose gradient replaces that of the logits.
SurrogateFn = Callable[[jax.Array, jax.Array, jax.Array], jax.Array]

TEMPERATURE = 0.5  # of the soft top-k, in standard deviations of the CAM over its positions


# --- Surrogates -------------------------------------------------------------------------------------------


def gap(cam: jax.Array, logits: jax.Array, k: jax.Array) -> jax.Array:
    """The mean over all positions."""
    return cam.mean((1, 2))


def larger_k(cam: jax.Array, logits: jax.Array, k: jax.Array) -> jax.Array:
    """The mean of the `sqrt(k n)` largest of all n values, halfway to GAP on a logarithmic scale."""
    positions = cam.shape[1] * cam.shape[2]
    larger = jnp.ceil(jnp.sqrt(jnp.asarray(k, cam.dtype) * positions))
    return topk_mean(cam, jnp.minimum(larger, positions))


def soft_topk(cam: jax.Array, logits: jax.Array, k: jax.Array) -> jax.Array:
    r"""A mean with the weights :math:`\sigma((x - x_{(k)}) / T)`, constant in the backward pass.

    The temperature T is relative to the spread of the CAM, so that the scale of the logits does not matter.
    """
    cam_only = lax.stop_gradient(cam)
    # `topk_mean` does not sort; its derivative in k has the k-th largest value, dy/dk = (x_(k) - y) / k.
    # Half a position less than all, for there it has none.
    k = jnp.minimum(jnp.asarray(k, cam.dtype), cam.shape[1] * cam.shape[2] - 0.5)
    mean, slope = jax.jvp(functools.partial(topk_mean, cam_only), (k,), (jnp.ones_like(k),))
    kth_largest = (mean + k * slope)[:, None, None]
    temperature = TEMPERATURE * cam_only.std((1, 2), keepdims=True)
    weights = jax.nn.sigmoid((cam_only - kth_largest) / jnp.maximum(temperature, 1e-12))
    return (weights * cam).sum((1, 2)) / weights.sum((1, 2))


def positions(cam: jax.Array, logits: jax.Array, k: jax.Array) -> jax.Array:
    r"""Minus the mean margin over all positions p, :math:`\max_{j \ne y} x_{pj} - x_{py}`, as y's logit.

    y is the present prediction. The other logits are constant, so that cross-entropy and margin both grow
    with that mean: every position is pulled to its own strongest rival, whether or not it is among the k
    largest.
    """
    predictions = logits.argmax(-1)
    shape = cam.shape
    everywhere = jnp.repeat(predictions, shape[1] * shape[2])
    margins = losses.margin(cam.reshape(-1, shape[-1]), everywhere).reshape(len(cam), -1)
    return -margins.mean(-1, keepdims=True) * jax.nn.one_hot(predictions, shape[-1])


SURROGATES: Mapping[str, SurrogateFn] = {
    "positions": positions,
    "gap": gap,
    "larger_k": larger_k,
    "soft_topk": soft_topk,
}


# --- Networks ---------------------------------------------------------------------------------------------


def adaptive_networks(model: nnx.Module | Callable[[jax.Array], Any], k: int) -> dict[str, Partial]:
    """The network once for every surrogate in `SURROGATES`: the same logits, another gradient.

    Args:
      model: from images [B,H,W,C] to something with `.logits` [B,K] and `.cam` [B,h,w,K]: an `nnx.Module`, a
        `Partial(apply, parameters)` or any function, as in `networks.logits_fn`.
      k: how many positions the network averages, at least 1.

    Returns:
      Functions of images as attacks take them. Parameters, k and surrogate are data to `jax.jit`: another one
      compiles nothing.

    Raises:
      ValueError: `model` cannot be called or is in training mode; k below 1. When called: no CAM.

    Athalye et al., 2018, "Obfuscated Gradients Give a False Sense of Security", section 4.1.
    """
    checks.check_counts(k=k)
    outputs, pixels = _outputs_of(model), jnp.int32(k)
    return {
        name: Partial(_with_surrogate, outputs, pixels, jnp.int32(number))
        for number, name in enumerate(SURROGATES)
    }


def _outputs_of(model: Any) -> Partial:
    networks.logits_fn(model)  # a ValueError where it is none, or in training mode
    if isinstance(model, nnx.Module):
        graphdef, state = nnx.split(model)
        return Partial(_outputs(graphdef), nnx.to_pure_dict(state))
    return model if isinstance(model, Partial) else Partial(model)


@functools.cache
def _outputs(graphdef: nnx.GraphDef) -> Callable[[Any, jax.Array], Any]:
    """One function per architecture, see `networks`."""

    def outputs(state: Any, images: jax.Array) -> Any:
        return nnx.merge(graphdef, state)(images)

    return outputs


def _with_surrogate(outputs: Partial, k: jax.Array, choice: jax.Array, images: jax.Array) -> jax.Array:
    """The logits, with the gradient of one of the `SURROGATES`; all of them are one program."""
    output = outputs(images)
    if getattr(output, "cam", None) is None or output.cam.ndim != 4:
        raise ValueError(
            f"the model must return .logits [B,K] and .cam [B,h,w,K], got {type(output).__name__}"
        )
    logits = lax.stop_gradient(jnp.asarray(output.logits, jnp.float32))
    cam = jnp.asarray(output.cam, jnp.float32)
    substitute = lax.switch(choice, list(SURROGATES.values()), cam, logits, k)
    # In this order: the difference is exactly zero, so the logits keep every bit.
    return logits + (substitute - lax.stop_gradient(substitute))


# --- The attack -------------------------------------------------------------------------------------------


def adaptive(
    model: nnx.Module | Callable[[jax.Array], Any],
    images: ArrayLike,
    labels: ArrayLike,
    *,
    k: int,
    eps: float,
    norm: str = "linf",
    steps: int = 100,
    surrogates: Sequence[str] = tuple(SURROGATES),
    loss: str = "margin",
    targets: ArrayLike | None = None,
    indices: ArrayLike | None = None,
    batch_size: int = 64,
    key: jax.Array | int = 0,
    log: Callable[[str, Examples, str], AttackLog] | None = None,
) -> AttackResult:
    """APGD through each surrogate in turn, on what the earlier ones left standing.

    Args:
      model, k: see `adaptive_networks`.
      images: [B,H,W,C] float in [0, 1].
      labels: the true classes, integers [B] in 0..K-1.
      eps: radius of the ball, in units of the image range, for instance 8/255.
      norm: see `apgd`.
      steps: of APGD, for every surrogate.
      surrogates: names in `SURROGATES`, in order.
      loss: see `apgd`.
      targets: classes to reach, integers [B]; default: miss the label.
      indices: where each image stands in its data set, integers [B], default 0..B-1.
      batch_size: most images in one pass through the network.
      key: a JAX key, or a seed.
      log: gives the log of one surrogate's attack from its name, its examples and the norm: `Journal.log`.

    Returns:
      The worst case per example. In `config`, `fooled_by` says for each which surrogate succeeded ("clean":
      no attack was needed; "": none did), `robust_accuracy` what was left standing after each, and `attacks`
      has every setting.

    Raises:
      ValueError: input that cannot be meant, before any work; NaN logits.
    """
    checks.check_name(loss, "loss", losses.LOSSES)
    if not surrogates:
        raise ValueError(f"no surrogates; there are {', '.join(SURROGATES)}")
    for name in surrogates:
        checks.check_name(name, "surrogate", SURROGATES)
    attacked = adaptive_networks(model, k)
    network, examples = base.prepare(
        model,
        images,
        labels,
        norm=norm,
        eps=eps,
        targets=targets,
        indices=indices,
        batch_size=batch_size,
    )
    targeted, key = targets is not None, networks.as_key(key)
    config = {"k": int(k), "eps": float(eps), "steps": int(steps), "loss": loss, "targeted": targeted}
    config |= {"batch_size": batch_size, "key": survivors.as_json(key), "surrogates": list(surrogates)}
    attack = functools.partial(apgd, eps=eps, norm=norm, steps=steps, loss=loss, batch_size=batch_size)
    outcome = _clean(network, examples, loss, targeted, batch_size)
    fooled_by = np.where(outcome.success, "clean", "").astype(object)
    standing, settings = {"clean": float((~outcome.success).mean())}, {}
    for name in surrogates:
        rows = np.flatnonzero(~outcome.success)
        if not len(rows):
            break
        left: Examples = jax.tree.map(lambda field: field[rows], examples)  # noqa: B023
        found = attack(
            attacked[name],
            left.images,
            left.labels,
            targets=left.targets if targeted else None,
            indices=left.indices,
            key=jax.random.fold_in(key, list(SURROGATES).index(name)),
            log=None if log is None else log(f"adaptive-{name}", left, norm),
        )
        _take_over(outcome, rows, found)
        fooled_by[rows[found.success]] = name
        standing[name] = float((~outcome.success).mean())
        settings[name] = found.config
    config |= {"fooled_by": fooled_by.tolist(), "robust_accuracy": standing, "attacks": settings}
    return base.attack_result(outcome, examples, norm, {"attack": "adaptive", "norm": norm} | config)


def _clean(network: Partial, examples: Examples, loss: str, targeted: bool, batch_size: int) -> Progress:
    """Before any attack, NumPy arrays that change in place."""
    logits = networks.logits_of(network, examples.images, batch_size=batch_size)
    judgement = base.judge(jnp.asarray(logits), examples, loss, targeted)
    once: Any = np.ones(len(logits), np.int32)
    progress = Progress(images=examples.images, queries=once, done=once > 0, **judgement._asdict())
    return jax.tree.map(np.array, progress)


def _take_over(outcome: Any, rows: np.ndarray, found: AttackResult) -> None:
    """Writes successes, and what brought a survivor nearer to one, into the outcome."""
    better = found.success | (found.loss > outcome.loss[rows])
    outcome.queries[rows] += found.queries
    for field in ("images", "predictions", "loss", "success"):
        getattr(outcome, field)[rows[better]] = getattr(found, field)[better]
