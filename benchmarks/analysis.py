"""Grad-CAM of a whole batch beside pytorch-grad-cam, and what the built-in CAM costs beside both.

    python benchmarks/analysis.py [--images 256] [--size 224] [--json FILE]

ResNet-18 with the same weights in both; pictures go through in batches of the same size, each method once to
compile and then in turn. The built-in CAM is a forward pass of the pyramid network, with and without the map.
"""

import argparse
import json
import platform
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from safetensors.numpy import save_file

import topgap_jax as tg
from topgap_jax import analysis

CLASSES = 37
THEIRS, OURS = "Grad-CAM, pytorch-grad-cam", "Grad-CAM, here"


def ours(model: tg.models.Classifier, labels: np.ndarray) -> Callable[[np.ndarray], np.ndarray]:
    """Grad-CAM at the last map, as heat maps."""
    graphdef, state = nnx.split(model)

    @jax.jit
    def explain(state: nnx.State, images: jax.Array) -> jax.Array:
        model = nnx.merge(graphdef, state)
        features = model.backbone(images, train=False)[-1]
        maps = analysis.grad_cam(lambda x: model.head(x)[0], features, jnp.asarray(labels))
        return analysis.resize_and_scale(maps, images.shape[1:3])

    return lambda images: np.asarray(explain(state, images))


def theirs(module, labels: np.ndarray) -> Callable[[np.ndarray], np.ndarray]:
    import torch
    from pytorch_grad_cam import GradCAM
    from pytorch_grad_cam.utils.model_targets import ClassifierOutputTarget

    explain = GradCAM(model=module, target_layers=[module.layer4])
    targets = [ClassifierOutputTarget(int(label)) for label in labels]
    return lambda images: explain(torch.from_numpy(images.transpose(0, 3, 1, 2).copy()), targets)


def built_in(model: tg.models.Classifier, labels: np.ndarray, with_map: bool) -> Callable:
    graphdef, state = nnx.split(model)

    @jax.jit
    def explain(state: nnx.State, images: jax.Array) -> tuple[jax.Array, ...]:
        out = nnx.merge(graphdef, state)(images)
        if not with_map:
            return (out.logits,)
        return out.logits, tg.heatmap(out.cam, jnp.asarray(labels), images.shape[1:3])

    return lambda images: jax.device_get(explain(state, images))


def measure(methods: dict[str, Callable], batches: list[np.ndarray], turns: int) -> dict[str, float]:
    """Seconds for all batches: the median over turns, in which every method comes once."""
    for method in methods.values():
        method(batches[0])
    seconds: dict[str, list[float]] = {name: [] for name in methods}
    for _ in range(turns):
        for name, method in methods.items():
            start = time.perf_counter()
            for batch in batches:
                method(batch)
            seconds[name].append(time.perf_counter() - start)
    return {name: statistics.median(values) for name, values in seconds.items()}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--images", type=int, default=256)
    parser.add_argument("--batch-size", type=int, default=32)
    parser.add_argument("--size", type=int, default=224)
    parser.add_argument("--turns", type=int, default=3)
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))
    from parity import references

    module = references.randomised(references.FAMILIES["timm/resnet18"].build(num_classes=CLASSES))
    with tempfile.TemporaryDirectory() as folder:
        save_file(references.state_dict(module), Path(folder) / "theirs.safetensors")
        plain = tg.create_model(
            "resnet18",
            CLASSES,
            head="original",
            mean=(0, 0, 0),
            std=(1, 1, 1),
            pretrained=Path(folder) / "theirs.safetensors",
        )
    top_gap = tg.create_model("resnet18", CLASSES, k=256)
    rng = np.random.default_rng(0)
    labels = rng.integers(0, CLASSES, arguments.batch_size)
    shape = (arguments.batch_size, arguments.size, arguments.size, 3)
    count = -(-arguments.images // arguments.batch_size)
    batches = [rng.uniform(0, 1, shape).astype(np.float32) for _ in range(count)]
    methods = {
        THEIRS: theirs(module, labels),
        OURS: ours(plain, labels),
        "Top-GAP, prediction alone": built_in(top_gap, labels, with_map=False),
        "Top-GAP, prediction and CAM": built_in(top_gap, labels, with_map=True),
    }
    difference = float(
        np.abs(
            methods["Grad-CAM, here"](batches[0]) - methods["Grad-CAM, pytorch-grad-cam"](batches[0])
        ).max()
    )
    seconds = measure(methods, batches, arguments.turns)
    pictures = count * arguments.batch_size
    reference = seconds["Grad-CAM, pytorch-grad-cam"]
    print(
        f"{pictures} pictures of {arguments.size} px, ResNet-18; heat maps differ by {difference:.1e} at most"
    )
    for name, value in seconds.items():
        print(f"{name:30s} {pictures / value:8.1f} images/s {reference / value:6.2f}x pytorch-grad-cam")
    if arguments.json:
        arguments.json.parent.mkdir(parents=True, exist_ok=True)
        line = {
            "benchmark": "analysis",
            "images": pictures,
            "size": arguments.size,
            "seconds": seconds,
            "largest_difference": difference,
            "jax": jax.__version__,
            "device": jax.devices()[0].device_kind,
            "processor": platform.processor() or platform.machine(),
        }
        with arguments.json.open("a") as file:
            file.write(json.dumps(line) + "\n")


if __name__ == "__main__":
    main()
