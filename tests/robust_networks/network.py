"""Three small trained networks and the pictures to attack, for comparisons with reference attacks.

The weights beside this file come from `train.py`, whose docstring states what the networks can do;
`torch_network.py` is the same in PyTorch.
"""

from pathlib import Path

import jax.numpy as jnp
import numpy as np
from flax import nnx
from safetensors.numpy import load_file, save_file

from topgap_jax.data.embedded import TexturedDigits
from topgap_jax.models.classifier import Classifier
from topgap_jax.models.resnet import BasicBlock, ResNet

FOLDER = Path(__file__).parent
HEADS = {"plain": "original", "adversarially_trained": "original", "top_gap": "pyramid"}
NAMES = tuple(HEADS)
# The radius in Linf at which attacks are compared: where the undefended ones fall, and the third does not.
EPS = {"plain": 16 / 255, "adversarially_trained": 24 / 255, "top_gap": 16 / 255}

WIDTHS = (16, 32, 64)
MEAN, STD = (0.5, 0.5, 0.5), (0.25, 0.25, 0.25)
K = 64  # positions of the 16x16 CAM that Top-GAP averages
PYRAMID_CHANNELS = 16


def build(name: str, seed: int = 0) -> Classifier:
    """A ResNet of three blocks for 32 px pictures, with fresh parameters: 80 or 95 thousand."""
    rngs = nnx.Rngs(seed)
    backbone = ResNet((1, 1, 1), BasicBlock, widths=WIDTHS, strides=(1, 2, 2), stem="half", rngs=rngs)
    head = HEADS[name]
    return Classifier(
        backbone,
        10,
        head=head,
        pool="mean" if head == "original" else "topk",
        k=K,
        pyramid_channels=PYRAMID_CHANNELS,
        mean=MEAN,
        std=STD,
        rngs=rngs,
    )


def load(name: str) -> Classifier:
    """The trained network."""
    model, arrays = build(name), load_file(FOLDER / f"{name}.safetensors")
    state = nnx.state(model)
    for path, leaf in weights(state).items():
        leaf.set_value(jnp.asarray(arrays.pop(path)))
    assert not arrays, f"the file of {name} has more than the network: {', '.join(arrays)}"
    nnx.update(model, state)
    return model


def save(name: str, model: Classifier) -> None:
    arrays = {path: np.asarray(leaf.get_value()) for path, leaf in weights(nnx.state(model)).items()}
    save_file(arrays, FOLDER / f"{name}.safetensors")


def weights(state: nnx.State) -> dict[str, nnx.Variable]:
    """Parameters and running statistics by path; k is no weight."""
    return {".".join(map(str, path)): leaf for path, leaf in nnx.to_flat_state(state) if path != ("k",)}


def pictures(number: int, split: str = "shifted") -> tuple[np.ndarray, np.ndarray]:
    """Textured digits on backgrounds independent of the class, [N,32,32,3] in [0, 1], and their labels."""
    data = TexturedDigits(split, num_images=number, size=32, object_size=20, correlation=0.1)
    return data.images.astype(np.float32) / 255, data.labels
