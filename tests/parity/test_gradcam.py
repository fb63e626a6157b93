"""Explanations beside pytorch-grad-cam, on the same weights."""

import copy

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from jax.tree_util import Partial
from safetensors.numpy import save_file

import topgap_jax as tg
from topgap_jax import analysis

references = pytest.importorskip("parity.references")
torch = pytest.importorskip("torch")
pytorch_grad_cam = pytest.importorskip("pytorch_grad_cam")
targets = pytest.importorskip("pytorch_grad_cam.utils.model_targets")

CLASSES = 10
LABELS = np.array([7, 2])
METHODS = {
    "GradCAM": analysis.grad_cam,
    "GradCAMPlusPlus": analysis.grad_cam_plus_plus,
    "HiResCAM": analysis.hires_cam,
    "LayerCAM": analysis.layer_cam,
}


# VGG's classifier is no linear layer after a pooling: there the methods differ from each other.
@pytest.fixture(scope="module", params=[("timm/resnet18", (64, 96)), ("torchvision/vgg11_bn", (224, 224))])
def pair(request, tmp_path_factory):
    """Their module, the layer to explain, our model with the same weights, and two pictures."""
    name, size = request.param
    reference = references.FAMILIES[name]
    torch.manual_seed(0)
    theirs = references.randomised(reference.build(num_classes=CLASSES))
    file = tmp_path_factory.mktemp("weights") / "theirs.safetensors"
    save_file(references.state_dict(theirs), file)
    ours = tg.create_model(
        reference.ours, CLASSES, head="original", mean=(0, 0, 0), std=(1, 1, 1), pretrained=file
    )
    images = np.random.default_rng(0).normal(0, 1, (2, *size, 3)).astype(np.float32)
    layer = dict(theirs.named_modules())[reference.taps[-1]]
    return copy.deepcopy(theirs), reference.taps[-1], layer, ours, images


def their_heat(theirs, tap, method, images):
    """[B,H,W] in [0, 1]."""
    layer = dict(theirs.named_modules())[tap]
    tensor = torch.from_numpy(images.transpose(0, 3, 1, 2).copy())
    with getattr(pytorch_grad_cam, method)(model=theirs, target_layers=[layer]) as explain:
        return explain(tensor, [targets.ClassifierOutputTarget(int(label)) for label in LABELS])


def heat(maps, images):
    return np.asarray(analysis.resize_and_scale(maps, images.shape[1:3]))


def halves(model):
    """The maps before the head, and the head as a function of the last one."""
    graphdef, state = nnx.split(model)
    forward = jax.jit(lambda state, images: nnx.merge(graphdef, state)(images).features[-1])
    head = Partial(lambda state, x: nnx.merge(graphdef, state).head(x)[0], state)
    return lambda images: forward(state, images), head


@pytest.mark.parametrize("method", METHODS)
def test_methods_by_gradients(pair, method):
    theirs, tap, _, ours, images = pair
    first, head = halves(ours)
    maps = jax.jit(METHODS[method])(head, first(images), jnp.asarray(LABELS))
    expected = their_heat(theirs, tap, method, images)
    assert expected.std() > 0.05
    np.testing.assert_allclose(heat(maps, images), expected, rtol=0, atol=1e-4)


def test_score_cam(pair):
    theirs, tap, _, ours, images = pair
    if tap != "layer4":
        pytest.skip("a pass per channel: the small network is enough")
    network, features = tg.attacks.logits_fn(ours), halves(ours)[0](images)
    maps = analysis.score_cam(
        network, features, jnp.asarray(images), jnp.asarray(LABELS), channels_per_pass=64
    )
    np.testing.assert_allclose(
        heat(maps, images), their_heat(theirs, tap, "ScoreCAM", images), rtol=0, atol=1e-4
    )
