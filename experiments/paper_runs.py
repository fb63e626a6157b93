"""The runs behind the paper's tables: which networks, data and methods, and how a table is made of them.

All tables share their runs: in one workdir, `runs/paper` by default, a table trains what is not there yet and
measures what it needs. A table can be printed at any time; what is not finished shows as a dash.
"""

import argparse
import runpy
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from comparison import Comparison, Evaluation, Line, Method, read_lines, run
from published import TABLES
from tables import Beside, best_of, paper_table

from topgap_jax.training import ConfigError, DataError

CONFIGS = Path(__file__).parents[1] / "configs"
DATASETS = {"coco": "COCO", "wood": "Wood", "oxford_pet": "Oxford", "cub": "CUB"}  # as the tables call them
NETWORKS = {"efficientnet_b0": "EN", "convnext_tiny": "CN", "resnet18": "RN"}
WEIGHTS = {
    "efficientnet_b0": "hf:timm/efficientnet_b0.ra_in1k",
    "convnext_tiny": "hf:timm/convnext_tiny.fb_in1k",
    "resnet18": "hf:timm/resnet18.a1_in1k",
}
KS = (64, 128, 256, 512, 1024, 2048)  # section 4
CIFAR_KS = (8, 16, 32, 64, 128, 256)

PLAIN = {"head": "original", "pool": "mean"}
STANDARD = Method("standard", {"model": PLAIN, "loss": {"l1": 0.0}})


def top_gap(k: int) -> Method:
    """The paper's method with one k."""
    return Method(f"k = {k}", {"model": {"head": "pyramid", "pool": "topk", "k": k}, "loss": {"l1": 1.0}})


def parser(description: str | None, ks: Sequence[int] = KS) -> argparse.ArgumentParser:
    """The flags that all tables have."""
    flags = argparse.ArgumentParser(
        description=description, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    flags.add_argument("--workdir", type=Path, default=Path("runs/paper"), help="shared by all tables")
    flags.add_argument("--data-dir", default="data", help="where `topgap data prepare` put the pictures")
    flags.add_argument("--numbers", type=numbers, default=range(5), help="folds or seeds, such as 0,1,2")
    flags.add_argument("--k", type=numbers, default=ks, help="the grid, such as 64,256")
    flags.add_argument("--weights", help="of the backbone: a file, hf:OWNER/NAME, or empty: from scratch")
    flags.add_argument("--examples", type=int, default=512, help="attacked pictures")
    flags.add_argument("--table-only", action="store_true", help="print what is finished, train nothing")
    return flags


def with_data(flags: argparse.ArgumentParser, datasets: Sequence[str], networks: Sequence[str]) -> None:
    """Adds the flags that choose a row of the table."""
    flags.add_argument("--dataset", choices=datasets, default=datasets[0])
    flags.add_argument("--network", choices=networks, default=networks[0])


def numbers(text: str) -> tuple[int, ...]:
    """ "0,2" as (0, 2)."""
    return tuple(int(part) for part in text.split(","))


def base_config(name: str, arguments: argparse.Namespace, network: str) -> dict[str, Any]:
    """`configs/NAME.py` with the chosen network, weights and data folder, and without its twin."""
    config = runpy.run_path(str(CONFIGS / f"{name}.py"))["get_config"]().to_dict()
    config["twin"] = {}
    weights = WEIGHTS.get(network, "") if arguments.weights is None else arguments.weights
    config["model"] |= {"name": network, "pretrained": weights}
    if config["data"]["source"].startswith("folder:"):
        config["data"]["source"] = f"folder:{arguments.data_dir}/{name}"
    else:
        config["data"]["options"] = {**config["data"]["options"], "data_dir": arguments.data_dir}
    return config


def runs_of(workdir: Path, dataset: str, network: str) -> Path:
    """The workdir of one data set and network."""
    return workdir / f"{dataset}_{network}"


def make_table(
    arguments: argparse.Namespace,
    base: Mapping[str, Any],
    directory: Path,
    methods: Sequence[Method],
    evaluations: Sequence[Evaluation],
    table: Callable[[], str],
) -> None:
    """Trains and measures what is missing, and prints the table, also where something stands in the way."""
    problem = ""
    if not arguments.table_only:
        try:
            run(Comparison(base, methods, evaluations), directory, arguments.numbers)
        except (ConfigError, DataError, FloatingPointError) as error:
            problem = f"Error: {error}"
    print(table())
    if problem:
        sys.exit(problem)


def standard_and_ours(workdir: Path, number: str, figures: Mapping[str, tuple[str, str, bool]]) -> str:
    """A table with a row per data set, network and column, ours beside the paper's.

    Args:
      workdir: of `runs_of`.
      number: of the table.
      figures: for each column of the table what `results.jsonl` calls it, the method ("standard", or "ours"
        for the best k), and whether small is good.
    """
    published = TABLES[number]
    rows = []
    for dataset, title in DATASETS.items():
        for network, short in NETWORKS.items():
            row = published.rows.get((title, short), {})
            lines = read_lines(runs_of(workdir, dataset, network))
            for column, printed in row.items():
                figure, method, small = figures[column]
                names = [STANDARD.name] if method == STANDARD.name else ours(lines)
                best, entry = best_of(lines, names, figure, small)
                name = (title, short, f"{column}, {best}" if method == "ours" and best else column)
                rows.append(Beside(name, entry, printed, published.unit))
    text = paper_table((*published.keys, "figure"), rows)
    return f"Table {number}. {published.title}\n\n{text}\n" + notes(number)


def ours(lines: Sequence[Line]) -> list[str]:
    """The methods of `top_gap` among the lines."""
    return list(dict.fromkeys(line["method"] for line in lines if line["method"].startswith("k = ")))


def notes(number: str) -> str:
    """What must be known about the paper's figures."""
    table = TABLES[number]
    return "".join(f"- {note}\n" for note in (f"The paper's runs: {table.runs}.", *table.notes))
