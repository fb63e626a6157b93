"""A small network trained on real handwritten digits, for all tests of attacks."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx
from sklearn.datasets import load_digits


class ConvNet(nnx.Module):
    def __init__(self, rngs: nnx.Rngs):
        self.conv1 = nnx.Conv(1, 16, (3, 3), rngs=rngs)
        self.conv2 = nnx.Conv(16, 32, (3, 3), strides=2, rngs=rngs)
        self.head = nnx.Linear(32, 10, rngs=rngs)

    def __call__(self, images):
        x = jax.nn.relu(self.conv2(jax.nn.relu(self.conv1(2 * images - 1))))
        return self.head(x.mean((1, 2)))


def train(seed, images, labels):
    graphdef, parameters = nnx.split(ConvNet(nnx.Rngs(seed)))
    optimizer = optax.adam(1e-2)

    @jax.jit
    def step(parameters, state, rows):
        def loss(parameters):
            logits = nnx.merge(graphdef, parameters)(images[rows])
            return optax.softmax_cross_entropy_with_integer_labels(logits, labels[rows]).mean()

        updates, state = optimizer.update(jax.grad(loss)(parameters), state)
        return optax.apply_updates(parameters, updates), state

    parameters = nnx.to_pure_dict(parameters)
    state, rng = optimizer.init(parameters), np.random.default_rng(seed)
    for _ in range(300):
        parameters, state = step(parameters, state, rng.integers(0, len(images), 128))
    return nnx.merge(graphdef, parameters)


@pytest.fixture(scope="session")
def trained():
    """A trained network and 200 digits that it has not seen."""
    digits, labels = load_digits(return_X_y=True)
    images = (digits / 16).astype(np.float32).reshape(-1, 8, 8, 1)
    return (
        train(0, jnp.asarray(images[:1500]), jnp.asarray(labels[:1500])),
        images[1500:1700],
        labels[1500:1700],
    )
