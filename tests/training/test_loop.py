import json
import logging
import shutil
import subprocess

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from topgap_jax.data.embedded import TexturedDigits
from topgap_jax.training import ConfigError, train_and_evaluate
from topgap_jax.training.config import resolve
from topgap_jax.training.loop import make_batches, make_programs, prepare, prepare_all, train
from topgap_jax.training.mesh import put_batch
from training.processes import ROOT, command, final_arrays, metrics

SMALL = {
    "model": {"name": "resnet_narrow", "k": 12, "pyramid_channels": 16},
    "data": {"options": {"num_images": 96, "size": 24, "object_size": 14}},
    "optimizer": {"learning_rate": 0.05, "clip_norm": 1.0},
    "train": {"batch_size": 16, "epochs": 1, "log_every_steps": 1, "checkpoint_every_steps": 4},
    "evaluation": {"batch_size": 32},
}


def changed(**sections):
    """SMALL with some fields of its sections replaced."""
    return SMALL | {
        name: SMALL.get(name, {}) | value if isinstance(value, dict) else value
        for name, value in sections.items()
    }


def test_the_step_compiles_once_and_learns(tmp_path, monkeypatch):
    read, plain = [], TexturedDigits.__getitem__
    monkeypatch.setattr(TexturedDigits, "__getitem__", lambda self, i: read.append(i) or plain(self, i))
    run = prepare(resolve(SMALL), tmp_path)
    assert len(read) <= 3  # preparing a run decodes no data set
    state, step, _ = make_programs(run)
    batch = put_batch(run.mesh, next(make_batches(run)))
    losses = []
    for _ in range(30):
        state, figures = step(state, batch)
        losses.append(float(figures["loss"]))
    assert step._cache_size() == 1
    assert losses[-1] < 0.7 * losses[0]
    assert int(state.step) == 30


def test_components_add_up_in_the_metrics(uninterrupted):
    lines = metrics(uninterrupted)
    for line in lines:
        assert line["loss"] == pytest.approx(line["cross_entropy"] + 1.0 * line["l1"], rel=1e-5)
        assert line["config_hash"] and line["commit"] and line["seed"] == 3
        assert sum(line["milliseconds"].values()) == pytest.approx(1000 * line["seconds"] / line["steps"])
        assert (line["milliseconds"]["compile"] > 0) == (line["step"] == 1)
    assert {line["step"] for line in metrics(uninterrupted, "checkpoint")} == {4, 6, 8, 12, 16, 18, 20, 24}
    assert all(line["seconds"] > 0 for line in metrics(uninterrupted, "eval"))
    assert len(list((uninterrupted / "tensorboard").iterdir())) == 1


def test_keeps_the_last_two_and_the_best_checkpoint(uninterrupted):
    evaluations = metrics(uninterrupted, "eval")
    best = max(evaluations, key=lambda line: line["accuracy"])["accuracy"]
    best_steps = {line["step"] for line in evaluations if line["accuracy"] == best}
    steps = {int(path.name) for path in (uninterrupted / "checkpoints").iterdir() if path.name.isdigit()}
    assert {24, 20} <= steps and steps & best_steps and len(steps) <= 3


def test_a_run_that_is_done_stays_as_it_is(uninterrupted, tmp_path):
    shutil.copytree(uninterrupted, tmp_path / "run")
    before = final_arrays(tmp_path / "run")
    config = json.loads((uninterrupted / "config.json").read_text())
    train_and_evaluate(config, tmp_path / "run")
    for name, value in final_arrays(tmp_path / "run").items():
        np.testing.assert_array_equal(value, before[name])
    assert metrics(tmp_path / "run") == metrics(uninterrupted)


