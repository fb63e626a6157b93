"""What Top-GAP pooling costs in a whole training step: the same network with `topk` and with `mean` pooling.

    python benchmarks/train_step.py [--batch-size 8] [--dtype bfloat16] [--json PATH]

Both steps run in turn in one process; the ratio of their medians is the cost.
"""

import argparse
import json
import platform
import statistics
import time
from pathlib import Path

import jax
import numpy as np

from topgap_jax.models import create_model
from topgap_jax.training.config import resolve
from topgap_jax.training.mesh import make_mesh, put_batch, state_sharding
from topgap_jax.training.state import create_state, make_optimizer, split_model
from topgap_jax.training.step import make_train_step

POOLS = ("mean", "topk")


class Trainer:
    """One network with its state and its compiled step."""

    def __init__(self, pool: str, arguments: argparse.Namespace):
        config = resolve({"model": {"dtype": arguments.dtype}})
        model = create_model(
            arguments.model,
            arguments.classes,
            head="pyramid",
            pool=pool,
            k=arguments.k,
            dtype=arguments.dtype,
        )
        graphdef, params, model_state = split_model(model)
        optimizer = make_optimizer(config.optimizer, steps=1000)
        mesh = make_mesh()
        state = create_state(params, model_state, optimizer, ema=False)
        self.state = jax.device_put(state, state_sharding(mesh, state))
        self.step = make_train_step(graphdef, optimizer, config, mesh, self.state)
        rng = np.random.default_rng(0)
        shape = (arguments.batch_size, arguments.size, arguments.size, 3)
        labels = rng.integers(0, arguments.classes, arguments.batch_size).astype(np.int32)
        self.batch = put_batch(mesh, {"image": rng.random(shape, np.float32), "label": labels})

    def seconds(self) -> float:
        start = time.perf_counter()
        self.state, metrics = self.step(self.state, self.batch)
        jax.block_until_ready((self.state, metrics))
        return time.perf_counter() - start


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default="resnet18")
    parser.add_argument("--classes", type=int, default=1000)
    parser.add_argument("--size", type=int, default=224)
    parser.add_argument("--k", type=int, default=256)
    parser.add_argument("--batch-size", type=int, default=8)
    parser.add_argument("--dtype", default="float32", choices=("float32", "bfloat16"))
    parser.add_argument("--repetitions", type=int, default=15)
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()

    trainers = {pool: Trainer(pool, arguments) for pool in POOLS}
    for trainer in trainers.values():
        trainer.seconds()  # compiles
    times: dict[str, list[float]] = {pool: [] for pool in POOLS}
    for _ in range(arguments.repetitions):
        for pool, trainer in trainers.items():
            times[pool].append(trainer.seconds())

    medians = {pool: statistics.median(values) for pool, values in times.items()}
    ratios = sorted(topk / mean for topk, mean in zip(times["topk"], times["mean"], strict=True))
    print(
        f"{arguments.model}, pyramid head, {arguments.size} px, {arguments.classes} classes, "
        f"batch {arguments.batch_size}, {arguments.dtype}, k={arguments.k}; "
        f"{jax.devices()[0].device_kind} ({platform.machine()}), jax {jax.__version__}"
    )
    for pool, name in (("mean", "GAP"), ("topk", "Top-GAP")):
        speed = arguments.batch_size / medians[pool]
        print(f"{name:8} {1000 * medians[pool]:8.1f} ms a step {speed:8.2f} images/s")
    print(
        f"Top-GAP / GAP: {medians['topk'] / medians['mean']:.3f} (medians); pair by pair median "
        f"{statistics.median(ratios):.3f}, from {ratios[0]:.3f} to {ratios[-1]:.3f}"
    )
    if arguments.json:
        settings = vars(arguments) | {"json": str(arguments.json)}
        arguments.json.write_text(json.dumps({"settings": settings, "seconds": times}, indent=2))


if __name__ == "__main__":
    main()
