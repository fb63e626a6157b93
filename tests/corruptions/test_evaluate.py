"""`topgap evaluate` on a run and its twin: figures, files, going on after an interruption, and mistakes."""

import json

import numpy as np
import pytest

from topgap_jax import corruptions
from topgap_jax.cli import main
from topgap_jax.models import create_model, load_model, save_model
from topgap_jax.reports.corruptions import corruption_markdown
from topgap_jax.training import ConfigError
from topgap_jax.training.config import resolve
from topgap_jax.training.corrupted import CorruptionSettings, evaluate_corruptions, evaluate_splits

DATA = {
    "options": {"num_images": 40, "size": 32, "object_size": 18},
    "test": ("in_distribution", "shifted"),
}
MODEL = {"name": "resnet_narrow", "k": 12, "pyramid_channels": 8}
TWIN = {"name": "resnet_narrow", "head": "original", "pool": "mean"}
SETTINGS = CorruptionSettings(names=("gaussian_noise", "fog"), severities=(1, 5), examples=20)


@pytest.fixture(scope="module")
def workdir(tmp_path_factory):
    """What training leaves behind, with networks that have learned nothing."""
    directory = tmp_path_factory.mktemp("run")
    for folder, title, model in ((directory, "Top-GAP", MODEL), (directory / "twin", "Plain GAP", TWIN)):
        folder.mkdir(exist_ok=True)
        config = resolve({"title": title, "model": model, "data": DATA})
        (folder / "config.json").write_text(json.dumps(config.to_dict()))
        network = create_model(**config.model, num_classes=10, in_channels=3, seed=len(title))
        save_model(network, folder / "model.safetensors")
    return directory


@pytest.fixture(scope="module")
def evaluated(workdir):
    folder = evaluate_corruptions(workdir, SETTINGS)
    assert folder == workdir / "corruptions"
    return json.loads((folder / "corruptions.json").read_text())


def test_figures_are_those_of_the_corrupted_pictures(workdir, evaluated):
    from topgap_jax import attacks
    from topgap_jax.data.sources import load_source

    source = load_source("embedded", "in_distribution", **DATA["options"])
    images = np.stack([source[index]["image"] for index in range(20)])
    foggy = corruptions.corrupt(images, "fog", 5, variant="cifar").astype(np.float32) / 255
    for directory, network in zip((workdir, workdir / "twin"), evaluated["networks"], strict=True):
        predictions = attacks.predict(load_model(directory / "model.safetensors"), foggy)
        assert network["accuracy"]["fog"]["5"] == pytest.approx((predictions == source.labels[:20]).mean())
        errors = [1 - value for found in network["accuracy"].values() for value in found.values()]
        assert network["mean_corruption_error"] == pytest.approx(np.mean(errors))
        assert network["mean_corruption_error_alexnet"] is None  # not ImageNet-C
    ours, twin = evaluated["networks"]
    assert (ours["title"], twin["title"], evaluated["variant"]) == ("Top-GAP", "Plain GAP", "cifar")
    difference = evaluated["differences"]["all"]
    gain = twin["mean_corruption_error"] - ours["mean_corruption_error"]
    assert difference["value"] == pytest.approx(gain)
    assert difference["low"] <= gain <= difference["high"]


def test_goes_on_where_it_was_cut_off(workdir, evaluated, monkeypatch):
    path = workdir / "corruptions" / "outcomes.jsonl"
    whole = path.read_text()
    assert len(whole.splitlines()) == 2 * (1 + 2 * 2)
    path.write_text("".join(whole.splitlines(keepends=True)[:-1]) + '{"evaluation": "half a li')
    calls = []
    original = corruptions.corrupt

    def counted(images, *cell, **settings):
        calls.append((cell, len(images)))
        return original(images, *cell, **settings)

    monkeypatch.setattr(corruptions, "corrupt", counted)
    evaluate_corruptions(workdir, SETTINGS)
    assert [call for call in calls if call[1] > 1] == [(("fog", 5), 20)]
    assert path.read_text() == whole
    again = json.loads((workdir / "corruptions" / "corruptions.json").read_text())
    assert again["networks"] == evaluated["networks"] and again["differences"] == evaluated["differences"]


