"""The two programs that run on the devices: one training step and one evaluation step."""

from collections.abc import Callable
from functools import lru_cache, partial
from typing import Any

import jax
import jax.numpy as jnp
import optax
from flax import nnx
from jax.sharding import Mesh

from topgap_jax.losses import top_gap_loss
from topgap_jax.training.adversarial import grad_align_terms, trades_terms, trained_on
from topgap_jax.training.device_data import as_float
from topgap_jax.training.fine_tuning import stop_gradients
from topgap_jax.training.mesh import batch_sharding, replicated, state_sharding
from topgap_jax.training.mixing import MIXING, mix
from topgap_jax.training.state import Params, TrainState, averaged

Batch = dict[str, jax.Array]
Metrics = dict[str, jax.Array]
TrainStep = Callable[[TrainState, Batch], tuple[TrainState, Metrics]]
EvalStep = Callable[[Params, Params, Batch], Metrics]


def make_train_step(
    graphdef: nnx.GraphDef,
    optimizer: optax.GradientTransformation,
    config: Any,
    mesh: Mesh,
    state: TrainState,
) -> TrainStep:
    """Compiles `(state, batch) -> (state, metrics)`; the state's buffers are reused.

    The batch holds `image` `[B, H, W, C]`, uint8 or float in [0, 1], and `label` `[B]`; metrics are means
    over it. Of a picture that Mixup or CutMix made, the accuracy counts the label with the larger share. In
    adversarial training the batch also holds `adversarial` images (`adversarial.make_perturb`), and
    `adversarial_accuracy` is theirs; `accuracy` is there where the clean images pass the network too.
    """
    loss_of = partial(
        top_gap_loss,
        l1=config.loss.l1,
        l1_of=config.loss.l1_of,
        squeezing=config.loss.logit_squeezing,
        label_smoothing=config.loss.label_smoothing,
        class_weights=config.loss.class_weights or None,
    )
    grad_align_of = partial(
        grad_align_terms, graphdef, eps=config.adversarial.eps, weight=config.adversarial.grad_align
    )
    ema_decay, accumulate = config.optimizer.ema_decay, config.optimizer.accumulate
    mixing = {"mixup": config.data.mixup, "cutmix": config.data.cutmix}
    adversarial, source = config.adversarial, trained_on(config)
    accuracy = "accuracy" if source == "image" else "adversarial_accuracy"

    def train_step(state: TrainState, batch: Batch) -> tuple[TrainState, Metrics]:
        key = jax.random.fold_in(jax.random.key(config.seed), state.step)
        images, labels = as_float(batch[source]), batch["label"]
        dominant, mixed_labels = labels, dict[str, Any]()
        if any(mixing.values()):
            images, others, share = mix(jax.random.fold_in(key, MIXING), images, labels, **mixing)
            dominant = jnp.where(share >= 0.5, labels, others)
            mixed_labels = {"other_labels": others, "share": share}

        def mean_loss(params: Params) -> tuple[jax.Array, tuple[Params, Metrics]]:
            trained = stop_gradients(params, config.optimizer.freeze)
            model = nnx.merge(graphdef, trained, state.model_state)
            out = model(images, train=True, key=key)
            losses = loss_of(out.logits, out.cam, labels, features=out.features, **mixed_labels)
            losses[accuracy] = out.logits.argmax(-1) == dominant
            if adversarial.method == "trades":
                losses = add_terms(losses, trades_terms(model, batch, out, key, beta=adversarial.beta))
            if adversarial.grad_align:
                losses = add_terms(losses, grad_align_of(trained, state.model_state, batch, key))
            metrics = {name: value.mean() for name, value in losses.items()}
            return metrics["loss"], (nnx.to_pure_dict(nnx.state(model, nnx.Not(nnx.Param))), metrics)

        gradients, (model_state, metrics) = jax.grad(mean_loss, has_aux=True)(state.params)
        updates, opt_state = optimizer.update(gradients, state.opt_state, state.params)
        params = optax.apply_updates(state.params, updates)
        metrics["gradient_norm"] = optax.tree.norm(gradients)
        new = TrainState(state.step + 1, params, model_state, opt_state, state.ema)
        decay = jnp.where(new.step % accumulate == 0, ema_decay, 1.0)  # between updates nothing is averaged
        return new._replace(ema=averaged(new, decay)), metrics

    shardings = state_sharding(mesh, state)
    return jax.jit(
        train_step,
        donate_argnums=0,
        in_shardings=(shardings, batch_sharding(mesh)),
        out_shardings=(shardings, replicated(mesh)),
    )


def add_terms(losses: Metrics, terms: Metrics) -> Metrics:
    """The losses and their further terms; `penalty` of the terms goes into `loss`."""
    further = {name: value for name, value in terms.items() if name != "penalty"}
    return losses | further | {"loss": losses["loss"] + terms["penalty"]}


@lru_cache(maxsize=8)  # runs that differ in k share one
def make_eval_step(graphdef: nnx.GraphDef, mesh: Mesh, *, l1_of: str = "cam") -> EvalStep:
    """Compiles `(params, model_state, batch) -> per-example results`, each `[B]` and on every device.

    Results are `cross_entropy`, `l1`, `prediction` and what the batch says of its images (`label`, `group`).
    Padding is the caller's to drop. `l1` is of the CAM, or as `loss.l1_of` says.
    """

    def eval_step(params: Params, model_state: Params, batch: Batch) -> Metrics:
        out = nnx.merge(graphdef, params, model_state)(as_float(batch["image"]))
        losses = top_gap_loss(out.logits, out.cam, batch["label"], l1_of=l1_of, features=out.features)
        given = {name: value for name, value in batch.items() if name != "image"}
        return given | {
            "cross_entropy": losses["cross_entropy"],
            "l1": losses["l1"],
            "prediction": out.logits.argmax(-1).astype(jnp.int32),
        }

    return jax.jit(eval_step, out_shardings=replicated(mesh))
