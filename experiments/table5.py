"""Table 5: k-WTA, FLC pooling and Top-GAP on CUB with ResNet-18, over five folds.

    topgap data prepare cub --data-dir data
    python experiments/table5.py [--k=64,256] [--numbers=0,1]

The rows of Top-GAP come from the runs of table3.py. All networks start from the same weights; the paper does
not say whether its competitors did.
"""

from pathlib import Path

from comparison import Method, read_lines
from evaluations import trained
from paper_runs import PLAIN, base_config, make_table, notes, ours, parser, runs_of, top_gap
from published import TABLES
from tables import Beside, best_of, paper_table

NETWORK = "resnet18"
COMPETITORS = {
    "k-WTA": Method("k-WTA", {"model": PLAIN | {"activation": "kwta:0.1"}, "loss": {"l1": 0.0}}),
    "FLC Pooling": Method("FLC pooling", {"model": PLAIN | {"downsampling": "flc"}, "loss": {"l1": 0.0}}),
}


def main() -> None:
    arguments = parser(__doc__).parse_args()
    make_table(
        arguments,
        base_config("cub", arguments, NETWORK),
        runs_of(arguments.workdir, "cub", NETWORK),
        (*COMPETITORS.values(), *map(top_gap, arguments.k)),
        (trained(),),
        lambda: table(arguments.workdir),
    )


def table(workdir: Path) -> str:
    lines = read_lines(runs_of(workdir, "cub", NETWORK))
    rows = []
    for (method,), columns in TABLES["5"].rows.items():
        names = [COMPETITORS[method].name] if method in COMPETITORS else ours(lines)
        best, entry = best_of(lines, names, "accuracy test_fold")
        rows.append(Beside((best if best in ours(lines) else method,), entry, columns["clean"]))
    return f"Table 5. {TABLES['5'].title}\n\n{paper_table(('method',), rows)}\n{notes('5')}"


if __name__ == "__main__":
    main()
