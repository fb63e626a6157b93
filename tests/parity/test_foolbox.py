"""FGSM and PGD against Foolbox 3.3.4 on the same network and real pictures: the same adversarial images."""

import warnings

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import skimage.data
from flax import nnx
from sklearn.datasets import load_digits

from topgap_jax import attacks

foolbox = pytest.importorskip("foolbox")


class ConvNet(nnx.Module):
    """Smooth activations: with ReLU, gradients are exactly zero or tied in many pixels."""

    def __init__(self, rngs: nnx.Rngs):
        self.conv1 = nnx.Conv(3, 16, (3, 3), rngs=rngs)
        self.conv2 = nnx.Conv(16, 32, (3, 3), strides=2, rngs=rngs)
        self.conv3 = nnx.Conv(32, 32, (3, 3), strides=2, rngs=rngs)
        self.head = nnx.Linear(32, 10, rngs=rngs)

    def __call__(self, images):
        x = (images - 0.5) / 0.25
        for layer in (self.conv1, self.conv2, self.conv3):
            x = jax.nn.gelu(layer(x))
        return self.head(x.mean((1, 2)))


def digits_on_textures():
    """Handwritten digits, 16 px, on crops of a photograph of gravel; colour channels from three crops."""
    digits, labels = load_digits(return_X_y=True)
    digits = np.kron(digits.reshape(-1, 8, 8) / 16, np.ones((2, 2)))
    texture = skimage.data.gravel() / 255
    rng = np.random.default_rng(0)
    corners = rng.integers(0, 496, (len(digits), 3, 2))
    crops = np.array([[texture[i : i + 16, j : j + 16] for i, j in three] for three in corners])
    images = 0.7 * digits[..., None] + 0.3 * crops.transpose(0, 2, 3, 1)
    return images.astype(np.float32), labels


@pytest.fixture(scope="module")
def trained():
    """A trained network, and pictures that it has not seen."""
    images, labels = digits_on_textures()
    graphdef, parameters = nnx.split(ConvNet(nnx.Rngs(0)))
    optimizer = optax.adam(5e-3)

    @jax.jit
    def step(parameters, state, rows):
        def loss(parameters):
            logits = nnx.merge(graphdef, parameters)(jnp.asarray(images)[rows])
            # Smoothed: in float32 the gradient of a network that is certain is mostly rounding error.
            smooth = optax.smooth_labels(jax.nn.one_hot(jnp.asarray(labels)[rows], 10), 0.3)
            return optax.softmax_cross_entropy(logits, smooth).mean()

        updates, state = optimizer.update(jax.grad(loss)(parameters), state)
        return optax.apply_updates(parameters, updates), state

    parameters = nnx.to_pure_dict(parameters)
    state, rng = optimizer.init(parameters), np.random.default_rng(0)
    for _ in range(250):
        parameters, state = step(parameters, state, rng.integers(0, 1500, 64))
    return nnx.merge(graphdef, parameters), images[1500:1564], labels[1500:1564]
