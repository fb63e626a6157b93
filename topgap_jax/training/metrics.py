"""What a run writes about itself: JSON lines and TensorBoard."""

import json
import math
import subprocess
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from tensorboardX import SummaryWriter

from topgap_jax.training.config import config_hash


def identity(config: Mapping[str, Any]) -> dict[str, Any]:
    """What every result carries: the configuration's hash, the commit and the seed."""
    return {"config_hash": config_hash(config), "commit": commit(), "seed": config["seed"]}


def commit() -> str:
    """The commit of the sources, with "+changes" where they differ from it; "unknown" outside a checkout."""
    try:
        described = subprocess.run(
            ["git", "describe", "--always", "--abbrev=12", "--exclude=*", "--dirty=+changes"],
            cwd=Path(__file__).parent,
            capture_output=True,
            text=True,
            check=True,
        )
    except (OSError, subprocess.CalledProcessError):
        return "unknown"
    return described.stdout.strip()


class MetricsWriter:
    """Appends one JSON object per line to `metrics.jsonl` and the same figures to TensorBoard.

    Args:
      directory: of the run.
      config: its configuration.
      step: the step that the run goes on from; lines of later steps, from before a crash, are dropped.
    """

    def __init__(self, directory: Path, config: Mapping[str, Any], step: int = 0):
        self._identity = identity(config)
        self._path = directory / "metrics.jsonl"
        self._keep_until(step)
        self._tensorboard = SummaryWriter(str(directory / "tensorboard"), purge_step=step or None)

    def write(self, kind: str, step: int, figures: Mapping[str, Any]) -> None:
        """Adds the figures of one step; `kind` is "train" or "eval"."""
        with self._path.open("a") as file:
            file.write(json.dumps({"kind": kind, "step": step, **figures, **self._identity}) + "\n")
        for name, value in figures.items():
            if isinstance(value, float):
                self._tensorboard.add_scalar(f"{kind}/{name}", value, step)

    def close(self) -> None:
        self._tensorboard.close()

    def _keep_until(self, step: int) -> None:
        if not self._path.exists():
            return
        lines = [line for line in self._path.read_text().splitlines() if _step(line) <= step]
        temporary = self._path.with_suffix(".tmp")
        temporary.write_text("".join(line + "\n" for line in lines))
        temporary.replace(self._path)


class TrainingLog:
    """Collects the steps' metrics on the devices, and writes and shows their means now and then.

    Args:
      directory: of the run.
      config: its configuration.
      step: the step that the run goes on from.
      steps: the last one.
      steps_per_epoch: may be fractional.
    """

    def __init__(
        self, directory: Path, config: Mapping[str, Any], step: int, steps: int, steps_per_epoch: float
    ):
        self._writer = MetricsWriter(directory, config, step)
        self._directory, self._batch_size = directory, config["train"]["batch_size"]
        self._step, self._steps_per_epoch = step, steps_per_epoch
        self._window: list[dict[str, jax.Array]] = []
        self._console = Console()
        self._progress = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("loss {task.fields[loss]:.3f}  {task.fields[speed]:.0f} images/s"),
            TimeRemainingColumn(),
            console=self._console,
            transient=True,
        )
        self._title = config["title"]
        self._task = self._progress.add_task(self._title, total=steps, completed=step, loss=math.nan, speed=0)

    def __enter__(self) -> "TrainingLog":
        self._progress.start()
        self._began = time.perf_counter()
        return self

    def __exit__(self, *_: object) -> None:
        self._progress.stop()
        self._writer.close()

    def add(self, metrics: dict[str, jax.Array]) -> None:
        """Takes the metrics of one more step; returns before the step is computed."""
        self._window.append(metrics)
        if len(self._window) > 2:  # no more than two batches wait on the devices
            jax.block_until_ready(self._window[-3])

    def flush(self) -> None:
        """Writes the means since the last flush.

        Raises:
          FloatingPointError: one of them is infinite or NaN.
        """
        if not self._window:
            return
        values = jax.device_get(self._window)
        figures = {name: float(np.mean([value[name] for value in values])) for name in values[0]}
        seconds = time.perf_counter() - self._began
        self._step += len(values)
        self._window.clear()
        for name, value in figures.items():
            if not math.isfinite(value):
                raise FloatingPointError(
                    f"{name} became {value} before step {self._step}; the checkpoints in {self._directory} "
                    "are from before: try a lower optimizer.learning_rate, or optimizer.clip_norm=1"
                )
        speed = len(values) * self._batch_size / seconds
        figures |= {"images_per_second": speed, "seconds": seconds, "steps": len(values)}
        self._write("train", figures)
        self._progress.update(self._task, completed=self._step, loss=figures["loss"], speed=speed)

    def evaluated(self, split: str, figures: Mapping[str, float]) -> None:
        """Writes and prints the result of an evaluation after the current step."""
        self._write("eval", {"split": split, **figures})
        epoch = self._step / self._steps_per_epoch
        self._console.print(
            f"{self._title}: step {self._step}, epoch {epoch:.1f}: {split} accuracy "
            f"{figures['accuracy']:.4f}, loss {figures['loss']:.4f}",
            highlight=False,
        )

    def resume_clock(self) -> None:
        """What lies between the last flush and now (evaluation, saving) does not count as training time."""
        self._began = time.perf_counter()

    def _write(self, kind: str, figures: Mapping[str, Any]) -> None:
        self._writer.write(kind, self._step, {"epoch": self._step / self._steps_per_epoch, **figures})


def training_time(directory: Path) -> dict[str, float]:
    """`step_milliseconds` (median over logged intervals) and `training_seconds`, restarts included."""
    lines = [json.loads(line) for line in (directory / "metrics.jsonl").read_text().splitlines()]
    intervals = [(line["seconds"], line["steps"]) for line in lines if line["kind"] == "train"]
    return {
        "step_milliseconds": float(np.median([1000 * seconds / steps for seconds, steps in intervals])),
        "training_seconds": sum(seconds for seconds, _ in intervals),
    }


def _step(line: str) -> float:
    try:
        return json.loads(line)["step"]
    except json.JSONDecodeError:  # half a line, from a killed process
        return float("inf")
