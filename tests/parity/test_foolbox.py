"""FGSM and PGD against Foolbox 3.3.4 on the same network and real pictures: the same adversarial images."""

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


@pytest.fixture(scope="module")
def foolbox_model(trained):
    return foolbox.JAXModel(jax.jit(attacks.logits_fn(trained[0])), bounds=(0, 1))


def run_foolbox(attack, model, images, criterion, eps):
    """Adversarial images and success."""
    _, clipped, success = attack(model, jnp.asarray(images), criterion, epsilons=eps)
    return np.asarray(clipped), np.asarray(success)


def same_images(ours, theirs, norm):
    """Equal to 1e-5. A gradient that rounds to another sign may move a few pixels by a whole step in Linf."""
    different = np.abs(ours.images - theirs[0]) > 1e-5
    assert different.mean() <= (1e-4 if norm == "linf" else 0)
    np.testing.assert_array_equal(ours.success, theirs[1])


EPS = {"linf": [8 / 255, 0.1], "l2": [0.5, 1.5]}
CASES = [(norm, eps) for norm in EPS for eps in EPS[norm]]
FGSM = {"linf": foolbox.attacks.LinfFastGradientAttack, "l2": foolbox.attacks.L2FastGradientAttack}
PGD = {"linf": foolbox.attacks.LinfPGD, "l2": foolbox.attacks.L2PGD}


@pytest.mark.parametrize(("norm", "eps"), CASES)
def test_fgsm(trained, foolbox_model, norm, eps):
    network, images, labels = trained
    theirs = run_foolbox(FGSM[norm](), foolbox_model, images, jnp.asarray(labels), eps)
    ours = attacks.fgsm(network, images, labels, eps=eps, norm=norm)
    assert theirs[1].sum() > 0
    same_images(ours, theirs, norm)


@pytest.mark.parametrize(("norm", "eps"), CASES)
@pytest.mark.parametrize("relative", [None, 0.25])
def test_pgd(trained, foolbox_model, norm, eps, relative):
    """With Foolbox's default step (the paper recipe's) and with one that crosses the ball."""
    network, images, labels = trained
    steps = {} if relative is None else {"abs_stepsize": relative * eps}
    attack = PGD[norm](steps=20, random_start=False, **steps)
    theirs = run_foolbox(attack, foolbox_model, images, jnp.asarray(labels), eps)
    ours = attacks.pgd(
        network, images, labels, eps=eps, norm=norm, steps=20, recipe="paper", random_start=False,
        step_size=None if relative is None else relative * eps,
    )  # fmt: skip
    assert theirs[1].sum() > 0
    same_images(ours, theirs, norm)


@pytest.mark.parametrize("norm", EPS)
def test_targeted_pgd(trained, foolbox_model, norm):
    network, images, labels = trained
    targets, eps = (labels + 1) % 10, EPS[norm][1]
    criterion = foolbox.criteria.TargetedMisclassification(jnp.asarray(targets))
    attack = PGD[norm](steps=20, random_start=False)
    theirs = run_foolbox(attack, foolbox_model, images, criterion, eps)
    ours = attacks.pgd(
        network,
        images,
        labels,
        eps=eps,
        norm=norm,
        steps=20,
        recipe="paper",
        random_start=False,
        targets=targets,
    )
    assert theirs[1].sum() > 0
    same_images(ours, theirs, norm)


@pytest.mark.parametrize("norm", EPS)
def test_random_starts_are_as_strong(trained, foolbox_model, norm):
    """The paper recipe as a whole; starts differ, so success rates are compared, over 3 x 64 attacks."""
    network, images, labels = trained
    eps = EPS[norm][1] * 0.6
    theirs = [
        run_foolbox(PGD[norm](steps=20), foolbox_model, images, jnp.asarray(labels), eps)[1] for _ in range(3)
    ]
    ours = [
        attacks.pgd(network, images, labels, eps=eps, norm=norm, steps=20, recipe="paper", key=seed).success
        for seed in range(3)
    ]
    assert 0.1 < np.mean(theirs) < 0.9
    assert abs(np.mean(ours) - np.mean(theirs)) <= 0.05
