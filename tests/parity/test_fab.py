"""FAB against the reference AutoAttack and torchattacks: the projections, and iterate after iterate.

The reference is no package on any index; the environment variable AUTOATTACK names a folder that holds it.
"""

import importlib
import os
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from sklearn.datasets import load_digits

from topgap_jax import attacks
from topgap_jax.attacks import base, hyperplane, networks
from topgap_jax.attacks.fab import FastAdaptiveBoundary

torch = pytest.importorskip("torch")

NORMS = {"linf": "Linf", "l2": "L2", "l1": "L1"}


def reference(module):
    if "AUTOATTACK" not in os.environ:
        pytest.skip("AUTOATTACK names no folder")
    if os.environ["AUTOATTACK"] not in sys.path:
        sys.path.insert(0, os.environ["AUTOATTACK"])
    return importlib.import_module(module)


def torchattacks():
    return pytest.importorskip("torchattacks").attacks.fab


SOURCES = {
    "autoattack": lambda: reference("autoattack.fab_projections"),
    "torchattacks": torchattacks,
}


@pytest.mark.parametrize("source", SOURCES)
@pytest.mark.parametrize("norm", NORMS)
def test_projection(norm, source):
    theirs = getattr(SOURCES[source](), f"projection_{norm}")
    rng = np.random.default_rng(0)
    points = rng.random((64, 3072), np.float32)
    points[:, ::7], points[:, ::11] = 0, 1
    normals = rng.standard_normal((64, 3072)).astype(np.float32)
    normals[:, ::13] = 0
    # From the hyperplane through the point to one that misses the box, on both sides.
    reach = np.abs(normals * np.where(normals > 0, points, points - 1)).sum(-1)
    gaps = (reach * np.geomspace(1e-4, 1.2, 64) * rng.choice([-1, 1], 64)).astype(np.float32)
    ours = jax.jit(hyperplane.project, static_argnames="norm")(points, normals, gaps, norm=norm)
    points, normals = torch.tensor(points, dtype=torch.float64), torch.tensor(normals, dtype=torch.float64)
    offsets = (points * normals).sum(1) - torch.tensor(gaps)
    expected = theirs(points, normals, offsets).numpy()
    # In L1 the whole rounding error of the gap is one pixel's.
    np.testing.assert_allclose(ours, expected, atol=1e-5 + (1e-6 * np.abs(gaps).max() if norm == "l1" else 0))


@pytest.fixture(scope="module")
def network():
    """A smooth network, trained on digits, as a PyTorch and as a JAX function, and digits it gets right."""
    torch.manual_seed(0)
    pixels, labels = load_digits(return_X_y=True)
    pixels = torch.tensor(pixels / 16, dtype=torch.float32)
    linear1, linear2 = torch.nn.Linear(64, 48), torch.nn.Linear(48, 10)
    theirs = torch.nn.Sequential(torch.nn.Flatten(), linear1, torch.nn.Tanh(), linear2)
    optimizer = torch.optim.Adam(theirs.parameters(), 1e-2)
    for _ in range(60):
        optimizer.zero_grad()
        torch.nn.functional.cross_entropy(theirs(pixels), torch.tensor(labels)).backward()
        optimizer.step()
    weights = [jnp.asarray(parameter.detach().numpy()) for parameter in theirs.parameters()]

    def ours(images):
        hidden = jnp.tanh(images.reshape(len(images), -1) @ weights[0].T + weights[1])
        return hidden @ weights[2].T + weights[3]

    right = np.flatnonzero(theirs(pixels).argmax(1).numpy() == labels)[:48]
    return ours, theirs, pixels.numpy().reshape(-1, 8, 8, 1)[right], labels[right]


class Trace(torch.nn.Module):
    """A network that remembers what it was shown."""

    def __init__(self, network):
        super().__init__()
        self.network, self.shown = network, []

    def forward(self, images):
        self.shown.append(images.detach().numpy().transpose(0, 2, 3, 1).copy())
        return self.network(images)


def our_iterates(attack, ours, images, labels, targets, steps):
    """The iterate before each step."""
    examples = base.Examples(
        images, labels.astype(np.int32), targets.astype(np.int32), np.arange(len(labels)), 0 * labels
    )
    examples = jax.tree.map(jnp.asarray, examples)
    state, step = attack.init(examples), jax.jit(lambda state: attack.step(ours, examples, state))
    iterates = []
    for _ in range(steps):
        iterates.append(np.asarray(state.images))
        state = step(state)
    return iterates


@pytest.mark.parametrize("targeted", [False, True])
@pytest.mark.parametrize("norm", NORMS)
def test_iterates(network, norm, targeted):
    """Ten steps from the clean image."""
    ours, theirs, images, labels = network
    trace, steps = Trace(theirs), 10
    attack = reference("autoattack.fab_pt").FABAttack_PT(
        trace, norm=NORMS[norm], n_iter=steps, targeted=targeted, device="cpu"
    )
    attack.target_class = 2  # the second largest logit
    attack.attack_single_run(
        torch.tensor(images.transpose(0, 3, 1, 2)), torch.tensor(labels), is_targeted=targeted
    )
    # Before the first step: a prediction and, in FAB-T, the choice of targets. Each step sees two batches.
    seen = trace.shown[1 + targeted :: 2]
    targets = networks.likeliest_targets(ours, images, labels, 1)[:, 0] if targeted else labels
    mine = our_iterates(
        FastAdaptiveBoundary(
            eps=np.inf, start_eps=0.3, steps=steps, restarts=1, alpha_max=0.1, eta=1.05, beta=0.9,
            key=jax.random.key(0), norm=norm, targeted=targeted, reach=False,
        ),
        ours, images, labels, targets, steps,
    )  # fmt: skip
    assert len(seen) == len(mine) == steps
    np.testing.assert_allclose(mine[1], seen[1], atol=1e-5)
    # An iterate on the boundary may round to either side, and the two then part.
    apart = np.abs(np.array(mine) - np.array(seen)).max((2, 3, 4)) > 1e-4
    assert apart.any(0).mean() <= 0.1


@pytest.mark.parametrize("targeted", [False, True])
@pytest.mark.parametrize("norm", NORMS)
def test_smallest_distances(network, norm, targeted):
    ours, theirs, images, labels = network
    attack = reference("autoattack.fab_pt").FABAttack_PT(
        theirs, norm=NORMS[norm], n_iter=30, targeted=targeted, device="cpu", eps=1e9
    )
    attack.target_class = 2
    found = attack.attack_single_run(
        torch.tensor(images.transpose(0, 3, 1, 2)), torch.tensor(labels), is_targeted=targeted
    )
    order = {"linf": np.inf, "l2": 2, "l1": 1}[norm]
    expected = np.linalg.norm(
        found.numpy().reshape(len(labels), -1) - images.reshape(len(labels), -1), order, 1
    )
    result = attacks.fab(ours, images, labels, norm=norm, steps=30, targeted=targeted, num_targets=1)
    assert result.success.all() and (expected > 0).all()
    # Not larger: ours also judges the iterates after a step back. Rounding at the boundary goes either way.
    assert np.quantile(result.distance / expected, 0.95) <= 1.001
    assert np.median(result.distance / expected) >= 0.98
