"""Adversarial training: FGSM with GradAlign, PGD and TRADES, for any network and loss of a run."""

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jax.sharding import Mesh

from topgap_jax.losses import cross_entropy, grad_align, kl_divergence
from topgap_jax.models import ModelOutput
from topgap_jax.training.device_data import as_float
from topgap_jax.training.mesh import batch_sharding
from topgap_jax.training.state import Params, TrainState

Batch = dict[str, jax.Array]
Metrics = dict[str, jax.Array]
Step = Callable[[TrainState, Batch], tuple[TrainState, Metrics]]
Perturb = Callable[[TrainState, Batch], Batch]

METHODS = ("none", "fgsm", "pgd", "trades")
ADVERSARY = 2**31 - 3  # folded into the step's key, as `mixing.MIXING`
GRAD_ALIGN = 2**31 - 4
FGSM_STEP = 1.25  # times eps: what Wong et al. (2020) recommend
TRADES_START = 0.001  # standard deviation of the noise that TRADES starts from


def check_adversarial(config: Any) -> None:
    """Raises a ValueError if `adversarial` of a whole configuration has a value that cannot be meant."""
    own = config.adversarial
    if own.method not in METHODS:
        raise ValueError(f"unknown adversarial.method {own.method!r}; there are: {', '.join(METHODS)}")
    if not 0 < own.eps <= 1:
        raise ValueError(f"adversarial.eps={own.eps} is outside (0, 1], the range of the images")
    if not 0 < own.step_size <= 1:
        raise ValueError(f"adversarial.step_size={own.step_size} is outside (0, 1], the range of the images")
    if own.method == "fgsm" and own.step_size < own.eps:
        raise ValueError(
            f"adversarial.step_size={own.step_size} is less than adversarial.eps={own.eps}, and FGSM takes "
            f"one step: set it to {FGSM_STEP} * eps = {FGSM_STEP * own.eps:.4g}"
        )
    if own.steps < 1:
        raise ValueError(f"adversarial.steps={own.steps} must be at least 1")
    if own.beta <= 0:
        raise ValueError(f"adversarial.beta={own.beta} must be positive")
    if own.grad_align < 0:
        raise ValueError(f"adversarial.grad_align={own.grad_align} must not be negative")
    if own.grad_align and own.method not in ("fgsm", "pgd"):
        raise ValueError(
            f"adversarial.grad_align={own.grad_align} has no effect with adversarial.method={own.method!r}: "
            "it belongs to 'fgsm' and 'pgd'; else set it to 0"
        )
    if own.method != "none" and (config.data.mixup or config.data.cutmix):
        raise ValueError(
            f"adversarial.method={own.method!r} attacks one label per picture, and Mixup and CutMix give "
            "two: set data.mixup=0 and data.cutmix=0"
        )


def with_adversary(train_step: Step, graphdef: nnx.GraphDef, config: Any, mesh: Mesh) -> Step:
    """The step that attacks its batch first; with `adversarial.method="none"` the step itself."""
    if config.adversarial.method == "none":
        return train_step
    perturb = make_perturb(graphdef, config, mesh)
    return lambda state, batch: train_step(state, perturb(state, batch))


def make_perturb(graphdef: nnx.GraphDef, config: Any, mesh: Mesh, *, fused: bool | None = None) -> Perturb:
    """Compiles `(state, batch) -> batch` with the adversarial images beside the clean ones.

    The batch gains `adversarial`, `[B, H, W, C]` float32 in [0, 1] and within eps of `image`, split over the
    devices as the batch is. What is drawn depends on the seed and the state's step alone, and the running
    statistics stay as they are.

    "fgsm" (Wong et al., 2020): one step of `step_size` from a uniform start. "pgd" (Madry et al., 2018; Rice
    et al., 2020): `steps` of them. Both raise the cross-entropy of the network in training mode, with the
    batch's statistics, as these authors do. "trades" (Zhang et al., 2019): `steps` that raise
    `KL(clean || adversarial)` of the network in evaluation mode, from a start with little noise.

    Args:
      graphdef: of the model.
      config: of the run.
      mesh: its devices.
      fused: all steps in one program, else one program per step: by default where it is faster, on
        accelerators (XLA's CPU convolutions are slow inside loops). The images are the same.
    """
    steps = 1 if config.adversarial.method == "fgsm" else config.adversarial.steps
    sharding = batch_sharding(mesh)
    begin, advance = partial(start, graphdef, config), partial(ascend, graphdef, config)

    @partial(jax.jit, out_shardings=sharding)
    def attack(state: TrainState, batch: Batch) -> jax.Array:
        first, clean_logits = begin(state, batch)
        return jax.lax.fori_loop(0, steps, partial(advance, state, batch, clean_logits), first)

    if fused or (fused is None and jax.default_backend() != "cpu"):
        return lambda state, batch: batch | {"adversarial": attack(state, batch)}

    compiled_begin = jax.jit(begin, out_shardings=(sharding, None))
    compiled_advance = jax.jit(advance, out_shardings=sharding)

    def perturb(state: TrainState, batch: Batch) -> Batch:
        adversarial, clean_logits = compiled_begin(state, batch)
        for step in range(steps):
            adversarial = compiled_advance(state, batch, clean_logits, step, adversarial)
        return batch | {"adversarial": adversarial}

    return perturb


