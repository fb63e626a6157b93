"""What a trained network is worth: accuracy per split and group, attacks, and the quality of its CAM."""

import datetime
import os
import platform
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.sharding import Mesh

from topgap_jax import attacks
from topgap_jax.analysis import cam
from topgap_jax.data.pipeline import eval_batches, first_examples
from topgap_jax.data.sources import Source
from topgap_jax.models import Classifier
from topgap_jax.training.distributed import as_first_sees, is_first, stop_if_preempted, whole
from topgap_jax.training.groups import group_accuracies, group_shares
from topgap_jax.training.mesh import put_batch
from topgap_jax.training.metrics import identity, training_time
from topgap_jax.training.runs import write_json
from topgap_jax.training.splits import reading, test_names
from topgap_jax.training.state import TrainState, evaluated
from topgap_jax.training.step import EvalStep, make_eval_step

ExplainStep = Callable[[np.ndarray, np.ndarray], tuple[jax.Array, jax.Array]]


def check_evaluation(config: Any) -> None:
    """Raises a ValueError for a name or value in `config` (the field `evaluation`) that does not exist."""
    for name in config.attacks:
        if name not in attacks.PRESETS:
            raise ValueError(f"unknown attack {name!r}; there are: {', '.join(attacks.PRESETS)}")
    if config.weights not in ("last", "best"):
        raise ValueError(f"unknown evaluation.weights {config.weights!r}; there are: last, best")
    for name, least in (("attack_examples", 1), ("cam_examples", 1), ("pictures", 0)):
        if config[name] < least:
            raise ValueError(f"evaluation.{name}={config[name]} must be at least {least}")
    if not 0 < config.attack_eps <= 1:
        raise ValueError(
            f"evaluation.attack_eps={config.attack_eps} is outside (0, 1], the range of the images"
        )


def evaluate_run(
    config: Any,
    directory: Path,
    mesh: Mesh,
    model: Classifier,
    state: TrainState,
    sources: Mapping[str, Source],
) -> None:
    """Writes `examples.npz` and `evaluation.json` of a trained run, unless they are there already.

    Without a test set there is nothing to evaluate. Of several processes, all share the splits; attacks and
    pictures every process computes for itself, alike, so that none waits for another; the first one writes.

    Raises:
      Preempted: the run was told to stop; a new start evaluates it.
    """
    path = directory / "evaluation.json"
    tests = test_names(config.data)
    if not tests or as_first_sees(path.exists()):
        return
    graphdef = nnx.graphdef(model)
    model = nnx.merge(graphdef, *whole(mesh, evaluated(state)))
    eval_step = make_eval_step(graphdef, mesh, l1_of=config.loss.l1_of)
    splits = {name: evaluate_split(eval_step, state, sources[name], config, mesh) for name in tests}
    first, validation = tests[0], config.data.validation
    explain_step = make_explain_step(model)
    explained = {name: explain(explain_step, sources[name], config) for name in (validation, *tests)}
    attacked = [
        attack(name, model, sources[first], splits[first], config) for name in config.evaluation.attacks
    ]
    if not is_first():
        return
    training_groups = group_shares(sources[config.data.train])
    test = explained[first]
    _, height, width, _ = model.cam_shape(test["image"].shape[1:])
    evaluation = {
        "title": config.title,
        **identity(config),
        "date": datetime.date.today().isoformat(),
        "machine": machine(),
        "image_shape": list(test["image"].shape[1:]),
        "cam_shape": [height, width],
        "k": int(model.k[...]) if model.pool == "topk" else None,
        "parameters": sum(leaf.size for leaf in jax.tree.leaves(state.params)),
        **training_time(directory),
        "accuracy": [
            figures
            for name, result in splits.items()
            for figures in accuracy(name, result, getattr(sources[name], "group_names", ()), training_groups)
        ],
        "attacks": attacked,
        "cam": cam_quality(test, explained[validation])
        | {
            "split": first,
            "threshold_split": validation,
            "method": "Grad-CAM" if model.head_name == "original" else "CAM (built in)",
        },
    }
    shown = {name: explained[name] for name in tests}
    write_pictures(directory / "examples.npz", shown, sources[first].class_names, config.evaluation.pictures)
    write_json(path, evaluation)


def evaluate_split(
    eval_step: EvalStep,
    state: TrainState,
    source: Source,
    config: Any,
    mesh: Mesh,
) -> dict[str, np.ndarray]:
    """What `eval_step` gives for every example of a split, in order, each counted once; `[N]` each."""
    params, model_state = evaluated(state)
    results = []
    batches = eval_batches(
        source,
        batch_size=config.evaluation.batch_size,
        process_index=jax.process_index(),
        process_count=jax.process_count(),
    )
    for batch, valid in iter(partial(_next_or_none, batches), None):
        stop_if_preempted()
        result = jax.device_get(eval_step(params, model_state, put_batch(mesh, batch)))
        results.append({name: value[:valid] for name, value in result.items()})
    return {name: np.concatenate([result[name] for result in results]) for name in results[0]}


