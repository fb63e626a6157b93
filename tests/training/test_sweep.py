import json
import logging
import os
import subprocess
import sys
import time

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from topgap_jax.models import load_model, registry
from topgap_jax.reports.sweep import headline
from topgap_jax.training import ConfigError, train_and_evaluate
from topgap_jax.training import sweep as rooms
from topgap_jax.training.config import resolve
from topgap_jax.training.mesh import make_mesh
from topgap_jax.training.state import TrainState
from topgap_jax.training.sweep import member_config, sweep
from topgap_jax.training.sweep_figures import choose, compare_with, validation_accuracy
from topgap_jax.training.together import stack, unstack
from training.processes import ROOT, finish, metrics
from training.sweep_job import TINY

CONFIG = {
    "title": "Top-GAP",
    "seed": 7,
    "model": {"name": "tiny", "k": 12, "pyramid_channels": 8, "dropout": 0.1},
    "data": {
        "options": {"num_images": 96, "size": 24, "object_size": 14},
        "test": ("in_distribution",),
    },
    "train": {"batch_size": 16, "epochs": 1, "log_every_steps": 1, "checkpoint_every_steps": 2},
    "evaluation": {
        "batch_size": 16,
        "attacks": ("paper_fgsm",),
        "attack_examples": 16,
        "cam_examples": 16,
        "pictures": 2,
    },
}
TWIN = {"title": "Plain GAP", "model": {"head": "original", "pool": "mean"}, "loss": {"l1": 0.0}}


@pytest.fixture(autouse=True)
def tiny(monkeypatch):
    """The name of a network that compiles quickly."""
    monkeypatch.setitem(registry.ARCHITECTURES, "tiny", TINY)


def changed(**sections):
    """`CONFIG` with other fields in some sections."""
    config = dict(CONFIG)
    for name, fields in sections.items():
        config[name] = CONFIG[name] | fields if isinstance(CONFIG.get(name), dict) else fields
    return config


def row(k, *values, split="validation"):
    """What `sweep.json` holds of one k."""
    accuracy = {"section": "accuracy", "split": split, "figure": "value", "counts": [96] * len(values)}
    test = accuracy | {"split": "in_distribution", "runs": [{"mean": 1 / k, "values": [1 / k] * len(values)}]}
    group = accuracy | {"group": "worst", "runs": [{"mean": 2.0, "values": [2.0] * len(values)}]}
    own = accuracy | {"runs": [{"mean": float(np.mean(values)), "values": list(values)}]}
    return {"k": k, "figures": [test, group, own]}


@pytest.mark.parametrize(
    ("config", "arguments", "message"),
    [
        (CONFIG, {"ks": []}, "no k given: name at least one"),
        (CONFIG, {"ks": [4, 12, 4]}, "k lists 4 more than once"),
        (CONFIG, {"ks": [4, 12.0]}, r"k=12\.0 is not an integer"),
        (CONFIG, {"ks": [0, 4]}, "k=0 is too small: at least 1"),
        (CONFIG, {"ks": [4], "seeds": [1, 1]}, "seeds lists 1 more than once"),
        (CONFIG, {"ks": [4], "workdir": ""}, "no workdir given"),
        (CONFIG, {"ks": [4], "together": 0}, "together=0 must be at least 1"),
        (CONFIG | TWIN, {"ks": [4]}, r"model\.pool='mean' has no k to sweep over"),
        (changed(data={"folds": 3}), {"ks": [4]}, r"data\.folds=3: a sweep does not cross-validate"),
        (
            changed(evaluation={"weights": "best"}),
            {"ks": [4, 8], "together": 2},
            r"evaluation\.weights='best' needs the checkpoints of each k: use together=1",
        ),
        (
            CONFIG | {"adversarial": {"method": "fgsm"}},
            {"ks": [4, 8], "together": 2},
            r"adversarial\.method='fgsm' trains each k on pictures of its own: use together=1",
        ),
        (CONFIG | {"epoch": 3}, {"ks": [4]}, "unknown config field 'epoch'"),
        (CONFIG, {"ks": [4, 37]}, "k=37 is larger than the CAM: .* 6x6 = 36 positions"),
    ],
)
def test_mistakes_are_found_before_the_workdir_is_touched(config, arguments, message, tmp_path):
    workdir = tmp_path / "sweep" if arguments.get("workdir") is None else ""
    options = {name: value for name, value in arguments.items() if name not in ("ks", "workdir")}
    with pytest.raises(ConfigError, match=message):
        sweep(config, workdir, arguments["ks"], **options)
    assert not (tmp_path / "sweep").exists()


