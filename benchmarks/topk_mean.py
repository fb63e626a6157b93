"""The pooling operation alone: GAP, the mean of `lax.top_k`, and `topk_mean`, side by side.

    python benchmarks/topk_mean.py [--quick] [--json PATH]

The contenders run in turn in one process; the table gives the median of each in milliseconds, and how many
times faster than `lax.top_k` ours is. `--quick` measures the three main cases only; the whole run takes about
4 minutes on 2 cores.
"""

import argparse
import json
import os
import platform
import random
import statistics
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import jax
import jax.numpy as jnp
import jaxlib
import numpy as np

from topgap_jax.nn.pooling import gap, topk_mean, topk_mean_reference

MAIN_CASES = {(32, 56, 56, 53): 256, (8, 56, 56, 1000): 256, (64, 32, 32, 10): 64}
POOLS = {
    "GAP": lambda x, k: gap(x),
    "lax.top_k": topk_mean_reference,
    "topk_mean": topk_mean,
}
MODES = ("forward", "forward+backward")
ROUNDS = (3, 15)  # at least, at most
SECONDS = 1.0  # a contender's share of a case, between these bounds


def normal(shape: tuple[int, ...]) -> jax.Array:
    return jax.random.normal(jax.random.key(0), shape)


def sparse(shape: tuple[int, ...]) -> jax.Array:
    """As after training with the l1 penalty: half the values 0, the others nearly, one blob in each map."""
    batch, height, width, classes = shape
    noise, mask, centre = (jax.random.fold_in(jax.random.key(0), i) for i in range(3))
    row, column = jnp.meshgrid(jnp.linspace(-1, 1, height), jnp.linspace(-1, 1, width), indexing="ij")
    y, x = jax.random.uniform(centre, (2, batch, 1, 1, classes), minval=-0.7, maxval=0.7)
    squared_distance = (row[None, :, :, None] - y) ** 2 + (column[None, :, :, None] - x) ** 2
    blob = 10 * jnp.maximum(0, 1 - squared_distance / 0.09)
    return blob + 1e-3 * jax.random.normal(noise, shape) * jax.random.bernoulli(mask, 0.5, shape)


def constant(shape: tuple[int, ...]) -> jax.Array:
    return jnp.full(shape, 0.3)


INPUTS = (normal, sparse, constant)


def loss(pool: Callable, x: jax.Array, k: int) -> jax.Array:
    """Its gradient depends on the value, as a network's does."""
    return jnp.sum(pool(x, k) ** 2)


def compiled(shape: tuple[int, ...], k: int) -> dict[tuple[str, str], Callable]:
    """One function of the CAM per pool and mode."""
    x = jax.ShapeDtypeStruct(shape, jnp.float32)
    functions = {}
    for name, pool in POOLS.items():
        modes = (partial(pool, k=k), jax.value_and_grad(partial(loss, pool, k=k)))
        for mode, function in zip(MODES, modes, strict=True):
            functions[name, mode] = jax.jit(function).lower(x).compile()
    return functions


def seconds(function: Callable, x: jax.Array) -> float:
    start = time.perf_counter()
    jax.block_until_ready(function(x))
    return time.perf_counter() - start


def measure(functions: dict[tuple[str, str], Callable], x: jax.Array) -> dict[str, dict[str, float]]:
    """Median milliseconds by mode and pool."""
    slowest = max(seconds(function, x) for function in functions.values())
    rounds = int(np.clip(SECONDS / slowest, *ROUNDS))
    times: dict[tuple[str, str], list[float]] = {key: [] for key in functions}
    order = random.Random(0)
    for _ in range(rounds):
        # Shuffled, because a contender's memory traffic slows down the one after it.
        for key in order.sample(list(functions), len(functions)):
            times[key].append(seconds(functions[key], x))
    return {mode: {pool: 1000 * statistics.median(times[pool, mode]) for pool in POOLS} for mode in MODES}


def row(shape: tuple[int, ...], k: int, name: str, milliseconds: dict[str, dict[str, float]]) -> str:
    cells = [f"{'x'.join(map(str, shape)):15} {k:5} {name:8}"]
    for mode in MODES:
        values = milliseconds[mode]
        cells.append(
            f"{values['GAP']:8.2f} {values['lax.top_k']:9.2f} {values['topk_mean']:9.2f} "
            f"{values['lax.top_k'] / values['topk_mean']:6.1f}x"
        )
    return " | ".join(cells)


def machine() -> str:
    return (
        f"{jax.devices()[0].device_kind} ({platform.machine()}, {os.cpu_count()} cores), "
        f"jax {jax.__version__}, jaxlib {jaxlib.__version__}, Python {platform.python_version()}"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="the three main cases only")
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()

    print(machine())
    header = f"{'GAP':>8} {'lax.top_k':>9} {'topk_mean':>9} {'':7}"
    print(f"{'':30} | {MODES[0]:36} | {MODES[1]}")
    print(f"{'shape':15} {'k':>5} {'input':8} | {header} | {header}  [ms]")
    rows = []
    for shape, main_k in MAIN_CASES.items():
        positions = shape[1] * shape[2]
        every_k = sorted({1, 8, 64, 256, min(1024, positions), positions})
        for k in [main_k] if arguments.quick else every_k:
            functions = compiled(shape, k)
            for make in INPUTS[:1] if arguments.quick else INPUTS:
                milliseconds = measure(functions, make(shape))
                rows.append({"shape": shape, "k": k, "input": make.__name__, "milliseconds": milliseconds})
                print(row(shape, k, make.__name__, milliseconds), flush=True)
    if arguments.json:
        arguments.json.write_text(json.dumps({"machine": machine(), "rows": rows}, indent=2))


if __name__ == "__main__":
    main()
