"""Where the time goes: the breakdown of every interval, and traces."""

import gzip
import json
import time

import jax
import jax.numpy as jnp
import pytest

from topgap_jax.training.config import resolve
from topgap_jax.training.metrics import TrainingLog, training_time
from topgap_jax.training.profiling import SETTLING, Trace


def lines(directory):
    return [json.loads(line) for line in (directory / "metrics.jsonl").read_text().splitlines()]


def test_an_interval_says_where_its_time_went(tmp_path):
    with TrainingLog(tmp_path, resolve({"title": "run"}), 0, 4, 2.0) as log:
        for phase, seconds in (("compile", 0.05), ("input", 0.1), ("dispatch", 0.02), ("input", 0.03)):
            with log.timed(phase):
                time.sleep(seconds)
            log.add({"loss": jnp.float32(1.0)})
        time.sleep(0.04)
        log.flush()
        log.saved(0.5)
        log.resume_clock()
        log.add({"loss": jnp.float32(1.0)})
        log.flush()
    train, checkpoint, again = lines(tmp_path)
    parts = train["milliseconds"]
    assert list(parts) == ["input", "compile", "dispatch", "device", "other"]
    assert parts["input"] * 4 >= 130 and parts["compile"] * 4 >= 50 and parts["other"] * 4 >= 40
    assert sum(parts.values()) * 4 == pytest.approx(1000 * train["seconds"])
    assert sum(train["shares"].values()) == pytest.approx(1)
    assert (checkpoint["kind"], checkpoint["step"], checkpoint["seconds"]) == ("checkpoint", 4, 0.5)
    assert again["milliseconds"]["input"] == 0 == again["milliseconds"]["compile"]
    whole = training_time(tmp_path)["training_time"]
    assert whole["checkpoint"] == 0.5 and whole["evaluation"] == 0
    inside = sum(value for name, value in whole.items() if name not in ("checkpoint", "evaluation"))
    assert inside == pytest.approx(training_time(tmp_path)["training_seconds"])


def test_lines_of_older_versions_have_no_breakdown(tmp_path):
    line = {"kind": "train", "step": 3, "loss": 1.0, "seconds": 6.0, "steps": 3}
    (tmp_path / "metrics.jsonl").write_text(json.dumps(line) + "\n")
    figures = training_time(tmp_path)
    assert figures["training_seconds"] == 6 and figures["step_milliseconds"] == 2000
    assert not any(figures["training_time"].values())


def train(directory, steps, *, start, end):
    """A loop like the real one, with a tiny step; the traced files."""
    step = jax.jit(lambda x: x @ x)
    x = jnp.ones((8, 8)) / 8
    trace = Trace(directory, steps, start)
    for number in range(start + 1, end + 1):
        with trace.before(number):
            x = step(x)
        trace.after(number, x)
    trace.close()
    return list((directory / "profile").glob("plugins/profile/*/*.trace.json.gz"))


@pytest.mark.parametrize(("steps", "end"), [(3, 30), (50, 17)])
def test_the_steps_asked_for_are_traced(steps, end, tmp_path, capsys):
    """Not the first ones after a start; to the end where the training ends before."""
    (path,) = train(tmp_path, steps, start=10, end=end)
    assert list(path.parent.glob("*.xplane.pb"))
    with gzip.open(path) as file:
        events = json.load(file)["traceEvents"]
    traced = {int(event["args"]["step_num"]) for event in events if event.get("name") == "train"}
    first = 10 + SETTLING + 1
    assert traced == set(range(first, min(first + steps - 1, end) + 1))
    said = capsys.readouterr().out
    assert said.count("\n") == 1 and str(tmp_path / "profile") in said and "xprof --logdir" in said


@pytest.mark.parametrize(("steps", "end"), [(0, 30), (3, 12)])
def test_without_a_step_to_trace_there_is_no_trace(steps, end, tmp_path, capsys):
    assert train(tmp_path, steps, start=10, end=end) == []
    assert not (tmp_path / "profile").exists()