def test_a_member_is_an_ordinary_configuration():
    config = member_config(resolve(CONFIG | {"twin": TWIN}), 30, 5)
    expected = resolve(
        CONFIG | {"seed": 5, "title": "Top-GAP, k=30"} | {"model": CONFIG["model"] | {"k": 30}}
    )
    assert config == expected


def test_validation_chooses_and_tests_do_not():
    # The test figures and the groups say something else each time: `row` makes them favour small k.
    assert choose([row(4, 0.90), row(8, 0.95), row(16, 0.94)], "validation") == 8
    assert choose([row(4, 0.90), row(8, 0.95), row(16, 0.95)], "validation") == 8  # of equals the smallest
    assert choose([row(16, 0.95), row(8, 0.95)], "validation") == 8
    assert choose([row(4, 0.98, 0.80), row(8, 0.90, 0.91)], "validation") == 8  # the mean over seeds


def test_seeds_are_compared_in_pairs():
    rows = [row(4, 0.90, 0.92, 0.94), row(8, 0.91, 0.94, 0.97)]
    below, none = compare_with(8, rows, "validation")
    assert none is None
    assert below["mean"] == pytest.approx(0.02) and below["values"] == pytest.approx([0.01, 0.02, 0.03])
    reach = 4.302653 * 0.01 / 3**0.5  # Student's t with two degrees of freedom
    assert below["interval"] == pytest.approx([0.02 - reach, 0.02 + reach], rel=1e-5)
    assert compare_with(8, [row(4, 0.9), row(8, 0.95)], "validation")[0]["interval"] is None


