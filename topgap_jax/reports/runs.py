"""Reads the result files of a run and says which file is missing, half written or wrong."""

import json
import zipfile
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

Json = dict[str, Any]

EVALUATION_FIELDS = ("title", "accuracy", "attacks", "cam", "parameters")
EXAMPLE_ARRAYS = ("images", "labels", "predictions", "probabilities", "heat", "class_names")


class Examples(NamedTuple):
    """A few test pictures, what the network said about them and where it looked."""

    images: np.ndarray  # [N,H,W,C] in [0, 1]
    labels: np.ndarray  # [N] integers
    predictions: np.ndarray  # [N] integers
    probabilities: np.ndarray  # [N], of the predicted class
    heat: np.ndarray  # [N,H,W] in [0, 1], of the label's channel
    class_names: tuple[str, ...]  # [K]
    masks: np.ndarray | None  # [N,H,W] bool
    split: tuple[str, ...] | None  # [N], where each picture is from


class Run(NamedTuple):
    """Everything the report knows about one trained network."""

    directory: Path
    config: Json
    evaluation: Json
    metrics: tuple[Json, ...]  # one per line of metrics.jsonl, by step
    examples: Examples

    @property
    def title(self) -> str:
        return self.evaluation["title"]


def read_runs(workdir: str | Path) -> tuple[Run, ...]:
    """The run in `workdir` and, where there is a folder `twin`, the twin after it.

    Raises:
      FileNotFoundError, ValueError: a result file is missing, half written or wrong; the message names it.
    """
    workdir = Path(workdir)
    runs = [read_run(workdir)]
    if (workdir / "twin").is_dir():
        runs.append(read_run(workdir / "twin"))
        _check_same_pictures(*runs)
    return tuple(runs)


def read_run(directory: Path) -> Run:
    """One run directory."""
    return Run(
        directory=directory,
        config=_read_json(directory / "config.json"),
        evaluation=_read_evaluation(directory / "evaluation.json"),
        metrics=read_metrics(directory / "metrics.jsonl"),
        examples=_read_examples(directory / "examples.npz"),
    )


def read_metrics(path: Path) -> tuple[Json, ...]:
    """The lines of a metrics file, by step; of a step that was run twice (a restart) the later one.

    A last line that a killed process left half written is ignored.
    """
    lines = _existing(path).read_text(encoding="utf-8", errors="replace").split("\n")
    records: dict[tuple, Json] = {}
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        try:
            record = json.loads(line)
            records[record["kind"], record.get("split"), record["step"]] = record
        except (json.JSONDecodeError, KeyError, TypeError) as error:
            if number == len(lines):  # no newline after it: the write was cut off
                continue
            raise ValueError(f"{path}, line {number} is not a metrics record: {line[:80]!r}") from error
    return tuple(sorted(records.values(), key=lambda record: record["step"]))


def _existing(path: Path) -> Path:
    if not path.is_file():
        raise FileNotFoundError(
            f"{path} is missing: the report needs a run that was trained and evaluated to its end"
        )
    return path


def _read_json(path: Path) -> Json:
    try:
        content = json.loads(_existing(path).read_text(encoding="utf-8"))
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise ValueError(f"{path} is not complete JSON ({error}): evaluate the run again") from error
    if not isinstance(content, dict):
        raise ValueError(f"{path} must hold a JSON object, got {type(content).__name__}")
    return content


def _read_evaluation(path: Path) -> Json:
    evaluation = _read_json(path)
    missing = [name for name in EVALUATION_FIELDS if name not in evaluation]
    if missing:
        raise ValueError(f"{path} lacks {', '.join(missing)}: evaluate the run again")
    wanted = {
        "accuracy": ("split", "value", "count"),
        "attacks": ("name", "eps", "norm", "robust_accuracy", "count"),
    }
    for section, names in wanted.items():
        for entry in evaluation[section]:
            if missing := [name for name in names if name not in entry]:
                raise ValueError(f"{path}: an entry of {section!r} lacks {', '.join(missing)}: {entry}")
    for entry in evaluation["accuracy"]:
        if not 0 <= entry["value"] <= 1 or entry["count"] < 1:
            raise ValueError(f"{path}: an accuracy is a share in [0, 1] of at least one example, got {entry}")
    return evaluation


def _read_examples(path: Path) -> Examples:
    try:
        with _existing(path).open("rb") as file, np.load(file, allow_pickle=False) as archive:
            arrays = {name: archive[name] for name in archive.files}
    except (zipfile.BadZipFile, EOFError, ValueError) as error:
        raise ValueError(f"{path} is not a complete npz file ({error}): evaluate the run again") from error
    if missing := [name for name in EXAMPLE_ARRAYS if name not in arrays]:
        raise ValueError(
            f"{path} lacks the arrays {', '.join(missing)}: it holds {', '.join(sorted(arrays))}"
        )
    _check_shapes(path, arrays)
    return Examples(
        **{name: arrays[name] for name in EXAMPLE_ARRAYS if name != "class_names"},
        class_names=tuple(str(name) for name in arrays["class_names"]),
        masks=arrays["masks"] != 0 if "masks" in arrays else None,
        split=tuple(np.broadcast_to(arrays["split"], arrays["labels"].shape).astype(str))
        if "split" in arrays
        else None,
    )


def _check_shapes(path: Path, arrays: dict[str, np.ndarray]) -> None:
    plane = arrays["images"].shape[:3]
    vector = plane[:1]
    wanted: dict[str, tuple[int, ...]] = {"labels": vector, "predictions": vector, "probabilities": vector}
    wanted |= {"heat": plane, "masks": plane}
    for name, shape in wanted.items():
        if name in arrays and arrays[name].shape != shape:
            raise ValueError(
                f"{path}: {name} must have the shape {shape} to fit images {arrays['images'].shape}, "
                f"got {arrays[name].shape}"
            )


def _check_same_pictures(run: Run, twin: Run) -> None:
    if not np.array_equal(run.examples.images, twin.examples.images):
        raise ValueError(
            f"{twin.directory / 'examples.npz'} shows other pictures than {run.directory / 'examples.npz'}: "
            "evaluate both networks on the same test set"
        )
