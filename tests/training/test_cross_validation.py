import json
import math
import statistics
import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from PIL import Image
from scipy import stats

from topgap_jax.training import ConfigError, cross_validation
from topgap_jax.training.checkpoint import claim
from topgap_jax.training.config import resolve, twin_of
from topgap_jax.training.cross_validation import cross_validate, fold_config
from topgap_jax.training.fold_figures import corrected_interval, summarise
from training.processes import finish, metrics, start

CONFIG = {
    "title": "Top-GAP",
    "seed": 7,
    "model": {"name": "resnet_narrow", "k": 12, "pyramid_channels": 16},
    "data": {
        "options": {"num_images": 120, "size": 24, "object_size": 14},
        "test": ("shifted",),
        "folds": 3,
    },
    "train": {"batch_size": 16, "epochs": 1, "log_every_steps": 1, "checkpoint_every_steps": 4},
    "evaluation": {
        "batch_size": 32,
        "attacks": ("paper_fgsm",),
        "attack_examples": 16,
        "cam_examples": 16,
        "pictures": 2,
    },
    "twin": {"title": "Plain GAP", "model": {"head": "original", "pool": "mean"}, "loss": {"l1": 0.0}},
}


def evaluation(accuracy, title="Top-GAP", worst=("7 on grass", 0.5), **cam):
    """An `evaluation.json` with what the summary reads."""
    return {
        "title": title,
        "seed": 0,
        "machine": {"device": "cpu", "cores": 2, "clock": 2.5},
        "image_shape": [24, 24, 3],
        "k": 12,
        "training_seconds": 10.0,
        "accuracy": [
            {"split": "test_fold", "value": accuracy, "count": 40},
            {"split": "test_fold", "group": "worst", "name": worst[0], "value": worst[1], "count": 4},
        ],
        "attacks": [
            {
                "name": name,
                "eps": 8 / 255,
                "norm": "linf",
                "robust_accuracy": accuracy / 4,
                "count": 16,
                "config": {"step_size": 0.1},
            }
            for name in ("FGSM", "PGD-20")
        ],
        "cam": {"split": "test_fold", "method": title, "count": 16, "sparsity": 0.25, **cam},
    }


def entry(figures, **wanted):
    return next(figure for figure in figures if wanted.items() <= figure.items())


def test_mean_and_deviation_of_every_figure():
    values = [0.9, 0.95, 0.98]
    figures = summarise([[evaluation(value) for value in values]], ratio=0.5)
    accuracy = entry(figures, section="accuracy", figure="value")
    assert accuracy["split"] == "test_fold" and "group" not in accuracy and "difference" not in accuracy
    assert accuracy["counts"] == [40, 40, 40]
    assert accuracy["runs"] == [
        {
            "mean": pytest.approx(statistics.mean(values)),
            "sd": pytest.approx(statistics.stdev(values)),
            "values": values,
        }
    ]
    robust = entry(figures, section="attacks", name="PGD-20", figure="robust_accuracy")
    assert (robust["eps"], robust["norm"]) == (8 / 255, "linf")
    assert robust["runs"][0]["mean"] == pytest.approx(statistics.mean(values) / 4)
    assert entry(figures, section="cam", figure="sparsity")["runs"][0]["sd"] == 0
    assert entry(figures, section="cost", figure="training_seconds")["runs"][0]["mean"] == 10
    assert {figure["figure"] for figure in figures} == {
        "value",
        "robust_accuracy",
        "sparsity",
        "training_seconds",
    }


def test_the_worst_groups_of_the_folds_are_one_figure():
    folds = [evaluation(0.9, worst=("1 on brick", 0.2)), evaluation(0.9, worst=("7 on grass", 0.6))]
    worst = entry(summarise([folds], 0.5), group="worst")
    assert worst["runs"][0]["values"] == [0.2, 0.6] and "name" not in worst


def test_differences_are_paired():
    own, twin = [0.90, 0.95, 0.97, 0.99], [0.80, 0.86, 0.86, 0.90]
    figures = summarise(
        [[evaluation(value) for value in own], [evaluation(value, "Plain GAP") for value in twin]], 0.25
    )
    differences = [a - b for a, b in zip(own, twin, strict=True)]
    found = entry(figures, section="accuracy", figure="value")["difference"]
    assert found["values"] == pytest.approx(differences)
    assert found["mean"] == pytest.approx(statistics.mean(differences))
    assert found["sd"] == pytest.approx(statistics.stdev(differences))
    assert found["sd"] < 0.3 * statistics.stdev(own)  # unpaired it would be larger than either
    # Student's t with three degrees of freedom.
    reach = 3.182446 * statistics.stdev(differences) * math.sqrt(1 / 4 + 0.25)
    assert found["interval"] == pytest.approx([found["mean"] - reach, found["mean"] + reach], rel=1e-5)
    assert len(entry(figures, section="cam", figure="sparsity")["runs"]) == 2


