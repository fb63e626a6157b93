"""Table 7: pyramid, l1 loss and Top-GAP, each with and without the others, on COCO with EfficientNet-B0.

    topgap data prepare coco --data-dir data
    python experiments/table7.py [--numbers=0,1]

As in the paper k is 256 of 56x56 positions with the pyramid and 4 of 7x7 without. The row without all three
is the unmodified network; the others without the pyramid end in a 1x1 convolution on the last map.
"""

from itertools import product
from pathlib import Path

from comparison import Method, read_lines
from evaluations import attacked, trained
from paper_runs import STANDARD, base_config, make_table, notes, parser, runs_of
from published import TABLES
from tables import Beside, mean_of, paper_table

NETWORK = "efficientnet_b0"
FIGURES = {"accuracy": "accuracy test_fold", "FGSM": "consistent paper_fgsm"}


def method(pyramid: str, l1: str, top_gap: str) -> Method:
    """The method of a row of the table, of "yes" and "no"."""
    if (pyramid, l1, top_gap) == ("no", "no", "no"):
        return STANDARD
    model = {
        "head": "pyramid" if pyramid == "yes" else "last",
        "pool": "topk" if top_gap == "yes" else "mean",
        "k": 256 if pyramid == "yes" else 4,
    }
    if (pyramid, l1, top_gap) == ("yes", "yes", "yes"):
        return Method("k = 256", {"model": model, "loss": {"l1": 1.0}})
    parts = {"pyramid": pyramid, "l1": l1, "Top-GAP": top_gap}
    name = " + ".join(part for part, there in parts.items() if there == "yes")
    return Method(f"only {name}", {"model": model, "loss": {"l1": float(l1 == "yes")}})


METHODS = {row: method(*row) for row in product(("no", "yes"), repeat=3)}


def main() -> None:
    arguments = parser(__doc__).parse_args()
    evaluations = (trained(), attacked(("paper_fgsm", "paper_pgd40"), 1 / 255, arguments.examples))
    make_table(
        arguments,
        base_config("coco", arguments, NETWORK),
        runs_of(arguments.workdir, "coco", NETWORK),
        [*METHODS.values()],
        evaluations,
        lambda: table(arguments.workdir),
    )


def table(workdir: Path) -> str:
    lines = read_lines(runs_of(workdir, "coco", NETWORK))
    published = TABLES["7"]
    rows = [
        Beside((*row, column), mean_of(lines, METHODS[row].name, FIGURES[column]), figure)
        for row, columns in published.rows.items()
        for column, figure in columns.items()
    ]
    text = paper_table((*published.keys, "figure"), rows)
    return f"Table 7. {published.title}\n\n{text}\n{notes('7')}"


if __name__ == "__main__":
    main()