def test_a_truncated_checkpoint_falls_back_to_the_one_before(uninterrupted, tmp_path, caplog):
    shutil.copytree(uninterrupted, tmp_path / "run")
    for path in (tmp_path / "run" / "checkpoints" / "24" / "state").rglob("*"):
        if path.is_file():
            path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    config = json.loads((uninterrupted / "config.json").read_text())
    with caplog.at_level(logging.WARNING):
        train_and_evaluate(config, tmp_path / "run")
    assert "checkpoint 24" in caplog.text and "cannot be read" in caplog.text
    assert (tmp_path / "run" / "checkpoints" / "unreadable-24").exists()
    expected = final_arrays(uninterrupted)
    for name, value in final_arrays(tmp_path / "run").items():
        np.testing.assert_array_equal(value, expected[name])


def test_without_one_readable_checkpoint_it_stops(uninterrupted, tmp_path):
    shutil.copytree(uninterrupted, tmp_path / "run")
    for path in (tmp_path / "run" / "checkpoints").glob("*/state/**/*"):
        if path.is_file():
            path.write_bytes(b"")
    config = json.loads((uninterrupted / "config.json").read_text())
    for _ in range(2):  # and does not forget it
        with pytest.raises(ConfigError, match=r"no checkpoint in .* can be read"):
            train_and_evaluate(config, tmp_path / "run")


def test_a_loss_that_is_not_finite_stops_and_keeps_the_last_good_checkpoint(tmp_path):
    config = changed(
        optimizer={"learning_rate": 1e18, "clip_norm": 0.0, "schedule": "constant", "warmup_fraction": 0.5}
    )
    config["train"] = config["train"] | {"epochs": 2, "checkpoint_every_steps": 1}
    with pytest.raises(
        FloatingPointError, match=r"became (nan|inf) before step \d+; the checkpoints in .* are from before"
    ):
        train_and_evaluate(config, tmp_path)
    for name, value in final_arrays(tmp_path).items():
        assert np.isfinite(value).all(), name


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"nodel": {}}, "unknown config field 'nodel'; there are: title, seed, model"),
        (changed(model={"name": "resnet19"}), "unknown model 'resnet19'; there are: .*resnet18"),
        (changed(model={"head": "fpn"}), "unknown head 'fpn'; there are: pyramid, last, original"),
        (changed(model={"pool": "max"}), "unknown pool 'max'; there are: topk, mean"),
        (
            changed(model={"k": 37}),
            r"k=37 is larger than the CAM: images of 24x24 give 6x6 = 36 positions",
        ),
        (changed(data={"source": "cifar"}), "cifar"),
        (changed(data={"train": "training"}), "training"),
        (changed(data={"augment": ("flip",)}), "flip"),
        (changed(data={"augment": (1,)}), r"data.augment\[0\]=1 must be of type str"),
        (changed(data={"fold": 2}), "data.fold=2, data.fold_groups=False need data.folds"),
        (changed(seed=-1), "seed=-1 must not be negative"),
        (changed(optimizer={"accumulate": 7}), "accumulate=7 .* at most the 6 steps"),
        (changed(data={"workers": -2}), "data.workers=-2 must not be negative"),
        (changed(loss={"class_weights": (-1.0,) * 10}), "loss.class_weights=.* must not be negative"),
        (changed(model=SMALL["model"] | {"pyramid_channels": 0}), "pyramid_channels=0 is too small"),
        (changed(data={"mixup": -1.0}), "data.mixup=-1.0 must not be negative"),
        (changed(data={"on_device": "yes"}), "unknown data.on_device 'yes'"),
        (changed(data={"test": ("shifted",), "tests_elsewhere": {"shifted": {}}}), "names 'shifted', which"),
        (changed(train={"batch_size": 200}), "train.batch_size=200 is more than the 96 examples"),
        (changed(train={"epochs": 0}), "train.epochs=0 must be at least 1"),
        (changed(profile=-1), "profile=-1 must not be negative"),
        (changed(train={"log_every_steps": 0}), "train.log_every_steps=0 must be at least 1"),
        (changed(loss={"class_weights": (1.0, 2.0)}), "loss.class_weights has 2 values for 10 classes"),
        (changed(loss={"l1": -1.0}), "loss.l1=-1.0 must not be negative"),
        (changed(loss={"label_smoothing": 1.0}), r"loss.label_smoothing=1.0 is outside \[0, 1\)"),
        (changed(mesh={"data": 3}), "mesh data=3 x fsdp=1 needs 3 devices; there are 1"),
        (changed(mesh={"fsdp": 0}), "mesh data=-1 x fsdp=0: at least 1 each"),
        (changed(evaluation={"cam_examples": 0}), "evaluation.cam_examples=0 must be at least 1"),
        (changed(evaluation={"attack_examples": 0}), "evaluation.attack_examples=0 must be at least 1"),
        (changed(evaluation={"pictures": -1}), "evaluation.pictures=-1 must be at least 0"),
        (
            changed(evaluation={"attacks": ("pgd",)}),
            "unknown attack 'pgd'; there are: paper_fgsm, paper_pgd20",
        ),
        (
            changed(evaluation={"weights": "first"}),
            "unknown evaluation.weights 'first'; there are: last, best",
        ),
        (changed(evaluation={"attack_eps": 8.0}), r"evaluation.attack_eps=8.0 is outside \(0, 1\]"),
        (changed(optimizer={"name": "adam"}), "unknown optimizer 'adam'"),
        (changed(twin={"model": {"head": "original"}}), 'head="original" .* pools by "mean", not by "topk"'),
    ],
)
def test_mistakes_are_found_before_the_workdir_is_touched(config, message, tmp_path):
    with pytest.raises(ConfigError, match=message):
        train_and_evaluate(config, tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_workdirs_that_cannot_be_used(uninterrupted, tmp_path):
    with pytest.raises(ConfigError, match="no workdir given"):
        train_and_evaluate(SMALL, "")
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigError, match="file' cannot be written"):
        train_and_evaluate(SMALL, tmp_path / "file")
    with pytest.raises(ConfigError, match=r"holds a run with another configuration \(.*seed: 0, not 3"):
        train_and_evaluate(SMALL, uninterrupted)


