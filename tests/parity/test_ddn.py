"""DDN against Foolbox 3.3.4 on the same smooth network: the same adversarial images."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from sklearn.datasets import load_digits

from topgap_jax import attacks
from topgap_jax.attacks.ddn import ddn

foolbox = pytest.importorskip("foolbox")


class ConvNet(nnx.Module):
    """Smooth and untrained: the labels are its own predictions."""

    def __init__(self, rngs: nnx.Rngs):
        self.conv1 = nnx.Conv(1, 16, (3, 3), rngs=rngs)
        self.conv2 = nnx.Conv(16, 32, (3, 3), strides=2, rngs=rngs)
        self.head = nnx.Linear(4 * 4 * 32, 10, rngs=rngs)

    def __call__(self, images):
        x = jax.nn.gelu(self.conv2(jax.nn.gelu(self.conv1(2 * images - 1))))
        return self.head(x.reshape(len(x), -1))


@pytest.fixture(scope="module")
def digits():
    network = ConvNet(nnx.Rngs(0))
    images = (load_digits().images[:32, ..., None] / 16).astype(np.float32)
    return network, images, attacks.predict(network, images)


@pytest.mark.parametrize("targeted", [False, True])
@pytest.mark.parametrize("settings", [{}, dict(steps=30, gamma=0.1, init_epsilon=0.3)])
def test_same_adversarial_images(digits, settings, targeted):
    network, images, labels = digits
    targets = (labels + 1) % 10
    criterion = (
        foolbox.criteria.TargetedMisclassification(jnp.asarray(targets))
        if targeted
        else foolbox.criteria.Misclassification(jnp.asarray(labels))
    )
    model = foolbox.JAXModel(jax.jit(attacks.logits_fn(network)), bounds=(0, 1))
    attack = foolbox.attacks.DDNAttack(**settings)
    theirs, _, found = attack(model, jnp.asarray(images), criterion, epsilons=None)
    ours = dict(settings)
    if ours:
        ours["init_eps"] = ours.pop("init_epsilon")
    result = ddn(network, images, labels, targets=targets if targeted else None, **ours)
    assert np.asarray(found).sum() > 16
    np.testing.assert_array_equal(result.success, np.asarray(found))
    np.testing.assert_allclose(result.images, np.asarray(theirs), atol=1e-4)
