"""An evaluation in a process of its own, to be killed: `autoattack_job.py DIRECTORY`."""

import sys
from functools import partial
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from jax.tree_util import Partial
from sklearn.datasets import load_digits

from topgap_jax import attacks
from topgap_jax.attacks.autoattack import APGD_CE, APGD_T, FAB_T
from topgap_jax.attacks.square import square

STAGES = {
    "apgd-ce": partial(APGD_CE, steps=30),
    "apgd-t": partial(APGD_T, steps=20, num_targets=4),
    "fab-t": partial(FAB_T, steps=10, num_targets=3),
    "square": partial(square, queries=200),
}


def network(images: np.ndarray, labels: np.ndarray) -> Partial:
    """A two-layer network fitted in closed form: random features and least squares."""
    rng = np.random.default_rng(0)
    hidden = rng.normal(size=(64, 256)).astype(np.float32) / 4
    features = np.maximum(images.reshape(len(images), -1) @ hidden, 0)
    targets = np.eye(10, dtype=np.float32)[labels]
    readout = np.linalg.solve(features.T @ features + np.eye(256), features.T @ targets).astype(np.float32)
    return Partial(forward, jnp.asarray(hidden), jnp.asarray(10 * readout))


def forward(hidden: jax.Array, readout: jax.Array, images: jax.Array) -> jax.Array:
    return jax.nn.relu(images.reshape(len(images), -1) @ hidden) @ readout


def main() -> None:
    directory = Path(sys.argv[1])
    digits, labels = load_digits(return_X_y=True)
    images = (digits / 16).astype(np.float32).reshape(-1, 8, 8, 1)
    model = network(images[:1000], labels[:1000])
    result = attacks.auto_attack(
        model,
        images[1000:1200],
        labels[1000:1200],
        eps=0.05,
        version=STAGES,
        batch_size=32,
        directory=directory / "evaluation",
    )
    np.savez(
        directory / "result.npz",
        success=result.success,
        fooled_by=result.fooled_by.astype(str),
        queries=result.queries,
        images=result.images,
        devices=jax.local_device_count(),
    )


if __name__ == "__main__":
    main()
