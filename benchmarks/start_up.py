"""From `python main.py` to the first training step: where the seconds go.

    python benchmarks/start_up.py [--config configs/quickstart.py] [--repetitions 5] [--json PATH]

Each repetition is a new process that does what `main.py` does up to its second step:

python, import ...      the interpreter with absl and the configuration; what each package adds
data, network, checks   the sources of all splits; the network with its first parameters; the other checks
twin                    the same for the run beside it, where the configuration has one
state, first batch      optimiser and state on the devices; a batch on the devices
trace, compile          the program of the train step
first, second step      running it

JAX_COMPILATION_CACHE_DIR=FOLDER in the environment shows what JAX's compilation cache saves.
"""

import argparse
import json
import os
import runpy
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest import mock

ROOT = Path(__file__).parents[1]


def stages(config_path: str, workdir: str) -> list[tuple[str, float]]:
    """What a training run does up to its second step, each part with the time (of day) at its end."""
    done: list[tuple[str, float]] = []

    def mark(name: str) -> None:
        done.append((name, time.time()))

    def marked(function: Callable[..., Any], name: str) -> Callable[..., Any]:
        def call(*arguments: Any, **settings: Any) -> Any:
            result = function(*arguments, **settings)
            mark(name)
            return result

        return call

    from absl import app  # noqa: F401
    from ml_collections import config_flags  # noqa: F401

    config = runpy.run_path(config_path)["get_config"]()
    mark("python")
    import jax

    mark("import jax")
    import topgap_jax

    mark("import topgap_jax")
    from topgap_jax.training import loop
    from topgap_jax.training.config import resolve, twin_of

    mark("import training")
    import topgap_jax.reports  # noqa: F401

    mark("import reports")
    with mock.patch.multiple(
        loop,
        load_sources=marked(loop.load_sources, "data"),
        create_model=marked(loop.create_model, "network"),
    ):
        run = loop.prepare(resolve(config), Path(workdir))
    mark("checks")
    if (twin := twin_of(config)) is not None:
        loop.prepare(twin, Path(workdir) / "twin", beside=run)
    mark("twin")
    state, train_step, _ = loop.make_programs(run)
    jax.block_until_ready(state)
    mark("state")
    batches, place = loop.make_batches(run), loop.make_placement(run)
    batch = jax.block_until_ready(place(1, next(batches)))
    mark("first batch")
    lowered = train_step.lower(state, batch)
    mark("trace")
    compiled = lowered.compile()
    mark("compile")
    for name in ("first step", "second step"):
        state, _ = jax.block_until_ready(compiled(state, batch))
        mark(name)
    return done


def one_start(config_path: str) -> dict[str, float]:
    """Seconds of each part, in a process of its own."""
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    with tempfile.TemporaryDirectory() as workdir:
        began = time.time()
        command = [sys.executable, __file__, "--config", config_path, "--workdir", workdir]
        process = subprocess.run(command, env=environment, stdout=subprocess.PIPE, text=True, check=True)
    return durations(began, json.loads(process.stdout.splitlines()[-1]))


def durations(began: float, done: list[tuple[str, float]]) -> dict[str, float]:
    """Seconds between one end and the next."""
    ends = [began, *(end for _, end in done)]
    return {name: end - start for start, (name, end) in zip(ends, done, strict=False)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--config", default=str(ROOT / "configs/quickstart.py"))
    parser.add_argument("--repetitions", type=int, default=5)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--workdir", help=argparse.SUPPRESS)  # set in the process that is measured
    arguments = parser.parse_args()
    if arguments.workdir:
        print(json.dumps(stages(arguments.config, arguments.workdir)))
        return

    starts = [one_start(arguments.config) for _ in range(arguments.repetitions)]
    for name in starts[0]:
        seconds = [start[name] for start in starts]
        print(f"{name:18} {statistics.median(seconds):6.2f} s  ({min(seconds):.2f} to {max(seconds):.2f})")
    totals = [sum(start.values()) for start in starts]
    print(f"{'together':18} {statistics.median(totals):6.2f} s  ({min(totals):.2f} to {max(totals):.2f})")
    if arguments.json:
        arguments.json.write_text(json.dumps({"config": arguments.config, "seconds": starts}, indent=2))


if __name__ == "__main__":
    main()
