"""Trains the three networks of this folder and writes their weights.

    PYTHONPATH=tests python tests/robust_networks/train.py [NAME]

On two cores it takes 1, 2.5 and 1 minutes. Accuracies on the 512 pictures to attack, at each network's own
radius in Linf, under the paper's PGD-20 (steps of eps/30), the strong PGD-50 and the standard AutoAttack:

                           eps     clean  PGD-20  PGD-50  AutoAttack
    plain                  16/255  0.967   0.320   0.023        0.01
    adversarially_trained  24/255  0.953   0.723   0.332        0.22
    top_gap                16/255  0.979   0.473   0.066        0.01

As in the paper's tables, Top-GAP withstands the first of them better than the plain network, and AutoAttack
no better.
"""

import sys
import time
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx

from robust_networks import network
from topgap_jax import attacks
from topgap_jax.losses import top_gap_loss
from topgap_jax.training.state import split_model

BATCH = 64


class Recipe(NamedTuple):
    """How a network is trained."""

    steps: int
    learning_rate: float = 1e-2  # its peak
    l1: float = 0.0  # weight of the CAM's l1 norm
    eps: float = 0.0  # of PGD on the training pictures; it rises from 0, else nothing is learnt


RECIPES = {
    "plain": Recipe(steps=1500),
    "adversarially_trained": Recipe(steps=1500, learning_rate=5e-3, eps=16 / 255),
    "top_gap": Recipe(steps=1500, l1=1.0),
}
PGD_STEPS = 5
RAMP = 0.6  # share of the steps over which eps rises


def train(name: str) -> Any:
    """The trained network; the same on every run on the same machine."""
    recipe = RECIPES[name]
    graphdef, params, rest = split_model(network.build(name))
    optimizer = optax.adamw(
        optax.cosine_onecycle_schedule(recipe.steps, recipe.learning_rate), weight_decay=1e-2
    )

    def loss(params: Any, rest: Any, images: jax.Array, labels: jax.Array) -> tuple[jax.Array, Any]:
        model = nnx.merge(graphdef, params, rest)
        output = model(images, train=True)
        rest = nnx.to_pure_dict(nnx.state(model, nnx.Not(nnx.Param)))
        return top_gap_loss(output.logits, output.cam, labels, l1=recipe.l1)["loss"].mean(), rest

    @jax.jit
    def ascend(
        params: Any, rest: Any, images: jax.Array, clean: jax.Array, labels: jax.Array, eps: float
    ) -> jax.Array:
        gradient = jax.grad(loss, argnums=2, has_aux=True)(params, rest, images, labels)[0]
        moved = images + 2.5 * eps / PGD_STEPS * jnp.sign(gradient)
        return attacks.threat_models.project(moved, clean, eps, "linf")

    @jax.jit
    def step(params: Any, rest: Any, state: Any, images: jax.Array, labels: jax.Array) -> Any:
        gradients, rest = jax.grad(loss, has_aux=True)(params, rest, images, labels)
        updates, state = optimizer.update(gradients, state, params)
        return optax.apply_updates(params, updates), rest, state

    images, labels = network.pictures(16000, "train")
    rng, state = np.random.default_rng(0), optimizer.init(params)
    for number in range(recipe.steps):
        rows = rng.integers(0, len(images), BATCH)
        clean = batch = images[rows]
        if recipe.eps:
            eps = recipe.eps * min(1.0, number / (RAMP * recipe.steps))
            batch = clean + eps * rng.uniform(-1, 1, clean.shape).astype(np.float32)
            for _ in range(PGD_STEPS):
                batch = ascend(params, rest, batch, clean, labels[rows], eps)
        params, rest, state = step(params, rest, state, batch, labels[rows])
    return nnx.merge(graphdef, params, rest)


def main() -> None:
    images, labels = network.pictures(512)
    for name in sys.argv[1:] or network.NAMES:
        start = time.perf_counter()
        model = train(name)
        network.save(name, model)
        clean = (attacks.predict(attacks.logits_fn(model), images) == labels).mean()
        robust = {
            recipe: 1
            - attacks.pgd(
                model, images, labels, eps=network.EPS[name], recipe=recipe, **settings
            ).success.mean()
            for recipe, settings in {"paper": {"steps": 20}, "strong": {"steps": 50}}.items()
        }
        print(name, f"{time.perf_counter() - start:.0f} s", f"clean {clean:.3f}", robust, flush=True)


if __name__ == "__main__":
    main()
