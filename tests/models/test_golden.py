"""What timm, torchvision and RobustBench gave for weights that can be drawn again: parity without PyTorch.

`tests/golden/write.py` wrote the files; `tests/parity` has the whole comparison.
"""

import json
from functools import partial
from pathlib import Path

import jax
import numpy as np
import pytest
from flax import nnx
from safetensors.numpy import save_file

import topgap_jax as tg
from golden.weights import images, weights
from topgap_jax.models.ra_wide_resnet import RaWideResNet
from topgap_jax.models.registry import ARCHITECTURES

FOLDER = Path(__file__).parents[1] / "golden"
LONG_TO_COMPILE = (
    *("densenet121", "lite0", "ra_wide_resnet_shrunken"),
    *("timm-convnext_tiny", "torchvision-efficientnet_b0", "torchvision-resnet50"),
)
FILES = [
    pytest.param(path, id=path.stem, marks=[pytest.mark.slow] if path.stem.endswith(LONG_TO_COMPILE) else [])
    for path in sorted(FOLDER.glob("*.json"))
]


def assert_same(ours, golden):
    assert ours.shape == tuple(golden["shape"])
    flat = np.asarray(ours).ravel()
    places = np.linspace(0, flat.size - 1, len(golden["values"])).astype(int)
    np.testing.assert_allclose(flat[places], golden["values"], rtol=0, atol=1e-4 * golden["largest"])
    np.testing.assert_allclose(np.abs(flat).max(), golden["largest"], rtol=1e-4)


@pytest.mark.parametrize("path", FILES)
def test_maps_and_logits(path, tmp_path, monkeypatch):
    small = partial(RaWideResNet, (2, 3, 2), (24, 40, 64), 12)  # the whole one has 267 million parameters
    whole = ARCHITECTURES["ra_wide_resnet70_16"]
    monkeypatch.setitem(ARCHITECTURES, "ra_wide_resnet_shrunken", whole._replace(build=small))
    golden = json.loads(path.read_text())
    save_file(weights(golden["shapes"]), tmp_path / "weights.safetensors")
    classes = golden["logits"]["shape"][1]
    model = tg.create_model(
        golden["model"],
        classes,
        head="original" if golden["whole"] else "pyramid",
        mean=(0, 0, 0),
        std=(1, 1, 1),
        pretrained=tmp_path / "weights.safetensors",
    )
    graphdef, state = nnx.split(model)
    out = jax.jit(lambda state, x: nnx.merge(graphdef, state)(x))(state, images(golden["size"]))
    for ours, expected in zip(out.features, golden["maps"], strict=True):
        assert_same(ours, expected)
    if golden["whole"]:
        assert_same(out.logits, golden["logits"])
