"""Real processes, killed for real."""

import signal
import time

import numpy as np
import pytest

from training.processes import final_arrays, finish, metrics, start

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
