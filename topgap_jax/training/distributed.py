"""Several hosts: how they find each other, when they stop, and what the first one does alone.

A process drives the accelerators of one host, or one of them. Every process runs the same program and takes
part in every step; the one with index 0 writes what they share. On a single process all of this is empty.
"""

import itertools
import json
import os
import signal
import sys
import threading
from collections import Counter
from typing import Any, NoReturn

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import Mesh, NamedSharding, PartitionSpec

PREEMPTED = 75  # exit code EX_TEMPFAIL: saved, start the same command again
HOST_LOST = 76  # exit code EX_PROTOCOL: another host stopped
HEARTBEAT_SECONDS = 30  # without a sign of life, after which a process counts as dead
START_SECONDS = 300  # to wait for the other processes
LOST = (
    "another host stopped or cannot be reached; start the same command again on every host: "
    "it goes on from the last checkpoint"
)

_signalled = threading.Event()
_asked = itertools.count(1)


class Preempted(Exception):
    """The run was told to stop, and has saved what it needs to go on."""


def start(where: str = "auto", processes: int | None = None, process: int | None = None) -> None:
    """Connects the processes of a run, before anything touches a device.

    Args:
      where: "auto" asks the surroundings (TPU pod, SLURM, Open MPI) and stays alone where there are none;
        "off" stays alone; `HOST:PORT` is a free port of the host with process 0, for hosts without any of
        these.
      processes: how many there are; for `HOST:PORT` only.
      process: which of them this is, from 0.

    Raises:
      ValueError: arguments that do not fit each other, or hosts with different numbers of devices.
      RuntimeError: the other processes did not come.
    """
    check_place(where, processes, process)
    if where == "off" or not _connect(where, processes, process):
        return
    devices = Counter(device.process_index for device in jax.devices())
    if len(set(devices.values())) > 1:
        raise ValueError(f"the processes have different numbers of devices: {dict(sorted(devices.items()))}")
    _connect_devices()


def check_place(where: str, processes: int | None, process: int | None) -> None:
    """Raises a ValueError for arguments of `start` that do not fit each other."""
    if where in ("auto", "off"):
        if processes is not None or process is not None:
            raise ValueError("--processes and --process go with --distributed=HOST:PORT")
        return
    host, _, port = where.rpartition(":")
    if not host or not port.isdigit():
        raise ValueError(f"--distributed={where} is neither auto, off nor HOST:PORT, such as 10.0.0.2:8476")
    if processes is None or process is None:
        raise ValueError(f"--distributed={where} needs --processes=N and, from 0 to N-1, --process=I")
    if not 0 <= process < processes:
        raise ValueError(f"--process={process} is not one of 0 to {processes - 1} (--processes={processes})")


def _connect(where: str, processes: int | None, process: int | None) -> bool:
    """Whether there is anything to connect to."""
    times: dict[str, Any] = {
        "initialization_timeout": START_SECONDS,
        "heartbeat_timeout_seconds": HEARTBEAT_SECONDS,
        "shutdown_timeout_seconds": HEARTBEAT_SECONDS,  # a process that ends by an error waits so long
    }
    try:
        if where == "auto":
            jax.distributed.initialize(**times)
        else:
            jax.distributed.initialize(
                where, processes, process, cluster_detection_method="deactivate", **times
            )
    except ValueError as error:
        if where == "auto" and "coordinator_address" in str(error):  # JAX found no cluster
            return False
        raise
    except RuntimeError as error:
        raise RuntimeError(
            f"the processes did not find each other within {START_SECONDS} s (--distributed={where}): each "
            f"host must run the same command, and reach the port of process 0 ({_first_line(error)})"
        ) from error
    if _alone_on_its_host() and not os.environ.get("JAX_LOCAL_DEVICE_IDS"):
        # JAX chose the GPU of the task's rank on its host, and would leave the others idle.
        jax.config.update("jax_cuda_visible_devices", "all")
        jax.config.update("jax_rocm_visible_devices", "all")
    return True


