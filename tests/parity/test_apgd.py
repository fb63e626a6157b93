"""APGD against torchattacks 3.5.1, and against AutoAttack where the environment variable AUTOATTACK names the
folder that has its package: from the same start on the same network, the same iterates.

In Linf and L2 in double precision: the sign of a gradient next to zero depends on its rounding. AutoAttack's
projection onto the L1 ball knows single precision only.
"""

import importlib
import math
import os
import sys
import types
import warnings

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import skimage.data

from topgap_jax.attacks.apgd import AutoPGD, schedule
from topgap_jax.attacks.base import Examples

torch = pytest.importorskip("torch")
torchattacks = pytest.importorskip("torchattacks")

AUTOATTACK = os.environ.get("AUTOATTACK")
STEPS = 100
COUNT = 16
EPS = {"linf": 0.003, "l2": 0.06, "l1": 0.6}


def weights():
    rng = np.random.default_rng(0)
    shapes = {"first": (32, 768), "second": (24, 32), "head": (10, 24)}
    return {name: rng.normal(size=shape) / math.sqrt(shape[1] / 8) for name, shape in shapes.items()}


class TorchNetwork(torch.nn.Module):
    """Three linear layers with tanh between; keeps everything that it was shown."""

    def __init__(self):
        super().__init__()
        for name, value in weights().items():
            self.register_parameter(
                name, torch.nn.Parameter(torch.tensor(value, dtype=torch.get_default_dtype()))
            )
        self.seen = []

    def forward(self, images):
        self.seen.append(images.detach().numpy().transpose(0, 2, 3, 1).copy())
        x = images.to(self.first).permute(0, 2, 3, 1).flatten(1) - 0.5
        x = torch.tanh(x @ self.first.T)
        return torch.tanh(x @ self.second.T) @ self.head.T


def network(images):
    parameters = {name: jnp.asarray(value) for name, value in weights().items()}
    x = images.reshape(len(images), -1) - 0.5
    for name in ("first", "second"):
        x = jnp.tanh(x @ parameters[name].T)
    return x @ parameters["head"].T


@pytest.fixture
def double_precision():
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    with jax.enable_x64(True):
        yield
    torch.set_default_dtype(before)


def crops():
    """Pieces of a photograph, and what the network takes them for."""
    photograph = skimage.data.astronaut() / 255
    corners = np.random.default_rng(1).integers(0, 496, (COUNT, 2))
    images = np.array([photograph[i : i + 16, j : j + 16] for i, j in corners]).astype(np.float32)
    images = jnp.asarray(images, jnp.result_type(float))
    return np.asarray(images), np.asarray(network(images).argmax(-1), np.int32)


def autoattack():
    """The reference without its package, whose imports need far more than torch."""
    if AUTOATTACK is None:
        pytest.skip("the environment variable AUTOATTACK names no folder")
    if "autoattack" not in sys.modules:
        package = types.ModuleType("autoattack")
        package.__path__ = [os.path.join(AUTOATTACK, "autoattack")]
        sys.modules["autoattack"] = package
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return importlib.import_module("autoattack.autopgd_base")


def reference_iterates(library, norm, loss, images, labels, targets, steps=STEPS, larger_eps=False):
    """What the reference showed the network, the start first."""
    model = TorchNetwork()
    model.eval()
    inputs = torch.tensor(np.ascontiguousarray(images.transpose(0, 3, 1, 2))), torch.tensor(labels).long()
    name = norm.replace("l", "L")
    torch.manual_seed(0)
    if library == "autoattack":
        settings = dict(n_iter=steps, norm=name, eps=EPS[norm], use_largereps=larger_eps, device="cpu")
        if loss == "dlr-targeted":
            attack = autoattack().APGDAttack_targeted(model, **settings)
        else:
            attack = autoattack().APGDAttack(model, loss=loss, **settings)
        attack.init_hyperparam(inputs[0])
        attack.y_target = torch.tensor(targets).long()
        if larger_eps:
            early = math.ceil(0.3 * steps)
            radii = [3 * EPS[norm], 2 * EPS[norm], EPS[norm]]
            attack.decr_eps_pgd(*inputs, radii, [early, early, steps - 2 * early])
            return model.seen
    elif loss == "dlr-targeted":
        attack = torchattacks.APGDT(model, norm=name, eps=EPS[norm], steps=steps)
        attack.target_class = 2  # the likeliest besides the label
    else:
        attack = torchattacks.APGD(model, norm=name, eps=EPS[norm], steps=steps, loss=loss)
    attack.attack_single_run(*inputs)
    return model.seen[1:] if len(model.seen) > steps + 1 else model.seen


