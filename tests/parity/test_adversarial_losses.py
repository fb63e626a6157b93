"""GradAlign, TRADES, logit squeezing and the attacks on the batch, against their formulas in PyTorch."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from topgap_jax.losses import cross_entropy, grad_align, kl_divergence, logit_squeezing
from topgap_jax.models import Classifier
from topgap_jax.models.features import FeatureInfo
from topgap_jax.nn.norm import BatchNorm
from topgap_jax.training.adversarial import ascend, start
from topgap_jax.training.config import resolve
from topgap_jax.training.state import TrainState, split_model

torch = pytest.importorskip("torch")

EPS, STEPS = 8 / 255, 5
RNG = np.random.default_rng(0)
IMAGES = RNG.random((6, 10, 10, 3), np.float32)
LABELS = np.array([0, 1, 2, 3, 0, 1])
LOGITS, OTHERS = RNG.normal(size=(2, 6, 4)).astype(np.float32)


def to_torch(images):
    return torch.tensor(np.asarray(images)).permute(0, 3, 1, 2)


def from_torch(tensor):
    return tensor.detach().permute(0, 2, 3, 1).numpy()


class Backbone(nnx.Module):
    feature_info = (FeatureInfo(8, 1),)

    def __init__(self):
        self.conv = nnx.Conv(3, 8, (3, 3), rngs=nnx.Rngs(0))
        self.norm = BatchNorm(8)
        self.norm.mean[...] = 0.3 * jnp.arange(8.0)  # far from the batch's, so that the mode matters
        self.norm.var[...] = 1 + 0.5 * jnp.arange(8.0)

    def __call__(self, x, *, train=False, key=None):
        return (jax.nn.gelu(self.norm(self.conv(x), train=train), approximate=False),)


@pytest.fixture(scope="module")
def ours():
    model = Classifier(
        Backbone(), 4, head="last", pool="mean", mean=(0.5,) * 3, std=(0.25,) * 3, rngs=nnx.Rngs(1)
    )
    model.head.kernel[...] *= 5
    return model


@pytest.fixture(scope="module")
def theirs(ours):
    """The same network in PyTorch; its input is normalised outside."""
    conv, norm = torch.nn.Conv2d(3, 8, 3, padding=1), torch.nn.BatchNorm2d(8)
    head = torch.nn.Conv2d(8, 4, 1)
    pairs = ((conv, ours.backbone.conv), (head, ours.head))
    with torch.no_grad():
        for layer, source in pairs:
            layer.weight.copy_(torch.tensor(np.asarray(source.kernel[...])).permute(3, 2, 0, 1))
            layer.bias.copy_(torch.tensor(np.asarray(source.bias[...])))
        norm.running_mean.copy_(torch.tensor(np.asarray(ours.backbone.norm.mean[...])))
        norm.running_var.copy_(torch.tensor(np.asarray(ours.backbone.norm.var[...])))
    norm.momentum = 0.0  # the reference updates the running statistics in the attack; we do not
    body = torch.nn.Sequential(conv, norm, torch.nn.GELU(), head)

    class Network(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.body = body

        def forward(self, images):
            return self.body((images - 0.5) / 0.25).mean((2, 3))

    return Network()


def test_trades_loss_and_gradients():
    clean, other = (torch.tensor(z, requires_grad=True) for z in (LOGITS, OTHERS))
    divergence = torch.nn.KLDivLoss(reduction="sum")(
        torch.log_softmax(other, 1), torch.softmax(clean, 1)
    ) / len(clean)
    expected = torch.nn.functional.cross_entropy(clean, torch.tensor(LABELS)) + 6.0 * divergence
    expected.backward()

    def trades(clean, other):
        return (cross_entropy(clean, LABELS) + 6.0 * kl_divergence(clean, other)).mean()

    loss, gradients = jax.value_and_grad(trades, (0, 1))(LOGITS, OTHERS)
    assert float(loss) == pytest.approx(expected.item(), rel=1e-5)
    for gradient, tensor in zip(gradients, (clean, other), strict=True):
        np.testing.assert_allclose(gradient, tensor.grad.numpy(), atol=1e-6)


def test_logit_squeezing():
    logits = torch.tensor(LOGITS, requires_grad=True)
    expected = logits.pow(2).sum(1).mean()
    expected.backward()
    loss, gradient = jax.value_and_grad(lambda z: logit_squeezing(z).mean())(jnp.asarray(LOGITS))
    assert float(loss) == pytest.approx(expected.item(), rel=1e-5)
    np.testing.assert_allclose(gradient, logits.grad.numpy(), atol=1e-6)


def test_grad_align_and_its_gradient_with_respect_to_the_weights(ours, theirs):
    """`0.2 (1 - mean cos)` with a graph through the second gradient, as its authors compute it."""
    noise = RNG.uniform(-EPS, EPS, IMAGES.shape).astype(np.float32)
    theirs.train().zero_grad()

    def gradient_at(images, **graph):
        images = images.clone().requires_grad_()
        loss = torch.nn.functional.cross_entropy(theirs(images), torch.tensor(LABELS))
        return torch.autograd.grad(loss, images, **graph)[0]

    first = gradient_at(to_torch(IMAGES)).detach()
    second = gradient_at(to_torch(IMAGES + noise), create_graph=True)
    cosine = torch.nn.functional.cosine_similarity(first.flatten(1), second.flatten(1))
    expected = 0.2 * (1 - cosine.mean())
    expected.backward()

    graphdef, params, model_state = split_model(ours)

    def penalty(params):
        def loss(images):
            out = nnx.merge(graphdef, params, model_state)(images, train=True)
            return cross_entropy(out.logits, LABELS).mean()

        gradients = (jax.grad(loss)(jnp.asarray(images)) for images in (IMAGES, IMAGES + noise))
        return 0.2 * grad_align(*gradients).mean()

    value, gradients = jax.jit(jax.value_and_grad(penalty))(params)
    assert float(value) == pytest.approx(expected.item(), rel=1e-4)
    kernel = theirs.body[0].weight.grad.permute(2, 3, 1, 0).numpy()
    assert np.abs(kernel).max() > 1e-4
    np.testing.assert_allclose(gradients["backbone"]["conv"]["kernel"], kernel, rtol=1e-3, atol=1e-6)


@pytest.mark.parametrize("method", ["fgsm", "pgd", "trades"])
def test_the_attack_on_the_batch(method, ours, theirs):
    """From the same start: the loops of Wong, Rice and Zhang et al., with their modes of BatchNorm."""
    step_size = 1.25 * EPS if method == "fgsm" else 2 / 255
    steps = 1 if method == "fgsm" else STEPS
    config = resolve({"adversarial": {"method": method, "step_size": step_size, "steps": STEPS}})
    graphdef, params, model_state = split_model(ours)
    state = TrainState(jnp.int32(0), params, model_state, (), {})
    batch = {"image": jnp.asarray(IMAGES), "label": jnp.asarray(LABELS)}
    begun, clean_logits = start(graphdef, config, state, batch)
    step_of = jax.jit(lambda i, x: ascend(graphdef, config, state, batch, clean_logits, i, x))
    adversarial = begun
    for i in range(steps):
        adversarial = step_of(i, adversarial)

    theirs.train(method != "trades")
    images, expected = to_torch(IMAGES), to_torch(begun)
    for _ in range(steps):
        expected = expected.detach().requires_grad_()
        if method == "trades":
            loss = torch.nn.KLDivLoss(reduction="sum")(
                torch.log_softmax(theirs(expected), 1), torch.softmax(theirs(images), 1)
            )
        else:
            loss = torch.nn.functional.cross_entropy(theirs(expected), torch.tensor(LABELS))
        (gradient,) = torch.autograd.grad(loss, expected)
        moved = expected.detach() + step_size * gradient.sign()
        expected = torch.clamp(torch.min(torch.max(moved, images - EPS), images + EPS), 0, 1)
    # A gradient close to zero may round to another sign.
    assert (np.abs(adversarial - from_torch(expected)) > 1e-5).mean() < 0.01
    assert np.abs(adversarial - begun).max() > 0.5 * step_size
