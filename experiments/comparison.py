"""Runs comparisons: several methods over the same seeds or folds, evaluated in the same way.

A workdir holds one ordinary run per method and seed, `METHOD/seed_N` (or `fold_N`), and `results.jsonl` with
one line per run and evaluation, appended as they come. Started again, what is there is not repeated. All of
it runs in one process, so that another seed of the same network compiles no attack anew.
"""

import json
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import ml_collections

from topgap_jax.training import ConfigError, train_and_evaluate
from topgap_jax.training.checkpoint import claim
from topgap_jax.training.config import resolve, twin_of
from topgap_jax.training.cross_validation import fold_config
from topgap_jax.training.loop import prepare
from topgap_jax.training.metrics import identity

Line = dict[str, Any]
Report = Callable[[str], None]


class Method(NamedTuple):
    """One competitor."""

    name: str  # as the table calls it
    changes: Mapping[str, Any]  # the fields in which it differs from the base configuration


class Evaluation(NamedTuple):
    """Something that is measured on every finished run."""

    name: str
    settings: Mapping[str, Any]  # ready for JSON; with others it is another evaluation
    measure: Callable[[Path], dict[str, float]]  # from the folder of a run to its figures by name


class Comparison(NamedTuple):
    """`base` with the changes of each method, under every evaluation."""

    base: Mapping[str, Any]
    methods: Sequence[Method]
    evaluations: Sequence[Evaluation]


def run(comparison: Comparison, workdir: str | Path, numbers: Sequence[int], report: Report = print) -> None:
    """Trains and evaluates what is not finished yet, all methods with one seed (or fold) before the next one.

    Args:
      comparison: see `Comparison`.
      workdir: folder of the comparison; made if missing.
      numbers: of the seeds, added to that of `base`; of the folds, where `base` has `data.folds`.
      report: called with lines of text on the way.

    Raises:
      ConfigError: a configuration that cannot be run, or a workdir with results of another one; before any
        long work starts.
    """
    workdir = Path(workdir)
    try:
        check(comparison, workdir, numbers)
    except (ValueError, TypeError, OSError) as error:
        raise ConfigError(str(error)) from error
    for number in numbers:
        for method in comparison.methods:
            config = run_config(comparison.base, method, number)
            directory = run_directory(workdir, method, config, number)
            if missing := _missing(comparison.evaluations, read_lines(workdir), method, number):
                report(f"{method.name}, {directory.name}")
                train_and_evaluate(config, directory)
                for evaluation in missing:
                    _append(workdir, _measured(evaluation, directory, config, method, number))


def run_config(base: Mapping[str, Any], method: Method, number: int) -> ml_collections.FrozenConfigDict:
    """The configuration of one method with one seed, or on one fold."""
    config = twin_of({**base, "twin": {**method.changes, "title": method.name}})
    assert config is not None
    if config.data.folds:
        return fold_config(config, number)
    return resolve(config.to_dict() | {"seed": config.seed + number})


def run_directory(workdir: Path, method: Method, config: Any, number: int) -> Path:
    """Where that run lies."""
    slug = re.sub(r"[^a-z0-9]+", "_", method.name.lower()).strip("_")
    return workdir / slug / f"{'fold' if config.data.folds else 'seed'}_{number}"


def check(comparison: Comparison, workdir: Path, numbers: Sequence[int]) -> None:
    """Finds every mistake that can be found before training.

    Raises:
      ValueError, TypeError, OSError: see `run`.
    """
    lines = read_lines(workdir)
    for method in comparison.methods:
        for number in numbers:
            config = run_config(comparison.base, method, number)
            directory = run_directory(workdir, method, config, number)
            missing = _missing(comparison.evaluations, lines, method, number)
            if missing and number == numbers[0] and not (directory / "model.safetensors").exists():
                prepare(config, directory)
            if directory.exists():
                claim(directory, config)


def read_lines(workdir: Path) -> list[Line]:
    """The finished evaluations."""
    path = workdir / "results.jsonl"
    content = path.read_text() if path.exists() else ""
    whole = content[: content.rfind("\n") + 1]  # a killed process left half a line
    return [json.loads(line) for line in whole.splitlines()]


def _append(workdir: Path, line: Line) -> None:
    """Adds a line, in place of half a one; processes with methods of their own may share the file."""
    path = workdir / "results.jsonl"
    content = path.read_text() if path.exists() else ""
    if not content.endswith("\n"):
        path.write_text(content[: content.rfind("\n") + 1])
    with path.open("a") as file:
        file.write(json.dumps(line) + "\n")


def _missing(
    evaluations: Sequence[Evaluation], lines: Sequence[Line], method: Method, number: int
) -> list[Evaluation]:
    """The evaluations without a line; raises a ValueError for one that was made with other settings."""
    own = [line for line in lines if (line["method"], line["number"]) == (method.name, number)]
    found = {line["evaluation"]: line["settings"] for line in own}
    for evaluation in evaluations:
        settings = json.loads(json.dumps(evaluation.settings))
        if found.get(evaluation.name, settings) != settings:
            raise ValueError(
                f"{method.name!r}, number {number}, was evaluated ({evaluation.name}) with "
                f"{found[evaluation.name]}, not with {settings}: choose another workdir, or those settings"
            )
    return [evaluation for evaluation in evaluations if evaluation.name not in found]


def _measured(evaluation: Evaluation, directory: Path, config: Any, method: Method, number: int) -> Line:
    return {
        "method": method.name,
        "number": number,
        "evaluation": evaluation.name,
        "figures": evaluation.measure(directory),
        "settings": evaluation.settings,
        **identity(config),
    }