def test_the_interval_is_the_usual_one_where_nothing_overlaps():
    differences = np.array([0.01, 0.03, 0.02, 0.00, 0.05])
    usual = stats.ttest_1samp(differences, 0).confidence_interval(0.95)
    assert corrected_interval(differences, 0) == pytest.approx(list(usual))
    low, high = corrected_interval(differences, 0.25)
    assert high - low == pytest.approx((usual.high - usual.low) * 1.5)
    assert corrected_interval(differences[:1], 0.25) is None


def test_a_figure_that_a_fold_lacks_is_left_out_of_the_mean():
    folds = [evaluation(0.9, pointing_game=0.5), evaluation(0.9, pointing_game=math.nan), evaluation(0.9)]
    figure = entry(summarise([folds], 0.5), figure="pointing_game")
    assert figure["runs"] == [{"mean": 0.5, "sd": None, "values": [0.5, None, None]}]
    json.dumps(figure, allow_nan=False)


def test_a_fold_is_a_configuration_of_its_own():
    config = fold_config(CONFIG, 2)
    assert (config.seed, config.data.fold, config.data.validation) == (9, 2, "validation_fold")
    assert config.data.test == ("test_fold", "shifted")
    assert twin_of(config).seed == 9 and twin_of(config).data == config.data
    assert fold_config(config, 2).data.test == config.data.test


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ({"folds": 1}, r"data\.folds=1: cross-validation needs at least 2 folds"),
        ({"fold": 3}, r"data\.fold=3 is none of the folds 0 to 2, and not -1"),
        ({"folds": 40}, r"40 folds need at least 40 examples of every class; too few of: 0 \(\d+\), 1 "),
        ({"fold_validation": 0}, r"data\.fold_validation=0"),
        ({"train": "all"}, "no split 'all'"),
        ({"test": ("official",)}, "no split 'official'"),
    ],
)
def test_mistakes_are_found_before_the_workdir_is_touched(data, message, tmp_path):
    config = CONFIG | {"data": CONFIG["data"] | data}
    with pytest.raises(ConfigError, match=message):
        cross_validate(config, tmp_path / "run")
    assert not (tmp_path / "run").exists()
    with pytest.raises(ConfigError, match="no workdir given"):
        cross_validate(config, "")


@pytest.fixture
def trained(monkeypatch):
    """The folds that were trained; their evaluations are written without training."""
    folds = []

    def train_and_evaluate(config, workdir):
        folds.append(config.data.fold)
        for part, title in ((workdir, "Top-GAP"), (workdir / "twin", "Plain GAP")):
            part.mkdir(parents=True)
            found = evaluation(0.9 + 0.01 * config.data.fold, title) | {"seed": config.seed}
            (part / "evaluation.json").write_text(json.dumps(found))
            (part / "config.json").write_text(resolve(config).to_json())

    monkeypatch.setattr(cross_validation, "train_and_evaluate", train_and_evaluate)
    monkeypatch.setattr(cross_validation, "prepare_all", lambda config, workdir: [])
    return folds


def only(fold):
    return CONFIG | {"data": CONFIG["data"] | {"fold": fold}}


def test_the_folds_can_be_shared_and_the_last_one_writes_the_summary(trained, tmp_path):
    assert cross_validate(only(2), tmp_path).unfinished == (0, 1)
    progress = cross_validate(only(0), tmp_path)
    assert progress == ((tmp_path / "fold_0", tmp_path / "fold_2"), (1,), None)
    assert not (tmp_path / "cross_validation.json").exists()
    lines, after = [], []
    progress = cross_validate(CONFIG, tmp_path, report=lines.append, after_fold=after.append)
    assert trained == [2, 0, 1] and progress.unfinished == ()
    assert [path.name for path in after] == ["fold_0", "fold_1", "fold_2"]
    assert lines == [
        "Fold 0 of 0 to 2: finished before",
        "Fold 1 of 0 to 2: 72 train, 8 validation, 40 test",
        "Fold 2 of 0 to 2: finished before",
    ]
    summary = json.loads(progress.summary.read_text())
    assert (summary["titles"], summary["seeds"]) == (["Top-GAP", "Plain GAP"], [7, 8, 9])
    assert entry(summary["figures"], section="accuracy")["runs"][0]["values"] == [0.9, 0.91, 0.92]
    again = json.loads(cross_validate(CONFIG, tmp_path).summary.read_text())
    assert again["figures"] == summary["figures"] and len(trained) == 3


