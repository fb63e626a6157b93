"""The paper's tables on made-up results, and without data."""

import json
import sys

import pytest
import table2
import table3
import table5
import table6
import table7
import table_a3_a4
import table_a5
import table_a7
from comparison import run_config
from paper_runs import STANDARD, base_config, parser, runs_of, top_gap
from published import TABLES


def write(workdir, dataset, network, results):
    """`results.jsonl` of (method, number, figures)."""
    directory = runs_of(workdir, dataset, network)
    directory.mkdir(parents=True)
    lines = [
        {"method": method, "number": number, "evaluation": "made up", "figures": figures}
        for method, number, figures in results
    ]
    (directory / "results.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))


def rows(text):
    """The cells of all rows by what stands before ours, the paper's and the difference."""
    cells = [line.strip("| ").split(" | ") for line in text.splitlines() if line.startswith("| ")]
    return {tuple(row[:-3]): row[-3:] for row in cells}


def test_the_best_k_of_each_figure_beside_the_paper(tmp_path):
    results = [
        ("standard", 0, {"consistent paper_fgsm": 0.05, "accuracy test_fold": 0.70}),
        ("k = 64", 0, {"consistent paper_fgsm": 0.30, "accuracy test_fold": 0.66}),
        ("k = 256", 0, {"consistent paper_fgsm": 0.20, "accuracy test_fold": 0.68}),
        ("k = 256", 1, {"consistent paper_fgsm": 0.20, "accuracy test_fold": 0.70}),
    ]
    write(tmp_path, "cub", "resnet18", results)
    found = rows(table3.table(parser(None).parse_args([f"--workdir={tmp_path}"])))
    assert found["CUB", "RN", "FGSM"] == ["5.0", "6.0", "−1.0"]
    assert found["CUB", "RN", "FGSM (ours), k = 64"] == ["30.0", "21.2", "+8.8"]
    assert found["CUB", "RN", "clean (ours), k = 256"] == ["69.0 ± 1.4", "68.5 ± 0.6", "+0.5"]
    assert found["COCO", "EN", "FGSM"] == ["–", "7.0", "–"]  # not finished: a partial table


def test_small_is_good_for_sparsity_and_the_corner(tmp_path):
    results = [
        ("k = 64", 0, {"sparsity": 0.05, "erf corner": 0.02, "iou_oracle": 0.4}),
        ("k = 2048", 0, {"sparsity": 0.19, "erf corner": 0.01, "iou_oracle": 0.5}),
    ]
    write(tmp_path, "cub", "resnet18", results)
    found = rows(table_a3_a4.tables(tmp_path)) | rows(table2.table(tmp_path, "A2"))
    assert found["CUB", "RN", "ours, k = 64"][0] == "0.050"
    assert found["CUB", "RN", "ours, k = 2048"][0] in ("0.500", "0.010")
    assert rows(table2.table(tmp_path, "A2"))["CUB", "RN", "ours, k = 2048"] == ["0.010", "0.005", "+0.005"]


def test_competitors_beside_ours(tmp_path):
    write(tmp_path, "cub", "resnet18", [("k-WTA", 0, {"accuracy test_fold": 0.5})])
    assert rows(table5.table(tmp_path))[("k-WTA",)] == ["50.0", "43.9 ± 1.1", "+6.1"]


def test_ablations_are_the_eight_combinations():
    methods = {row: method.changes for row, method in table7.METHODS.items()}
    assert methods.keys() == TABLES["7"].rows.keys()
    assert len({method.name for method in table7.METHODS.values()}) == 8
    assert methods["no", "no", "no"]["model"]["head"] == "original"
    assert methods["no", "yes", "yes"] == {
        "model": {"head": "last", "pool": "topk", "k": 4},
        "loss": {"l1": 1.0},
    }
    assert table7.METHODS["yes", "yes", "yes"] == top_gap(256)  # the run of the other tables


def test_table_6_reads_the_accuracy_on_waterbirds(tmp_path):
    write(
        tmp_path,
        table6.NAME,
        "resnet18",
        [("standard", 0, {"accuracy test": 0.7, "accuracy waterbirds": 0.5})],
    )
    assert rows(table6.table(tmp_path))["CUB", "Waterbirds", "RN", "standard"] == ["50.0", "46.8", "+3.2"]


def test_tables_4_and_a5_share_the_preact_resnet(tmp_path):
    results = [("standard", 0, {"robust square": 0.1}), ("k = 64", 0, {"robust square": 0.3})]
    results += [("k = 64", 1, {"consistent paper_pgd20": 0.5})]
    write(tmp_path, "cifar10", "preact_resnet18", results)
    found = rows(table_a5.table4(tmp_path))
    assert found["Top-GAP, k = 64", "Square"] == ["30.0", "34.3", "−4.3"]
    assert ("Top-GAP", "AutoAttack") in found
    assert rows(table_a5.table_a5(tmp_path))["PreAct-ResNet18, k = 64", "PGD20"][0] == "50.0"


def test_table_a8_names_its_k(tmp_path):
    results = [("k = 128", 0, {"sparsity": 0.06}), ("l1 of all, 1e-3", 0, {"sparsity": 0.4})]
    write(tmp_path, "cub", "resnet18", results)
    found = rows(table_a7.table(tmp_path, "A8"))
    assert found["ours, k = 128", "1.0", "sparsity"] == ["0.060", "0.057", "+0.003"]
    assert found["ours, k = 256", "1.0", "sparsity"][0] == "–"
    assert found["all", "1e-3", "sparsity"][0] == "0.400"


@pytest.mark.parametrize(
    ("name", "network"),
    [
        ("cub", "resnet18"),
        ("coco", "convnext_tiny"),
        ("oxford_pet", "efficientnet_b0"),
        ("cifar10", "cifar_resnet50"),
    ],
)
def test_configurations_of_the_papers_data(name, network):
    arguments = parser(None).parse_args(["--data-dir=pictures"])
    base = base_config(name, arguments, network)
    assert (base["model"]["name"], base["data"]["options"]["data_dir"]) == (network, "pictures")
    assert base["twin"] == {} and base["data"].get("folds", 0) == (0 if name == "cifar10" else 5)
    plain = run_config(base, STANDARD, 1)
    assert (plain.model.head, plain.loss.l1, plain.seed) == ("original", 0.0, 1)


def test_without_data_the_table_is_printed_and_the_command_named(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(
        sys,
        "argv",
        ["table3", "--dataset=cub", f"--workdir={tmp_path}", f"--data-dir={tmp_path}", "--weights="],
    )
    with pytest.raises(SystemExit, match="topgap data prepare cub --data-dir"):
        table3.main()
    assert "| Oxford | RN | PGD | – | 1.6 | – |" in capsys.readouterr().out
