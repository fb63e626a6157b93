"""Tables 2, A1 and A2: the effective receptive field at the center and the corner of the map.

    topgap data prepare cub --data-dir data
    python experiments/table2.py --dataset=cub --network=resnet18 [--k=64] [--examples=128]

Uses the runs of table3.py and trains what is missing. Gradients are normalised over the pictures together;
the paper does not say over what.
"""

from pathlib import Path

from evaluations import fields, trained
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

FIGURES = {"2": ("erf distance", False), "A1": ("erf center", False), "A2": ("erf corner", True)}


def main() -> None:
    flags = parser(__doc__)
    with_data(flags, [name for name in DATASETS if name != "wood"], [*NETWORKS])
    arguments = flags.parse_args()
    make_table(
        arguments,
        base_config(arguments.dataset, arguments, arguments.network),
        runs_of(arguments.workdir, arguments.dataset, arguments.network),
        (STANDARD, *map(top_gap, arguments.k)),
        (trained(), fields(arguments.examples)),
        lambda: "\n".join(table(arguments.workdir, number) for number in FIGURES),
    )


def table(workdir: Path, number: str) -> str:
    figure, small = FIGURES[number]
    return standard_and_ours(
        workdir, number, {"standard": (figure, "standard", small), "ours": (figure, "ours", small)}
    )


if __name__ == "__main__":
    main()
