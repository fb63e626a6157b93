"""What lies on disk, and what is said when it cannot be written or does not belong here."""

import logging
import resource
import shutil
from contextlib import closing, contextmanager

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from topgap_jax.training import ConfigError
from topgap_jax.training.checkpoint import Checkpoints, WriteError, writing
from topgap_jax.training.config import resolve
from topgap_jax.training.state import create_state, make_optimizer


def state(step=0, *, rows=3, momentum=0.9, **params):
    """A network of one kernel and one bias."""
    optimizer = make_optimizer(resolve({"optimizer": {"momentum": momentum}}).optimizer, 10)
    numbers = np.random.default_rng(step).random((rows, 4), np.float32)
    params = {"head": {"kernel": jnp.asarray(numbers), "bias": jnp.ones(4)}} | params
    return create_state(params, {"mean": jnp.zeros(4)}, optimizer, ema=False)._replace(step=jnp.int32(step))


def save(directory, *states):
    with closing(Checkpoints(directory)) as checkpoints:
        for one in states:
            checkpoints.save(one, None)
        checkpoints.wait()


def restore(directory, template):
    with closing(Checkpoints(directory)) as checkpoints:
        return checkpoints.restore(template)


def test_the_newest_one_comes_back_to_the_bit(tmp_path):
    assert restore(tmp_path, state()) is None
    save(tmp_path, state(1), state(2), state(3))
    jax.tree.map(np.testing.assert_array_equal, restore(tmp_path, state()), state(3))
    assert {path.name for path in (tmp_path / "checkpoints").iterdir()} == {"2", "3"}


@pytest.mark.parametrize(
    ("template", "message"),
    [
        (
            {"rows": 5},
            r"params/head/kernel is float32\[3, 4\] there and float32\[5, 4\] here \(2 arrays differ\)",
        ),
        ({"extra": jnp.ones(2)}, r"params/extra is absent there and float32\[2\] here"),
        ({"momentum": 0.0}, r"opt_state/.*trace/head/bias is float32\[4\] there and absent here"),
    ],
)
def test_a_checkpoint_of_another_network_is_named_and_not_passed_over(template, message, tmp_path):
    """Also not in favour of an older one that would fit."""
    other, ours = tmp_path / "other", tmp_path / "ours"
    save(ours, state(1, **template))
    save(other, state(2))
    shutil.copytree(other / "checkpoints" / "2", ours / "checkpoints" / "2")
    with pytest.raises(ConfigError, match=f"checkpoint 2 in .* another network or optimizer: {message}"):
        restore(ours, state(**template))
    assert {path.name for path in (ours / "checkpoints").iterdir()} == {"1", "2"}


def test_a_damaged_one_is_passed_over(tmp_path, caplog):
    save(tmp_path, state(1), state(2))
    for path in (tmp_path / "checkpoints" / "2" / "state").rglob("*"):
        if path.is_file():
            path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    with caplog.at_level(logging.WARNING):
        jax.tree.map(np.testing.assert_array_equal, restore(tmp_path, state()), state(1))
    assert "checkpoint 2" in caplog.text and "cannot be read" in caplog.text
    assert (tmp_path / "checkpoints" / "unreadable-2").exists()


@contextmanager
def files_of_at_most(size):
    """The operating system refuses to write larger ones."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_other_files_that_cannot_be_written(tmp_path):
    with (
        pytest.raises(WriteError, match=r"cannot be written \(File too large\)"),
        writing(tmp_path),
        files_of_at_most(10),
        (tmp_path / "line.txt").open("wb", buffering=0) as file,
    ):
        for _ in range(3):
            file.write(b"0123456789")


def test_the_best_one_is_known_after_a_restart(tmp_path):
    with closing(Checkpoints(tmp_path)) as checkpoints:
        for step, accuracy in ((1, 0.9), (2, 0.5), (3, 0.4), (4, 0.3)):
            checkpoints.save(state(step), accuracy)
        checkpoints.wait()
    with closing(Checkpoints(tmp_path)) as checkpoints:
        assert checkpoints.has_accuracy(1) and int(checkpoints.restore_best(state()).step) == 1
        checkpoints.save(state(5), None)  # stopped in its validation
        checkpoints.wait()
    with closing(Checkpoints(tmp_path)) as checkpoints:
        assert not checkpoints.has_accuracy(5)
        checkpoints.add_accuracy(5, 0.95)
        assert int(checkpoints.restore_best(state()).step) == 5
    jax.tree.map(np.testing.assert_array_equal, restore(tmp_path, state()), state(5))