def our_iterates(norm, loss, images, labels, targets, start, steps=STEPS, larger_eps=False):
    """All iterates from this start, and after how many of them each example was fooled."""
    attack = AutoPGD(
        phases=schedule(EPS[norm], steps, norm, larger_eps=larger_eps),
        rho=0.75,
        key=jax.random.key(0),
        eot=1,
        norm=norm,
        loss=loss,
        targeted=False,
    )
    rows = jnp.arange(len(labels), dtype=jnp.int32)
    examples = Examples(jnp.asarray(images), jnp.asarray(labels), jnp.asarray(targets), rows, 0 * rows)
    start = jnp.asarray(start, images.dtype)
    state = attack.init(examples)._replace(images=start, previous=None if norm == "l1" else start)
    step = jax.jit(lambda state: attack.step(network, examples, state))
    iterates, lives = [], np.zeros(len(labels), int)
    while not np.asarray(state.progress.done).all():
        iterates.append(np.asarray(state.images))
        lives += ~np.asarray(state.progress.done)
        state = step(state)
    return iterates, lives


def largest_errors(library, norm, loss, **settings):
    """Per example the largest difference between the iterates, up to the first that fools the network."""
    images, labels = crops()
    logits = np.array(network(jnp.asarray(images)))
    logits[np.arange(COUNT), labels] = -np.inf
    targets = logits.argmax(-1).astype(np.int32)
    theirs = reference_iterates(library, norm, loss, images, labels, targets, **settings)
    ours, lives = our_iterates(norm, loss, images, labels, targets, theirs[0], **settings)
    assert lives.max() == len(theirs), "nobody withstood; choose a smaller eps"
    assert (lives == len(theirs)).mean() > 0.3
    errors = np.abs(np.array(ours) - np.array(theirs[: len(ours)])).max((2, 3, 4))
    errors = np.where(np.arange(len(ours))[:, None] < lives, errors, 0)
    moved = np.abs(np.array(ours) - images).max()
    assert moved > 0.5 * EPS[norm] / {"linf": 1, "l2": 20, "l1": 20}[norm]
    return errors.max(0)


@pytest.mark.parametrize("loss", ["ce", "dlr", "dlr-targeted"])
@pytest.mark.parametrize("norm", ["linf", "l2"])
@pytest.mark.parametrize("library", ["torchattacks", "autoattack"])
@pytest.mark.usefixtures("double_precision")
def test_iterates(library, norm, loss):
    if (library, norm, loss) == ("torchattacks", "l2", "dlr-targeted"):
        pytest.skip("torchattacks 3.5.1 gives every example the step size of the first one")
    errors = largest_errors(library, norm, loss)
    assert errors.max() < 1e-5


@pytest.mark.parametrize("steps", [1, 2, 5, 17])
@pytest.mark.usefixtures("double_precision")
def test_few_steps(steps):
    assert largest_errors("torchattacks", "linf", "ce", steps=steps).max() < 1e-5


@pytest.mark.parametrize("larger_eps", [False, True])
@pytest.mark.parametrize("loss", ["ce", "dlr-targeted"])
def test_l1_iterates(loss, larger_eps):
    errors = largest_errors("autoattack", "l1", loss, larger_eps=larger_eps)
    # Rounding decides how many values a step changes; from there on, two attacks go different ways.
    assert (errors < 1e-5).mean() >= 0.5
