"""Every network: parameters, FLOPs and images per second, next to the same network of timm.

    python benchmarks/backbones.py [--models resnet18,vgg16_bn] [--batch 8] [--dtype bfloat16] [--json PATH]

Measured with the original head and the pyramid head (Top-GAP, k = 256): 1000 classes at 224 px, or 10 at
32 px for networks whose first map has the input's size.

FLOPs     of one forward image, as XLA counts the compiled program: a multiplication and an addition are two,
          products with padding do not count. On a CPU a depthwise convolution is a sum of shifted maps, and
          counted as that; calls of a vendor's library (cuDNN) may be missing on other devices.
forward   the logits of one batch, in evaluation mode.
training  forward, backward and an update of SGD with momentum, on the cross-entropy of random labels.
ratio     our images/s over timm's, both with the original head.

timm takes part where it and torch are installed, and torch has the device that JAX uses: eager, channels last
(its faster layout), with all cores. The contenders take turns after a warm-up; figures are medians.
Other work on the machine slows down torch far more than XLA. Images lie on the device already; ours are
normalised within the measured time.

`--json PATH` appends a line per network; one that stands there already, from the same machine with the same
settings, is not measured again.
"""

import argparse
import importlib.metadata
import importlib.util
import json
import os
import platform
import statistics
import time
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx

import topgap_jax as tg
from topgap_jax.models.registry import ARCHITECTURES
from topgap_jax.training.state import Params, split_model

LARGE = ("ra_wide_resnet70_16",)  # minutes and much memory on a CPU: only where named
HEADS = ("pyramid", "original")
MODES = ("forward", "training")
OPTIMIZER = optax.sgd(0.01, momentum=0.9)
TORCH_DEVICES = {"cpu": "cpu", "gpu": "cuda"}


class Ours:
    """One network with its state and its compiled programs."""

    def __init__(
        self, name: str, head: str, images: np.ndarray, labels: np.ndarray, classes: int, dtype: str
    ):
        model = tg.create_model(name, classes, head=head, k=256, dtype=dtype)
        graphdef, params, model_state = split_model(model)
        self.parameters = sum(leaf.size for leaf in jax.tree.leaves(params))
        self.state = (params, model_state, OPTIMIZER.init(params))
        self.batch = (jnp.asarray(images), jnp.asarray(labels))

        def forward(params: Params, model_state: Params, images: jax.Array) -> jax.Array:
            return nnx.merge(graphdef, params, model_state)(images).logits

        def loss(params: Params, model_state: Params, images: jax.Array, labels: jax.Array) -> Any:
            model = nnx.merge(graphdef, params, model_state)
            logits = model(images, train=True).logits
            model_state = nnx.to_pure_dict(nnx.state(model, nnx.Not(nnx.Param)))
            return optax.softmax_cross_entropy_with_integer_labels(logits, labels).mean(), model_state

        def step(state: tuple[Params, Params, Any], images: jax.Array, labels: jax.Array) -> Any:
            params, model_state, opt_state = state
            gradients, model_state = jax.grad(loss, has_aux=True)(params, model_state, images, labels)
            updates, opt_state = OPTIMIZER.update(gradients, opt_state)
            return optax.apply_updates(params, updates), model_state, opt_state

        self._forward = jax.jit(forward).lower(params, model_state, self.batch[0]).compile()
        self._step = jax.jit(step, donate_argnums=0).lower(self.state, *self.batch).compile()
        counted: Any = self._forward.cost_analysis()
        self.flops = counted["flops"] / len(images)

    def forward(self) -> None:
        jax.block_until_ready(self._forward(*self.state[:2], self.batch[0]))

    def training(self) -> None:
        self.state = jax.block_until_ready(self._step(self.state, *self.batch))


class Timm:
    """The same network of timm, with the same programs."""

    def __init__(self, name: str, images: np.ndarray, labels: np.ndarray, classes: int, dtype: str):
        import timm
        import torch

        self.torch, self.device = torch, TORCH_DEVICES[jax.default_backend()]
        self.bfloat16 = dtype == "bfloat16"
        model: Any = timm.create_model(name, num_classes=classes)
        self.model = model.to(self.device, memory_format=torch.channels_last)
        self.parameters = sum(parameter.numel() for parameter in model.parameters())
        self.optimizer = torch.optim.SGD(model.parameters(), lr=0.01, momentum=0.9)
        # A view: in memory these are channels-last pictures already.
        self.images = torch.from_numpy(images).permute(0, 3, 1, 2).to(self.device)
        self.labels = torch.from_numpy(labels).long().to(self.device)

    def forward(self) -> None:
        with self.torch.inference_mode():
            self._logits(train=False)
        self._wait()

    def training(self) -> None:
        self.optimizer.zero_grad()
        self.torch.nn.functional.cross_entropy(self._logits(train=True), self.labels).backward()
        self.optimizer.step()
        self._wait()

    def _logits(self, *, train: bool) -> Any:
        with self.torch.autocast(self.device, self.torch.bfloat16, enabled=self.bfloat16):
            return self.model.train(train)(self.images).float()

    def _wait(self) -> None:
        if self.device == "cuda":
            self.torch.cuda.synchronize()


