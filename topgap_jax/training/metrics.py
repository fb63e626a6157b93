"""What a run writes about itself: JSON lines and TensorBoard."""

import json
import math
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import jax
import numpy as np
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from tensorboardX import SummaryWriter

from topgap_jax.training.config import config_hash, flat
from topgap_jax.training.distributed import is_first

PHASES = ("input", "compile", "dispatch", "device")  # where the time of training goes; the rest is "other"


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

    Of several processes, the first one writes.

    Args:
      directory: of the run.
      config: its configuration.
      step: the step that the run goes on from; lines of later steps, from before a crash, are dropped.
    """

    def __init__(self, directory: Path, config: Mapping[str, Any], step: int = 0):
        self._writes = is_first()
        if not self._writes:
            return
        self._identity = identity(config)
        self._path = directory / "metrics.jsonl"
        self._keep_until(step)
        self._tensorboard = SummaryWriter(str(directory / "tensorboard"), purge_step=step or None)

    def write(self, kind: str, step: int, figures: Mapping[str, Any]) -> None:
        """Adds the figures of one step; `kind` is "train", "eval" or "checkpoint"."""
        if not self._writes:
            return
        with self._path.open("a") as file:
            file.write(json.dumps({"kind": kind, "step": step, **figures, **self._identity}) + "\n")
        for name, value in flat(figures).items():
            if isinstance(value, float):
                self._tensorboard.add_scalar(f"{kind}/{name}", value, step)

    def close(self) -> None:
        if self._writes:
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

    Every interval says where this process's time went: `input` (blocked on the next batch), `compile` (the
    first step: traced and compiled), `dispatch` (batches placed, steps started), `device` (blocked until the
    devices have computed) and `other`. The devices compute while the host waits for input or dispatches, so
    `device` is what this did not hide, not the time of a step on the device.

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
        self._seconds = dict.fromkeys(PHASES, 0.0)
        self._console = Console(quiet=not is_first())
        self._progress = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("loss {task.fields[loss]:.3f}  {task.fields[speed]:.0f} images/s"),
            TextColumn("input {task.fields[waiting]:.0%}"),
            TimeRemainingColumn(),
            console=self._console,
            transient=True,
            disable=not sys.stdout.isatty(),  # in a notebook it would need another package
        )
        self._title = config["title"]
        shown: dict[str, Any] = {"loss": math.nan, "speed": 0, "waiting": 0}
        self._task = self._progress.add_task(self._title, total=steps, completed=step, **shown)

    def __enter__(self) -> "TrainingLog":
        self._progress.start()
        self._began = time.perf_counter()
        return self

    def __exit__(self, *_: object) -> None:
        self._progress.stop()
        self._writer.close()

    @contextmanager
    def timed(self, phase: str) -> Iterator[None]:
        """Counts the time spent inside as that of a phase, one of `PHASES`."""
        began = time.perf_counter()
        try:
            yield
        finally:
            self._seconds[phase] += time.perf_counter() - began

    def add(self, metrics: dict[str, jax.Array]) -> None:
        """Takes the metrics of one more step; returns before the step is computed."""
        self._window.append(metrics)
        if len(self._window) > 2:  # no more than two batches wait on the devices
            with self.timed("device"):
                jax.block_until_ready(self._window[-3])

    def flush(self) -> None:
        """Writes the means since the last flush.

        Raises:
          FloatingPointError: one of them is infinite or NaN.
        """
        if not self._window:
            return
        with self.timed("device"):
            values = jax.device_get(self._window)
        figures: dict[str, Any] = {
            name: float(np.mean([value[name] for value in values])) for name in values[0]
        }
        seconds = time.perf_counter() - self._began
        self._step += len(values)
        self._window.clear()
        for name, value in figures.items():
            if not math.isfinite(value):
                raise FloatingPointError(
                    f"{name} became {value} before step {self._step}; the checkpoints in {self._directory} "
                    "are from before: try another workdir with a lower optimizer.learning_rate or clip_norm=1"
                )
        speed = len(values) * self._batch_size / seconds
        figures |= {"images_per_second": speed, "seconds": seconds, "steps": len(values)}
        figures |= self._breakdown(seconds, len(values))
        self._write("train", figures)
        shown = {"loss": figures["loss"], "speed": speed, "waiting": figures["shares"]["input"]}
        self._progress.update(self._task, completed=self._step, **shown)

    def evaluated(self, split: str, figures: Mapping[str, float]) -> None:
        """Writes and prints the result of an evaluation after the current step."""
        self._write("eval", {"split": split, **figures})
        epoch = self._step / self._steps_per_epoch
        self._console.print(
            f"{self._title}: step {self._step}, epoch {epoch:.1f}: {split} accuracy "
            f"{figures['accuracy']:.4f}, loss {figures['loss']:.4f}",
            highlight=False,
        )

    def saved(self, seconds: float) -> None:
        """Writes how long a checkpoint kept the training waiting."""
        self._write("checkpoint", {"seconds": seconds})

    def resume_clock(self) -> None:
        """What lies between the last flush and now (evaluation, saving) does not count as training time."""
        self._seconds = dict.fromkeys(PHASES, 0.0)
        self._began = time.perf_counter()

    def _breakdown(self, seconds: float, steps: int) -> dict[str, dict[str, float]]:
        parts = self._seconds | {"other": seconds - sum(self._seconds.values())}
        return {
            "milliseconds": {name: 1000 * part / steps for name, part in parts.items()},  # per step
            "shares": {name: part / seconds for name, part in parts.items()},
        }

    def _write(self, kind: str, figures: Mapping[str, Any]) -> None:
        self._writer.write(kind, self._step, {"epoch": self._step / self._steps_per_epoch, **figures})


def training_time(directory: Path) -> dict[str, Any]:
    """`step_milliseconds` (median over logged intervals), `training_seconds` and `training_time`.

    Restarts are included. `training_time` says where the time went, in seconds: the phases of `TrainingLog`,
    the evaluations and the checkpoints, which are not part of `training_seconds`.
    """
    lines = [json.loads(line) for line in (directory / "metrics.jsonl").read_text().splitlines()]
    intervals = [line for line in lines if line["kind"] == "train"]
    parts = {name: sum(_seconds(line, name) for line in intervals) for name in (*PHASES, "other")}
    for name, kind in (("evaluation", "eval"), ("checkpoint", "checkpoint")):
        parts[name] = sum(line.get("seconds", 0.0) for line in lines if line["kind"] == kind)
    return {
        "step_milliseconds": float(np.median([1000 * line["seconds"] / line["steps"] for line in intervals])),
        "training_seconds": sum(line["seconds"] for line in intervals),
        "training_time": parts,
    }


def _seconds(line: Mapping[str, Any], phase: str) -> float:
    """Of a logged interval; those of older versions do not tell."""
    return line.get("shares", {}).get(phase, 0.0) * line["seconds"]


def _step(line: str) -> float:
    try:
        return json.loads(line)["step"]
    except json.JSONDecodeError:  # half a line, from a killed process
        return float("inf")
