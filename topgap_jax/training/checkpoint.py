"""Checkpoints by Orbax: state and input position together, the latest two and the best one."""

import json
import logging
import uuid
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import grain
import jax
import orbax.checkpoint as ocp
from orbax.checkpoint import checkpoint_managers

from topgap_jax.training.config import as_json, differences, filled
from topgap_jax.training.state import TrainState

logger = logging.getLogger(__name__)


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
                    get_metric_fn=lambda metrics: metrics["accuracy"],
                    n=1,
                    keep_checkpoints_without_metrics=False,
                ),
            ]
        )
        self._manager = ocp.CheckpointManager(
            self.directory.absolute(), options=ocp.CheckpointManagerOptions(preservation_policy=keep)
        )

    @property
    def last_step(self) -> int | None:
        """Step of the newest checkpoint."""
        return self._manager.latest_step()

    def save(self, state: TrainState, batches: grain.DatasetIterator, accuracy: float | None) -> None:
        """Starts to save the state after a step; `accuracy` is the validation's, where just measured."""
        step = int(state.step)
        if step in self._manager.all_steps():
            return
        items = ocp.args.Composite(
            state=ocp.args.StandardSave(state), batches=grain.checkpoint.CheckpointSave(batches)
        )
        self._manager.save(step, args=items, metrics=None if accuracy is None else {"accuracy": accuracy})

    def restore(self, template: TrainState, batches: grain.DatasetIterator) -> TrainState | None:
        """The newest checkpoint that can be read, and `batches` set to go on from there; None without any.

        `template` says shapes, dtypes and shardings. Unreadable checkpoints are passed over with a warning.
        """
        unreadable = []
        for step in sorted(self._manager.all_steps(), reverse=True):
            try:
                state = self._read(step, template, batches)
            except Exception as error:  # whatever a damaged file makes its reader raise
                reason = str(error).splitlines()[0] if str(error) else type(error).__name__
                logger.warning("checkpoint %d in %s cannot be read (%s)", step, self.directory, reason)
                unreadable.append(step)
                continue
            self._put_aside(unreadable)
            return state
        if unreadable:
            raise RuntimeError(f"no checkpoint in {self.directory} can be read; remove it to start anew")
        return None

    def _read(self, step: int, template: TrainState, batches: grain.DatasetIterator) -> TrainState:
        arguments = ocp.args.Composite(
            state=ocp.args.StandardRestore(_abstract(template)),
            batches=grain.checkpoint.CheckpointRestore(batches),
        )
        return self._manager.restore(step, args=arguments)["state"]

    def _put_aside(self, steps: list[int]) -> None:
        """Makes room for these steps to be written anew, and deletes nothing."""
        for step in steps:
            (self.directory / str(step)).rename(self.directory / f"unreadable-{step}")
        self._manager.reload()

    def restore_best(self, template: TrainState) -> TrainState:
        """The state with the highest validation accuracy, or the newest where none was measured."""
        best = self._manager.best_step()
        step = self.last_step if best is None else best
        arguments = ocp.args.Composite(state=ocp.args.StandardRestore(_abstract(template)))
        return self._manager.restore(step, args=arguments)["state"]

    def wait(self) -> None:
        """Returns when everything is on disk."""
        self._manager.wait_until_finished()

    def close(self) -> None:
        """Waits, and ends the threads that write."""
        self._manager.close()


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


def _abstract(state: TrainState) -> TrainState:
    return jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=x.sharding), state)
