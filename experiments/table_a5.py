"""Tables 4 and A5: networks on CIFAR-10 with Top-GAP, and the PreAct-ResNet-18 without, over five seeds.

    topgap data prepare cifar10 --data-dir data
    python experiments/table_a5.py --network=preact_resnet18 [--k=64,256] [--numbers=0]

The k with the best mean of every figure is shown. The adversarially trained rows of table 4 are from other
papers; configs/pgd_at.py and configs/fgsm_at.py train such networks here.
"""

from pathlib import Path

from comparison import Line, read_lines
from evaluations import attacked, trained
from paper_runs import (
    CIFAR_KS,
    STANDARD,
    base_config,
    make_table,
    notes,
    ours,
    parser,
    runs_of,
    top_gap,
)
from published import IN_THE_TEXT, TABLES, Figure
from tables import Beside, best_of, paper_table

NETWORKS = {
    "preact_resnet18": "PreAct-ResNet18",
    "cifar_resnet18": "ResNet18",
    "cifar_resnet34": "ResNet34",
    "cifar_resnet50": "ResNet50",
    "wide_resnet40_4": "WideResNet40-4",
}
FIGURES = {
    "PGD20": "consistent paper_pgd20",
    "PGD50": "consistent paper_pgd50",
    "clean": "accuracy test",
    "Square": "robust square",
    "APGD20": "robust apgd20",
    "AutoAttack": "robust auto_attack",
}
ATTACKS = ("paper_pgd20", "paper_pgd50", "pgd50", "apgd20", "square", "auto_attack")


def main() -> None:
    flags = parser(__doc__, CIFAR_KS)
    flags.add_argument("--network", choices=[*NETWORKS], default="preact_resnet18")
    arguments = flags.parse_args()
    make_table(
        arguments,
        base_config("cifar10", arguments, arguments.network),
        runs_of(arguments.workdir, "cifar10", arguments.network),
        (STANDARD, *map(top_gap, arguments.k)),
        (trained(), attacked(ATTACKS, 8 / 255, arguments.examples)),
        lambda: "\n".join((table4(arguments.workdir), table_a5(arguments.workdir))),
    )


def table4(workdir: Path) -> str:
    lines = read_lines(runs_of(workdir, "cifar10", "preact_resnet18"))
    published = TABLES["4"].rows
    rows = beside("baseline", lines, [STANDARD.name], published["Baseline", "PRN18"])
    rows += beside("Top-GAP", lines, ours(lines), published["Top-GAP (ours)", "PRN18"] | IN_THE_TEXT)
    text = paper_table(("method", "figure"), rows)
    return f"Table 4. {TABLES['4'].title}, PreAct-ResNet-18\n\n{text}\n{notes('4')}"


def table_a5(workdir: Path) -> str:
    rows: list[Beside] = []
    for network, title in NETWORKS.items():
        lines = read_lines(runs_of(workdir, "cifar10", network))
        rows += beside(title, lines, ours(lines), TABLES["A5"].rows[title,])
    text = paper_table(("network", "figure"), rows)
    return f"Table A5. {TABLES['A5'].title}\n\n{text}\n{notes('A5')}"


def beside(title: str, lines: list[Line], methods: list[str], figures: dict[str, Figure]) -> list[Beside]:
    """A row per figure, with the method that is best in it."""
    rows = []
    for column, figure in figures.items():
        best, entry = best_of(lines, methods, FIGURES[column])
        rows.append(Beside((f"{title}, {best}" if best else title, column), entry, figure))
    return rows


if __name__ == "__main__":
    main()