def test_a_workdir_whose_checkpoints_were_replaced_by_those_of_another_network(uninterrupted, tmp_path):
    shutil.copytree(uninterrupted, tmp_path / "run")
    config = json.loads((uninterrupted / "config.json").read_text())
    config["model"]["pyramid_channels"] = 8
    (tmp_path / "run" / "config.json").write_text(json.dumps(config))
    with pytest.raises(
        ConfigError,
        match=r"checkpoint 24 in .* another network or optimizer: params/head/classifier/kernel is "
        r"float32\[1, 1, 16, 10\] there and float32\[1, 1, 8, 10\] here \(\d+ arrays differ\)",
    ):
        train_and_evaluate(config, tmp_path / "run")


def test_the_command_line_names_a_field_that_does_not_exist(tiny, tmp_path):
    result = subprocess.run(
        command(tiny, tmp_path, "--config.model.kk=3"), capture_output=True, text=True, cwd=ROOT, timeout=100
    )
    assert result.returncode == 1
    assert result.stderr.startswith(
        "Error: unknown config field 'model.kk'; there are: model.name, model.head"
    )
    assert result.stderr.count("\n") == 1 and not (tmp_path / "config.json").exists()


def test_the_best_weights_can_be_the_ones_evaluated(uninterrupted, tmp_path):
    config = json.loads((uninterrupted / "config.json").read_text())
    evaluations = metrics(uninterrupted, "eval")
    best = max(evaluations, key=lambda line: (line["accuracy"], line["step"]))
    shutil.copytree(uninterrupted, tmp_path / "run")
    config["evaluation"]["weights"] = "best"
    (tmp_path / "run" / "config.json").unlink()
    state = train(prepare(resolve(config), tmp_path / "run"))
    accuracies = {line["step"]: line["accuracy"] for line in evaluations}
    assert accuracies[int(state.step)] == best["accuracy"]


def test_the_twin_reads_the_same_data_once_and_its_own_where_it_has_some(tmp_path):
    for data, shared in (({}, True), ({"options": {"num_images": 64}}, False)):
        run, twin = prepare_all(changed(twin={"title": "Twin", "data": data}), tmp_path)
        assert len(twin.sources["train"]) == (96 if shared else 64)
        assert all((twin.sources[split] is source) == shared for split, source in run.sources.items())


