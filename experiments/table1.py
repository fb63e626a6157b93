"""Table 1: the parameters of unmodified networks and of ours, beside the paper's. Needs no data.

    python experiments/table1.py

The paper does not say how many classes it counts with; the numbers tell: 1000 for VGG11-BN, 53 (its COCO) for
EfficientNet-B0. DenseNet-121 is counted with 1000 classes, which fits its unmodified network.
"""

import math

import jax
from flax import nnx
from published import TABLES
from tables import Beside, paper_table

import topgap_jax as tg

NETWORKS = {
    "VGG11-BN": ("vgg11_bn", 1000),
    "EfficientNet-B0": ("efficientnet_b0", 53),
    "DenseNet-121": ("densenet121", 1000),
}
HEADS = {"unmodified": "original", "ours": "pyramid"}


def main() -> None:
    print(table())


def parameters(name: str, num_classes: int, head: str) -> int:
    """Trained parameters of a network; it is described, not made."""
    model = nnx.eval_shape(lambda: tg.create_model(name, num_classes, head=head))
    return sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(nnx.state(model, nnx.Param)))


def table() -> str:
    """Ours, the paper's and the difference, in millions."""
    published = TABLES["1"]
    rows = []
    for (network,), columns in published.rows.items():
        name, classes = NETWORKS[network]
        for column, figure in columns.items():
            ours = parameters(name, classes, HEADS[column]) / 1e6
            title = (f"{network}, {classes} classes", column)
            rows.append(Beside(title, {"mean": ours, "sd": None}, figure, unit="millions"))
    notes = "".join(f"- {note}\n" for note in published.notes)
    return paper_table(("network", "parameters, millions"), rows) + "\n" + notes


if __name__ == "__main__":
    main()
