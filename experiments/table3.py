"""Table 3: FGSM, PGD and clean accuracy of standard networks and of ours, over five folds.

    topgap data prepare cub --data-dir data
    python experiments/table3.py --dataset=cub --network=resnet18 [--k=64,256] [--numbers=0,1]

Trains the standard network and each k on each fold, attacks the test fold with 1/255, and prints the table
with the best k of every figure, as the paper does. ImageNet's rows: docs/experiments.md.
"""

import argparse

from evaluations import attacked, trained
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

# The paper counts kept predictions: prediction consistency.
FIGURES = {
    "FGSM": ("consistent paper_fgsm", "standard", False),
    "FGSM (ours)": ("consistent paper_fgsm", "ours", False),
    "PGD": ("consistent paper_pgd40", "standard", False),
    "PGD (ours)": ("consistent paper_pgd40", "ours", False),
    "clean": ("accuracy test_fold", "standard", False),
    "clean (ours)": ("accuracy test_fold", "ours", False),
}


def main() -> None:
    flags = parser(__doc__)
    with_data(flags, [*DATASETS], [*NETWORKS])
    arguments = flags.parse_args()
    evaluations = (trained(), attacked(("paper_fgsm", "paper_pgd40"), 1 / 255, arguments.examples))
    make_table(
        arguments,
        base_config(arguments.dataset, arguments, arguments.network),
        runs_of(arguments.workdir, arguments.dataset, arguments.network),
        (STANDARD, *map(top_gap, arguments.k)),
        evaluations,
        lambda: table(arguments),
    )


def table(arguments: argparse.Namespace) -> str:
    return standard_and_ours(arguments.workdir, "3", FIGURES)


if __name__ == "__main__":
    main()