def _alone_on_its_host() -> bool:
    """Whether SLURM or Open MPI started one task per host."""
    tasks, hosts = os.environ.get("SLURM_NTASKS"), os.environ.get("SLURM_STEP_NUM_NODES")
    return (tasks is not None and tasks == hosts) or os.environ.get("OMPI_COMM_WORLD_LOCAL_SIZE") == "1"


def _connect_devices() -> None:
    """The first sum over all devices, while the processes are in step.

    CPU devices wait no more than 30 s for each other here, and compilers may be further apart than that.
    """
    devices = jax.devices()
    ones = jax.make_array_from_callback(
        (len(devices),),
        NamedSharding(Mesh(devices, "all"), PartitionSpec("all")),
        lambda index: np.ones(len(devices), np.int32)[index],
    )
    total = int(jax.jit(jnp.sum)(ones))
    assert total == len(devices), total


def started_tasks() -> int:
    """How many tasks SLURM or Open MPI started with this command, connected or not."""
    tasks = os.environ.get("SLURM_NTASKS") if "SLURM_STEP_NODELIST" in os.environ else None
    return int(tasks or os.environ.get("OMPI_COMM_WORLD_SIZE") or 1)


def is_first() -> bool:
    """Whether this process writes what all share."""
    return jax.process_index() == 0


def gather(text: str) -> list[str]:
    """The texts of all processes, in order; every process calls this at the same point."""
    if jax.process_count() == 1:
        return [text]
    raw = np.frombuffer(text.encode(), np.uint8)
    lengths = multihost_utils.process_allgather(np.int32(len(raw)))
    padded = np.zeros(max(1, lengths.max()), np.uint8)
    padded[: len(raw)] = raw
    rows = multihost_utils.process_allgather(padded)
    return [row[:length].tobytes().decode() for row, length in zip(rows, lengths, strict=True)]


def as_first_sees(value: Any) -> Any:
    """The value (anything JSON can hold) that process 0 passed here, on every process."""
    return json.loads(gather(json.dumps(value))[0])


def whole(mesh: Mesh, arrays: Any) -> Any:
    """Every leaf as a whole NumPy array on every process, wherever its parts lie."""
    if jax.process_count() > 1:
        arrays = jax.jit(lambda tree: tree, out_shardings=NamedSharding(mesh, PartitionSpec()))(arrays)
    return jax.device_get(arrays)


def listen() -> None:
    """From now on SIGTERM and Ctrl-C stop the run at its next step, and a second Ctrl-C at once."""
    if jax.distributed.is_initialized():
        # JAX listens to SIGTERM, tells the other processes and chooses a step that none has passed.
        signal.signal(signal.SIGINT, _pass_on)
    else:
        signal.signal(signal.SIGINT, _remember)
        signal.signal(signal.SIGTERM, _remember)


def preempted() -> bool:
    """Whether to stop now: asked by every process once a step or batch, with one answer for all."""
    if jax.distributed.is_initialized():
        return multihost_utils.reached_preemption_sync_point(next(_asked))
    return _signalled.is_set()


def stop_if_preempted() -> None:
    """Raises `Preempted` where nothing needs to be saved."""
    if preempted():
        raise Preempted("Stopped during an evaluation; a new start goes on from the last checkpoint")


def lost(error: BaseException) -> bool:
    """Whether an error of the devices may come from the end of another process."""
    several = jax.distributed.is_initialized()
    return (
        several and isinstance(error, jax.errors.JaxRuntimeError) and "RESOURCE_EXHAUSTED" not in str(error)
    )


def leave_lost(error: BaseException) -> NoReturn:
    """Ends this process at once: the orderly way would wait for the one that is gone."""
    print(f"Error: {LOST} ({_first_line(error)})", file=sys.stderr, flush=True)
    sys.stdout.flush()
    os._exit(HOST_LOST)


def _remember(number: int, frame: Any) -> None:
    _signalled.set()
    _announce()


def _pass_on(number: int, frame: Any) -> None:
    _announce()
    signal.raise_signal(signal.SIGTERM)


def _announce() -> None:
    signal.signal(signal.SIGINT, signal.default_int_handler)
    os.write(2, b"\nStopping at the next step, with a checkpoint; Ctrl-C again stops at once.\n")


def _first_line(error: BaseException) -> str:
    return str(error).partition("\n")[0]
