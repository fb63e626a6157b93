"""Square against the reference: AutoAttack's own (a checkout named by AUTOATTACK) or torchattacks' copy."""

import math
import os
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import skimage.data

from topgap_jax.attacks.networks import predict
from topgap_jax.attacks.square import Window, patch, schedule, square, window_sizes

torch = pytest.importorskip("torch")

if "AUTOATTACK" in os.environ:
    sys.path.insert(0, os.environ["AUTOATTACK"])
    from autoattack.square import SquareAttack
else:
    torchattacks = pytest.importorskip("torchattacks")

torch.set_num_threads(1)
EPS = {"linf": 0.06, "l2": 1.0, "l1": 5.0}


def reference(model, norm, queries, rescale=False, seed=0):
    """Square with AutoAttack's names and its first letters in capitals."""
    settings = dict(norm=norm.capitalize(), n_queries=queries, n_restarts=1, seed=seed, loss="margin")
    if "AUTOATTACK" in os.environ:
        attack = SquareAttack(model, eps=EPS[norm], resc_schedule=rescale, device="cpu", **settings)
    else:
        if norm == "l1":
            pytest.skip("torchattacks has no L1")
        attack = torchattacks.Square(model, eps=EPS[norm], **settings)
        attack.rescale_schedule = rescale
        attack.device = "cpu"
    return attack


@pytest.mark.parametrize("queries", [5000, 10_000, 300])
@pytest.mark.parametrize("rescale", [False, True])
def test_schedule_of_every_iteration(queries, rescale):
    attack = reference(torch.nn.Identity(), "linf", queries, rescale)
    halvings = schedule(queries, rescale)
    level = (np.arange(queries)[:, None] >= halvings).sum(-1)
    p = [attack.p_selection(i) for i in range(queries)]
    np.testing.assert_array_equal(0.8 / 2.0**level, p)
    for height, width in ((8, 8), (32, 32), (30, 41), (224, 224)):
        sides = [min(max(round(math.sqrt(share * height * width)), 1), height, width) for share in p]
        np.testing.assert_array_equal(window_sizes(0.8, (1, height, width, 3), "linf")[level], sides)


@pytest.mark.parametrize("norm", ["l2", "l1"])
@pytest.mark.parametrize("size", [1, 2, 3, 4, 7, 10, 31])
def test_patch(norm, size):
    attack = reference(torch.nn.Identity(), norm, 10)
    ours = [
        np.asarray(patch(Window(*[jnp.arange(size)[None]] * 2, jnp.full(1, size)), jnp.full(1, lying), norm))[
            0
        ]
        for lying in (False, True)
    ]
    for seed in range(4):
        torch.manual_seed(seed)
        theirs = attack.eta(size).numpy()
        assert min(np.abs(theirs - eta).max() for eta in ours) < 1e-6


@pytest.fixture(scope="module")
def trained():
    """Three textures told apart by a small network, as a torch module and a function in JAX."""
    rng = np.random.default_rng(0)
    photographs = [getattr(skimage.data, name)() / 255 for name in ("brick", "grass", "gravel")]
    labels = np.tile(np.arange(3), 267)
    corners = rng.integers(0, 480, (len(labels), 2))
    images = np.stack(
        [photographs[y][i : i + 20, j : j + 20] for y, (i, j) in zip(labels, corners, strict=True)]
    )
    images = images[..., None].astype(np.float32)
    torch.manual_seed(0)
    model = torch.nn.Sequential(
        torch.nn.Conv2d(1, 12, 5, stride=2), torch.nn.ReLU(), torch.nn.Conv2d(12, 24, 3, stride=2),
        torch.nn.ReLU(), torch.nn.Flatten(), torch.nn.Linear(24 * 9, 3),
    )  # fmt: skip
    optimizer = torch.optim.Adam(model.parameters(), 3e-3)
    x, y = torch.tensor(images.transpose(0, 3, 1, 2)), torch.tensor(labels)
    for _ in range(200):
        rows = torch.randint(0, 600, (64,))
        # Small noise, so that the attack takes more than a few queries.
        noisy = (x[rows] + 0.1 * torch.randn_like(x[rows])).clamp(0, 1)
        optimizer.zero_grad()
        torch.nn.functional.cross_entropy(model(noisy), y[rows]).backward()
        optimizer.step()
    weights = {name: jnp.asarray(value.detach().numpy()) for name, value in model.named_parameters()}

    def network(images):
        x = images.transpose(0, 3, 1, 2)
        for layer in ("0", "2"):
            x = jax.lax.conv(x, weights[f"{layer}.weight"], (2, 2), "VALID")
            x = jax.nn.relu(x + weights[f"{layer}.bias"][:, None, None])
        return x.reshape(len(x), -1) @ weights["5.weight"].T + weights["5.bias"]

    return model.eval(), network, images[600:], labels[600:]


@pytest.mark.parametrize("norm", EPS)
def test_robust_accuracy(trained, norm):
    """After 300 queries, of 201 images; both draw anew, so the figures differ by sampling."""
    model, network, images, labels = trained
    x, y = torch.tensor(images.transpose(0, 3, 1, 2)), torch.tensor(labels)
    with torch.no_grad():
        clean = model(x).argmax(-1).numpy()
        attack = reference(model, norm, 300)
        adversarial = attack.perturb(x, y)
        theirs = (model(adversarial).argmax(-1).numpy() == labels) & (clean == labels)
    np.testing.assert_array_equal(predict(network, images), clean)
    result = square(network, images, labels, eps=EPS[norm], norm=norm, queries=300)
    ours = ~result.success & (clean == labels)
    print(
        f"{norm}: clean {(clean == labels).mean():.3f}, ours {ours.mean():.3f}, reference {theirs.mean():.3f}"
    )
    assert 0.1 < theirs.mean() < (clean == labels).mean() - 0.1
    # Most examples stand or fall in both; the rest is a matter of draws.
    assert abs(ours.mean() - theirs.mean()) < 0.05
