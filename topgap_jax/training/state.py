"""What a training run carries from step to step."""

from collections import Counter
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from flax import nnx

from topgap_jax.training.fine_tuning import Params, scale_by_depth, train_only


class TrainState(NamedTuple):
    """Plain dicts of arrays: no modules, no references."""

    step: jax.Array  # int32: batches seen
    params: Params  # float32
    model_state: Params  # running statistics and k
    opt_state: optax.OptState
    ema: tuple[Params, Params] | tuple[()]  # averages of params and model_state; empty without averaging


def split_model(model: nnx.Module) -> tuple[nnx.GraphDef, Params, Params]:
    """A module as its static definition, its parameters and the rest of its state."""
    graphdef, state = nnx.split(model)
    params, model_state = nnx.split_state(state, nnx.Param, ...)
    return graphdef, nnx.to_pure_dict(params), nnx.to_pure_dict(model_state)


def create_state(
    params: Params, model_state: Params, optimizer: optax.GradientTransformation, *, ema: bool
) -> TrainState:
    """The state before the first step."""
    averages = jax.tree.map(jnp.copy, (params, model_state)) if ema else ()
    return TrainState(jnp.int32(0), params, model_state, optimizer.init(params), averages)


def evaluated(state: TrainState) -> tuple[Params, Params]:
    """Parameters and model state: the averages where there are any, else the current ones."""
    return state.ema or (state.params, state.model_state)


def averaged(state: TrainState, decay: jax.Array) -> tuple[Params, Params] | tuple[()]:
    """The averages one update later: parameters and running statistics alike, so that they fit each other."""
    if not state.ema:
        return ()

    def one(new: jax.Array, old: jax.Array) -> jax.Array:
        return decay * old + (1 - decay) * new if jnp.issubdtype(new.dtype, jnp.floating) else new

    return jax.tree.map(one, (state.params, state.model_state), state.ema)


def make_schedule(config: Any, steps: int) -> optax.Schedule:
    """The learning rate over `steps` updates: "one_cycle", "cosine", "step" or "constant", all with warm-up.

    "one_cycle" rises linearly for `warmup_fraction` of the steps and falls linearly to zero; "cosine" falls
    along a half cosine; "step" divides by ten at each of `step_milestones` (fractions of all steps).

    Raises:
      ValueError: an unknown schedule; the message lists those that exist.
    """
    peak, warmup = config.learning_rate, int(config.warmup_fraction * steps)
    rest = max(steps - warmup, 1)
    milestones = [max(int(fraction * steps) - warmup, 0) for fraction in config.step_milestones]
    after_warmup = {
        "one_cycle": lambda: optax.linear_schedule(peak, 0.0, rest),
        "cosine": lambda: optax.cosine_decay_schedule(peak, rest),
        "step": lambda: optax.piecewise_constant_schedule(
            peak, {step: 0.1**count for step, count in Counter(milestones).items()}
        ),
        "constant": lambda: optax.constant_schedule(peak),
    }
    if config.schedule not in after_warmup:
        raise ValueError(f"unknown schedule {config.schedule!r}; there are: {', '.join(after_warmup)}")
    decay = after_warmup[config.schedule]()
    if warmup == 0:
        return decay
    return optax.join_schedules(
        [optax.linear_schedule(peak / warmup, peak, max(warmup - 1, 1)), decay], [warmup]
    )


def check_optimizer(config: Any, steps: int) -> None:
    """Raises a ValueError for a value in `config` (the field `optimizer`) that cannot be meant."""
    if not 1 <= config.accumulate <= max(steps, 1):
        raise ValueError(
            f"optimizer.accumulate={config.accumulate} must be at least 1, and at most the {steps} steps of "
            "this run, or nothing would be updated"
        )
    if not 0 < config.layer_decay <= 1:
        raise ValueError(f"optimizer.layer_decay={config.layer_decay} is outside (0, 1]")
    if not config.learning_rate > 0:
        raise ValueError(f"optimizer.learning_rate={config.learning_rate} must be positive")
    for name in ("momentum", "beta2", "ema_decay"):
        if not 0 <= config[name] < 1:
            raise ValueError(f"optimizer.{name}={config[name]} is outside [0, 1)")
    for name in ("weight_decay", "clip_norm"):
        if not config[name] >= 0:
            raise ValueError(f"optimizer.{name}={config[name]} must not be negative (0: none)")
    for name, fractions in (
        ("warmup_fraction", [config.warmup_fraction]),
        ("step_milestones", config.step_milestones),
    ):
        if wrong := [fraction for fraction in fractions if not 0 <= fraction <= 1]:
            raise ValueError(f"optimizer.{name} has {wrong[0]}, which is outside [0, 1]")


def make_optimizer(config: Any, steps: int) -> optax.GradientTransformation:
    """The gradient transformation: clipping, "sgd", "adamw" or "lamb", accumulation, and fine-tuning.

    Weight decay spares biases and BatchNorm's scales (arrays of fewer than two axes). With `accumulate=n` the
    mean gradient of n batches makes one update, and `steps` counts batches. `freeze` names parameters that
    stay as they are; `layer_decay` multiplies the learning rate once per block of distance from the head.

    Raises:
      ValueError: an unknown optimizer or schedule (the message lists those that exist), or a value that
        cannot be meant.
    """
    check_optimizer(config, steps)
    schedule = make_schedule(config, steps // config.accumulate)

    def decay_mask(params: Params) -> Params:
        return jax.tree.map(lambda p: p.ndim > 1, params)

    adam = {
        "b1": config.momentum,
        "b2": config.beta2,
        "weight_decay": config.weight_decay,
        "mask": decay_mask,
    }
    optimizers = {
        "sgd": lambda: optax.chain(
            optax.add_decayed_weights(config.weight_decay, decay_mask),
            optax.sgd(schedule, config.momentum or None, config.nesterov),
        ),
        "adamw": lambda: optax.adamw(schedule, **adam),
        "lamb": lambda: optax.lamb(schedule, **adam),
    }
    if config.name not in optimizers:
        raise ValueError(f"unknown optimizer {config.name!r}; there are: {', '.join(optimizers)}")
    clip = optax.clip_by_global_norm(config.clip_norm) if config.clip_norm else optax.identity()
    optimizer = optax.chain(clip, optimizers[config.name]())
    if config.accumulate > 1:
        optimizer = optax.MultiSteps(optimizer, config.accumulate).gradient_transformation()
    optimizer = train_only(optimizer, config.freeze)
    return (
        optimizer if config.layer_decay == 1 else optax.chain(optimizer, scale_by_depth(config.layer_decay))
    )
