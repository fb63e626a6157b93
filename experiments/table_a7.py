"""Tables A7, A8 and A9: l1 of the last or of all activations instead of Top-GAP, on CUB with ResNet-18.

    topgap data prepare cub --data-dir data
    python experiments/table_a7.py [--k=128,256] [--numbers=0]

Top-GAP's rows come from the runs of table3.py. What counts as "all activations" the paper leaves open: here
it is the output of each stage. For "ours" the best k of every figure is shown, in table A8 the k it names.
"""

from pathlib import Path

from comparison import Line, Method, read_lines
from evaluations import attacked, fields, trained
from paper_runs import PLAIN, base_config, make_table, notes, ours, parser, runs_of, top_gap
from published import TABLES
from tables import Beside, best_of, paper_table

NETWORK = "resnet18"
FIGURES = {
    "ERF center": ("erf center", False, "fraction"),
    "ERF corner": ("erf corner", True, "fraction"),
    "accuracy": ("accuracy test_fold", False, "share"),
    "sparsity": ("sparsity", True, "fraction"),
    "PGD40": ("consistent paper_pgd40", False, "share"),
    "FGSM": ("consistent paper_fgsm", False, "share"),
}


def l1_of(activations: str, weight: str) -> Method:
    """The unmodified network with an l1 loss of its activations."""
    loss = {"l1": float(weight), "l1_of": activations}
    return Method(f"l1 of {activations}, {weight}", {"model": PLAIN, "loss": loss})


OTHERS = {row: l1_of(*row) for row in TABLES["A7"].rows if row[0] != "ours"}


def main() -> None:
    arguments = parser(__doc__).parse_args()
    attacks = attacked(("paper_fgsm", "paper_pgd40"), 1 / 255, arguments.examples)
    make_table(
        arguments,
        base_config("cub", arguments, NETWORK),
        runs_of(arguments.workdir, "cub", NETWORK),
        (*OTHERS.values(), *map(top_gap, arguments.k)),
        (trained(), attacks, fields(arguments.examples)),
        lambda: "\n".join(table(arguments.workdir, number) for number in ("A7", "A8", "A9")),
    )


def table(workdir: Path, number: str) -> str:
    lines = read_lines(runs_of(workdir, "cub", NETWORK))
    published = TABLES[number]
    rows = []
    for row, columns in published.rows.items():
        for column, figure in columns.items():
            name, small, unit = FIGURES[column]
            _, entry = best_of(lines, methods_of(row, lines), name, small)
            rows.append(Beside((*row, column), entry, figure, unit=unit))
    text = paper_table((*published.keys, "figure"), rows)
    return f"Table {number}. {published.title}\n\n{text}\n{notes(number)}"


def methods_of(row: tuple[str, ...], lines: list[Line]) -> list[str]:
    """The methods that a row may mean."""
    if row in OTHERS:
        return [OTHERS[row].name]
    return [row[0].removeprefix("ours, ")] if "k = " in row[0] else ours(lines)


if __name__ == "__main__":
    main()
