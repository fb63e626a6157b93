"""Real processes, killed for real."""

import os
import re
import shutil
import signal
import subprocess
import time

import numpy as np
import orbax.checkpoint as ocp
import pytest

from training.processes import ROOT, command, final_arrays, finish, metrics, saved_steps, start

STEPS = 24


def kill_after(process, workdir, step):
    """Sends SIGKILL as soon as the run has logged `step`."""
    deadline = time.monotonic() + 200
    while not any(line["step"] >= step for line in metrics(workdir)):
        assert process.poll() is None, process.communicate()[0]
        assert time.monotonic() < deadline
        time.sleep(0.02)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    assert process.returncode == -signal.SIGKILL
    assert metrics(workdir)[-1]["step"] < STEPS


@pytest.mark.parametrize("steps", [(10,), pytest.param((3, 7, 17), marks=pytest.mark.slow)])
def test_killed_and_started_again_it_ends_with_the_same_bits(steps, tiny, uninterrupted, tmp_path):
    for step in steps:
        kill_after(start(tiny, tmp_path), tmp_path, step)
    finish(start(tiny, tmp_path))

    expected, resumed = final_arrays(uninterrupted), final_arrays(tmp_path)
    assert expected.keys() == resumed.keys() and len(expected) > 50
    for name, value in expected.items():
        np.testing.assert_array_equal(value, resumed[name], err_msg=name)

    ours, others = metrics(tmp_path), metrics(uninterrupted)
    assert [line["step"] for line in ours] == list(range(1, STEPS + 1)) == [line["step"] for line in others]
    assert [line["loss"] for line in ours] == [line["loss"] for line in others]
    assert [line["accuracy"] for line in metrics(tmp_path, "eval")] == [
        line["accuracy"] for line in metrics(uninterrupted, "eval")
    ]


@pytest.mark.slow
@pytest.mark.parametrize("mesh", [(), ("--config.mesh.fsdp=4",)])
def test_eight_devices_give_the_loss_curve_of_one(mesh, tiny, uninterrupted, tmp_path):
    """Sums over the batch are taken in another order: float32 rounding, which the steps amplify."""
    finish(start(tiny, tmp_path, *mesh, devices=8))
    ours, others = ([line["loss"] for line in metrics(workdir)] for workdir in (tmp_path, uninterrupted))
    assert len(ours) == STEPS
    np.testing.assert_allclose(ours[:5], others[:5], rtol=1e-4)
    np.testing.assert_allclose(ours, others, rtol=2e-2)


@pytest.mark.slow
def test_killed_on_eight_devices_it_goes_on_on_one_and_on_four(tiny, uninterrupted, tmp_path):
    """Parameters that were split over four devices come back whole, or split over two."""
    kill_after(start(tiny, tmp_path / "one", "--config.mesh.fsdp=4", devices=8), tmp_path / "one", 10)
    shutil.copytree(tmp_path / "one", tmp_path / "four")
    saved = tmp_path / "one" / "checkpoints" / str(saved_steps(tmp_path / "one")[-1])
    assert split_over(saved, "conv1") == split_over(saved, "conv2") == ["fsdp"]
    finish(start(tiny, tmp_path / "one", "--config.train.log_every_steps=1"))
    finish(start(tiny, tmp_path / "four", "--config.mesh.fsdp=2", devices=4))
    expected = [line["loss"] for line in metrics(uninterrupted)]
    for name in ("one", "four"):
        lines = metrics(tmp_path / name)
        assert [line["step"] for line in lines] == list(range(1, STEPS + 1))
        assert len({line["config_hash"] for line in lines}) == 1
        np.testing.assert_allclose([line["loss"] for line in lines], expected, rtol=2e-2)


def split_over(checkpoint, kernel):
    """The axes of the mesh that a kernel of 36,864 numbers was split over when it was written."""
    with ocp.StandardCheckpointer() as checkpointer:
        stored = checkpointer.metadata(checkpoint.absolute() / "state").item_metadata.tree
    sharding = stored["params"]["backbone"]["stages"]["2"]["0"][kernel]["kernel"].sharding
    return [axis for axis in sharding.partition_spec if axis]


FULL_DISK = """
mount -t tmpfs -o size=64m tmpfs "$1" || exit 99
head -c 63000000 /dev/zero > "$1/filler"
shift
"$@" > "$RESULTS/first" 2>&1
echo $? > "$RESULTS/code"
ls "$DISK/run/checkpoints" > "$RESULTS/left"
rm "$DISK/filler"
"$@" && cp -r "$DISK/run" "$RESULTS/run"
"""


@pytest.mark.slow
def test_a_full_disk_keeps_the_last_checkpoint_and_the_same_command_goes_on(tiny, uninterrupted, tmp_path):
    """A disk of a few megabytes, mounted for this test alone."""
    disk, results = tmp_path / "disk", tmp_path / "results"
    disk.mkdir()
    results.mkdir()
    train = command(tiny, disk / "run")
    result = subprocess.run(
        ["unshare", "-rm", "sh", "-c", FULL_DISK, "sh", str(disk), *train],
        env=os.environ | {"DISK": str(disk), "RESULTS": str(results), "JAX_PLATFORMS": "cpu"},
        capture_output=True,
        text=True,
        timeout=200,
    )
    if result.returncode == 99 or "unshare" in result.stderr:
        pytest.skip("a disk of its own cannot be mounted here")
    assert result.returncode == 0, result.stderr
    assert (results / "code").read_text() == "1\n"
    output = (results / "first").read_text()
    message = re.search(
        r"^Error: the checkpoint of step \d+ cannot be written to .* \(No space left on device\); once there "
        r"is room, the same command goes on from that of step (\d+), which is whole$",
        output,
        re.MULTILINE,
    )
    assert message, output
    assert str(ROOT / "topgap_jax") not in output  # TensorStore's threads may complain of their event loop
    assert message[1] in (results / "left").read_text().split()
    expected, resumed = final_arrays(uninterrupted), final_arrays(results / "run")
    for name, value in expected.items():
        np.testing.assert_array_equal(value, resumed[name], err_msg=name)
