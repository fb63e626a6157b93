"""What Top-GAP pooling costs in a whole training step, beside plain GAP and beside PyTorch.

    python benchmarks/train_step.py [--dtypes float32,bfloat16] [--batch-size 8] [--torch] [--json PATH]

The same network with the pyramid head, pooled in four ways:

GAP                 the plain mean.
Top-GAP             `topk_mean` with k in the state, as `create_model` has it: another k compiles nothing.
Top-GAP, static k   `topk_mean` with k as a constant of the program.
lax.top_k           the mean of `lax.top_k`: the obvious way.

All variants, of all dtypes, take turns in one process; a ratio compares the times of the same turn, and the
table gives its median and its range. `ms` is wall clock; `CPU ms` is the processor time of all threads, which
on a CPU hardly depends on what else the machine does, and on an accelerator is the host's part.

`--torch` adds timm's network of the same name, trained by PyTorch with torch.compile, channels last and
autocast (where the dtype is bfloat16), and ours with the same original head. Both have their images on the
device. It needs torch and timm, and a torch for the device that JAX uses.

`--json PATH` appends one line.
"""

import argparse
import datetime
import json
import os
import platform
import random
import statistics
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import jax
import numpy as np
from jax.sharding import Mesh

from topgap_jax.models import Classifier, create_model
from topgap_jax.nn.pooling import topk_mean, topk_mean_reference
from topgap_jax.nn.precision import sum_dtype
from topgap_jax.training.config import resolve
from topgap_jax.training.mesh import make_mesh, put_batch, state_sharding
from topgap_jax.training.state import create_state, make_optimizer, split_model
from topgap_jax.training.step import make_train_step

POOLS = ("GAP", "Top-GAP", "Top-GAP, static k", "lax.top_k")
STATIC = {"Top-GAP, static k": topk_mean, "lax.top_k": topk_mean_reference}
ORIGINAL, TORCH = "original head", "PyTorch"
TORCH_DEVICES = {"cpu": "cpu", "gpu": "cuda"}


class Network(NamedTuple):
    """What is trained."""

    name: str
    classes: int
    size: int  # of the images, in pixels
    k: int


class Seconds(NamedTuple):
    wall: float
    processor: float  # of all threads of the process


class Contender(Protocol):
    def step(self) -> None:
        """One training step, from its start to its results."""


class Trainer:
    """One network with its state, its compiled step and a global batch of random pictures.

    Args:
      network: what is trained.
      pool: one of POOLS, or ORIGINAL.
      dtype: of the computation.
      mesh: the devices; this process makes its own part of the batch.
      batch_size: over all processes.
    """

    def __init__(self, network: Network, pool: str, dtype: str, mesh: Mesh, batch_size: int):
        config = resolve({"model": {"dtype": dtype}})
        graphdef, params, model_state = split_model(make_model(network, pool, dtype))
        optimizer = make_optimizer(config.optimizer, steps=1000)
        state = create_state(params, model_state, optimizer, ema=False)
        self.state = jax.device_put(state, state_sharding(mesh, state))
        own = slice(jax.process_index(), None, jax.process_count())
        images, labels = (array[own] for array in random_batch(network, batch_size))
        self.batch = put_batch(mesh, {"image": images, "label": labels})
        step = make_train_step(graphdef, optimizer, config, mesh, self.state)
        self.program = step.lower(self.state, self.batch).compile()

    def step(self) -> None:
        self.state, metrics = self.program(self.state, self.batch)
        jax.block_until_ready((self.state, metrics))


class TorchTrainer:
    """timm's network of the same name in PyTorch, as fast as its users run it."""

    def __init__(self, network: Network, dtype: str, batch_size: int, *, compiled: bool = True):
        torch, timm = import_torch()
        self.torch, self.device = torch, TORCH_DEVICES[jax.default_backend()]
        if self.device == "cuda":
            torch.set_float32_matmul_precision("high")  # TF32, as XLA does by default
            torch.backends.cudnn.benchmark = True
        model = timm.create_model(network.name, num_classes=network.classes)
        model = model.to(self.device, memory_format=torch.channels_last).train()
        images, labels = random_batch(network, batch_size)
        # A view: in memory these are channels-last pictures already.
        self.images = torch.from_numpy(images).permute(0, 3, 1, 2).to(self.device)
        self.labels = torch.from_numpy(labels).long().to(self.device)
        self.optimizer = torch.optim.SGD(model.parameters(), lr=0.01, momentum=0.9, nesterov=True)
        self.autocast = torch.autocast(self.device, torch.bfloat16, enabled=dtype == "bfloat16")
        self.forward = torch.compile(model) if compiled else model

    def step(self) -> None:
        self.optimizer.zero_grad(set_to_none=True)
        with self.autocast:
            logits = self.forward(self.images)
        self.torch.nn.functional.cross_entropy(logits.float(), self.labels).backward()
        self.optimizer.step()
        if self.device == "cuda":
            self.torch.cuda.synchronize()


def make_model(network: Network, pool: str, dtype: str) -> Classifier:
    head, known = ("original", "mean") if pool == ORIGINAL else ("pyramid", "topk")
    known = "mean" if pool == "GAP" else known
    model = create_model(network.name, network.classes, head=head, pool=known, k=network.k, dtype=dtype)
    if pool in STATIC:
        pooled: Callable[..., Any] = STATIC[pool]
        method = {"_pooled": lambda self, cam: pooled(cam, network.k).astype(sum_dtype(cam))}
        model.__class__ = type("StaticK", (Classifier,), method)
    return model


