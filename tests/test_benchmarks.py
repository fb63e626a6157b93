"""The benchmark scripts: what they compute from their measurements, and that they run."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
TINY = ["--model", "resnet_narrow", "--classes", "4", "--size", "16", "--k", "2", "--repetitions", "1"]

HLO = """
  %all-reduce.1 = (f32[64]{0}, f32[8,8]{1,0}) all-reduce(%a, %b), replica_groups={{0,1,2,3}}, to_apply=%add
  ROOT %all-reduce.2 = f32[] all-reduce(%c), replica_groups={{0,1,2,3}}, to_apply=%add
  %all-gather = bf16[8,10]{1,0} all-gather(%d), replica_groups={{0,1,2,3}}, dimensions={0}
  %fusion = f32[64]{0} fusion(%all-reduce.1), kind=kLoop, calls=%computation
"""


@pytest.fixture(autouse=True)
def scripts(monkeypatch):
    """The folder of the scripts is importable, as when one of them is started."""
    monkeypatch.syspath_prepend(ROOT / "benchmarks")


def run(script, *arguments):
    """What a benchmark prints."""
    environment = {name: value for name, value in os.environ.items() if name != "XLA_FLAGS"}
    process = subprocess.run(
        [sys.executable, str(ROOT / "benchmarks" / script), *map(str, arguments)],
        env=environment | {"JAX_PLATFORMS": "cpu"},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert process.returncode == 0, process.stdout + process.stderr
    return process.stdout


def test_ratio_compares_the_same_turn():
    from train_step import ratio

    # Of turns twice as slow for both, each ratio stays what it is.
    assert ratio([2.0, 40.0, 3.0], [1.0, 20.0, 1.0]) == (2.0, 2.0, 3.0)
    with pytest.raises(ValueError, match="shorter"):
        ratio([1.0, 2.0], [1.0])


def test_turns_are_complete_and_leave_the_warm_up_out(monkeypatch):
    import train_step

    class Counter:
        steps = 0

        def step(self):
            self.steps += 1

    monkeypatch.setattr(train_step, "timed", lambda contender: contender.step() or contender.steps)
    seconds = train_step.take_turns({"a": Counter(), "b": Counter()}, 3)
    assert seconds == {"a": [2, 3, 4], "b": [2, 3, 4]}


def test_collectives_are_counted_with_what_each_device_sends():
    from scaling import count

    # Round a ring of four, each device sends a reduced array one and a half times, of a gathered one 3/4.
    assert count(HLO) == {"all-reduce": [2, 1.5 * (512 + 4)], "all-gather": [1, 0.75 * 160]}
    assert count("ROOT %add = f32[2]{0} add(%a, %b)") == {}


def test_programs_have_a_counterpart_on_one_device():
    from scaling import Program, programs_of

    both = ["topk", "mean"]
    alone = programs_of("1x1", both, batch=16, per_device=4)
    assert Program(1, 1, "data", "topk", 16) in alone and Program(1, 1, "data", "topk", 4) in alone
    assert all(program.layout == "data" for program in alone)
    # Where both batches are the same, the program is made once.
    four = programs_of("2x4", both, batch=16, per_device=4)
    assert len(four) == len(set(four)) == 4
    assert {program.layout for program in four} == {"data", "fsdp"}


def test_overheads():
    from scaling import Program, overheads
    from train_step import Seconds

    def turns(wall, processor):  # two, the second twice as slow
        return [Seconds(wall, processor), Seconds(2 * wall, 2 * processor)]

    alone, plain = Program(1, 1, "data", "topk", 8), Program(1, 1, "data", "mean", 8)
    share = Program(1, 1, "data", "topk", 2)
    shared = Program(2, 4, "fsdp", "topk", 8)
    wide = Program(1, 2, "data", "topk", 4)
    times = {alone: (1, 2), plain: (1, 1), share: (1, 0.5), shared: (4, 3), wide: (1, 1.5)}
    rows = overheads({program: turns(*seconds) for program, seconds in times.items()}, per_device=2)

    assert rows[alone] == {"overhead": (1, 1, 1), "wall": (1, 1, 1), "topgap_over_gap": (2, 2, 2)}
    assert rows[plain] == {"overhead": (1, 1, 1), "wall": (1, 1, 1)}
    # Four devices do four times the work of one with its share of the batch: 3 / (4 * 0.5).
    assert rows[shared] == {"overhead": (1.5, 1.5, 1.5), "wall": (4, 4, 4), "per_device": (1.5, 1.5, 1.5)}
    assert rows[wide] == {"per_device": (1.5, 1.5, 1.5)}  # nothing on one device has its global batch


def test_input_wait_weighs_intervals_by_their_time():
    from input_wait import summary

    def interval(seconds, steps, share):
        parts = {"input": share, "dispatch": 0.0, "device": 1 - share, "other": 0.0}
        milliseconds = {name: 1000 * seconds * part / steps for name, part in parts.items()}
        return {"seconds": seconds, "steps": steps, "shares": parts, "milliseconds": milliseconds}

    figures = summary([interval(1.0, 10, 0.1), interval(3.0, 10, 0.02)])
    assert figures["step"][0] == pytest.approx(200)
    assert figures["input"] == pytest.approx((8.0, 0.04, 0.1))


def test_durations_of_the_start():
    from start_up import durations

    assert durations(1.0, [("python", 1.5), ("compile", 4.0)]) == {"python": 0.5, "compile": 2.5}


@pytest.mark.slow
def test_train_step_runs(tmp_path):
    path = tmp_path / "lines.jsonl"
    pools = "GAP;Top-GAP;Top-GAP, static k;lax.top_k"
    output = run("train_step.py", *TINY, "--batch-size", 2, "--pools", pools, "--json", path)
    (line,) = map(json.loads, path.read_text().splitlines())
    assert set(line["seconds"]) == {f"float32, {pool}" for pool in pools.split(";")}
    assert all(wall > 0 and processor > 0 for [[wall, processor]] in line["seconds"].values())
    assert all(name in output for name in line["seconds"])


@pytest.mark.slow
def test_scaling_runs_over_devices_and_processes(tmp_path):
    path = tmp_path / "lines.jsonl"
    sizes = ("--on", "1x1,1x2,2x2", "--batch-size", 2, "--per-device", 1)
    run("scaling.py", *TINY, *sizes, "--json", path)
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    found = {
        (row["processes"], row["devices"], row["layout"], row["pool"]): row
        for row in rows
        if row["batch"] == 2
    }
    assert set(found) == {
        (processes, devices, layout, pool)
        for processes, devices, layouts in (
            (1, 1, ["data"]),
            (1, 2, ["data", "fsdp"]),
            (2, 2, ["data", "fsdp"]),
        )
        for layout in layouts
        for pool in ("topk", "mean")
    }
    for (processes, devices, layout, pool), row in found.items():
        assert bool(row["collectives"]) == (devices > 1)
        assert row["collectives"] == found[processes, devices, layout, "mean"]["collectives"], pool
