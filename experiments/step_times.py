"""What a training step of each method costs, measured in turns on an otherwise idle machine."""

import statistics
import time
from collections.abc import Callable
from pathlib import Path

import jax
from comparison import Comparison, run_config
from tables import markdown

from topgap_jax.training.loop import Run, make_batches, make_placement, make_programs, prepare


def step_times(comparison: Comparison, turns: int = 5, steps: int = 10) -> dict[str, float]:
    """Seconds per step by method: the median over turns, in each of which all methods take `steps` steps."""
    steppers = {
        method.name: _stepper(prepare(run_config(comparison.base, method, 0), Path("unused")))
        for method in comparison.methods
    }
    for step in steppers.values():
        step(2)  # compiles
    found: dict[str, list[float]] = {name: [] for name in steppers}
    for _ in range(turns):
        for name, step in steppers.items():
            start = time.perf_counter()
            step(steps)
            found[name].append((time.perf_counter() - start) / steps)
    return {name: statistics.median(seconds) for name, seconds in found.items()}


def step_times_table(seconds: dict[str, float], baseline: str) -> str:
    """Milliseconds, and the multiple of the baseline's."""
    rows = [
        [name, f"{1000 * value:.0f}", f"{value / seconds[baseline]:.1f}"] for name, value in seconds.items()
    ]
    return markdown(["", "training step, ms", f"times {baseline}"], rows)


def _stepper(run: Run) -> Callable[[int], None]:
    """Takes so many further training steps, and waits for them."""
    programs, batches, place = make_programs(run), make_batches(run), make_placement(run)
    state = programs.state

    def take(count: int) -> None:
        nonlocal state
        for _ in range(count):
            state, metrics = programs.train_step(state, place(0, next(batches)))
        jax.block_until_ready(metrics)

    return take
