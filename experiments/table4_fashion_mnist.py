"""Table 4 as a controlled comparison in small: the defences of the paper and their controls on Fashion-MNIST.

    python experiments/table4_fashion_mnist.py --workdir=runs/table4 [--methods="Plain GAP,Top-GAP"]

All methods get the same pictures, steps, schedule and evaluation; docs/table4.md shows the result. Writes
`results.jsonl`, `table.md` and `table4.png` into the workdir. docs/datasets/fashion_mnist.md says how
data/fashion_mnist is made.
"""

import argparse
import math
from pathlib import Path

from comparison import Comparison, Line, Method, read_lines, run
from evaluations import attacked, trained
from figure_table4 import draw
from step_times import step_times, step_times_table
from tables import Column, by_number, differences_table, methods_table

EPS = 8 / 255
POSITIONS, CLASSES, K, L1 = 14 * 14, 10, 98, 1.0

# At the optimum of Top-GAP's loss the true class has the probability 1 - STRENGTH. Label smoothing s has its
# optimum at 1 - s (CLASSES - 1) / CLASSES, so this s asks for the same confidence, and no map.
STRENGTH = L1 * K / (POSITIONS * CLASSES)
SMOOTHING = STRENGTH * CLASSES / (CLASSES - 1)
# And this weight w of |z|^2: then 1 - p = 2 w z at the logit z of the true class, and the logits sum to 0.
LOGIT = (CLASSES - 1) / CLASSES * math.log((CLASSES - 1) * (1 - STRENGTH) / STRENGTH)
SQUEEZING = STRENGTH / (2 * LOGIT)

TOP_GAP = {"model": {"head": "pyramid", "pool": "topk", "k": K}, "loss": {"l1": L1}}
PGD = {"method": "pgd", "eps": EPS, "step_size": 2 / 255, "steps": 10}
FGSM = {"method": "fgsm", "eps": EPS, "step_size": 1.25 * EPS, "grad_align": 0.2}

BASELINE = "Plain GAP"
METHODS = (
    Method(BASELINE, {}),
    Method("Top-GAP", TOP_GAP),
    Method("Label smoothing", {"loss": {"label_smoothing": SMOOTHING}}),
    Method("Logit squeezing", {"loss": {"logit_squeezing": SQUEEZING}}),
    Method("k-WTA", {"model": {"activation": "kwta:0.1"}}),
    Method("FLC pooling", {"model": {"downsampling": "flc"}}),
    Method("FGSM-AT + GradAlign", {"adversarial": FGSM}),
    Method("PGD-AT", {"adversarial": PGD}),
    Method("Top-GAP + PGD-AT", TOP_GAP | {"adversarial": PGD}),
)
COLUMNS = (
    Column("all, clean", "accuracy test"),
    Column("clean", "clean"),
    Column("PGD-20, paper", "robust paper_pgd20"),
    Column("PGD-50, paper", "robust paper_pgd50"),
    Column("PGD-50, strong", "robust pgd50"),
    Column("APGD-20", "robust apgd20"),
    Column("Square", "robust square"),
    Column("AutoAttack", "robust auto_attack"),
)
CONSISTENCY = (
    Column("PGD-20, paper", "consistent paper_pgd20"),
    Column("PGD-50, paper", "consistent paper_pgd50"),
    Column("PGD-50, strong", "consistent pgd50"),
    Column("AutoAttack", "consistent auto_attack"),
)
ATTACKS = ("paper_pgd20", "paper_pgd50", "pgd50", "apgd20", "square", "auto_attack")
# Twice the radius, at which nothing undefended should be left standing.
WIDE_ATTACKS = ("paper_pgd20", "paper_pgd50", "pgd50", "square", "auto_attack")
WIDE = [
    Column(column.title, f"{column.figure} at 16/255")
    for column in COLUMNS
    if column.figure.removeprefix("robust ") in ("clean", *WIDE_ATTACKS)
]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--workdir", type=Path, required=True)
    parser.add_argument("--data-dir", default="data", help="where fashion_mnist lies")
    parser.add_argument("--seeds", type=int, default=3, help="how many")
    parser.add_argument("--epochs", type=int, default=1)
    parser.add_argument("--pictures", type=int, default=200, help="of the test set that are attacked")
    parser.add_argument("--methods", default="", help="names, with commas; default: all")
    parser.add_argument("--time-steps", action="store_true", help="only measure what a training step costs")
    arguments = parser.parse_args()
    chosen = [name.strip() for name in arguments.methods.split(",") if name.strip()]
    if unknown := set(chosen) - {method.name for method in METHODS}:
        parser.error(
            f"unknown method {min(unknown)!r}; there are: {', '.join(method.name for method in METHODS)}"
        )
    methods = [method for method in METHODS if method.name in chosen or not chosen]
    source = f"npz:{arguments.data_dir}/fashion_mnist"
    comparison = comparison_of(methods, source, arguments.epochs, arguments.pictures)
    if arguments.time_steps:
        print(step_times_table(step_times(comparison), methods[0].name))
        return
    for seed in range(arguments.seeds):
        run(comparison, arguments.workdir, [seed])
        write(arguments.workdir)


def comparison_of(methods: list[Method], source: str, epochs: int, pictures: int) -> Comparison:
    base = {
        "model": {"name": "preact_resnet_narrow", "head": "original", "pool": "mean"},
        "loss": {"l1": 0.0},
        "data": {"source": source, "test": ("test",), "augment": ("pad_crop:2", "horizontal_flip")},
        "optimizer": {"name": "adamw", "learning_rate": 0.01, "beta2": 0.99, "weight_decay": 0.1},
        "train": {"batch_size": 128, "epochs": epochs, "checkpoint_every_steps": 500},
    }
    wide = attacked(WIDE_ATTACKS, 2 * EPS, pictures, where=" at 16/255")
    return Comparison(base, methods, (trained(), attacked(ATTACKS, EPS, pictures), wide))


def write(workdir: Path) -> None:
    """`table.md` and `table4.png` of what is finished so far."""
    lines = read_lines(workdir)
    text = table(lines)
    (workdir / "table.md").write_text(text)
    draw(lines, [method.name for method in METHODS], COLUMNS[1:], workdir / "table4.png")
    print(text)


def table(lines: list[Line]) -> str:
    done = {line["method"] for line in lines}
    methods = [method.name for method in METHODS if method.name in done]
    wide = [method for method in methods if by_number(lines, method, WIDE[0].figure)]
    parts = {
        "Accuracy, clean and under attack, in percent": methods_table(lines, methods, COLUMNS),
        "Difference in points, with its 95% interval": differences_table(lines, methods, BASELINE, COLUMNS),
        "Prediction consistency, which the paper counts": methods_table(lines, methods, CONSISTENCY),
        "Accuracy at 16/255, in percent": methods_table(lines, wide, WIDE),
    }
    return "\n".join(f"{title}\n\n{part}" for title, part in parts.items())


if __name__ == "__main__":
    main()
