"""Writes what the references give for the weights of `weights.py` (`make golden`; needs torch)."""

import json
from pathlib import Path

import numpy as np
import torch

from golden.weights import images, weights
from parity.references import FAMILIES, Reference, maps_and_logits

CLASSES = 10
SHOWN = 16
# One naming scheme of each family; the others are compared where torch is installed.
CHOSEN = (
    "timm/resnet18",
    "torchvision/resnet50",
    "timm/convnext_tiny",
    "torchvision/efficientnet_b0",
    "timm/tf_efficientnet_lite0",
    "torchvision/densenet121",
    "torchvision/vgg11_bn",
    "robustbench/preact_resnet18",
    "robustbench/wide_resnet40_4",
    "robustbench/ra_wide_resnet_shrunken",
)


def main() -> None:
    for name in CHOSEN:
        path = Path(__file__).parent / f"{name.replace('/', '-')}.json"
        path.write_text(json.dumps(golden(FAMILIES[name])))
        print(path.name, path.stat().st_size)


def golden(reference: Reference) -> dict:
    """Keys with shapes, and a sample of every map and of the logits."""
    model = reference.build(num_classes=CLASSES).eval()
    whole = not reference.ours.startswith("vgg")  # its classifier has more than a hundred million weights
    shapes = {
        key: tuple(value.shape)
        for key, value in model.state_dict().items()
        if "num_batches" not in key and (whole or key.startswith("features"))
    }
    drawn = {key: torch.from_numpy(value) for key, value in weights(shapes).items()}
    model.load_state_dict(drawn, strict=False)
    size = (65, 97) if reference.sizes[1][0] > 100 else (20, 28)
    tensor = torch.from_numpy(images(size).transpose(0, 3, 1, 2).copy())
    with torch.no_grad():
        maps, logits = maps_and_logits(reference, model, tensor)
    return {
        "model": reference.ours,
        "whole": whole,
        "size": size,
        "maps": [sample(tapped.numpy().transpose(0, 2, 3, 1)) for tapped in maps],
        "logits": sample(logits.numpy()),
        "shapes": shapes,
    }


def sample(array: np.ndarray) -> dict:
    """Shape, largest magnitude and values spread evenly over the array."""
    flat = array.ravel()
    places = np.linspace(0, flat.size - 1, SHOWN).astype(int)
    return {
        "shape": array.shape,
        "largest": float(np.abs(flat).max()),
        "values": [float(value) for value in flat[places]],
    }


if __name__ == "__main__":
    main()
