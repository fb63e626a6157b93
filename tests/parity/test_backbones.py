"""Every family beside its reference: the same weights must give the same maps, gradients and statistics.

Runs where torch, timm, torchvision and robustbench are installed: `make parity`.
"""

import copy
from functools import partial

import jax
import numpy as np
import pytest
from flax import nnx
from safetensors.numpy import save_file

import topgap_jax as tg
from topgap_jax.models import registry
from topgap_jax.models.ra_wide_resnet import RaWideResNet

references = pytest.importorskip("parity.references")
torch = pytest.importorskip("torch")

CLASSES = 10


@pytest.fixture(scope="module", autouse=True)
def shrunken():
    """RaWideResNet with 7 blocks instead of 71."""
    whole = registry.ARCHITECTURES["ra_wide_resnet70_16"]
    build = partial(RaWideResNet, (2, 3, 2), (24, 40, 64), 12)
    registry.ARCHITECTURES["ra_wide_resnet_shrunken"] = whole._replace(build=build)
    yield
    del registry.ARCHITECTURES["ra_wide_resnet_shrunken"]


@pytest.fixture(scope="module", params=references.FAMILIES)
def pair(request, tmp_path_factory):
    """A reference, its module and our model with the same weights, without normalisation of the images."""
    return matched(references.FAMILIES[request.param], tmp_path_factory.mktemp("weights"))


def matched(reference, folder):
    torch.manual_seed(0)
    theirs = references.randomised(reference.build(num_classes=CLASSES))
    return reference, theirs, loaded(reference, theirs, folder)


def loaded(reference, theirs, folder, dtype="float32"):
    """Our model with their weights, by way of a file, and without normalisation of the images."""
    save_file(references.state_dict(theirs), folder / "theirs.safetensors")
    return tg.create_model(
        reference.ours,
        CLASSES,
        head="original",
        mean=(0, 0, 0),
        std=(1, 1, 1),
        dtype=dtype,
        pretrained=folder / "theirs.safetensors",
    )


def random_images(size, number=1, seed=0):
    images = np.random.default_rng(seed).normal(0, 1, (number, *size, 3)).astype(np.float32)
    return images, torch.from_numpy(images.transpose(0, 3, 1, 2).copy())


def compiled(model):
    graphdef, state = nnx.split(model)
    forward = jax.jit(lambda state, images: nnx.merge(graphdef, state)(images))
    return lambda images: forward(state, images)


def channels_last(tensor):
    return tensor.detach().numpy().transpose(0, 2, 3, 1)


def assert_close(ours, theirs, tolerance):
    assert ours.shape == theirs.shape
    np.testing.assert_allclose(ours, theirs, rtol=0, atol=tolerance * np.abs(theirs).max())


@pytest.mark.parametrize("which", [0, 1], ids=["usual size", "odd size"])
def test_maps_and_logits(pair, which):
    reference, theirs, ours = pair
    images, tensor = random_images(reference.sizes[which])
    with torch.no_grad():
        maps, logits = references.maps_and_logits(reference, theirs, tensor)
    out = compiled(ours)(images)
    assert len(out.features) == len(maps)
    for feature, tapped in zip(out.features, maps, strict=True):
        assert_close(np.asarray(feature), channels_last(tapped), 1e-4)
    assert_close(np.asarray(out.logits), logits.numpy(), 1e-4)


def test_gradient_with_respect_to_the_images(pair, tmp_path):
    """In float64: in float32 the rounding of one ReLU's input at its kink can turn a whole gradient."""
    reference, theirs, _ = pair
    images, _ = random_images(reference.sizes[1])
    weights = np.random.default_rng(1).normal(size=(1, CLASSES))
    tensor = torch.from_numpy(images.transpose(0, 3, 1, 2).copy()).double().requires_grad_(True)
    _, logits = references.maps_and_logits(reference, copy.deepcopy(theirs).double(), tensor)
    (logits * torch.from_numpy(weights)).sum().backward()
    expected = channels_last(tensor.grad)
    with jax.enable_x64(True):
        graphdef, state = nnx.split(loaded(reference, theirs, tmp_path, dtype="float64"))
        score = jax.jit(jax.grad(lambda x: (nnx.merge(graphdef, state)(x).logits * weights).sum()))
        gradient = np.asarray(score(images.astype(np.float64)))
    assert gradient.dtype == np.float64
    assert np.linalg.norm(gradient - expected) <= 1e-6 * np.linalg.norm(expected)


def test_running_statistics_after_three_training_steps(pair, tmp_path):
    reference, theirs, ours = pair
    theirs = copy.deepcopy(theirs).train()
    graphdef, state = nnx.split(ours)

    @jax.jit
    def step(state, images):
        model = nnx.merge(graphdef, state)
        model(images, train=True)
        return nnx.state(model)

    height, width = (max(side // 2, 32) for side in reference.sizes[1])
    for seed in range(3):
        images, tensor = random_images((height, width), number=4, seed=seed)
        with torch.no_grad():
            theirs(tensor)
        state = step(state, images)
    expected = nnx.state(loaded(reference, theirs, tmp_path), nnx.BatchStat)
    measured = nnx.state(nnx.merge(graphdef, state), nnx.BatchStat)
    if reference.ours.startswith("convnext"):
        assert not jax.tree.leaves(expected)
    else:
        assert jax.tree.leaves(expected)
    jax.tree.map(
        lambda ours, theirs: assert_close(np.asarray(ours), np.asarray(theirs), 1e-4), measured, expected
    )


@pytest.mark.parametrize("name", references.SIBLINGS)
def test_logits_of_the_siblings(name, tmp_path):
    reference, theirs, ours = matched(references.SIBLINGS[name], tmp_path)
    images, tensor = random_images(reference.sizes[1])
    with torch.no_grad():
        _, logits = references.maps_and_logits(reference, theirs, tensor)
    assert_close(np.asarray(compiled(ours)(images).logits), logits.numpy(), 1e-4)