def test_an_unfinished_twin_is_an_unfinished_fold(trained, tmp_path):
    cross_validate(only(1), tmp_path)
    (tmp_path / "fold_1" / "twin" / "evaluation.json").unlink()
    assert cross_validation.is_finished(CONFIG, tmp_path / "fold_1") is False
    assert cross_validation.is_finished(CONFIG | {"twin": {}}, tmp_path / "fold_1") is True


def test_a_workdir_belongs_to_one_division(trained, tmp_path):
    cross_validate(only(0), tmp_path)
    with pytest.raises(ConfigError, match=r"another configuration \(seed: 8, not 7\)"):
        cross_validate(CONFIG | {"seed": 8}, tmp_path)
    path = tmp_path / "folds.json"
    record = json.loads(path.read_text())
    assert sorted(set(record["test_fold"])) == [0, 1, 2] and len(record["test_fold"]) == 120
    path.write_text(json.dumps(record | {"sha256": "0", "scikit_learn": "0.21"}))
    with pytest.raises(ConfigError, match=r"folds are not those of .*folds.json: .*\(0.21 then, "):
        cross_validate(CONFIG, tmp_path)
    path.write_text(json.dumps(record | {"labels": record["labels"][:-1]}))
    with pytest.raises(ConfigError, match=r"data are not .*: 119 examples then, 120 now, with other labels;"):
        cross_validate(CONFIG, tmp_path)
    path.write_text(json.dumps(record))
    config = tmp_path / "fold_0" / "config.json"
    config.write_text(config.read_text().replace('"learning_rate": 0.1', '"learning_rate": 0.2'))
    with pytest.raises(ConfigError, match=r"fold_0 holds a run with another .*learning_rate: 0.1, not 0.2\)"):
        cross_validate(CONFIG, tmp_path)
    assert trained == [0]


def test_pictures_that_changed_places_are_noticed(trained, tmp_path):
    for index, colour in enumerate(("red", "green", "blue") * 6):
        path = tmp_path / "data" / "train" / "ab"[index % 2] / f"{index}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (24, 24), colour).save(path)
    data = CONFIG["data"] | {"source": f"folder:{tmp_path / 'data'}", "options": {}, "test": ()}
    cross_validate(CONFIG | {"data": data}, tmp_path / "run")
    record = json.loads((tmp_path / "run" / "folds.json").read_text())
    assert record["files"][:2] == ["a/0.png", "a/2.png"] and len(record["files"]) == 18
    path.rename(path.with_name("first.png"))
    with pytest.raises(ConfigError, match="18 examples then, 18 now, with other files; restore them"):
        cross_validate(CONFIG | {"data": data}, tmp_path / "run")


def test_several_machines_may_begin_at_once(tmp_path):
    config = resolve(CONFIG)
    with ThreadPoolExecutor(8) as pool:
        for job in [pool.submit(claim, tmp_path, config) for _ in range(40)]:
            job.result()
    assert [path.name for path in tmp_path.iterdir()] == ["config.json"]


@pytest.mark.slow
def test_killed_for_real_it_goes_on_with_the_unfinished_fold(tmp_path):
    """Three real folds in real processes; the kill hits fold 1."""
    path, workdir = tmp_path / "config.py", tmp_path / "run"
    small = CONFIG | {"twin": {}, "evaluation": CONFIG["evaluation"] | {"attacks": ()}}
    path.write_text(
        f"import ml_collections\n\ndef get_config():\n    return ml_collections.ConfigDict({small})\n"
    )
    process = start(path, workdir)
    deadline = time.monotonic() + 300
    while not metrics(workdir / "fold_1"):
        assert process.poll() is None, process.communicate()[0]
        assert time.monotonic() < deadline
        time.sleep(0.02)
    process.kill()
    process.communicate()
    finished = workdir / "fold_0" / "evaluation.json"
    before = finished.stat().st_mtime_ns
    assert not (workdir / "fold_1" / "evaluation.json").exists()

    output = finish(start(path, workdir))
    assert "Fold 0 of 0 to 2: finished before" in output and "Fold 1 of 0 to 2: 72 train" in output
    assert finished.stat().st_mtime_ns == before
    summary = json.loads((workdir / "cross_validation.json").read_text())
    for fold, value in enumerate(entry(summary["figures"], section="accuracy")["runs"][0]["values"]):
        found = json.loads((workdir / f"fold_{fold}" / "evaluation.json").read_text())
        assert found["accuracy"][0] == {"split": "test_fold", "value": value, "count": 40}
        assert found["seed"] == 7 + fold
        assert (workdir / f"fold_{fold}" / "report.html").exists()
    assert (workdir / "report.html").exists()
