"""The robustness evaluation of a trained run and its command."""

import dataclasses
import json
import shutil

import numpy as np
import pytest

from topgap_jax import attacks
from topgap_jax.cli import main
from topgap_jax.cli.arguments import fraction
from topgap_jax.models import load_model
from topgap_jax.training import ConfigError, train_and_evaluate
from topgap_jax.training.robustness import RobustnessSettings, evaluate_robustness

CONFIG = {
    "model": {"name": "resnet_narrow", "k": 12, "pyramid_channels": 16},
    "data": {
        "options": {"num_images": 96, "size": 24, "object_size": 14},
        "test": ("in_distribution",),
    },
    "optimizer": {"learning_rate": 0.05, "clip_norm": 1.0},
    "train": {"batch_size": 16, "epochs": 4, "log_every_steps": 4, "checkpoint_every_steps": 24},
    "evaluation": {"batch_size": 32, "cam_examples": 16, "pictures": 2},
    "twin": {"title": "Plain GAP", "model": {"head": "original", "pool": "mean"}, "loss": {"l1": 0.0}},
}
SETTINGS = RobustnessSettings(
    eps=4 / 255, attacks=("paper_fgsm", "paper_pgd20"), version="rand", examples=40, diagnostics=0
)


# Those that need a trained run take over a minute on two cores.
slow = pytest.mark.slow


@pytest.fixture(scope="module")
def workdir(tmp_path_factory):
    directory = tmp_path_factory.mktemp("run")
    train_and_evaluate(CONFIG, directory)
    return directory


@pytest.fixture(scope="module")
def evaluated(workdir):
    folders = evaluate_robustness(workdir, SETTINGS)
    assert folders == [workdir / "robustness", workdir / "twin" / "robustness"]
    return [json.loads((folder / "robustness.json").read_text()) for folder in folders]


@slow
def test_worst_case_is_never_above_any_attack(evaluated):
    for result in evaluated:
        worst = result["worst_case"]["robust_accuracy"]
        assert result["count"] == 40 and 0 <= worst <= result["clean_accuracy"]
        assert all(worst <= entry["robust_accuracy"] for entry in result["attacks"])
        assert worst <= min(result["auto_attack"]["robust_accuracy"].values())
        fooled = sum(result["worst_case"]["fooled_by"].values())
        assert worst == pytest.approx(1 - fooled / 40)


@slow
def test_figures_belong_to_the_stored_images(workdir, evaluated):
    model = load_model(workdir / "model.safetensors")
    images = np.load(workdir / "robustness" / "attacks" / "paper_pgd20.npy")
    lines = [
        json.loads(line)
        for line in (workdir / "robustness" / "attacks" / "outcomes.jsonl").read_text().splitlines()
    ]
    predictions = {line["example"]: line["predictions"] for line in lines if line["attack"] == "paper_pgd20"}
    np.testing.assert_array_equal(attacks.predict(model, images), [predictions[row] for row in range(40)])


@slow
def test_goes_on_from_what_is_there(workdir, evaluated):
    before = (workdir / "robustness" / "attacks" / "outcomes.jsonl").read_bytes()
    evaluate_robustness(workdir, SETTINGS)
    assert (workdir / "robustness" / "attacks" / "outcomes.jsonl").read_bytes() == before
    again = json.loads((workdir / "robustness" / "robustness.json").read_text())
    assert again["worst_case"] == evaluated[0]["worst_case"]
    assert [entry["seconds"] for entry in again["attacks"]] == [None, None]


@slow
def test_command(workdir, evaluated, capsys):
    arguments = "--eps 4/255 --attacks paper_fgsm,paper_pgd20 --version rand --examples 40 --diagnostics 0"
    main(["robustness", str(workdir), *arguments.split()])
    shown = capsys.readouterr().out
    page = workdir / "robustness" / "robustness.html"
    assert f"Report: {page}" in shown and page.exists()
    assert f"{evaluated[0]['clean_accuracy']:.1%}" in shown


@slow
@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("--eps 8", "did you mean 8/255"),
        ("--eps=-1/255", "must be positive"),
        ("--eps 4/255 --attacks pgd7", "unknown attack 'pgd7'; there are: paper_fgsm"),
        ("--eps 4/255 --norm l3", "unknown norm 'l3'"),
        ("--eps 4/255 --split nowhere", "nowhere"),
        ("--eps 4/255 --version strongest", "unknown version 'strongest'"),
        ("--eps 4/255 --examples 0", "examples=0 must be at least 1"),
        ("--eps 4/255 --control nowhere", "nowhere holds no finished run"),
    ],
)
def test_bad_input_ends_in_one_line(workdir, arguments, message):
    with pytest.raises(SystemExit, match=r"^Error: ") as error:
        main(["robustness", str(workdir), *arguments.split()])
    assert message in str(error.value) and "\n" not in str(error.value)


@slow
def test_other_runs_reach_the_diagnostics(workdir, evaluated, monkeypatch):
    """They are attacked there; here the evaluation ends."""

    class Reached(Exception):
        pass

    def diagnose(model, images, labels, *, robust_twin, controls, **_):
        assert robust_twin.pool == "mean" and [control.pool for control in controls.values()] == ["mean"]
        assert str(workdir / "twin") in next(iter(controls))
        raise Reached

    monkeypatch.setattr("topgap_jax.training.robustness.diagnose", diagnose)
    twin = str(workdir / "twin")
    others = {"transfer_from": twin, "controls": (twin,), "diagnostics": 8}
    with pytest.raises(Reached):
        evaluate_robustness(workdir, dataclasses.replace(SETTINGS, **others))


@slow
def test_runs_on_other_data_are_refused(workdir, evaluated, tmp_path):
    shutil.copytree(workdir / "twin", tmp_path, dirs_exist_ok=True)
    config = json.loads((tmp_path / "config.json").read_text())
    config["data"]["options"]["size"] = 28
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(ConfigError, match="was trained on other data"):
        evaluate_robustness(workdir, dataclasses.replace(SETTINGS, controls=(str(tmp_path),)))


def test_no_run(tmp_path):
    with pytest.raises(ConfigError, match="holds no finished run"):
        evaluate_robustness(tmp_path, SETTINGS)


def test_fraction(capsys):
    assert fraction("8/255") == pytest.approx(8 / 255) and fraction("0.5") == 0.5
    with pytest.raises(SystemExit):
        main(["robustness", "anywhere", "--eps", "eight"])
    assert "'eight' is neither a number nor a fraction" in capsys.readouterr().err