def accuracy(
    split: str,
    result: Mapping[str, np.ndarray],
    group_names: Sequence[str],
    training_groups: Mapping[str, float],
) -> list[dict[str, Any]]:
    """Accuracy over a split as it is and, where it has groups, what `group_accuracies` makes of them."""
    correct = result["prediction"] == result["label"]
    figures = [{"split": split, "value": float(correct.mean()), "count": len(correct)}]
    if "group" in result:
        of_groups = group_accuracies(correct, result["group"], group_names, training_groups)
        figures += [{"split": split, **figure} for figure in of_groups]
    return figures


def attack(
    name: str, model: Classifier, source: Source, clean: Mapping[str, np.ndarray], config: Any
) -> dict[str, Any]:
    """One attack on the first `evaluation.attack_examples` examples of a split."""
    stop_if_preempted()
    preset = attacks.PRESETS[name]
    with reading():
        examples = first_examples(source, config.evaluation.attack_examples)
    labels, predictions = examples["label"], clean["prediction"][: len(examples["label"])]
    eps = config.evaluation.attack_eps
    result = preset.attack(attacks.logits_fn(model), examples["image"], labels, eps=eps)
    return {
        "name": preset.title,
        "eps": eps,
        "norm": result.config["norm"],
        "robust_accuracy": attacks.robust_accuracy(predictions, result.predictions, labels),
        "prediction_consistency": attacks.prediction_consistency(predictions, result.predictions),
        "clean_accuracy": float((predictions == labels).mean()),
        "count": len(labels),
        "config": result.config,
    }


def make_explain_step(model: Classifier) -> ExplainStep:
    """Compiles `(images, labels) -> (heat, probabilities)`, `[B, H, W]` in [0, 1] and `[B, K]`."""
    return partial(_explain_step, *nnx.split(model))


@partial(jax.jit, static_argnames="graphdef")  # runs that differ in k share one program
def _explain_step(
    graphdef: nnx.GraphDef, state: nnx.State, images: jax.Array, labels: jax.Array
) -> tuple[jax.Array, jax.Array]:
    model = nnx.merge(graphdef, state)
    out = model(images)
    # After global average pooling and one linear layer, Grad-CAM is the positive part of the CAM.
    maps = jax.nn.relu(out.cam) if model.head_name == "original" else out.cam
    _, height, width, _ = images.shape
    return cam.heatmap(maps, labels, (height, width)), jax.nn.softmax(out.logits)


def explain(explain_step: ExplainStep, source: Source, config: Any) -> dict[str, np.ndarray]:
    """The first `evaluation.cam_examples` examples, with the true class's `heat` and the `probabilities`.

    `heat` is `[N, H, W]` in [0, 1], `probabilities` `[N, K]`; images, labels and masks are the source's.
    """
    with reading():
        examples = first_examples(source, config.evaluation.cam_examples)
    count, size = len(examples["label"]), config.evaluation.batch_size
    results = []
    for start in range(0, count, size):
        stop_if_preempted()
        rows = np.arange(start, start + size) % count  # the last batch is filled up
        results.append(jax.device_get(explain_step(examples["image"][rows], examples["label"][rows])))
    heat, probabilities = (np.concatenate(parts)[:count] for parts in zip(*results, strict=True))
    return examples | {"heat": heat, "probabilities": probabilities}


def cam_quality(test: Mapping[str, np.ndarray], held_out: Mapping[str, np.ndarray]) -> dict[str, Any]:
    """Sparsity and, with masks, localisation; the global threshold is the best one on `held_out`."""
    heat = jnp.asarray(test["heat"])
    if "mask" not in test or "mask" not in held_out:
        return cam.cam_metrics(heat)
    threshold = cam.best_threshold(jnp.asarray(held_out["heat"]), jnp.asarray(held_out["mask"]))
    figures = cam.cam_metrics(heat, jnp.asarray(test["mask"]), threshold)
    return figures | {"global_threshold": threshold, "mask_coverage": float(test["mask"].mean())}


def write_pictures(
    path: Path, explained: Mapping[str, Mapping[str, np.ndarray]], class_names: Sequence[str], count: int
) -> None:
    """The first explained examples of every split, `count` in all, as an `.npz` for reports."""
    share = -(-count // len(explained))
    chosen = {
        split: {name: value[:share] for name, value in found.items()} for split, found in explained.items()
    }
    parts = list(chosen.values())
    shared = set.intersection(*(set(part) for part in parts))  # some test sets have masks, others none
    together = {name: np.concatenate([part[name] for part in parts]) for name in shared}
    arrays: dict[str, Any] = {
        "images": together["image"],
        "labels": together["label"],
        "predictions": together["probabilities"].argmax(-1),
        "probabilities": together["probabilities"].max(-1),
        "heat": together["heat"],
        "class_names": np.asarray(class_names),
        "split": np.repeat(list(chosen), [len(part["label"]) for part in parts]),
    }
    if "mask" in together:
        arrays["masks"] = together["mask"]
    np.savez_compressed(path, **arrays)


def _next_or_none(batches: Iterator[Any]) -> Any:
    with reading():
        return next(batches, None)


def machine() -> dict[str, Any]:
    """The hardware and the versions behind the measured figures."""
    return {
        "device": jax.devices()[0].device_kind,
        "devices": jax.device_count(),
        "processor": platform.processor() or platform.machine(),
        "cores": os.cpu_count(),
        "jax": jax.__version__,
    }
