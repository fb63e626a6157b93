"""Start, agreement and stopping, as far as one process can show them."""

import os
import signal
import subprocess
import sys

import jax
import numpy as np
import pytest

from topgap_jax.training import distributed
from topgap_jax.training.agreement import agree, check_shared, disagreements, program, started, together, told
from topgap_jax.training.config import resolve
from training.processes import ROOT


@pytest.fixture
def signals():
    """The handlers of this process, put back afterwards."""
    numbers = (signal.SIGINT, signal.SIGTERM)
    before = {number: signal.getsignal(number) for number in numbers}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)
    distributed._signalled.clear()


@pytest.mark.parametrize(
    ("place", "message"),
    [
        (("auto", 2, None), "--processes and --process go with --distributed=HOST:PORT"),
        (("off", None, 0), "--processes and --process go with --distributed=HOST:PORT"),
        (("on", None, None), "--distributed=on is neither auto, off nor HOST:PORT"),
        (("10.0.0.2", 2, 0), "--distributed=10.0.0.2 is neither auto, off nor HOST:PORT"),
        (("10.0.0.2:8476", 2, None), "needs --processes=N and, from 0 to N-1, --process=I"),
        (("10.0.0.2:8476", 2, 2), r"--process=2 is not one of 0 to 1 \(--processes=2\)"),
    ],
)
def test_a_start_that_cannot_be_is_refused(place, message):
    with pytest.raises(ValueError, match=message):
        distributed.start(*place)


def test_one_process_goes_its_way_alone(tmp_path):
    distributed.start("off")
    assert distributed.is_first() and not jax.distributed.is_initialized()
    assert distributed.gather("one") == ["one"]
    assert distributed.as_first_sees({"a": [1, None]}) == {"a": [1, None]}
    agree({"seed": 3})
    check_shared(tmp_path)
    assert not list(tmp_path.iterdir())
    with pytest.raises(TypeError, match="as it was"), together():
        raise TypeError("as it was")


IN_A_STEP = """
import jax
from topgap_jax.training import distributed
distributed.start("auto")
print(jax.process_count(), jax.config.values["jax_cuda_visible_devices"])
"""


@pytest.mark.slow
@pytest.mark.parametrize(("hosts", "gpus"), [("1", "all"), ("2", "3")])
def test_a_task_that_is_alone_on_its_host_takes_all_gpus(hosts, gpus):
    """One task of SLURM, with the local rank 3; of two hosts, as if it shared its own."""
    environment = {
        "SLURM_JOB_ID": "77",
        "SLURM_STEP_NODELIST": "localhost",
        "SLURM_NTASKS": "1",
        "SLURM_PROCID": "0",
        "SLURM_LOCALID": "3",
        "SLURM_STEP_NUM_NODES": hosts,
        "JAX_PLATFORMS": "cpu",
    }
    shown = subprocess.run(
        [sys.executable, "-c", IN_A_STEP],
        env=os.environ | environment,
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=200,
        check=True,
    ).stdout
    assert shown.split() == ["1", gpus]


def test_disagreements_name_field_values_and_hosts():
    facts = [{"config": {"train.batch_size": 16, "seed": 3}, "jax": "0.10.2"} for _ in range(4)]
    assert disagreements(facts) == []
    facts[2]["config"]["train.batch_size"] = 32
    facts[3]["jax"] = "0.11.0"
    facts[3]["config"]["data.fold"] = None
    facts[0]["config"]["data.fold"] = 1
    assert disagreements(facts) == [
        "config.data.fold is 1 on host 0 and null on hosts 1, 2, 3",
        "config.train.batch_size is 16 on hosts 0, 1, 3 and 32 on host 2",
        'jax is "0.10.2" on hosts 0, 1, 2 and "0.11.0" on host 3',
    ]


def test_a_mistake_is_told_once_or_with_its_host():
    assert told(["", ""]) == ""
    assert told(["no such folder", "no such folder"]) == "no such folder"
    assert told(["", "no such folder", ""]) == "host 1: no such folder"
    assert told(["disk full", "no such folder"]) == "host 0: disk full; host 1: no such folder"


def test_the_program_is_all_but_what_hosts_may_choose():
    plain = program(resolve({}))
    assert plain == program(resolve({"profile": 3, "data": {"workers": 8}, "compilation_cache": "off"}))
    (difference,) = disagreements([plain, program(resolve({"seed": 4}))])
    assert difference == "config.seed is 0 on host 0 and 4 on host 1"
    assert plain["jax"] == jax.__version__ and plain["commit"]


class Labelled:
    def __init__(self, labels):
        self.labels = labels

    def __len__(self):
        return len(self.labels)


def test_other_labels_are_seen(tmp_path):
    sources = [Labelled([0, 1, 1]), Labelled(np.int32([0, 1, 1])), Labelled([1, 0, 1])]
    ours, same, other = (started(tmp_path, {"train": source}) for source in sources)
    assert ours == same and ours["last checkpoint"] is None and ours["examples"] == {"train": 3}
    (difference,) = disagreements([ours, other])
    assert difference.startswith("labels (CRC-32).train is ")
    for name in ("checkpoints/8", "checkpoints/12", "checkpoints/16.orbax-checkpoint-tmp"):
        (tmp_path / name).mkdir(parents=True)
    assert started(tmp_path, {})["last checkpoint"] == 12


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_stops_at_the_next_step_and_a_second_interrupt_at_once(number, signals, capfd):
    distributed.listen()
    assert not distributed.preempted()
    distributed.stop_if_preempted()
    signal.raise_signal(number)
    assert distributed.preempted()
    with pytest.raises(distributed.Preempted, match="goes on from the last checkpoint"):
        distributed.stop_if_preempted()
    assert "Ctrl-C again stops at once" in capfd.readouterr().err
    with pytest.raises(KeyboardInterrupt):
        signal.raise_signal(signal.SIGINT)


def test_a_lost_host_is_suspected_of_several_only():
    assert not distributed.lost(jax.errors.JaxRuntimeError("Connection closed by peer"))
