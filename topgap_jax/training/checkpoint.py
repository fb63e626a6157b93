"""Checkpoints by Orbax: the latest two and the best one. The input's position follows from the step."""

import json
import logging
import os
import re
import uuid
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import jax
import orbax.checkpoint as ocp
from orbax.checkpoint import checkpoint_managers

from topgap_jax.training.config import ConfigError, as_json, differences, filled
from topgap_jax.training.distributed import as_first_sees, is_first
from topgap_jax.training.state import TrainState

logger = logging.getLogger(__name__)


class WriteError(RuntimeError):
    """A workdir that can no longer be written, as on a full disk; the checkpoints in it stay."""


@contextmanager
def writing(directory: Path) -> Iterator[None]:
    """Around what writes into a run's folder: an `OSError` becomes a `WriteError`."""
    try:
        yield
    except OSError as error:
        raise WriteError(
            f"{error.filename or directory} cannot be written ({error.strerror or error}); the checkpoints "
            f"in {directory} are kept, and the same command goes on from the last one"
        ) from error


class Checkpoints:
    """Saves without stopping the training, and finds the last whole checkpoint again.

    Args:
      directory: of the run; checkpoints lie in its folder `checkpoints`.
    """

    def __init__(self, directory: Path):
        self.directory = directory / "checkpoints"
        keep = checkpoint_managers.AnyPreservationPolicy(
            [
                checkpoint_managers.LatestN(2),
                checkpoint_managers.BestN(
                    get_metric_fn=_accuracy,
                    n=1,
                    keep_checkpoints_without_metrics=False,
                ),
            ]
        )
        self._manager = ocp.CheckpointManager(
            self.directory.absolute(),
            options=ocp.CheckpointManagerOptions(
                preservation_policy=keep,
                best_fn=_accuracy,  # without it, metrics are not written
                cleanup_tmp_directories=True,  # of saves that a kill or a full disk cut off
            ),
            item_handlers={"state": ocp.StandardCheckpointHandler()},
        )
        self._saving: int | None = None
        logging.getLogger("absl").addFilter(_is_news)

    @property
    def last_step(self) -> int | None:
        """Step of the newest checkpoint."""
        return self._manager.latest_step()

    def save(self, state: TrainState, accuracy: float | None) -> None:
        """Starts to save the state after a step; `accuracy` is the validation's, where just measured.

        Returns when the arrays are copied to the host; a thread writes them.

        Raises:
          WriteError: the save before this one failed.
        """
        step = int(state.step)
        if step in self._manager.all_steps():
            return
        items = ocp.args.Composite(state=ocp.args.StandardSave(state))
        metrics = None if accuracy is None else {"accuracy": accuracy}
        self.wait()
        with self._reporting():
            self._saving = step
            self._manager.save(step, args=items, metrics=metrics)

    def has_accuracy(self, step: int) -> bool:
        """Whether the network of this step was validated when it was saved."""
        return self._manager.metrics(step) is not None

    def add_accuracy(self, step: int, accuracy: float) -> None:
        """Adds what a run that was stopped in its validation did not save."""
        if is_first():
            folder = self.directory / str(step) / "metrics"  # where Orbax looks for it
            folder.mkdir(exist_ok=True)
            (folder / "metrics").write_text(json.dumps({"accuracy": accuracy}))
        as_first_sees(None)  # the others wait until it is done
        self._manager.reload()

    def restore(self, template: TrainState) -> TrainState | None:
        """The newest checkpoint that can be read; None without any.

        `template` says shapes, dtypes and shardings, which may be those of other devices than the ones that
        saved. Damaged checkpoints are passed over with a warning.

        Raises:
          ConfigError: a checkpoint of another network or optimiser, or not one that can be read.
        """
        unreadable = []
        for step in sorted(self._manager.all_steps(), reverse=True):
            try:
                other = _mismatches(self._manager.item_metadata(step)["state"].tree, template)
                state = None if other else self._read(step, template)
            except Exception as error:  # whatever a damaged file makes its reader raise
                logger.warning(
                    "checkpoint %d in %s cannot be read (%s)", step, self.directory, _reason(error)
                )
                unreadable.append(step)
                continue
            if other:
                raise ConfigError(
                    f"checkpoint {step} in {self.directory} belongs to another network or optimizer: "
                    f"{other[0]} ({len(other)} arrays differ); choose another workdir, or put back its own"
                )
            self._put_aside(unreadable)
            return state
        if unreadable:
            raise ConfigError(f"no checkpoint in {self.directory} can be read; remove it to start anew")
        return None

    def _read(self, step: int, template: TrainState) -> TrainState:
        arguments = ocp.args.Composite(state=ocp.args.StandardRestore(_abstract(template)))
        return self._manager.restore(step, args=arguments)["state"]

    def _put_aside(self, steps: list[int]) -> None:
        """Makes room for these steps to be written anew, and deletes nothing."""
        for step in steps:
            if is_first():
                (self.directory / str(step)).rename(self.directory / f"unreadable-{step}")
        as_first_sees(None)  # the others wait until it is done
        self._manager.reload()

    def restore_best(self, template: TrainState) -> TrainState:
        """The state with the highest validation accuracy, or the newest where none was measured."""
        best = self._manager.best_step()
        step = self.last_step if best is None else best
        assert step is not None  # a run ends with a checkpoint
        return self._read(step, template)

    def check(self) -> None:
        """Does not wait.

        Raises:
          WriteError: the last save failed.
        """
        if not self._manager.is_saving_in_progress():
            self.wait()

    def wait(self) -> None:
        """Returns when everything is on disk.

        Raises:
          WriteError: the last save failed.
        """
        with self._reporting():
            self._manager.wait_until_finished()

    def close(self) -> None:
        """Waits, and ends the threads that write; `wait` is what reports a failure."""
        try:
            self._manager.close()
        except Exception as error:  # on the way out of a failure that is reported already
            logger.warning("%s: %s", self.directory, _reason(error))
        logging.getLogger("absl").removeFilter(_is_news)

    @contextmanager
    def _reporting(self) -> Iterator[None]:
        try:
            yield
        except Exception as error:  # TensorStore, Orbax and the file system have many kinds
            self._manager.reload()
            last = self.last_step
            raise WriteError(
                f"the checkpoint of step {self._saving} cannot be written to {self.directory} "
                f"({_reason(error)}); once there is room, the same command "
                + ("starts anew" if last is None else f"goes on from that of step {last}, which is whole")
            ) from error