def test_other_pictures_are_another_evaluation(workdir, evaluated):
    path = workdir / "corruptions" / "outcomes.jsonl"
    before = path.read_text()
    other = CorruptionSettings(names=("fog",), severities=(5,), examples=20, split="shifted", seed=1)
    evaluate_corruptions(workdir, other)
    assert path.read_text().startswith(before) and len(path.read_text().splitlines()) == 10 + 4
    evaluate_corruptions(workdir, SETTINGS)


def test_command_writes_the_report(workdir, evaluated, capsys):
    arguments = "--corruptions gaussian_noise,fog --severities 1,5 --examples 20"
    main(["evaluate", str(workdir), *arguments.split()])
    shown = capsys.readouterr().out
    folder = workdir / "corruptions"
    assert f"Report: {folder / 'report.md'}" in shown and "gaussian noise" in shown
    assert (folder / "corruptions.png").read_bytes().startswith(b"\x89PNG")
    text = (folder / "report.md").read_text()
    assert text == corruption_markdown(json.loads((folder / "corruptions.json").read_text()))
    clean = evaluated["networks"][0]["clean_accuracy"]
    assert f"| Clean accuracy | {clean:.1%} |" in text and "mCE" not in text
    assert "Mean accuracy over 2 corruptions at severity 1" in text


def test_without_corruptions_the_test_sets_are_evaluated_again(workdir, capsys):
    main(["evaluate", str(workdir), "--examples", "20"])
    shown = capsys.readouterr().out
    (_, figures), (_, _) = evaluate_splits(workdir, examples=20)
    assert [figure["split"] for figure in figures if "group" not in figure] == ["in_distribution", "shifted"]
    assert "in distribution, worst group" in shown and f"{figures[0]['value']:.1%}" in shown


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("--corruptions rain", "unknown corruption 'rain'; there are: gaussian_noise"),
        ("--corruptions fog --severities 0,1", "severity=0 must be 1, 2, 3, 4 or 5"),
        ("--corruptions fog --variant coco", "unknown variant 'coco'"),
        ("--corruptions fog --examples=-1", "examples=-1 must not be negative"),
        ("--corruptions fog --seed=-1", "seed=-1 must be at least 0"),
        ("--corruptions fog --split nowhere", "no split 'nowhere'; there are train"),
        ("--split nowhere", "no split 'nowhere'; there are train"),
        ("--examples=-1", "examples=-1 must not be negative"),
        ("--corruptions fog --batch-size 0", "batch_size=0 must be at least 1"),
    ],
)
def test_bad_input_ends_in_one_line(workdir, arguments, message):
    with pytest.raises(SystemExit, match=r"^Error: ") as error:
        main(["evaluate", str(workdir), *arguments.split()])
    assert message in str(error.value) and "\n" not in str(error.value)


def test_no_run_and_no_numbers(tmp_path, capsys):
    with pytest.raises(ConfigError, match="holds no finished run"):
        evaluate_corruptions(tmp_path, SETTINGS)
    with pytest.raises(ConfigError, match="holds no finished run"):
        evaluate_splits(tmp_path)
    with pytest.raises(SystemExit):
        main(["evaluate", "anywhere", "--severities", "one"])
    assert "'one' is not a list of numbers such as 1,2,3" in capsys.readouterr().err


def test_named_sets():
    from topgap_jax.training.corrupted import _check

    grey, colour = np.zeros((32, 32, 1), np.uint8), np.zeros((32, 32, 3), np.uint8)
    assert _check(CorruptionSettings(), colour) == corruptions.PAPER
    assert len(_check(CorruptionSettings(names=("all",)), colour)) == 19
    assert "saturate" not in _check(CorruptionSettings(names=("all",)), grey)
    assert _check(CorruptionSettings(names=("fog", "paper")), colour)[0] == "fog"
    with pytest.raises(ValueError, match="saturate needs colour"):
        _check(CorruptionSettings(names=("saturate",)), grey)
    with pytest.raises(ValueError, match="31x40 are too small"):
        _check(CorruptionSettings(), np.zeros((31, 40, 3), np.uint8))
