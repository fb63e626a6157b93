"""The results of runs, written, and finished runs, opened again."""

import json
import uuid
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from topgap_jax.models import Classifier, load_model
from topgap_jax.training.config import resolve


class FinishedRun(NamedTuple):
    """What a workdir holds after training."""

    directory: Path
    config: Any  # resolved
    model: Classifier  # with the trained parameters, in evaluation mode
    evaluation: dict[str, Any]  # evaluation.json; empty without a test split
    class_names: list[str]


def write_json(path: Path, content: Any) -> None:
    """Writes a file that is whole whenever it is read, also where several machines write it."""
    temporary = path.with_name(f"{path.name}.{uuid.uuid4().hex}")
    temporary.write_text(json.dumps(content, indent=2) + "\n")
    temporary.replace(path)


def with_twin(workdir: Path) -> list[Path]:
    """The folder of a run and, where there is one, that of its twin."""
    twin = workdir / "twin"
    return [workdir, twin] if twin.is_dir() else [workdir]


def read_config(directory: Path) -> Any:
    """The resolved configuration of a finished run.

    Raises:
      ValueError: no finished run.
    """
    path = directory / "config.json"
    if not path.exists() or not (directory / "model.safetensors").exists():
        raise ValueError(f"{directory} holds no finished run: config.json or model.safetensors is missing")
    return resolve(json.loads(path.read_text()))


def open_run(directory: Path) -> FinishedRun:
    """Reads configuration, network, evaluation and class names; the data set is not needed.

    Raises:
      ValueError: no finished run.
    """
    config, model = read_config(directory), load_model(directory / "model.safetensors")
    evaluation, examples = directory / "evaluation.json", directory / "examples.npz"
    found = json.loads(evaluation.read_text()) if evaluation.exists() else {}
    if examples.exists():
        with np.load(examples) as arrays:
            names = [str(name) for name in arrays["class_names"]]
    else:
        names = [str(number) for number in range(dict(model.settings)["num_classes"])]
    return FinishedRun(directory, config, model, found, names)
