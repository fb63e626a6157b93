"""The robustness of a trained run: cheap attacks and strong ones, worst case per example, diagnostics.

`WORKDIR/robustness/` then holds `robustness.json` and, under `attacks/` and `autoattack/`, one JSON line per
example, attack and attempt with the adversarial images. Started again, an evaluation goes on from these.
"""

import dataclasses
import datetime
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np

from topgap_jax import attacks
from topgap_jax.attacks import base
from topgap_jax.attacks.autoattack import VERSIONS
from topgap_jax.attacks.diagnostics import diagnose
from topgap_jax.attacks.journal import Journal
from topgap_jax.attacks.presets import PRESETS, Preset
from topgap_jax.data.pipeline import first_examples
from topgap_jax.models import Classifier, load_model
from topgap_jax.training.config import ConfigError
from topgap_jax.training.evaluate import machine
from topgap_jax.training.metrics import identity
from topgap_jax.training.runs import read_config, with_twin, write_json
from topgap_jax.training.splits import first_test, load_split

Report = Callable[[str], None]
CURVE = (1, 2, 5, 10, 20, 50, 100, 200, 500, 1000)  # steps of PGD at which accuracy is read


class Other(NamedTuple):
    """A network to compare with."""

    title: str
    model: Classifier


@dataclasses.dataclass(frozen=True)
class RobustnessSettings:
    """What `evaluate_robustness` does.

    Args:
      eps: radius of the ball, in units of the image range, for instance 8/255.
      norm: "linf", "l2" or "l1".
      attacks: names in `attacks.PRESETS`.
      version: of AutoAttack, see `attacks.auto_attack`; "" leaves it out.
      examples: the first so many of the split.
      split: of the run's data; default: its first test split.
      diagnostics: how many examples the gradient-masking diagnostics use; 0 leaves them out.
      max_steps: of PGD, on the curve of accuracy over steps (the paper's figure A3).
      batch_size: most images in one pass through the network.
      seed: of the attacks.
      transfer_from: folder of an adversarially trained run on the same data, for diagnostic 12; "": none.
      controls: folders of runs on the same data whose logits were squeezed in another way (label smoothing,
        logit squeezing), for diagnostic 16.
    """

    eps: float
    norm: str = "linf"
    attacks: tuple[str, ...] = ("paper_fgsm", "paper_pgd20", "paper_pgd50", "pgd50", "apgd20", "square")
    version: str = "standard"
    examples: int = 512
    split: str = ""
    diagnostics: int = 128
    max_steps: int = 1000
    batch_size: int = 64
    seed: int = 0
    transfer_from: str = ""
    controls: tuple[str, ...] = ()


def evaluate_robustness(
    workdir: str | Path, settings: RobustnessSettings, report: Report | None = None
) -> list[Path]:
    """Evaluates the run in `workdir` and, where there is one, its twin.

    Args:
      workdir: of a run that `train_and_evaluate` has finished.
      settings: see `RobustnessSettings`.
      report: called with lines of text on the way.

    Returns:
      The folders with a `robustness.json`: of the run and of its twin.

    Raises:
      ConfigError: no finished run, or settings that do not fit it, before any long work.
    """
    report = report or (lambda line: None)
    workdir = Path(workdir)
    directories = with_twin(workdir)
    try:
        _check(settings)
        configs = [read_config(directory) for directory in directories]
        models = [load_model(directory / "model.safetensors") for directory in directories]
        others = _others(configs[0], settings)
        examples = _examples(configs[0], settings)
        base.prepare(
            models[0],
            examples["image"],
            examples["label"],
            norm=settings.norm,
            eps=settings.eps,
            batch_size=settings.batch_size,
        )
    except (ValueError, OSError) as error:
        raise ConfigError(str(error)) from error
    folders = []
    for directory, config, model in zip(directories, configs, models, strict=True):
        twin = next((other for other in models if other is not model and other.pool == "mean"), None)
        report(f"{config.title}: {len(examples['label'])} pictures, eps {settings.eps:.4g} ({settings.norm})")
        folder = directory / "robustness"
        folder.mkdir(exist_ok=True)
        result = _evaluate(folder, config, model, twin, others, examples, settings, report)
        write_json(folder / "robustness.json", result)
        folders.append(folder)
    return folders


