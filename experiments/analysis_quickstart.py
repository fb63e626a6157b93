"""What k does to the maps: several runs on the textured digits beside their plain twin (docs/analysis.md).

    for k in 16 64 128; do
        python main.py --config=configs/quickstart.py --workdir=runs/k$k --config.model.k=$k
    done
    python experiments/analysis_quickstart.py --out runs/analysis runs/k16 runs/quickstart runs/k64 runs/k128

Takes the first 1000 test pictures, and for insertion and deletion the first 256 of them. Prints a line per
network and writes them to `analysis.jsonl`, with figures 3 and 4 beside it. The receptive fields come from
`topgap erf --examples 512`.
"""

import argparse
import json
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

import topgap_jax as tg
from topgap_jax import analysis
from topgap_jax.data.pipeline import first_examples
from topgap_jax.reports import figures
from topgap_jax.training.runs import FinishedRun, open_run
from topgap_jax.training.splits import load_split

PICTURES, PERTURBED, BATCH = 1000, 256, 250
THRESHOLDS = np.linspace(0.05, 0.95, 19)
SHOWN = (3, 5, 8)  # digits


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("workdirs", nargs="+", type=Path)
    parser.add_argument("--out", type=Path, required=True)
    arguments = parser.parse_args()
    runs = [open_run(directory) for directory in arguments.workdirs]
    runs += [
        open_run(directory / "twin") for directory in arguments.workdirs if (directory / "twin").is_dir()
    ][:1]
    data = runs[0].config.data
    test, held_out = (
        first_examples(load_split(data, name), PICTURES) for name in (data.test[0], data.validation)
    )
    maps = {name(run): heat(run, test) for run in runs}
    lines = [measure(run, maps[name(run)], test, heat(run, held_out), held_out["mask"]) for run in runs]
    arguments.out.mkdir(parents=True, exist_ok=True)
    (arguments.out / "analysis.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    for line in lines:
        print(json.dumps(line))
    draw(arguments.out, runs, lines, maps, test)


def name(run: FinishedRun) -> str:
    return "plain GAP" if run.model.pool == "mean" else f"k = {int(run.model.k[...])}"


def heat(run: FinishedRun, examples: dict[str, np.ndarray]) -> np.ndarray:
    """The maps of the true classes, [B,H,W] in [0, 1]: the run's own, or Grad-CAM for the plain network."""
    graphdef, state = nnx.split(run.model)

    @jax.jit
    def maps(state: nnx.State, images: jax.Array, labels: jax.Array) -> jax.Array:
        cam = nnx.merge(graphdef, state)(images).cam
        cam = jax.nn.relu(cam) if run.model.head_name == "original" else cam
        return tg.heatmap(cam, labels, images.shape[1:3])

    images, labels = examples["image"], examples["label"]
    starts = range(0, len(images), BATCH)
    return np.concatenate([maps(state, images[i : i + BATCH], labels[i : i + BATCH]) for i in starts])


def measure(
    run: FinishedRun,
    maps: np.ndarray,
    test: dict[str, np.ndarray],
    held_out: np.ndarray,
    held_out_masks: np.ndarray,
) -> dict:
    """Every figure of merit; the one threshold is chosen on held-out pictures."""
    masks = test["mask"]
    threshold = analysis.best_threshold(jnp.asarray(held_out), jnp.asarray(held_out_masks))
    boxes = analysis.box_iou_curve(maps, np.array([box_of(mask) for mask in masks]), THRESHOLDS)
    some = slice(PERTURBED)
    curves = analysis.insertion_deletion(
        tg.attacks.logits_fn(run.model), test["image"][some], maps[some], test["label"][some], steps=16
    )
    return {
        "network": name(run),
        "object_share": [float(masks.mean((1, 2)).min()), float(masks.mean((1, 2)).max())],
        **analysis.cam_metrics(jnp.asarray(maps), jnp.asarray(masks), threshold),
        "threshold": threshold,
        "max_box_accuracy": analysis.max_box_accuracy(boxes),
        "deletion": float(curves.deletion_auc.mean()),
        "insertion": float(curves.insertion_auc.mean()),
        "area": analysis.area_fit(analysis.area(maps, threshold), masks.mean((1, 2)))._asdict(),
    }


def box_of(mask: np.ndarray) -> list[int]:
    places = np.argwhere(mask)
    return [*places.min(0), *(places.max(0) + 1)]


def draw(out: Path, runs: list, lines: list[dict], maps: dict[str, np.ndarray], test: dict) -> None:
    rows = [int(np.flatnonzero(test["label"] == digit)[1]) for digit in SHOWN]
    panels = np.stack([[heat[row] for heat in maps.values()] for row in rows])
    titles = [f"{title}\n(Grad-CAM)" if title == "plain GAP" else title for title in maps]
    digits = [f"digit {digit}" for digit in SHOWN]
    figures.save(
        figures.cam_panels(test["image"][rows], panels, titles, digits, test["mask"][rows]), out / "maps"
    )
    ours = [(run, line) for run, line in zip(runs, lines, strict=True) if run.model.pool == "topk"]
    positions = np.prod(ours[0][0].model.cam_shape(test["image"].shape[1:])[1:3])
    line = figures.Line(
        "textured digits, small ResNet",
        [int(run.model.k[...]) / positions for run, _ in ours],
        [line["sparsity"] for _, line in ours],
        [line["standard_error"]["sparsity"] for _, line in ours],
    )
    figures.save(figures.sparsity_over_k([line]), out / "sparsity")


if __name__ == "__main__":
    main()
