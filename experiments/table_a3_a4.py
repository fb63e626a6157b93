"""Tables A3 and A4: the sparsity of the map, and its overlap with masks.

    topgap data prepare cub --data-dir data
    python experiments/table_a3_a4.py --dataset=cub --network=resnet18 [--k=64]

Uses the runs of table3.py and trains what is missing. The paper gives no threshold for its overlap: shown are
the best one per picture, which needs the mask to choose it, and one for all, chosen on other pictures.
"""

from pathlib import Path

from evaluations import trained
from paper_runs import (
    DATASETS,
    NETWORKS,
    STANDARD,
    base_config,
    make_table,
    parser,
    runs_of,
    standard_and_ours,
    top_gap,
    with_data,
)


def main() -> None:
    flags = parser(__doc__)
    with_data(flags, [*DATASETS], [*NETWORKS])
    arguments = flags.parse_args()
    make_table(
        arguments,
        base_config(arguments.dataset, arguments, arguments.network),
        runs_of(arguments.workdir, arguments.dataset, arguments.network),
        (STANDARD, *map(top_gap, arguments.k)),
        (trained(),),
        lambda: tables(arguments.workdir),
    )


def tables(workdir: Path) -> str:
    sparsity = {"standard": ("sparsity", "standard", True), "ours": ("sparsity", "ours", True)}
    parts = [standard_and_ours(workdir, "A3", sparsity)]
    for title, figure in {"best threshold per picture": "iou_oracle", "one threshold": "iou_global"}.items():
        overlap = {"standard": (figure, "standard", False), "ours": (figure, "ours", False)}
        parts.append(f"With the {title}:\n\n{standard_and_ours(workdir, 'A4', overlap)}")
    return "\n".join(parts)


if __name__ == "__main__":
    main()