def _check(settings: RobustnessSettings) -> None:
    unknown = [name for name in settings.attacks if name not in PRESETS]
    if unknown:
        raise ValueError(f"unknown attack {unknown[0]!r}; there are: {', '.join(PRESETS)}")
    if settings.version and settings.version not in VERSIONS:
        raise ValueError(f"unknown version {settings.version!r}; there are: {', '.join(VERSIONS)}")
    if settings.examples < 1:
        raise ValueError(f"examples={settings.examples} must be at least 1")
    if settings.norm == "l1":
        pgd = [name for name in settings.attacks if ("pgd" in name and "apgd" not in name) or "fgsm" in name]
        if pgd:
            raise ValueError(
                f"{pgd[0]} is too weak in norm 'l1'; choose attacks from: apgd, apgd_dlr, square"
            )
    if settings.max_steps < 1:
        raise ValueError(f"max_steps={settings.max_steps} must be at least 1")
    if settings.diagnostics < 0:
        raise ValueError(f"diagnostics={settings.diagnostics} must not be negative")


def _examples(config: Any, settings: RobustnessSettings) -> dict[str, np.ndarray]:
    split = settings.split or first_test(config.data)
    return first_examples(load_split(config.data, split), settings.examples) | {"split": np.asarray(split)}


def _others(config: Any, settings: RobustnessSettings) -> dict[str, Other]:
    """The networks to compare with, by folder.

    Raises:
      ValueError: one of them is no finished run on the data of `config`.
    """
    others = {}
    for folder in filter(None, (settings.transfer_from, *settings.controls)):
        other = read_config(Path(folder))
        if (other.data.source, other.data.options) != (config.data.source, config.data.options):
            raise ValueError(
                f"{folder} was trained on other data: {other.data.source!r} {other.data.options.to_dict()}, "
                f"not {config.data.source!r} {config.data.options.to_dict()}"
            )
        others[folder] = Other(f"{other.title} ({folder})", load_model(Path(folder) / "model.safetensors"))
    return others


def _evaluate(
    folder: Path,
    config: Any,
    model: Classifier,
    twin: Classifier | None,
    others: Mapping[str, Other],
    examples: Mapping[str, np.ndarray],
    settings: RobustnessSettings,
    report: Report,
) -> dict[str, Any]:
    network = attacks.logits_fn(model)
    images, labels = examples["image"], examples["label"]
    clean = attacks.predict(network, images, batch_size=settings.batch_size)
    entries, found = _run_presets(folder, network, images, labels, clean, settings, report)
    result: dict[str, Any] = {
        "title": config.title,
        **identity(config),
        "date": datetime.date.today().isoformat(),
        "machine": machine(),
        "dataset": config.data.source,
        "split": str(examples["split"]),
        "architecture": f"{config.model.name}, head {config.model.head}, pool {config.model.pool}",
        "parameters": sum(leaf.size for leaf in jax.tree.leaves(network)),
        "k": int(model.k[...]) if model.pool == "topk" else None,
        "image_shape": list(images.shape[1:]),
        "norm": settings.norm,
        "eps": settings.eps,
        "count": len(labels),
        "clean_accuracy": float((clean == labels).mean()),
        "attacks": entries,
    }
    if settings.version:
        found["auto_attack"], result["auto_attack"] = _auto_attack(
            folder, network, images, labels, clean, settings, report
        )
    if settings.diagnostics and settings.norm != "l1":  # they look at PGD, which is too weak there
        result |= _diagnose(config, model, twin, others, images, labels, found, settings, report)
    result["worst_case"] = _worst_case(clean, labels, found)
    return result


def _auto_attack(
    folder: Path,
    network: Any,
    images: np.ndarray,
    labels: np.ndarray,
    clean: np.ndarray,
    settings: RobustnessSettings,
    report: Report,
) -> tuple[attacks.AutoAttackResult, dict[str, Any]]:
    """The ensemble's result, and what the report says of it."""
    start = time.monotonic()
    ensemble = attacks.auto_attack(
        network,
        images,
        labels,
        eps=settings.eps,
        norm=settings.norm,
        version=settings.version,
        batch_size=settings.batch_size,
        key=settings.seed,
        directory=folder / "autoattack",
        report=report,
    )
    return ensemble, {
        "version": settings.version,
        "robust_accuracy": ensemble.robust_accuracy,
        "prediction_consistency": attacks.prediction_consistency(clean, ensemble.predictions),
        "count": len(labels),
        "flags": list(ensemble.flags),
        "seconds": time.monotonic() - start,
        "config": ensemble.config,
    }