def timm_names() -> set[str]:
    """Our networks that timm can run on JAX's device: none where timm or torch is not installed."""
    if not all(importlib.util.find_spec(package) for package in ("timm", "torch")):
        return set()
    import torch

    # The torchvision wheel describes operators that a torch without CUDA does not have.
    register_fake = torch.library.register_fake
    torch.library.register_fake = lambda operator, *args, **settings: (
        (lambda function: function)
        if isinstance(operator, str) and operator.startswith("torchvision::")
        else register_fake(operator, *args, **settings)
    )
    import timm

    device = TORCH_DEVICES.get(jax.default_backend())
    if device is None or (device == "cuda" and not torch.cuda.is_available()):
        return set()
    torch.set_num_threads(os.cpu_count() or 1)
    if device == "cuda":  # what XLA does by default
        torch.set_float32_matmul_precision("high")
        torch.backends.cudnn.benchmark = True
    return {name for name in tg.list_models() if timm.is_model(name)}


def published_with(name: str) -> tuple[int, int]:
    """Classes and image size: a CIFAR network keeps the input's size in its first map."""
    backbone = nnx.eval_shape(lambda: ARCHITECTURES[name].build(rngs=nnx.Rngs(0)))
    return (10, 32) if backbone.feature_info[0].stride == 1 else (1000, 224)


def measure(settings: dict[str, Any], repetitions: int, with_timm: bool) -> dict[str, Any]:
    """One row: settings, counts, images/s, ratios and every time measured."""
    name, size, batch = settings["model"], settings["image_size"], settings["batch"]
    rng = np.random.default_rng(0)
    labels = rng.integers(0, settings["classes"], batch).astype(np.int32)
    data = (rng.random((batch, size, size, 3), np.float32), labels, settings["classes"], settings["dtype"])
    contenders: dict[str, Any] = {head: Ours(name, head, *data) for head in HEADS}
    if with_timm:
        contenders["timm"] = Timm(name, *data)
        if contenders["timm"].parameters != contenders["original"].parameters:
            raise ValueError(f"timm's {name} is another network: {contenders['timm'].parameters} parameters")
    seconds: dict[str, dict[str, list[float]]] = {mode: {key: [] for key in contenders} for mode in MODES}
    for mode in MODES:
        for repetition in range(repetitions + 1):
            for key, contender in contenders.items():
                start = time.perf_counter()
                getattr(contender, mode)()
                if repetition:  # the first warms up
                    seconds[mode][key].append(time.perf_counter() - start)
    speed = {
        mode: {key: batch / statistics.median(values) for key, values in seconds[mode].items()}
        for mode in MODES
    }
    return {
        "settings": settings,
        "parameters": {head: contenders[head].parameters for head in HEADS},
        "flops": {head: contenders[head].flops for head in HEADS},
        "images_per_second": speed,
        "ratio": {mode: speed[mode]["original"] / speed[mode]["timm"] for mode in MODES} if with_timm else {},
        "seconds": seconds,
    }


def text(row: dict[str, Any]) -> str:
    """The row as the table shows it; empty where timm has no such network."""
    cells = [f"{row['settings']['model']:18} {row['settings']['image_size']:4}"]
    for count, unit in (("parameters", 1e6), ("flops", 1e9)):
        cells.append(" ".join(f"{row[count][head] / unit:8.2f}" for head in HEADS))
    for mode in MODES:
        speed = " ".join(f"{value:8.2f}" for value in row["images_per_second"][mode].values())
        cells.append(f"{speed} {row['ratio'][mode]:5.2f}" if row["ratio"] else f"{speed:32}")
    return " | ".join(cells)


def machine() -> str:
    packages = [name for name in ("jax", "torch", "timm") if importlib.util.find_spec(name)]
    versions = ", ".join(f"{name} {importlib.metadata.version(name)}" for name in packages)
    return f"{jax.devices()[0].device_kind} ({platform.machine()}, {os.cpu_count()} cores), {versions}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--models", help=f"names, separated by commas; by default all but {', '.join(LARGE)}")
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--image-size", type=int, help="pixels; by default 224, or 32 for CIFAR networks")
    parser.add_argument("--dtype", default="float32", choices=("float32", "bfloat16"))
    parser.add_argument("--repetitions", type=int, default=5)
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()

    names = arguments.models.split(",") if arguments.models else sorted(set(tg.list_models()) - set(LARGE))
    if unknown := set(names) - set(tg.list_models()):
        parser.error(f"unknown: {', '.join(sorted(unknown))}; there are: {', '.join(tg.list_models())}")
    lines = arguments.json.read_text().splitlines() if arguments.json and arguments.json.exists() else []
    in_timm = timm_names()
    print(f"{machine()}; batch {arguments.batch}, {arguments.dtype}")
    print(f"{'':23} | {'parameters [M]':17} | {'GFLOPs':17} | {'images/s, forward':32} | images/s, training")
    heads = f"{'pyramid':>8} {'original':>8}"
    speeds = f"{heads} {'timm':>8} ratio"
    print(f"{'network':18} {'px':>4} | {heads} | {heads} | {speeds} | {speeds}")
    for name in names:
        classes, size = published_with(name)
        settings = {"machine": machine(), "model": name, "batch": arguments.batch, "dtype": arguments.dtype}
        settings |= {"classes": classes, "image_size": arguments.image_size or size}
        row = next((row for row in map(json.loads, lines) if row["settings"] == settings), None)
        if row is None:
            row = measure(settings, arguments.repetitions, name in in_timm)
            if arguments.json:
                with arguments.json.open("a") as file:
                    file.write(json.dumps(row) + "\n")
        print(text(row), flush=True)


if __name__ == "__main__":
    main()
