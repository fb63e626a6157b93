"""Stratified cross-validation: one whole run per fold, then a summary of all."""

import datetime
import hashlib
import json
from collections.abc import Callable, Iterator, Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any, NamedTuple

import ml_collections
import numpy as np

from topgap_jax.data.folds import TEST_FOLD, VALIDATION_FOLD, Fold, source_folds
from topgap_jax.data.sources import Source, load_source
from topgap_jax.training.agreement import agree, check_shared, program, together
from topgap_jax.training.checkpoint import claim
from topgap_jax.training.config import ConfigError, differences, filled, resolve
from topgap_jax.training.distributed import as_first_sees, is_first
from topgap_jax.training.fold_figures import summarise
from topgap_jax.training.loop import prepare_all, train_and_evaluate
from topgap_jax.training.metrics import identity
from topgap_jax.training.runs import write_json


class Progress(NamedTuple):
    """Which folds of a cross-validation are finished, and the summary where all are."""

    directories: tuple[Path, ...]  # of the finished folds
    unfinished: tuple[int, ...]
    summary: Path | None  # cross_validation.json


def cross_validate(
    config: Mapping[str, Any],
    workdir: str | Path,
    *,
    report: Callable[[str], None] | None = None,
    after_fold: Callable[[Path], object] | None = None,
) -> Progress:
    """Trains and evaluates the folds of `config`, each in `workdir/fold_N`, and summarises them.

    Fold N is a run of its own: it tests on the N-th part of the split `data.train` (and on the splits of
    `data.test`), chooses checkpoints and thresholds on another part and trains on the rest, with the seed
    `config.seed + N`. Started again after any interruption, finished folds are kept and the first unfinished
    one goes on. With `data.fold` only that fold is trained, so that several machines can share the folds.
    Whoever finds all folds finished writes `cross_validation.json`.

    Args:
      config: as for `train_and_evaluate`, with `data.folds` of at least 2.
      workdir: folder of the cross-validation; made if missing.
      report: called with lines of text on the way.
      after_fold: called with the folder of each finished fold.

    Raises:
      ConfigError: as `train_and_evaluate`, and where the data cannot be divided so or are not those that
        `workdir` was begun with; before any long work starts.
      FloatingPointError, DataError: as `train_and_evaluate`; the folds finished so far stay.
    """
    report, after_fold = report or (lambda line: None), after_fold or (lambda directory: None)
    try:
        with together():
            if not str(workdir):
                raise ValueError("no workdir given: name a folder for the folds, such as runs/folds")
            workdir, whole = Path(workdir), resolve(config)
        agree(program(whole))
        with together():
            every, chosen = _folds(whole.data)
            source = load_source(whole.data.source, whole.data.train, **whole.data.options)
            folds = _divide(source, whole.data)
            _begin(whole, workdir, chosen[0], source, folds)
        check_shared(workdir)
    except (ValueError, TypeError, OSError) as error:
        raise ConfigError(str(error)) from error
    for fold in chosen:
        directory = workdir / f"fold_{fold}"
        finished_before = as_first_sees(is_finished(whole, directory))
        sizes = ", ".join(f"{len(part)} {name}" for name, part in folds[fold]._asdict().items())
        report(f"Fold {fold} of 0 to {every[-1]}: {'finished before' if finished_before else sizes}")
        if not finished_before:
            train_and_evaluate(fold_config(whole, fold), directory)
        after_fold(directory)
    finished = as_first_sees([fold for fold in every if is_finished(whole, workdir / f"fold_{fold}")])
    return Progress(
        directories=tuple(workdir / f"fold_{fold}" for fold in finished),
        unfinished=tuple(fold for fold in every if fold not in finished),
        summary=_write_summary(whole, workdir, folds) if len(finished) == len(every) else None,
    )


def fold_config(config: Mapping[str, Any], fold: int) -> ml_collections.FrozenConfigDict:
    """The configuration of one fold's run.

    The seed moves with the fold: initialisation and order of the data differ too, so that the deviation over
    the folds covers their luck as well. A fold and its twin share theirs.
    """
    plain = resolve(config).to_dict()
    plain["seed"] += fold
    plain["data"] |= {
        "fold": fold,
        "validation": VALIDATION_FOLD,
        "test": (TEST_FOLD, *(split for split in plain["data"]["test"] if split != TEST_FOLD)),
    }
    return resolve(plain)


def is_finished(config: Mapping[str, Any], directory: Path) -> bool:
    """Whether the run in `directory`, and its twin where `config` has one, is evaluated."""
    parts = [directory] + [directory / "twin"] * bool(resolve(config).twin)
    return all((part / "evaluation.json").exists() for part in parts)