def _diagnose(
    config: Any,
    model: Classifier,
    twin: Classifier | None,
    others: Mapping[str, Other],
    images: np.ndarray,
    labels: np.ndarray,
    found: Mapping[str, Any],
    settings: RobustnessSettings,
    report: Report,
) -> dict[str, Any]:
    """The gradient-masking diagnostics, and the curve over the steps that one of them measures."""
    looked_at = min(settings.diagnostics, len(labels))
    diagnostics = diagnose(
        model,
        images,
        labels,
        eps=settings.eps,
        norm=settings.norm,
        attacks=found,
        cam_network=model if model.pool == "topk" else None,
        k=int(model.k[...]) if model.pool == "topk" else None,
        l1=config.loss.l1 if config.loss.l1_of == "cam" else None,
        plain_twin=twin,
        robust_twin=others[settings.transfer_from].model if settings.transfer_from else None,
        controls={others[path].title: others[path].model for path in settings.controls},
        steps=tuple(steps for steps in CURVE if steps <= settings.max_steps),
        examples=looked_at,
        key=settings.seed,
        log=lambda diagnostic: report(f"{diagnostic.number:2} {diagnostic.name}: {diagnostic.status}"),
    )
    return {
        "diagnostics": [diagnostic._asdict() for diagnostic in diagnostics],
        "steps_curve": _steps_curve(diagnostics[2].figures, settings.eps, looked_at),
    }


def _steps_curve(figures: Mapping[str, Any], eps: float, count: int) -> list[dict[str, Any]]:
    """The paper's figure A3: at eps/30 its recipe, the last iterate; else the best iterate so far."""
    last = figures["last_iterate"]
    return [
        {
            "step_size": eps / float(name.removeprefix("eps/")),
            "relative_step_size": name.removesuffix("/1"),
            "steps": figures["steps"],
            "count": count,
            "robust_accuracy": accuracies,
        }
        | (last if name == last["step"] else {})
        for name, accuracies in figures["robust_accuracy"].items()
    ]


def _run_presets(
    folder: Path,
    network: Any,
    images: np.ndarray,
    labels: np.ndarray,
    clean: np.ndarray,
    settings: RobustnessSettings,
    report: Report,
) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    """The chosen attacks on all pictures: what the report says of each, and their results."""
    network, checked = base.prepare(
        network, images, labels, norm=settings.norm, eps=settings.eps, batch_size=settings.batch_size
    )
    described = {"eps": settings.eps, "norm": settings.norm, "seed": settings.seed}
    journal = Journal(folder / "attacks", network, checked, described)
    entries, found = [], {}
    for name in settings.attacks:
        preset, start = PRESETS[name], time.monotonic()
        log = journal.log(name, checked, settings.norm)
        found[name] = preset.attack(
            network,
            images,
            labels,
            eps=settings.eps,
            norm=settings.norm,
            batch_size=settings.batch_size,
            key=settings.seed,
            log=log,
        )
        seconds = None if log.lines else time.monotonic() - start  # of an interrupted one nobody knows
        entries.append(_entry(name, preset, found[name], clean, labels, seconds))
        report(f"{preset.title}: robust accuracy {entries[-1]['robust_accuracy']:.1%}")
    return entries, found


def _entry(
    name: str, preset: Preset, result: Any, clean: np.ndarray, labels: np.ndarray, seconds: float | None
) -> dict[str, Any]:
    return {
        "name": name,
        "title": preset.title,
        "strength": preset.strength,
        "robust_accuracy": attacks.robust_accuracy(clean, result.predictions, labels),
        "prediction_consistency": attacks.prediction_consistency(clean, result.predictions),
        "count": len(labels),
        "seconds": seconds,
        "config": result.config,
    }


def _worst_case(clean: np.ndarray, labels: np.ndarray, found: Mapping[str, Any]) -> dict[str, Any]:
    """Per example over all attacks; each fooled example counts for the first attack that did it."""
    standing = clean == labels
    fooled_by = {"clean": int((~standing).sum())}
    for name, result in found.items():
        fooled = standing & (result.predictions != labels)
        fooled_by[name] = int(fooled.sum())
        standing = standing & ~fooled
    return {"robust_accuracy": float(standing.mean()), "fooled_by": fooled_by}
