"""Programs that a restart need not compile again."""

import jax
import pytest

from topgap_jax.training import ConfigError, train_and_evaluate
from topgap_jax.training.compilation import use_compilation_cache
from training.processes import finish, metrics, start


@pytest.fixture
def told():
    """What JAX was told before, and is told again afterwards."""
    before = jax.config.jax_compilation_cache_dir
    yield before
    use_compilation_cache("off" if before is None else before)


def test_a_folder_is_made_and_used_until_it_is_turned_off(told, tmp_path):
    folder = tmp_path / "programs"
    assert use_compilation_cache(str(folder)) == str(folder)
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
    jax.jit(lambda x: x * 3 + 1)(2.0)
    assert list(folder.iterdir())
    assert use_compilation_cache("auto") == str(folder)  # what JAX was told goes before our choice
    assert use_compilation_cache("off") is None
    assert use_compilation_cache("auto") is None  # on CPU


def test_an_address_is_left_to_jax(told, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert use_compilation_cache("gs://bucket/programs") == "gs://bucket/programs"
    assert jax.config.jax_compilation_cache_dir == "gs://bucket/programs" and not list(tmp_path.iterdir())


def test_a_folder_that_cannot_be_made_is_refused_before_anything_starts(told, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigError, match="file"):
        train_and_evaluate({"compilation_cache": str(tmp_path / "file")}, tmp_path / "run")
    assert not (tmp_path / "run").exists()


@pytest.mark.slow
def test_the_second_start_compiles_nothing_and_computes_the_same(tiny, tmp_path):
    seconds = []
    for name in ("first", "second"):
        cache = f"--config.compilation_cache={tmp_path / 'programs'}"
        finish(start(tiny, tmp_path / name, cache, "--config.train.epochs=1"))
        seconds.append(metrics(tmp_path / name)[0]["milliseconds"]["compile"])
    assert seconds[1] < 0.5 * seconds[0]
    expected = [line["loss"] for line in metrics(tmp_path / "first")]
    assert [line["loss"] for line in metrics(tmp_path / "second")] == expected
