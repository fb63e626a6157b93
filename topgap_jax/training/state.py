"""What a training run carries from step to step."""

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
    ema_params: Params  # empty without averaging


def split_model(model: nnx.Module) -> tuple[nnx.GraphDef, Params, Params]:
    """A module as its static definition, its parameters and the rest of its state."""
    graphdef, state = nnx.split(model)
    params, model_state = nnx.split_state(state, nnx.Param, ...)
    return graphdef, nnx.to_pure_dict(params), nnx.to_pure_dict(model_state)


def create_state(
    params: Params, model_state: Params, optimizer: optax.GradientTransformation, *, ema: bool
) -> TrainState:
    """The state before the first step."""
    ema_params = jax.tree.map(jnp.copy, params) if ema else {}
    return TrainState(jnp.int32(0), params, model_state, optimizer.init(params), ema_params)


def evaluated_params(state: TrainState) -> Params:
    """The averaged parameters where there are any, else the current ones."""
    return state.ema_params or state.params


def make_schedule(config: Any, steps: int) -> optax.Schedule:
    """The learning rate over `steps` updates: "one_cycle", "cosine", "step" or "constant", all with warm-up.

    "one_cycle" rises linearly for `warmup_fraction` of the steps and falls linearly to zero; "cosine" falls
    along a half cosine; "step" divides by ten at each of `step_milestones` (fractions of all steps).

    Raises:
      ValueError: an unknown schedule; the message lists those that exist.
    """
    peak, warmup = config.learning_rate, int(config.warmup_fraction * steps)
    rest = max(steps - warmup, 1)
    after_warmup = {
        "one_cycle": lambda: optax.linear_schedule(peak, 0.0, rest),
        "cosine": lambda: optax.cosine_decay_schedule(peak, rest),
        "step": lambda: optax.piecewise_constant_schedule(
            peak, {max(int(fraction * steps) - warmup, 0): 0.1 for fraction in config.step_milestones}
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


def make_optimizer(config: Any, steps: int) -> optax.GradientTransformation:
    """The gradient transformation: clipping, "sgd", "adamw" or "lamb", accumulation, and fine-tuning.

    Weight decay spares biases and BatchNorm's scales (arrays of fewer than two axes). With `accumulate=n` the
    mean gradient of n batches makes one update, and `steps` counts batches. `freeze` names parameters that
    stay as they are; `layer_decay` multiplies the learning rate once per block of distance from the head.

    Raises:
      ValueError: an unknown optimizer; the message lists those that exist.
    """
    if config.accumulate < 1:
        raise ValueError(f"optimizer.accumulate={config.accumulate} must be at least 1")
    if not 0 < config.layer_decay <= 1:
        raise ValueError(f"optimizer.layer_decay={config.layer_decay} is outside (0, 1]")
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