def _folds(data: Any) -> tuple[list[int], list[int]]:
    """All folds, and those to train here."""
    every = list(range(data.folds))
    if len(every) < 2:
        raise ValueError(f"data.folds={data.folds}: cross-validation needs at least 2 folds (0: none)")
    if data.fold != -1 and data.fold not in every:
        raise ValueError(f"data.fold={data.fold} is none of the folds 0 to {every[-1]}, and not -1 (all)")
    return every, every if data.fold == -1 else [data.fold]


def _divide(source: Source, data: Any) -> list[Fold]:
    options = {"seed": data.fold_seed, "validation": data.fold_validation, "by_group": data.fold_groups}
    return source_folds(source, data.folds, **options)


def _begin(config: Any, workdir: Path, first: int, source: Source, folds: list[Fold]) -> None:
    """Claims the workdir, once every mistake that can be found before training has been looked for.

    Every process looks, and the first one claims.
    """
    shared = resolve(config.to_dict() | {"data": config.data.to_dict() | {"fold": -1}})
    if not (workdir / "config.json").exists():
        prepare_all(fold_config(config, first), workdir / f"fold_{first}")
    if not is_first():
        return
    claim(workdir, shared)
    _check_started(shared, workdir)
    _record(workdir / "folds.json", config.data, source, folds)


def _check_started(config: Any, workdir: Path) -> None:
    """Raises a ValueError if a fold was trained with another configuration."""
    for fold in range(config.data.folds):
        path = workdir / f"fold_{fold}" / "config.json"
        if not path.exists():
            continue
        if other := differences(fold_config(config, fold), filled(json.loads(path.read_text()))):
            raise ValueError(f"{path.parent} holds a run with another configuration ({'; '.join(other[:5])})")


def _record(path: Path, data: Any, source: Source, folds: list[Fold]) -> None:
    """Writes which fold tests which example, or checks that it is still so.

    Raises:
      ValueError: the data have changed since, or scikit-learn divides them in another way.
    """
    test_fold = np.empty(len(source), int)
    for number, fold in enumerate(folds):
        test_fold[fold.test] = number
    record = {
        "source": data.source,
        "split": data.train,
        "folds": len(folds),
        "seed": data.fold_seed,
        "by_group": data.fold_groups,
        "scikit_learn": version("scikit-learn"),
        "sizes": [{name: len(part) for name, part in fold._asdict().items()} for fold in folds],
        "sha256": _digest(folds),
        "test_fold": test_fold.tolist(),  # of each example, in the order of the source
        "labels": np.asarray(source.labels).tolist(),
        "files": ["/".join(path.parts[-2:]) for path in getattr(source, "paths", ())],
    }
    if not path.exists():
        write_json(path, record)
    before = json.loads(path.read_text())
    if changes := [name for name in ("labels", "files") if before[name] != record[name]]:
        raise ValueError(
            f"the data are not those that {path} was written for: {len(before['labels'])} examples then, "
            f"{len(source)} now, with other {' and '.join(changes)}; restore them, or choose another workdir"
        )
    if before["sha256"] != record["sha256"]:
        raise ValueError(
            f"the folds are not those of {path}: the groups have changed, or scikit-learn divides otherwise "
            f"({before['scikit_learn']} then, {record['scikit_learn']} now); restore them, or choose another "
            "workdir"
        )


def _digest(folds: list[Fold]) -> str:
    """Names a division: the same indices in the same parts and order."""
    digest = hashlib.sha256()
    for fold in folds:
        for part in fold:
            digest.update(np.asarray([len(part), *part], "<i8").tobytes())
    return digest.hexdigest()


def _write_summary(config: Any, workdir: Path, folds: list[Fold]) -> Path:
    path = workdir / "cross_validation.json"
    if not is_first():
        return path
    directories = [workdir / f"fold_{fold}" for fold in range(len(folds))]
    runs = [[_read(directory) for directory in directories]]
    if config.twin:
        runs.append([_read(directory / "twin") for directory in directories])
    record = json.loads((workdir / "folds.json").read_text())
    ratio = float(np.mean([len(fold.test) / len(fold.train) for fold in folds]))
    summary = {
        "titles": [evaluations[0]["title"] for evaluations in runs],
        **identity(config),
        "date": datetime.date.today().isoformat(),
        "machines": _distinct(evaluation["machine"] for evaluation in runs[0]),
        **{name: record[name] for name in ("source", "split", "folds", "by_group", "scikit_learn", "sizes")},
        "fold_seed": record["seed"],
        "examples": len(record["labels"]),
        "seeds": [evaluation["seed"] for evaluation in runs[0]],
        "sd": "sample standard deviation over the folds (divisor: folds - 1)",
        "figures": summarise(runs, ratio),
    }
    write_json(path, summary)
    return path


def _read(directory: Path) -> dict[str, Any]:
    return json.loads((directory / "evaluation.json").read_text())


def _distinct(values: Iterator[Any]) -> list[Any]:
    found: list[Any] = []
    for value in values:
        if value not in found:
            found.append(value)
    return found
