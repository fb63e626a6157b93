"""How long training waits for its pictures: the share of `next(batches)` in the time of a step.

    python benchmarks/input_wait.py [--config configs/quickstart.py] [--epochs 0.5] [--turns 2] [--json PATH]

Trains with the real loop and reads from `metrics.jsonl` where its time went: with pictures that come from the
host (`data.on_device="never"`) and with pictures that lie on the device ("always"), in turns. The first
interval, in which the step is compiled, does not count. In milliseconds a step and as a share of it:

input      blocked until the next batch is there.
dispatch   placing the batch on the devices and starting the step.
device     blocked until the devices have computed, which they also do while the host does the rest.
"""

import argparse
import json
import runpy
import statistics
import tempfile
from pathlib import Path
from typing import Any

import jax

from topgap_jax.training.config import resolve
from topgap_jax.training.loop import prepare, train

ROOT = Path(__file__).parents[1]
PARTS = ("input", "dispatch", "device", "other")


def intervals(config: Any, on_device: str) -> list[dict[str, Any]]:
    """Trains, and gives the logged intervals after the first."""
    with config.unlocked():
        config.data.on_device = on_device
    with tempfile.TemporaryDirectory() as workdir:
        run = prepare(resolve(config), Path(workdir))
        run.directory.mkdir(exist_ok=True)
        train(run)
        lines = map(json.loads, (run.directory / "metrics.jsonl").read_text().splitlines())
        return [line for line in lines if line["kind"] == "train"][1:]


def summary(lines: list[dict[str, Any]]) -> dict[str, tuple[float, float, float]]:
    """Of each part and the whole `step`: median milliseconds a step, share of all time, highest share."""
    seconds = sum(line["seconds"] for line in lines)
    figures = {
        "step": (statistics.median(1000 * line["seconds"] / line["steps"] for line in lines), 1.0, 1.0)
    }
    for part in PARTS:
        milliseconds = statistics.median(line["milliseconds"][part] for line in lines)
        share = sum(line["shares"][part] * line["seconds"] for line in lines) / seconds
        figures[part] = (milliseconds, share, max(line["shares"][part] for line in lines))
    return figures


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--config", default=str(ROOT / "configs/quickstart.py"))
    parser.add_argument("--epochs", type=float, default=0.5)
    parser.add_argument("--turns", type=int, default=2)
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()

    config = runpy.run_path(arguments.config)["get_config"]()
    with config.unlocked():
        config.train.epochs, config.twin = arguments.epochs, None
    lines: dict[str, list[dict[str, Any]]] = {"never": [], "always": []}
    for _ in range(arguments.turns):
        for on_device, collected in lines.items():
            collected.extend(intervals(config, on_device))

    print(f"{arguments.config}, batch {config.train.batch_size}, {jax.devices()[0].device_kind}")
    for on_device, collected in lines.items():
        print(f"data.on_device={on_device!r}, {sum(line['steps'] for line in collected)} steps")
        for name, (milliseconds, share, highest) in summary(collected).items():
            print(f"  {name:9} {milliseconds:8.2f} ms a step {share:7.2%}, at most {highest:.2%}")
    if arguments.json:
        arguments.json.write_text(json.dumps({"config": arguments.config, "intervals": lines}, indent=2))


if __name__ == "__main__":
    main()
