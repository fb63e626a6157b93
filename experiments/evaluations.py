"""What experiments measure on a finished run: figures by name, from the folder of the run."""

import json
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import jax
import numpy as np
from comparison import Evaluation

from topgap_jax import attacks
from topgap_jax.attacks.autoattack import VERSIONS
from topgap_jax.data.pipeline import first_examples
from topgap_jax.training.receptive_fields import measure_fields
from topgap_jax.training.runs import open_run
from topgap_jax.training.splits import load_split

COST = ("training_seconds", "step_milliseconds")
CAM = ("sparsity", "iou_oracle", "iou_global")


def trained() -> Evaluation:
    """`accuracy SPLIT` per test set, the quality of the map, the number of parameters and the time."""
    return Evaluation("trained", {}, _trained)


def attacked(
    names: Sequence[str], eps: float, examples: int, batch_size: int = 100, where: str = ""
) -> Evaluation:
    """`robust NAME` and `consistent NAME` per attack: its label, or the clean prediction, was kept.

    Args:
      names: in `attacks.PRESETS`. "auto_attack" needs "square" among them, which it takes over.
      eps: radius of the Linf ball, in units of the image range.
      examples: the first so many of the first test set.
      batch_size: most pictures in one pass.
      where: goes behind all names, such as " at 16/255", where a run is attacked in more ways than one.
    """
    settings = {"names": list(names), "eps": eps, "examples": examples, "batch_size": batch_size}
    return Evaluation(f"attacked{where}", settings, partial(_attacked, settings, where))


def fields(examples: int, normalize: str = "dataset") -> Evaluation:
    """`erf center`, `erf corner` and `erf distance` (definition 4.1)."""
    settings = {"examples": examples, "normalize": normalize}
    return Evaluation("fields", settings, partial(_fields, settings))


def _trained(directory: Path) -> dict[str, float]:
    evaluation = json.loads((directory / "evaluation.json").read_text())
    accuracies = {
        "accuracy " + " ".join(entry[part] for part in ("split", "group") if part in entry): entry["value"]
        for entry in evaluation["accuracy"]
    }
    cam = {name: evaluation["cam"][name] for name in CAM if name in evaluation["cam"]}
    return accuracies | cam | {name: evaluation[name] for name in ("parameters", *COST)}


def _attacked(settings: Mapping[str, Any], where: str, directory: Path) -> dict[str, float]:
    run = open_run(directory)
    data = first_examples(load_split(run.config.data, run.config.data.test[0]), settings["examples"])
    images, labels = data["image"], data["label"]
    network, how = (
        attacks.logits_fn(run.model),
        {"eps": settings["eps"], "batch_size": settings["batch_size"]},
    )
    clean = attacks.predict(network, images, batch_size=settings["batch_size"])
    figures = {f"clean{where}": float((clean == labels).mean())}
    found: dict[str, np.ndarray] = {}
    for name in settings["names"]:
        if name == "auto_attack":
            found[name] = _auto_attack(network, images, labels, found["square"], how)
        elif name == "square":
            found[name] = attacks.square(network, images, labels, key=_square_key(), **how).predictions
        else:
            found[name] = attacks.PRESETS[name].attack(network, images, labels, **how).predictions
        figures[f"robust {name}{where}"] = attacks.robust_accuracy(clean, found[name], labels)
        figures[f"consistent {name}{where}"] = attacks.prediction_consistency(clean, found[name])
    return figures


def _auto_attack(
    network: Any, images: np.ndarray, labels: np.ndarray, square: np.ndarray, how: Mapping[str, Any]
) -> np.ndarray:
    """The predictions after AutoAttack's standard version, of which Square has been run before.

    An ensemble's worst case does not depend on the order, and an example draws its own random numbers: the
    other three attacks only see what Square has left standing.
    """
    predictions, rows = square.copy(), np.flatnonzero(square == labels)
    stages = {name: attack for name, attack in VERSIONS["standard"].items() if name != "square"}
    if len(rows):
        rest = attacks.auto_attack(network, images[rows], labels[rows], indices=rows, version=stages, **how)
        predictions[rows] = rest.predictions
    return predictions


def _square_key() -> jax.Array:
    """The one that AutoAttack gives to Square."""
    return jax.random.fold_in(jax.random.key(0), list(VERSIONS["standard"]).index("square"))


def _fields(settings: dict[str, Any], directory: Path) -> dict[str, float]:
    measured, _ = measure_fields(directory, **settings)
    return {f"erf {name}": measured["erf"][name] for name in ("center", "corner", "distance")}
