"""`main.py` as a real process, and what it leaves behind."""

import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
import orbax.checkpoint as ocp

ROOT = Path(__file__).parents[2]


def command(config, workdir, *overrides):
    return [sys.executable, str(ROOT / "main.py"), f"--config={config}", f"--workdir={workdir}", *overrides]


def start(config, workdir, *overrides, devices=1):
    """`main.py` as a process of its own."""
    environment = os.environ | {
        "XLA_FLAGS": f"--xla_force_host_platform_device_count={devices}",
        "JAX_PLATFORMS": "cpu",
    }
    return subprocess.Popen(
        command(config, workdir, *overrides),
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def start_two(config, workdir, *overrides, own=((), ())):
    """Two processes with four devices each, as two hosts would run them; `own` are the flags of each."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        place = (f"--distributed=127.0.0.1:{free.getsockname()[1]}", "--processes=2")
    return [
        start(config, workdir, *overrides, *place, f"--process={index}", *flags, devices=4)
        for index, flags in enumerate(own)
    ]


def finish(process):
    output, _ = process.communicate(timeout=300)
    assert process.returncode == 0, output
    return output


def metrics(workdir, kind="train"):
    """The lines of `metrics.jsonl`; a last half line is left out."""
    path = Path(workdir) / "metrics.jsonl"
    text = path.read_text() if path.exists() else ""
    lines = [json.loads(line) for line in text[: text.rfind("\n") + 1].splitlines()]
    return [line for line in lines if line["kind"] == kind]


def saved_steps(workdir):
    """The steps of the whole checkpoints, in order."""
    folders = (Path(workdir) / "checkpoints").iterdir()
    return sorted(int(path.name) for path in folders if path.name.isdigit())


def final_arrays(workdir):
    """Every array of the last checkpoint, by name."""
    path = Path(workdir).absolute() / "checkpoints" / str(saved_steps(workdir)[-1]) / "state"
    reader = ocp.PyTreeCheckpointer()
    # As NumPy arrays: the devices that saved them need not be here.
    as_numpy = jax.tree.map(
        lambda _: ocp.RestoreArgs(restore_type=np.ndarray), reader.metadata(path).item_metadata.tree
    )
    state = reader.restore(path, ocp.args.PyTreeRestore(restore_args=as_numpy))
    leaves, _ = jax.tree_util.tree_flatten_with_path(state)
    return {jax.tree_util.keystr(path): np.asarray(leaf) for path, leaf in leaves}