def random_batch(network: Network, batch_size: int) -> tuple[np.ndarray, np.ndarray]:
    """Images `[B, size, size, 3]` in [0, 1] and labels `[B]`."""
    rng = np.random.default_rng(0)
    images = rng.random((batch_size, network.size, network.size, 3), np.float32)
    return images, rng.integers(0, network.classes, batch_size).astype(np.int32)


def import_torch() -> tuple[Any, Any]:
    """torch and timm.

    Raises:
      SystemExit: they are not installed, or torch lacks JAX's device.
    """
    try:
        import torch

        # The torchvision wheel describes operators that a torch without CUDA does not have.
        register_fake = torch.library.register_fake
        torch.library.register_fake = lambda operator, *args, **settings: (
            (lambda function: function)
            if isinstance(operator, str) and operator.startswith("torchvision::")
            else register_fake(operator, *args, **settings)
        )
        import timm
    except ImportError as error:
        raise SystemExit(
            f"--torch needs torch and timm: pip install torch torchvision timm ({error})"
        ) from None
    device = TORCH_DEVICES.get(jax.default_backend())
    if device is None or (device == "cuda" and not torch.cuda.is_available()):
        raise SystemExit(f"--torch needs a torch that can use JAX's device, {jax.default_backend()}")
    return torch, timm


def timed(contender: Contender) -> Seconds:
    """Of one step."""
    wall, processor = time.perf_counter(), time.process_time()
    contender.step()
    return Seconds(time.perf_counter() - wall, time.process_time() - processor)


def take_turns(contenders: dict[str, Contender], repetitions: int) -> dict[str, list[Seconds]]:
    """The times of each contender in each turn; the order within a turn is shuffled."""
    for contender in contenders.values():
        contender.step()  # warms up; PyTorch compiles
    seconds: dict[str, list[Seconds]] = {name: [] for name in contenders}
    order = random.Random(0)
    for _ in range(repetitions):
        for name in order.sample(list(contenders), len(contenders)):
            seconds[name].append(timed(contenders[name]))
    return seconds


def ratio(times: Sequence[float], reference: Sequence[float]) -> tuple[float, float, float]:
    """Median, lowest and highest of the ratios turn by turn."""
    ratios = [time / other for time, other in zip(times, reference, strict=True)]
    return statistics.median(ratios), min(ratios), max(ratios)


def text(name: str, seconds: list[Seconds], reference: list[Seconds], batch_size: int) -> str:
    """A line of the table."""
    wall, processor = zip(*seconds, strict=True)
    ratios = map(ratio, (wall, processor), zip(*reference, strict=True))
    cells = ["{:.3f} ({:.3f} to {:.3f})".format(*values) for values in ratios]
    figures = (
        batch_size / statistics.median(wall),
        *(1000 * statistics.median(t) for t in (wall, processor)),
    )
    return f"{name:30} {{:9.2f}} {{:8.1f}} {{:8.1f}}   {', '.join(cells)}".format(*figures)


def machine() -> str:
    device = jax.devices()[0].device_kind
    return f"{device} ({platform.machine()}, {os.cpu_count()} cores), jax {jax.__version__}"


def now() -> str:
    return datetime.datetime.now(datetime.UTC).isoformat(timespec="minutes")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default="resnet18")
    parser.add_argument("--classes", type=int, default=1000)
    parser.add_argument("--size", type=int, default=224)
    parser.add_argument("--k", type=int, default=256)
    parser.add_argument("--batch-size", type=int, default=8)
    parser.add_argument("--dtypes", default="float32", help="float32, bfloat16 or both: float32,bfloat16")
    parser.add_argument("--pools", default=";".join(POOLS), help='separated by semicolons: "GAP;Top-GAP"')
    parser.add_argument("--repetitions", type=int, default=9)
    parser.add_argument("--torch", action="store_true", help="beside PyTorch's step with the original head")
    parser.add_argument("--eager", action="store_true", help="PyTorch without torch.compile")
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()

    network = Network(arguments.model, arguments.classes, arguments.size, arguments.k)
    pools, dtypes = arguments.pools.split(";"), arguments.dtypes.split(",")
    pools += [ORIGINAL] * arguments.torch
    print(
        f"{network.name}, {network.size} px, {network.classes} classes, batch {arguments.batch_size}, "
        f"k={network.k}; {machine()}"
    )
    if arguments.torch and jax.default_backend() == "cpu":
        print("Warning: no accelerator here; on a CPU this says nothing about GPUs.")
    contenders: dict[str, Contender] = {}
    for dtype in dtypes:
        for pool in pools:
            trainer = Trainer(network, pool, dtype, make_mesh(), arguments.batch_size)
            contenders[f"{dtype}, {pool}"] = trainer
        if arguments.torch:
            torch_trainer = TorchTrainer(network, dtype, arguments.batch_size, compiled=not arguments.eager)
            contenders[f"{dtype}, {TORCH}"] = torch_trainer
    seconds = take_turns(contenders, arguments.repetitions)

    print(f"{'':30} {'images/s':>9} {'ms':>8} {'CPU ms':>8}   over the first of its dtype: ms, CPU ms")
    for dtype in dtypes:
        for name in [name for name in seconds if name.startswith(dtype)]:
            print(text(name, seconds[name], seconds[f"{dtype}, {pools[0]}"], arguments.batch_size))
    if arguments.json:
        settings = vars(arguments) | {"json": str(arguments.json)}
        line = {"settings": settings, "machine": machine(), "time": now(), "seconds": seconds}
        with arguments.json.open("a") as file:
            file.write(json.dumps(line) + "\n")


if __name__ == "__main__":
    main()