def start(
    graphdef: nnx.GraphDef, config: Any, state: TrainState, batch: Batch
) -> tuple[jax.Array, jax.Array | None]:
    """The images that the attack starts from and, for TRADES, the logits that it goes away from."""
    images, eps = as_float(batch["image"]), config.adversarial.eps
    key = jax.random.fold_in(attack_key(config.seed, state.step), ADVERSARY)
    if config.adversarial.method == "trades":
        noise = TRADES_START * jax.random.normal(key, images.shape)
        return jnp.clip(images + noise, 0, 1), _logits(graphdef, state.params, state.model_state, images)
    noise = jax.random.uniform(key, images.shape, minval=-eps, maxval=eps)
    return jnp.clip(images + noise, 0, 1), None


def ascend(
    graphdef: nnx.GraphDef,
    config: Any,
    state: TrainState,
    batch: Batch,
    clean_logits: jax.Array | None,
    step: jax.Array | int,
    adversarial: jax.Array,
) -> jax.Array:
    """The adversarial images after one more step along the gradient's sign, inside the ball and [0, 1]."""
    images, eps = as_float(batch["image"]), config.adversarial.eps
    key = jax.random.fold_in(attack_key(config.seed, state.step), step)

    def loss(adversarial: jax.Array) -> jax.Array:
        mode = key if clean_logits is None else None
        logits = _logits(graphdef, state.params, state.model_state, adversarial, key=mode)
        if clean_logits is None:
            return cross_entropy(logits, batch["label"]).sum()
        return kl_divergence(clean_logits, logits).sum()

    moved = adversarial + config.adversarial.step_size * jnp.sign(jax.grad(loss)(adversarial))
    return jnp.clip(jnp.clip(moved, images - eps, images + eps), 0, 1)


def trained_on(config: Any) -> str:
    """The images of the batch that the loss of the run is taken of."""
    return "adversarial" if config.adversarial.method in ("fgsm", "pgd") else "image"


def trades_terms(
    model: nnx.Module, batch: Batch, out: ModelOutput, key: jax.Array, *, beta: float
) -> dict[str, jax.Array]:
    """What TRADES adds to the loss of the clean images; its pass updates the running statistics too."""
    adversarial = model(batch["adversarial"], train=True, key=key)
    divergence = kl_divergence(out.logits, adversarial.logits)
    correct = adversarial.logits.argmax(-1) == batch["label"]
    return {"penalty": beta * divergence, "divergence": divergence, "adversarial_accuracy": correct}


def grad_align_terms(
    graphdef: nnx.GraphDef,
    params: Params,
    model_state: Params,
    batch: Batch,
    key: jax.Array,
    *,
    eps: float,
    weight: float,
) -> dict[str, jax.Array]:
    """What GradAlign adds to the loss, with the clean accuracy from its pass over the clean images."""
    images = as_float(batch["image"])
    noise = jax.random.uniform(jax.random.fold_in(key, GRAD_ALIGN), images.shape, minval=-eps, maxval=eps)

    def loss(images: jax.Array, params: Params) -> tuple[jax.Array, jax.Array]:
        logits = _logits(graphdef, params, model_state, images, key=key)
        return cross_entropy(logits, batch["label"]).sum(), logits

    gradient, logits = jax.grad(loss, has_aux=True)(images, jax.lax.stop_gradient(params))
    other_gradient, _ = jax.grad(loss, has_aux=True)(images + noise, params)
    penalty = grad_align(gradient, other_gradient)
    correct = logits.argmax(-1) == batch["label"]
    return {"penalty": weight * penalty, "grad_align": penalty, "accuracy": correct}


def attack_key(seed: int, step: jax.Array) -> jax.Array:
    """The key of the attack on the batch of one step."""
    return jax.random.fold_in(jax.random.fold_in(jax.random.key(seed), step), ADVERSARY)


def _logits(
    graphdef: nnx.GraphDef,
    params: Params,
    model_state: Params,
    images: jax.Array,
    *,
    key: jax.Array | None = None,
) -> jax.Array:
    """`[B, K]`: in training mode with a key, else in evaluation mode; the statistics stay as they are."""
    return nnx.merge(graphdef, params, model_state)(images, train=key is not None, key=key).logits
