"""The runner: what it trains, what it leaves alone, and one comparison from data to table."""

import json
import sys

import comparison
import evaluations
import numpy as np
import pytest
import table4_fashion_mnist as table4
from comparison import Comparison, Evaluation, Method, read_lines, run, run_config
from evaluations import attacked, trained

import topgap_jax as tg
from topgap_jax import attacks
from topgap_jax.training import ConfigError

BASE = {
    "model": {"name": "resnet_narrow", "head": "original", "pool": "mean"},
    "loss": {"l1": 0.0},
    "data": {
        "source": "embedded",
        "options": {"num_images": 96, "size": 24, "object_size": 14},
        "test": ("in_distribution",),
    },
    "train": {"batch_size": 32, "epochs": 1},
    "evaluation": {"batch_size": 32, "cam_examples": 32},
}
PLAIN = Method("Plain", {})
TOP_GAP = Method(
    "Top-GAP, k = 12", {"model": {"head": "pyramid", "pool": "topk", "k": 12}, "loss": {"l1": 1.0}}
)


@pytest.fixture
def trained_runs(monkeypatch):
    """Training leaves a note instead of a network."""
    runs = []

    def train(config, directory):
        comparison.claim(directory, config)
        runs.append((config.title, config.seed))

    monkeypatch.setattr(comparison, "train_and_evaluate", train)
    monkeypatch.setattr(comparison, "prepare", lambda config, directory: None)
    return runs


def seen(**settings):
    return Evaluation("seen", settings, lambda directory: {"depth": float(len(directory.parts))})


def test_seed_by_seed_and_finished_runs_are_not_repeated(tmp_path, trained_runs):
    compared = Comparison(BASE, (PLAIN, TOP_GAP), (seen(),))
    run(compared, tmp_path, [0, 1], report=lambda line: None)
    assert trained_runs == [("Plain", 0), ("Top-GAP, k = 12", 0), ("Plain", 1), ("Top-GAP, k = 12", 1)]
    run(compared, tmp_path, [0, 1, 2], report=lambda line: None)
    assert trained_runs[4:] == [("Plain", 2), ("Top-GAP, k = 12", 2)]
    assert {path.name for path in tmp_path.iterdir()} == {"plain", "top_gap_k_12", "results.jsonl"}


def test_half_a_line_is_measured_again(tmp_path, trained_runs):
    compared = Comparison(BASE, (PLAIN,), (seen(),))
    run(compared, tmp_path, [0, 1], report=lambda line: None)
    results = tmp_path / "results.jsonl"
    results.write_text(results.read_text()[:-20])
    run(compared, tmp_path, [0, 1], report=lambda line: None)
    assert [(line["method"], line["number"]) for line in read_lines(tmp_path)] == [("Plain", 0), ("Plain", 1)]


def test_a_new_evaluation_joins(tmp_path, trained_runs):
    run(Comparison(BASE, (PLAIN,), (seen(),)), tmp_path, [0], report=lambda line: None)
    further = Evaluation("further", {}, lambda directory: {"figure": 0.5})
    run(Comparison(BASE, (PLAIN,), (seen(), further)), tmp_path, [0], report=lambda line: None)
    assert [line["evaluation"] for line in read_lines(tmp_path)] == ["seen", "further"]


def test_other_settings_are_refused(tmp_path, trained_runs):
    run(Comparison(BASE, (PLAIN,), (seen(examples=8),)), tmp_path, [0], report=lambda line: None)
    with pytest.raises(ConfigError, match=r"'Plain', number 0, .*'examples': 8.*another workdir"):
        run(Comparison(BASE, (PLAIN,), (seen(examples=9),)), tmp_path, [0], report=lambda line: None)


def test_another_configuration_is_refused(tmp_path, trained_runs):
    run(Comparison(BASE, (PLAIN,), (seen(),)), tmp_path, [0], report=lambda line: None)
    longer = BASE | {"train": {"batch_size": 32, "epochs": 2}}
    with pytest.raises(ConfigError, match=r"train\.epochs: 2, not 1"):
        run(Comparison(longer, (PLAIN,), (seen(),)), tmp_path, [0], report=lambda line: None)


