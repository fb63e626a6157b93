"""Two real processes with four devices each, stopped and killed for real."""

import re
import signal
import time

import numpy as np
import pytest

from training.processes import final_arrays, finish, metrics, saved_steps, start, start_two

pytestmark = pytest.mark.slow
STEPS = 120
LONGER = "--config.train.epochs=20"  # a notice takes a second to reach all
PREEMPTED, HOST_LOST, ABORTED = 75, 76, -signal.SIGABRT


@pytest.fixture(scope="module")
def two(tiny, tmp_path_factory):
    """`start_two` of the small run; what one pair compiles the next one finds."""
    cache = tmp_path_factory.mktemp("compiled")

    def pair(workdir, *overrides, **how):
        return start_two(tiny, workdir, LONGER, f"--config.compilation_cache={cache}", *overrides, **how)

    return pair


@pytest.fixture(scope="module")
def undisturbed(two, tmp_path_factory):
    """Workdir of one whole run of two processes."""
    workdir = tmp_path_factory.mktemp("undisturbed")
    for process in two(workdir):
        finish(process)
    return workdir


def wait_for_step(processes, workdir, step):
    deadline = time.monotonic() + 250
    while not any(line["step"] >= step for line in metrics(workdir)):
        for process in processes:
            assert process.poll() is None, process.communicate()[0]
        assert time.monotonic() < deadline
        time.sleep(0.02)


def ends(processes, seconds=200):
    """Exit codes and outputs."""
    outputs = [process.communicate(timeout=seconds)[0] for process in processes]
    return [process.returncode for process in processes], outputs


def test_the_losses_are_those_of_one_process(tiny, undisturbed, tmp_path):
    """Sums over the batch are taken in another order: the last bit may differ, and steps amplify it."""
    finish(start(tiny, tmp_path, LONGER, devices=8))
    ours, others = ([line["loss"] for line in metrics(workdir)] for workdir in (undisturbed, tmp_path))
    assert len(ours) == len(others) == STEPS
    np.testing.assert_allclose(ours[:5], others[:5], rtol=1e-5)
    np.testing.assert_allclose(ours[:24], others[:24], rtol=2e-2)


def test_killed_and_stopped_it_ends_with_the_same_bits(two, undisturbed, tmp_path):
    processes = two(tmp_path)
    wait_for_step(processes, tmp_path, 5)
    processes[1].kill()
    killed = time.monotonic()
    codes, outputs = ends(processes)
    assert time.monotonic() - killed < 60
    assert codes[0] in (HOST_LOST, ABORTED) and codes[1] == -signal.SIGKILL, outputs
    assert "another host stopped" in outputs[0] or "another task died" in outputs[0]

    for told in ((0, 1), (1,)):
        processes = two(tmp_path)
        wait_for_step(processes, tmp_path, metrics(tmp_path)[-1]["step"] + 1)
        for index in told:
            processes[index].send_signal(signal.SIGTERM)
        codes, outputs = ends(processes)
        assert codes == [PREEMPTED, PREEMPTED], outputs
        stops = [re.search(r"stopped after step (\d+), which is saved", text) for text in outputs]
        assert stops[0] and stops[1] and stops[0][1] == stops[1][1], outputs

    for process in two(tmp_path):
        finish(process)
    assert_same(undisturbed, tmp_path)


def test_shared_out_over_two_processes_it_goes_on_in_one(tiny, two, undisturbed, tmp_path):
    """Parameters of which no process has the whole come back whole, on a single device."""
    processes = two(tmp_path, "--config.mesh.fsdp=8")
    wait_for_step(processes, tmp_path, 15)
    processes[0].kill()
    codes, outputs = ends(processes)
    assert codes[0] == -signal.SIGKILL and codes[1] in (HOST_LOST, ABORTED), outputs
    assert saved_steps(tmp_path)[-1] < STEPS
    finish(start(tiny, tmp_path, LONGER))
    ours, others = (metrics(workdir) for workdir in (tmp_path, undisturbed))
    assert [line["step"] for line in ours] == list(range(1, STEPS + 1))
    np.testing.assert_allclose(
        *([line["loss"] for line in lines[:24]] for lines in (ours, others)), rtol=2e-2
    )


def assert_same(undisturbed, workdir):
    expected, resumed = final_arrays(undisturbed), final_arrays(workdir)
    assert expected.keys() == resumed.keys() and len(expected) > 50
    for name, value in expected.items():
        np.testing.assert_array_equal(value, resumed[name], err_msg=name)
    for kind in ("train", "eval"):
        ours, others = (
            {line["step"]: line["loss"] for line in metrics(w, kind)} for w in (workdir, undisturbed)
        )
        assert ours == others


@pytest.mark.parametrize(
    ("own", "message"),
    [
        (((), ("--config.seed=4",)), "the hosts differ: config.seed is 3 on host 0 and 4 on host 1"),
        (((), ("--config.data.source=folder:nowhere",)), "the hosts differ: config.data.source is"),
    ],
)
def test_different_configurations_are_told_on_both(own, message, two, tmp_path):
    codes, outputs = ends(two(tmp_path / "run", own=own))
    assert codes == [1, 1], outputs
    assert all(message in text for text in outputs), outputs
    assert not (tmp_path / "run" / "checkpoints").exists()


def test_folders_that_are_not_shared_are_told_on_both(two, tmp_path):
    own = ((), (f"--workdir={tmp_path / 'other'}",))
    codes, outputs = ends(two(tmp_path / "one", own=own))
    assert codes == [1, 1], outputs
    assert all("host 1: workdir" in text and "that all hosts share" in text for text in outputs), outputs


def test_a_batch_that_does_not_divide_is_told_on_both(two, tmp_path):
    codes, outputs = ends(two(tmp_path, "--config.train.batch_size=12"))
    assert codes == [1, 1], outputs
    assert all("train.batch_size=12 cannot be split over 8 devices" in text for text in outputs), outputs