def claim(workdir: Path, config: Mapping[str, Any]) -> None:
    """Makes `workdir` and writes `config.json`, or checks that it belongs to the same configuration.

    Raises:
      ValueError: no workdir given, or it holds a run with another configuration; the message says where they
        differ.
      OSError: the folder cannot be made or written.
    """
    path = workdir / "config.json"
    try:
        workdir.mkdir(parents=True, exist_ok=True)
        if not path.exists():
            temporary = workdir / f"config.json.{uuid.uuid4().hex}"  # several machines may share a workdir
            temporary.write_text(as_json(config))
            temporary.replace(path)
    except OSError as error:
        raise OSError(f"workdir {str(workdir)!r} cannot be written: {error.strerror or error}") from error
    other = differences(config, filled(json.loads(path.read_text())))
    if other:
        raise ValueError(
            f"workdir {str(workdir)!r} holds a run with another configuration ({'; '.join(other[:5])}): "
            "choose another workdir, or the same configuration to resume it"
        )


def _accuracy(metrics: Mapping[str, float]) -> float:
    return metrics["accuracy"]


def _mismatches(stored: Any, template: TrainState) -> list[str]:
    """What differs between the arrays of a checkpoint and those wanted, one line each, in order."""
    there, here = _described(stored), _described(template)
    return [
        f"{name} is {there.get(name, 'absent')} there and {here.get(name, 'absent')} here"
        for name in (here | there)
        if there.get(name) != here.get(name)
    ]


def _described(tree: Any) -> dict[str, str]:
    """`float32[3, 3, 16, 32]` for every array, by name."""
    leaves, _ = jax.tree_util.tree_flatten_with_path(tree)
    return {
        jax.tree_util.keystr(path, simple=True, separator="/"): f"{leaf.dtype}{list(leaf.shape)}"
        for path, leaf in leaves
    }


def _reason(error: Exception) -> str:
    """The operating system's words where it refused, else the first line."""
    if code := re.search(r"os_error_code='(\d+)'", str(error)):
        return os.strerror(int(code[1]))
    return getattr(error, "strerror", None) or (str(error).splitlines() or [type(error).__name__])[0]


def _is_news(record: logging.LogRecord) -> bool:
    """False for what Orbax logs of a failed save (one line here says it) and of one without accuracy."""
    from_orbax = "orbax" in record.pathname
    return not (from_orbax and (record.exc_info or "tracked_metric" in record.getMessage()))


def _abstract(state: TrainState) -> TrainState:
    return jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=x.sharding), state)
