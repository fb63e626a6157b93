"""Runs that differ in k alone, as one program: their states are stacked, and every step takes them all."""

import inspect
import json
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from topgap_jax.training.loop import Programs, Run, make_programs, train
from topgap_jax.training.mesh import replicated, state_sharding
from topgap_jax.training.metrics import identity
from topgap_jax.training.state import Params, TrainState
from topgap_jax.training.step import Batch, EvalStep, Metrics, TrainStep

RUNS = PartitionSpec(("data", "fsdp"))  # the stacked axis, over all devices
AXES: Any = TrainState._make([None, 0, 0, 0, 0])  # of a stacked state; the step is shared
SPECS: Any = TrainState._make([PartitionSpec(), *[RUNS] * 4])


def train_together(group: Run, runs: Sequence[Run]) -> list[TrainState]:
    """Trains all runs to their last step, from the group's newest checkpoint if there is one.

    They see the same batches. On several devices the runs are divided among them: each device trains its own
    on whole batches, and nothing but the pictures crosses between devices.

    Args:
      group: a run like the others, with the folder of the common checkpoints and the common log.
      runs: they differ in k, folder and title.

    Returns:
      Their states, as `train` would have returned them but for rounding.

    Raises:
      FloatingPointError: a loss became infinite or NaN; the message names the run.
    """
    programs = [make_programs(run) for run in runs]
    states = [own.state for own in programs] + [programs[-1].state] * idle_devices(runs)
    stacked = Programs(
        stack(states, group.mesh),
        stack_train_step(programs[0].train_step, group.mesh, [run.directory.name for run in runs]),
        stack_eval_step(programs[0].eval_step, group.mesh, len(runs)),
    )
    state = train(group, stacked)
    return [unstack(state, index, group.mesh) for index in range(len(runs))]


def idle_devices(runs: Sequence[Run]) -> int:
    """How many devices have no run of their own; each trains the last one again."""
    return -len(runs) % runs[0].mesh.size


def write_metrics(group: Run, run: Run, count: int) -> None:
    """Writes a run's own figures of the common log, with its share of the time of `count` runs."""
    text = (group.directory / "metrics.jsonl").read_text()
    lines = [line for line in map(json.loads, text.splitlines()) if line["kind"] == "train"]
    own = [_of_run(line, run.directory.name, count) | identity(run.config) for line in lines]
    (run.directory / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in own))


def stack(states: Sequence[TrainState], mesh: Mesh) -> TrainState:
    """One state whose arrays have a leading axis for the runs, divided over the devices."""
    stacked = jax.tree.map(lambda *leaves: jnp.stack(leaves), *states)
    sharded = jax.device_put(stacked, NamedSharding(mesh, RUNS))
    return sharded._replace(step=jax.device_put(states[0].step, replicated(mesh)))


def unstack(stacked: TrainState, index: int, mesh: Mesh) -> TrainState:
    """The state of one run, where an ordinary run has it."""
    step, *arrays = stacked
    state = TrainState(step, *jax.tree.map(lambda leaf: leaf[index], arrays))
    return jax.device_put(state, state_sharding(mesh, state))


def stack_train_step(train_step: TrainStep, mesh: Mesh, names: Sequence[str]) -> TrainStep:
    """Compiles the step of one run for a stacked state; metrics are means, and `METRIC NAME` of each run."""
    each = jax.vmap(inspect.unwrap(train_step), in_axes=(AXES, None), out_axes=(AXES, 0))
    sharded = jax.shard_map(
        each, mesh=mesh, in_specs=(SPECS, PartitionSpec()), out_specs=(SPECS, RUNS), check_vma=False
    )

    def step(state: TrainState, batch: Batch) -> tuple[TrainState, Metrics]:
        state, metrics = sharded(state, batch)
        own = {
            f"{name} {run}": values[index]
            for index, run in enumerate(names)
            for name, values in metrics.items()
        }
        # Their own first: where one becomes NaN, the error names the run.
        return state, own | {name: values[: len(names)].mean() for name, values in metrics.items()}

    return jax.jit(step, donate_argnums=0)


def stack_eval_step(eval_step: EvalStep, mesh: Mesh, count: int) -> EvalStep:
    """Compiles an evaluation step for stacked states; results are `[B, count]`."""
    each = jax.vmap(inspect.unwrap(eval_step), in_axes=(0, 0, None), out_axes=1)
    results = PartitionSpec(None, ("data", "fsdp"))
    sharded = jax.shard_map(
        each, mesh=mesh, in_specs=(RUNS, RUNS, PartitionSpec()), out_specs=results, check_vma=False
    )

    def step(params: Params, model_state: Params, batch: Batch) -> Metrics:
        return {name: values[:, :count] for name, values in sharded(params, model_state, batch).items()}

    return jax.jit(step, out_shardings=replicated(mesh))


def _of_run(line: Mapping[str, Any], name: str, count: int) -> dict[str, Any]:
    """One line of the common log with the figures of one run."""
    ending = f" {name}"
    own = {key.removesuffix(ending): value for key, value in line.items() if key.endswith(ending)}
    shared = {key: value for key, value in line.items() if " " not in key and key != "milliseconds"}
    time = {"seconds": line["seconds"] / count, "images_per_second": line["images_per_second"] * count}
    return shared | own | time