def test_the_twin_and_the_evaluation(tmp_path):
    config = changed(
        data={"test": ("in_distribution", "shifted")},
        evaluation={
            "attacks": ("paper_fgsm", "pgd50"),
            "attack_examples": 24,
            "cam_examples": 40,
            "pictures": 5,
        },
        twin={"title": "Plain GAP", "model": {"head": "original", "pool": "mean"}, "loss": {"l1": 0.0}},
    )
    train_and_evaluate(config, tmp_path)
    for workdir, title, parameters_less in (
        (tmp_path, "Top-GAP", False),
        (tmp_path / "twin", "Plain GAP", True),
    ):
        evaluation = json.loads((workdir / "evaluation.json").read_text())
        assert evaluation["title"] == title
        assert evaluation["cam_shape"] == ([3, 3] if parameters_less else [6, 6])
        whole = {figure["split"]: figure for figure in evaluation["accuracy"] if "group" not in figure}
        worst = {f["split"]: f for f in evaluation["accuracy"] if f.get("group") == "worst"}
        for split in ("in_distribution", "shifted"):
            assert whole[split]["count"] == 96
            assert worst[split]["value"] <= whole[split]["value"]
        for attack in evaluation["attacks"]:
            assert attack["robust_accuracy"] <= attack["clean_accuracy"] and attack["count"] == 24
        assert 0 < evaluation["cam"]["sparsity"] < 1 and evaluation["cam"]["count"] == 40
        pictures = np.load(workdir / "examples.npz")
        assert pictures["heat"].shape == (6, 24, 24) == pictures["masks"].shape
        assert pictures["split"].tolist() == ["in_distribution"] * 3 + ["shifted"] * 3
        assert pictures["heat"].min() >= 0 and pictures["heat"].max() <= 1
        assert jnp.isfinite(pictures["images"]).all()
    before = (tmp_path / "evaluation.json").read_text()
    train_and_evaluate(config, tmp_path)
    assert (tmp_path / "evaluation.json").read_text() == before


def test_a_test_set_from_elsewhere_has_its_own_groups(tmp_path):
    """Trained on twenty groups, tested on a file of arrays with two others and without masks."""
    digits = TexturedDigits("shifted", num_images=40, size=24, object_size=14)
    arrays = {"images": digits.images, "labels": digits.labels, "class_names": digits.class_names}
    np.savez(tmp_path / "test.npz", groups=np.arange(40) % 2, **arrays)
    elsewhere = {"source": f"npz:{tmp_path}", "split": "test"}
    config = changed(
        data={
            "options": {"num_images": 96, "size": 24, "object_size": 14, "correlation": 0.5},
            "test": ("in_distribution",),
            "tests_elsewhere": {"arrays": elsewhere},
        },
        evaluation={"cam_examples": 4, "pictures": 4},
    )
    train_and_evaluate(config, tmp_path / "run")
    accuracy = json.loads((tmp_path / "run" / "evaluation.json").read_text())["accuracy"]
    assert [(figure["split"], figure["count"]) for figure in accuracy if "group" not in figure] == [
        ("in_distribution", 96),
        ("arrays", 40),
    ]
    (worst,) = (figure for figure in accuracy if figure["split"] == "arrays" and "group" in figure)
    assert (worst["group"], worst["count"]) == ("worst", 20) and worst["name"] in ("0", "1")
    pictures = np.load(tmp_path / "run" / "examples.npz")
    assert pictures["split"].tolist() == ["in_distribution"] * 2 + ["arrays"] * 2
    assert "masks" not in pictures  # the arrays have none


def test_batches_must_divide_by_the_devices():
    from topgap_jax.training.mesh import check_batch_size

    mesh = jax.sharding.AbstractMesh((8,), ("data",))
    with pytest.raises(
        ValueError, match=r"train.batch_size=20 cannot be split over 8 devices.*such as 16 or 24"
    ):
        check_batch_size(mesh, "train.batch_size", 20)