@pytest.mark.parametrize(("weights", "value"), [("last", 0.8), ("best", 0.9)])
def test_the_validation_accuracy_is_that_of_the_evaluated_checkpoint(weights, value, tmp_path):
    lines = [{"kind": "train", "step": 1, "accuracy": 1.0}]
    lines += [
        {"kind": "eval", "split": "validation", "accuracy": accuracy, "count": 96} for accuracy in (0.9, 0.8)
    ]
    lines += [{"kind": "eval", "split": "elsewhere", "accuracy": 1.0, "count": 5}]
    (tmp_path / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    config = resolve(CONFIG | {"evaluation": {"weights": weights}})
    found = validation_accuracy(tmp_path, config)
    assert found == {"split": "validation", "value": value, "count": 96}


@pytest.fixture
def trained(monkeypatch):
    """The runs that were trained; their results are written without training."""
    runs = []

    def train(run, programs):
        runs.append(run.directory.name)
        k = run.config.model.k if run.config.model.pool == "topk" else 36
        accuracy = 0.9 + 0.001 * k + 0.01 * run.config.seed
        line = {"kind": "eval", "split": "validation", "accuracy": accuracy, "count": 96}
        (run.directory / "metrics.jsonl").write_text(json.dumps(line) + "\n")
        evaluation = {
            "accuracy": [{"split": "in_distribution", "value": 0.5, "count": 96}],
            "training_seconds": 2.0,
        }
        (run.directory / "evaluation.json").write_text(json.dumps(evaluation))

    monkeypatch.setattr(rooms, "train", train)
    monkeypatch.setattr(rooms, "_finish", lambda run, state: None)
    return runs


def test_seeds_and_twins_in_one_table(trained, tmp_path):
    after, lines = [], []
    path = sweep(
        CONFIG | {"twin": TWIN}, tmp_path, [12, 4], seeds=[0, 2], report=lines.append, after_run=after.append
    )
    assert trained == ["k=4,seed=0", "k=12,seed=0", "k=4,seed=2", "k=12,seed=2", "twin,seed=0", "twin,seed=2"]
    assert [directory.name for directory in after] == trained
    summary = json.loads(path.read_text())
    assert (summary["chosen"], summary["seeds"], summary["cam_shape"]) == (12, [0, 2], [6, 6])
    assert [(row["k"], row["share"]) for row in summary["rows"]] == [(4, 4 / 36), (12, 12 / 36)]
    assert summary["rows"][0]["folders"] == ["k=4,seed=0", "k=4,seed=2"]
    accuracy = summary["rows"][0]["figures"][0]
    assert (accuracy["split"], accuracy["counts"]) == ("validation", [96, 96])
    assert accuracy["runs"][0]["values"] == pytest.approx([0.904, 0.924])
    assert accuracy["runs"][0]["sd"] == pytest.approx(0.02 / 2**0.5)
    assert summary["rows"][0]["below_chosen"]["values"] == pytest.approx([0.008, 0.008])
    assert summary["twin"]["title"] == "Plain GAP"
    # Again: nothing is trained, and the table is the same.
    again = json.loads(
        sweep(CONFIG | {"twin": TWIN}, tmp_path, [4, 12], seeds=[0, 2], report=lines.append).read_text()
    )
    assert len(trained) == 6 and again["rows"] == summary["rows"]
    assert lines[-6:] == [f"{name}: finished before" for name in trained]


def test_a_k_that_diverges_is_named_and_the_others_go_on(trained, tmp_path, monkeypatch):
    others = rooms.train

    def train(run, programs):
        if run.config.model.k in diverging:
            raise FloatingPointError(f"loss of {run.config.model.k} became nan")
        others(run, programs)

    monkeypatch.setattr(rooms, "train", train)
    lines, after, diverging = [], [], (4,)
    path = sweep(CONFIG, tmp_path / "one", [4, 8, 12], report=lines.append, after_run=after.append)
    summary = json.loads(path.read_text())
    assert summary["diverged"] == {"k=4": "loss of 4 became nan"}
    assert ([row["k"] for row in summary["rows"]], summary["chosen"]) == ([8, 12], 12)
    assert trained == ["k=8", "k=12"] == [directory.name for directory in after]
    assert "k=4: loss of 4 became nan" in lines
    assert headline(summary)[-1] == "Not in the table, since training diverged: k=4."
    diverging = (4, 12)
    with pytest.raises(FloatingPointError, match=r"every k diverged: k=4: loss of 4 .*; k=12: loss of 12"):
        sweep(CONFIG, tmp_path / "all", [4, 12])


def test_a_workdir_belongs_to_one_sweep(trained, tmp_path):
    sweep(CONFIG, tmp_path / "sweep", [4, 12])
    with pytest.raises(
        ConfigError, match=r"holds another sweep \(k \[4, 8, 12\], not \[4, 12\]\), and k is chosen"
    ):
        sweep(CONFIG, tmp_path / "sweep", [4, 8, 12])
    with pytest.raises(ConfigError, match=r"another configuration \(seed: 8, not 7\)"):
        sweep(CONFIG | {"seed": 8}, tmp_path / "sweep", [4, 12])
    with pytest.raises(ConfigError, match=r"holds another run: choose another one for the sweep"):
        sweep(CONFIG, tmp_path / "sweep" / "k=4", [4, 12])
    assert trained == ["k=4", "k=12"]


def test_stacked_states_come_apart_again():
    mesh = make_mesh(devices=jax.devices()[:1])
    states = [
        TrainState(jnp.int32(3), {"w": jnp.full((2, 2), value)}, {"k": jnp.int32(value)}, (jnp.ones(3),), {})
        for value in (1.0, 2.0)
    ]
    stacked = stack(states, mesh)
    assert stacked.step.shape == () and stacked.params["w"].shape == (2, 2, 2)
    for index, state in enumerate(states):
        jax.tree.map(np.testing.assert_array_equal, unstack(stacked, index, mesh), state)


class Compilations(logging.Handler):
    """How often JAX compiled each function."""

    def __init__(self):
        super().__init__()
        self.names = []

    def emit(self, record):
        words = record.getMessage().split()
        if words[:4] == ["Finished", "XLA", "compilation", "of"]:
            self.names.append(words[4])


@pytest.fixture
def compilations():
    """Names of the functions that are compiled from now on."""
    logger, handler = logging.getLogger("jax._src.dispatch"), Compilations()
    logger.addHandler(handler)
    propagate, logger.propagate = logger.propagate, False
    with jax.log_compiles():
        yield handler.names
    logger.removeHandler(handler)
    logger.propagate = propagate


@pytest.mark.slow
def test_every_k_by_the_same_programs_and_each_the_run_that_main_would_train(compilations, tmp_path):
    names = []

    def after_run(directory):
        names.append(set(compilations))
        compilations.clear()

    sweep(CONFIG, tmp_path / "sweep", [4, 12, 30], after_run=after_run)
    first, *others = names
    assert {"jit(train_step)", "jit(eval_step)", "jit(_explain_step)"} <= first
    assert others == [set(), set()], "a further k compiled something, be it training, evaluation or attack"

    config = member_config(resolve(CONFIG), 12, 7)
    train_and_evaluate(config, tmp_path / "alone")
    ours, theirs = (load_model(tmp_path / place / "model.safetensors") for place in ("sweep/k=12", "alone"))
    assert int(ours.k[...]) == 12
    jax.tree.map(np.testing.assert_array_equal, nnx.state(ours), nnx.state(theirs))
    evaluations = [
        json.loads((tmp_path / p / "evaluation.json").read_text()) for p in ("sweep/k=12", "alone")
    ]
    for part in ("accuracy", "attacks", "cam", "k", "config_hash"):
        assert evaluations[0][part] == evaluations[1][part]


def topgap_sweep(config, workdir, *arguments, devices):
    """`topgap sweep` as a process of its own."""
    path = workdir.with_suffix(".py")
    path.write_text(
        f"import ml_collections\n\ndef get_config():\n    return ml_collections.ConfigDict({config})\n"
    )
    job = str(ROOT / "tests" / "training" / "sweep_job.py")
    command = [sys.executable, job, "sweep", f"--config={path}", f"--workdir={workdir}"]
    environment = os.environ | {
        "XLA_FLAGS": f"--xla_force_host_platform_device_count={devices}",
        "JAX_PLATFORMS": "cpu",
        "PYTHONPATH": str(ROOT),
    }
    return subprocess.Popen(
        [*command, "--k=4,12,30", *arguments],
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def networks(workdir):
    return {k: nnx.state(load_model(workdir / f"k={k}" / "model.safetensors")) for k in (4, 12, 30)}


@pytest.mark.slow
@pytest.mark.parametrize(("together", "devices", "watched"), [(1, 1, "k=12"), (2, 2, "together/k=4,12")])
def test_killed_for_real_it_goes_on(together, devices, watched, tmp_path):
    """The kill hits the second k, or the first group of two; then all three agree with single runs."""
    config = changed(evaluation={"attacks": ()}, train={"epochs": 2}) | {"optimizer": {"learning_rate": 0.01}}
    workdir = tmp_path / "sweep"
    arguments = (f"--together={together}",)
    process = topgap_sweep(config, workdir, *arguments, devices=devices)
    deadline = time.monotonic() + 400
    while len(metrics(workdir / watched)) < 5:
        assert process.poll() is None, process.communicate()[0]
        assert time.monotonic() < deadline
        time.sleep(0.02)
    process.kill()
    process.communicate()
    assert not (workdir / "sweep.json").exists() and not (workdir / "k=12" / "evaluation.json").exists()
    output = finish(topgap_sweep(config, workdir, *arguments, devices=devices))
    assert ("k=4: finished before" in output) == (together == 1)
    assert [line["step"] for line in metrics(workdir / "k=12")] == list(range(1, 13))
    assert len(json.loads((workdir / "sweep.json").read_text())["rows"]) == 3

    sweep(config, tmp_path / "uninterrupted", [4, 12, 30])
    exactly = {"rtol": 0, "atol": 0} if together == 1 else {"rtol": 0, "atol": 2e-3}
    for k, expected in networks(tmp_path / "uninterrupted").items():
        found = networks(workdir)[k]
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, **exactly), found, expected)
