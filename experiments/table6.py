"""Table 6, its rows on Waterbirds: trained on CUB, tested on the same birds before other backgrounds.

    topgap data prepare cub --data-dir data && topgap data prepare waterbirds --data-dir data
    python experiments/table6.py --network=resnet18 [--k=64,256] [--numbers=0,1,2]

The paper does not say on which birds. Here it is Waterbirds' test split, with networks trained on CUB's
official training split, so that no tested bird was seen in training; `--numbers` are seeds.
"""

from pathlib import Path

from comparison import read_lines
from evaluations import trained
from paper_runs import (
    NETWORKS,
    STANDARD,
    base_config,
    make_table,
    notes,
    ours,
    parser,
    runs_of,
    top_gap,
)
from published import TABLES
from tables import Beside, best_of, paper_table

NAME = "cub_official"


def main() -> None:
    flags = parser(__doc__)
    flags.add_argument("--network", choices=[*NETWORKS], default="resnet18")
    arguments = flags.parse_args()
    base = base_config("cub", arguments, arguments.network)
    elsewhere = {"size": 224, "classes": "species", "data_dir": arguments.data_dir}
    base["data"] |= {
        "train": "train",
        "folds": 0,
        "validation": "validation",
        "test": ("test",),
        "options": base["data"]["options"] | {"validation": 600},
        "tests_elsewhere": {"waterbirds": {"source": "waterbirds", "split": "test", "options": elsewhere}},
    }
    make_table(
        arguments,
        base,
        runs_of(arguments.workdir, NAME, arguments.network),
        (STANDARD, *map(top_gap, arguments.k)),
        (trained(),),
        lambda: table(arguments.workdir),
    )


def table(workdir: Path) -> str:
    published = TABLES["6"]
    rows = []
    for network, short in NETWORKS.items():
        lines = read_lines(runs_of(workdir, NAME, network))
        for column, figure in published.rows["CUB", "Waterbirds", short].items():
            names = [STANDARD.name] if column == "standard" else ours(lines)
            best, entry = best_of(lines, names, "accuracy waterbirds")
            title = f"ours, {best}" if column == "ours" and best else column
            rows.append(Beside(("CUB", "Waterbirds", short, title), entry, figure))
    text = paper_table((*published.keys, "figure"), rows)
    return f"Table 6, Waterbirds. {published.title}\n\n{text}\n{notes('6')}"


if __name__ == "__main__":
    main()
