"""k-WTA and FLC pooling beside PyTorch: the layers, and whole networks rebuilt of them.

The formulas are those of the authors' code (github.com/a554b554/kWTA-Activation, `Sparsify2D_vol`;
github.com/GeJulia/flc_pooling, `FLC_Pooling`). In float64, since rounding can turn one winner into another.
"""

import copy

import jax
import numpy as np
import pytest
from flax import nnx
from safetensors.numpy import save_file

import topgap_jax as tg
from topgap_jax.nn.flc_pooling import flc_pool
from topgap_jax.nn.kwta import k_winners_take_all

references = pytest.importorskip("parity.references")
torch = pytest.importorskip("torch")


class Winners(torch.nn.Module):
    """The values of an example at or above its k-th largest, over channels and positions together."""

    def __init__(self, share):
        super().__init__()
        self.share = share

    def forward(self, x):
        flat = x.flatten(1)
        kth = torch.topk(flat, int(self.share * flat.shape[1]), dim=1).values[:, -1]
        return x * (x >= kth[:, None, None, None])


class LowFrequencies(torch.nn.Module):
    """Fourier transform, the middle half of both axes of the shifted spectrum, and back."""

    def forward(self, x):
        height, width = x.shape[2:]
        spectrum = torch.fft.fftshift(torch.fft.fft2(x, norm="forward"))
        rows, columns = (slice(int(n / 4), int(n / 4 * 3)) for n in (height, width))
        return torch.fft.ifft2(torch.fft.ifftshift(spectrum[:, :, rows, columns]), norm="forward").real


def draw(*shape):
    return np.random.default_rng(0).normal(size=shape).astype(np.float32)


def channels_last(tensor):
    return tensor.detach().numpy().transpose(0, 2, 3, 1)


@pytest.mark.parametrize("share", [0.1, 0.2, 0.29, 0.7])
def test_winners(share):
    x = draw(4, 6, 10, 7)
    tensor = torch.from_numpy(x).requires_grad_(True)
    theirs = Winners(share)(tensor)
    (theirs**2).sum().backward()
    images = x.transpose(0, 2, 3, 1)
    np.testing.assert_array_equal(k_winners_take_all(images, share), channels_last(theirs))
    gradient = jax.grad(lambda x: (k_winners_take_all(x, share) ** 2).sum())(images)
    np.testing.assert_array_equal(gradient, channels_last(tensor.grad))


@pytest.mark.parametrize("size", [(32, 32), (8, 20), (7, 11), (16, 3)])
def test_low_frequencies(size):
    """Sizes that leave 0 or 3 when divided by 4."""
    x = draw(2, 3, *size)
    tensor = torch.from_numpy(x).requires_grad_(True)
    # `fftshift` without axes turns batch and channels too, and the way back turns them again.
    theirs = LowFrequencies()(tensor)
    (theirs**2).sum().backward()
    images = x.transpose(0, 2, 3, 1)
    np.testing.assert_allclose(flc_pool(images), channels_last(theirs), atol=1e-5)
    gradient = jax.grad(lambda x: (flc_pool(x) ** 2).sum())(images)
    np.testing.assert_allclose(gradient, channels_last(tensor.grad), atol=1e-5)


def test_the_published_pooling_misplaces_the_frequencies_of_other_sizes():
    constant = np.ones((1, 1, 14, 14), np.float32)
    theirs = LowFrequencies()(torch.from_numpy(constant)).numpy()
    assert theirs.min() < -0.5  # a wave of one period in place of the constant
    np.testing.assert_allclose(flc_pool(constant.transpose(0, 2, 3, 1)), 1, rtol=1e-6)


def rebuilt(model, activation, downsampling):
    """The published network with the competitors' layers in the places that the authors give them."""
    for module in model.modules():
        for name, child in list(module.named_children()):
            in_block = module is not model
            if activation and in_block and isinstance(child, torch.nn.ReLU):
                setattr(module, name, Winners(0.1))
            elif downsampling and isinstance(child, torch.nn.MaxPool2d):
                setattr(module, name, LowFrequencies())
    for conv in model.modules():
        if downsampling and isinstance(conv, torch.nn.Conv2d) and conv.stride == (2, 2):
            conv.stride = (1, 1)
            conv.register_forward_pre_hook(lambda _, inputs: (LowFrequencies()(inputs[0]),))
    return model


@pytest.mark.parametrize(
    ("name", "activation", "downsampling"),
    [
        ("timm/resnet18", "kwta:0.1", "strided"),
        ("timm/resnet18", "relu", "flc"),
        ("timm/resnet18", "kwta:0.1", "flc"),
        ("torchvision/resnet50", "relu", "flc"),
        ("robustbench/preact_resnet18", "relu", "flc"),
        ("robustbench/wide_resnet40_4", "kwta:0.1", "flc"),
    ],
)
def test_networks(name, activation, downsampling, tmp_path):
    torch.manual_seed(0)
    reference = references.FAMILIES[name]
    theirs = references.randomised(reference.build(num_classes=10))
    save_file(references.state_dict(theirs), tmp_path / "theirs.safetensors")
    theirs = rebuilt(copy.deepcopy(theirs).double(), activation != "relu", downsampling == "flc")
    images = draw(2, 64, 64, 3)
    with torch.no_grad():
        tensor = torch.from_numpy(images.transpose(0, 3, 1, 2).copy()).double()
        maps, logits = references.maps_and_logits(reference, theirs, tensor)
    with jax.enable_x64(True):
        ours = tg.create_model(
            reference.ours,
            10,
            head="original",
            mean=(0, 0, 0),
            std=(1, 1, 1),
            dtype="float64",
            activation=activation,
            downsampling=downsampling,
            pretrained=tmp_path / "theirs.safetensors",
        )
        graphdef, state = nnx.split(ours)
        out = jax.jit(lambda state, x: nnx.merge(graphdef, state)(x))(state, images.astype(np.float64))
        for map_, tapped in zip((*out.features, out.logits), (*maps, logits), strict=True):
            expected = channels_last(tapped) if tapped.ndim == 4 else tapped.numpy()
            np.testing.assert_allclose(map_, expected, rtol=0, atol=1e-5 * np.abs(expected).max())