@pytest.mark.slow
def test_a_mistake_in_the_last_method_is_found_before_the_first_trains(tmp_path, monkeypatch):
    monkeypatch.setattr(comparison, "train_and_evaluate", lambda *_: pytest.fail("trained"))
    wrong = Method("Too large", {"model": {"head": "pyramid", "pool": "topk", "k": 1000}})
    with pytest.raises(ConfigError, match="k=1000"):
        run(Comparison(BASE, (PLAIN, wrong), (seen(),)), tmp_path, [0], report=lambda line: None)


def test_folds_instead_of_seeds():
    folds = BASE | {"data": {"source": "embedded", "train": "all", "folds": 5}}
    config = run_config(folds, TOP_GAP, 3)
    assert (config.data.fold, config.seed, config.model.k) == (3, 3, 12)


def test_controls_match_the_confidence_of_top_gap():
    """Label smoothing and logit squeezing have their optimum where Top-GAP's loss has it: 1 - p = 0.05."""
    assert pytest.approx(0.05) == table4.STRENGTH
    smoothing, classes = table4.SMOOTHING, table4.CLASSES
    assert smoothing * (classes - 1) / classes == pytest.approx(0.05)
    logits = np.full(classes, -table4.LOGIT / (classes - 1))
    logits[0] = table4.LOGIT
    probabilities = np.exp(logits) / np.exp(logits).sum()
    gradient = probabilities - np.eye(classes)[0] + 2 * table4.SQUEEZING * logits
    assert probabilities[0] == pytest.approx(0.95)
    assert gradient == pytest.approx(np.zeros(classes), abs=1e-12)


def test_every_method_of_table_4_has_a_configuration_of_its_own():
    compared = table4.comparison_of(list(table4.METHODS), "npz:data/fashion_mnist", 1, 300)
    configs = {json.dumps(run_config(compared.base, method, 0).to_dict()) for method in table4.METHODS}
    assert len(configs) == len(table4.METHODS)


def test_an_unknown_method_of_table_4(monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["table4", "--workdir=runs/table4", "--methods=Bottom-GAP"])
    with pytest.raises(SystemExit):
        table4.main()
    assert "unknown method 'Bottom-GAP'; there are: Plain GAP, Top-GAP," in capsys.readouterr().err


@pytest.mark.slow
def test_autoattack_after_square_is_autoattack():
    """An attack draws per picture, so the worst case over the four does not depend on who came first."""
    model = tg.create_model("resnet_narrow", 10, head="original", in_channels=1)
    rng = np.random.default_rng(0)
    images = rng.uniform(size=(12, 12, 12, 1)).astype(np.float32)
    network, how = attacks.logits_fn(model), {"eps": 0.02, "batch_size": 12}
    labels = np.asarray(attacks.predict(network, images, batch_size=12))
    labels[0] = (labels[0] + 1) % 10  # wrong from the start
    whole = attacks.auto_attack(network, images, labels, **how)
    square = attacks.square(network, images, labels, key=evaluations._square_key(), **how).predictions
    parts = evaluations._auto_attack(network, images, labels, square, how)
    assert 0 < whole.success.sum() < 12
    assert np.array_equal(parts != labels, whole.success)


@pytest.mark.slow
def test_from_data_to_table(tmp_path, monkeypatch):
    methods = (PLAIN, TOP_GAP)
    compared = Comparison(BASE, methods, (trained(), attacked(("paper_pgd20",), 16 / 255, 16, 16)))
    run(compared, tmp_path, [0], report=lambda line: None)
    lines = read_lines(tmp_path)
    assert [(line["method"], line["evaluation"]) for line in lines] == [
        (method.name, name) for method in methods for name in ("trained", "attacked")
    ]
    robust = [line["figures"] for line in lines if line["evaluation"] == "attacked"]
    assert all(0 <= figures["robust paper_pgd20"] <= figures["clean"] <= 1 for figures in robust)
    monkeypatch.setattr(table4, "METHODS", methods)
    table4.write(tmp_path)
    assert "| Top-GAP, k = 12 |" in (tmp_path / "table.md").read_text()
    assert (tmp_path / "table4.png").read_bytes().startswith(b"\x89PNG")
    seconds = table4.step_times(compared, turns=1, steps=1)
    assert "| Plain |" in table4.step_times_table(seconds, "Plain") and min(seconds.values()) > 0
    monkeypatch.setattr(comparison, "train_and_evaluate", lambda *_: pytest.fail("trained again"))
    run(compared, tmp_path, [0], report=lambda line: None)
