"""The accuracy of a trained run on corrupted pictures, beside its twin's, and on the pictures as they are.

`WORKDIR/corruptions/outcomes.jsonl` gets a line per network, corruption and severity as soon as it is
measured; started again, an evaluation goes on from these. `corruptions.json` then holds the figures.
"""

import dataclasses
import datetime
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from topgap_jax import attacks, corruptions
from topgap_jax.attacks.journal import fingerprint
from topgap_jax.data.sources import Source
from topgap_jax.models import load_model
from topgap_jax.training.config import ConfigError
from topgap_jax.training.evaluate import accuracy, machine
from topgap_jax.training.groups import group_shares
from topgap_jax.training.metrics import identity
from topgap_jax.training.outcomes import Cell, OutcomeJournal
from topgap_jax.training.runs import read_config, with_twin, write_json
from topgap_jax.training.splits import first_test, load_split, reading, test_names

Report = Callable[[str], None]
CLEAN: Cell = ("clean", 0)
CHUNK = 256  # pictures that are corrupted together
KEPT = 2**30  # bytes of pictures that stay in memory between corruptions
Z95 = 1.959963984540054  # the normal distribution's 97.5% quantile


@dataclasses.dataclass(frozen=True)
class CorruptionSettings:
    """What `evaluate_corruptions` does.

    Args:
      names: of corruptions, "paper" for the 15 of ImageNet-C, "all" for these and its 4 extra ones.
      severities: from 1 to 5.
      examples: the first so many of the split; 0 for all.
      split: or other test set of the run's data; default: its first test set.
      variant: of the constants, see `corruptions.corrupt`.
      batch_size: most pictures in one pass through the network.
      seed: of the corruptions.
    """

    names: tuple[str, ...] = ("paper",)
    severities: tuple[int, ...] = (1, 2, 3, 4, 5)
    examples: int = 0
    split: str = ""
    variant: str = "auto"
    batch_size: int = 64
    seed: int = 0


class Network(NamedTuple):
    """A trained network and where it came from."""

    config: Any
    logits_fn: attacks.LogitsFn
    fingerprint: str


def evaluate_corruptions(
    workdir: str | Path, settings: CorruptionSettings, report: Report | None = None
) -> Path:
    """Evaluates the run in `workdir`, and its twin where there is one, clean and under corruptions.

    Both see the same corrupted pictures.

    Args:
      workdir: of a run that `train_and_evaluate` has finished.
      settings: see `CorruptionSettings`.
      report: called with lines of text on the way.

    Returns:
      `WORKDIR/corruptions`, with `corruptions.json`.

    Raises:
      ConfigError: no finished run, or settings that do not fit it, before any long work.
      DataError: pictures that could be read before and cannot be any more.
    """
    report = report or (lambda line: None)
    workdir = Path(workdir)
    try:
        networks = open_networks(workdir)
        split = settings.split or first_test(networks[0].config.data)
        source = _open_split(networks[0].config.data, split)
        count = min(settings.examples or len(source), len(source))
        names = _check(settings, source[0]["image"])
    except (ValueError, OSError) as error:
        raise ConfigError(str(error)) from error
    folder = workdir / "corruptions"
    folder.mkdir(exist_ok=True)
    variant = corruptions.chosen_variant(np.shape(source[0]["image"]), settings.variant)
    described = {"dataset": networks[0].config.data.source, "split": split, "count": count}
    described |= {"seed": settings.seed, "variant": variant}
    report(f"{described['dataset']}, {split}: {count} pictures, constants of {variant}")
    pictures = _Pictures(source, count)
    journal = OutcomeJournal(folder / "outcomes.jsonl", described | {"data": pictures.fingerprint()}, count)
    cells = [CLEAN, *((name, severity) for name in names for severity in settings.severities)]
    outcomes = [_measure(cell, networks, pictures, journal, settings, variant, report) for cell in cells]
    result = described | {
        "date": datetime.date.today().isoformat(),
        "machine": machine(),
        "image_shape": list(np.shape(source[0]["image"])),
        "severities": list(settings.severities),
        "networks": [
            _figures(network, dict(zip(cells, (row[i] for row in outcomes), strict=True)), source)
            for i, network in enumerate(networks)
        ],
        "differences": _differences(cells, outcomes) if len(networks) == 2 else None,
    }
    write_json(folder / "corruptions.json", result)
    return folder


def evaluate_splits(
    workdir: str | Path, *, split: str = "", examples: int = 0, batch_size: int = 64
) -> list[tuple[str, list[dict[str, Any]]]]:
    """The accuracies of the run in `workdir`, and of its twin, on its test sets as they are.

    Args:
      workdir: of a run that `train_and_evaluate` has finished.
      split: one test set or other split; default: every test set, or without one the validation split.
      examples: the first so many of each; 0 for all.
      batch_size: most pictures in one pass through the network.

    Returns:
      The title of each network, and its figures as in `evaluation.json` under `accuracy`.

    Raises:
      ConfigError: no finished run or no such split, before any long work.
    """
    try:
        _check_counts(examples, batch_size)
        networks = open_networks(Path(workdir))
        config = networks[0].config.data
        names = [split] if split else [*test_names(config)] or [config.validation]
        sources = {name: _open_split(config, name) for name in names}
        training_groups = group_shares(load_split(config, config.train))
    except (ValueError, OSError) as error:
        raise ConfigError(str(error)) from error
    found: list[tuple[str, list[dict[str, Any]]]] = [(network.config.title, []) for network in networks]
    for name, source in sources.items():
        pictures = _Pictures(source, min(examples or len(source), len(source)))
        for network, (_, figures) in zip(networks, found, strict=True):
            predictions = [
                attacks.predict(network.logits_fn, _as_float(images), batch_size=batch_size)
                for _, images in pictures
            ]
            result = {"prediction": np.concatenate(predictions), "label": pictures.labels}
            if (groups := getattr(source, "groups", None)) is not None:
                result["group"] = np.asarray(groups)[: len(pictures.labels)]
            figures += accuracy(name, result, getattr(source, "group_names", ()), training_groups)
    return found


def open_networks(workdir: Path) -> list[Network]:
    """The run in `workdir` and, where there is one, its twin.

    Raises:
      ValueError: no finished run there.
    """
    networks = []
    for directory in with_twin(workdir):
        config = read_config(directory)
        logits_fn = attacks.logits_fn(load_model(directory / "model.safetensors"))
        networks.append(Network(config, logits_fn, fingerprint(logits_fn)))
    return networks


def _open_split(config: Any, split: str) -> Source:
    """A test set of the run (the field `data`), or any other split of its source."""
    source = load_split(config, split)
    if source.image_shape is None:
        raise ValueError(
            f"the pictures of {split!r} differ in size: the run needs data.eval_transforms for them"
        )
    return source


def _check(settings: CorruptionSettings, image: np.ndarray) -> tuple[str, ...]:
    """The corruptions to measure; every mistake shows on one picture, before hours of work."""
    sets = {"paper": corruptions.PAPER, "all": tuple(corruptions.CORRUPTIONS)}
    chosen = dict.fromkeys(name for entry in settings.names for name in sets.get(entry, (entry,)))
    if np.shape(image)[-1] == 1 and "all" in settings.names:
        chosen = {name: None for name in chosen if not corruptions.needs_colour(name)}
    names = tuple(chosen)
    if not names or not settings.severities:
        raise ValueError("name at least one corruption and one severity")
    _check_counts(settings.examples, settings.batch_size)
    for severity in settings.severities:
        corruptions.corrupt(np.asarray(image)[None], names[0], severity, variant=settings.variant)
    for name in names:
        corruptions.corrupt(np.asarray(image)[None], name, settings.severities[0], seed=settings.seed)
    return names


def _check_counts(examples: int, batch_size: int) -> None:
    if examples < 0:
        raise ValueError(f"examples={examples} must not be negative; 0 means all")
    if batch_size < 1:
        raise ValueError(f"batch_size={batch_size} must be at least 1")


class _Pictures:
    """The first examples of a source in chunks, kept in memory if they are few."""

    def __init__(self, source: Source, count: int):
        self.labels = np.asarray(source.labels[:count])
        self._source, self._chunks = source, dict[int, np.ndarray]()
        self._keeps = count * np.asarray(source[0]["image"]).nbytes <= KEPT

    def __iter__(self) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """Indices [b] and images [b, H, W, C]."""
        for start in range(0, len(self.labels), CHUNK):
            indices = np.arange(start, min(start + CHUNK, len(self.labels)))
            images = self._chunks.get(start)
            if images is None:
                with reading(), ThreadPoolExecutor(os.cpu_count()) as pool:
                    examples = pool.map(self._source.__getitem__, indices.tolist())
                    images = np.stack([example["image"] for example in examples])
                if self._keeps:
                    self._chunks[start] = images
            yield indices, images

    def fingerprint(self) -> str:
        """Of the labels, the first picture and the last."""
        ends = [self._source[index]["image"] for index in (0, len(self.labels) - 1)]
        return fingerprint([self.labels, *ends])


def _measure(
    cell: Cell,
    networks: Sequence[Network],
    pictures: _Pictures,
    journal: OutcomeJournal,
    settings: CorruptionSettings,
    variant: str,
    report: Report,
) -> list[np.ndarray]:
    """Bool [N] for each network; measured now where the journal lacks it."""
    outcomes = [journal.read(network.fingerprint, cell) for network in networks]
    missing = [i for i, outcome in enumerate(outcomes) if outcome is None]
    predictions: dict[int, list[np.ndarray]] = {i: [] for i in missing}
    for indices, images in pictures if missing else ():
        if cell != CLEAN:
            images = corruptions.corrupt(images, *cell, seed=settings.seed, indices=indices, variant=variant)
        for i in missing:
            predicted = attacks.predict(
                networks[i].logits_fn, _as_float(images), batch_size=settings.batch_size
            )
            predictions[i].append(predicted)
    for i in missing:
        correct = np.concatenate(predictions[i]) == pictures.labels
        journal.append(networks[i].fingerprint, networks[i].config.title, cell, correct)
        outcomes[i] = correct
    found = [outcome for outcome in outcomes if outcome is not None]
    shares = (
        f"{network.config.title} {outcome.mean():.1%}"
        for network, outcome in zip(networks, found, strict=True)
    )
    report(f"{cell[0]}{f' {cell[1]}' if cell != CLEAN else ''}: {', '.join(shares)}")
    return found


def _figures(network: Network, outcomes: Mapping[Cell, np.ndarray], source: Source) -> dict[str, Any]:
    """Accuracies and the figures over corruptions, each under its own name."""
    accuracies: dict[str, dict[int, float]] = {}
    for (name, severity), correct in outcomes.items():
        if severity:
            accuracies.setdefault(name, {})[severity] = float(correct.mean())
    # AlexNet's errors are of ImageNet's validation pictures.
    comparable = (
        corruptions.is_published_set(accuracies)
        and source.num_classes == 1000
        and "imagenet" in network.config.data.source
    )
    baseline = corruptions.ALEXNET_ERRORS
    severest = min(min(found) for found in accuracies.values())
    return {
        "title": network.config.title,
        **identity(network.config),
        "clean_accuracy": float(outcomes[CLEAN].mean()),
        "accuracy": accuracies,
        "corruption_error": corruptions.corruption_error(accuracies),
        "mean_corruption_error": corruptions.mean_corruption_error(accuracies),
        "mean_corruption_error_alexnet": corruptions.mean_corruption_error(accuracies, baseline)
        if comparable
        else None,
        "mean_accuracy_severity_1": corruptions.mean_accuracy(accuracies, 1) if severest == 1 else None,
    }


def _differences(cells: Sequence[Cell], outcomes: Sequence[Sequence[np.ndarray]]) -> dict[str, Any]:
    """The run's accuracy minus its twin's per corruption, over all of them and clean, with 95% intervals.

    The pictures are drawn, the corruptions are not: the outcomes of each picture are averaged first.
    """
    gains: dict[str, list[np.ndarray]] = {"clean": [], "all": [], "severity_1": []}
    for (name, severity), (ours, theirs) in zip(cells, outcomes, strict=True):
        gain = ours.astype(float) - theirs
        for key in {name, "all"} if severity else {"clean"}:
            gains.setdefault(key, []).append(gain)
        if severity == 1:
            gains["severity_1"].append(gain)
    return {name: _paired(np.mean(found, axis=0)) for name, found in gains.items() if found}


def _paired(gain: np.ndarray) -> dict[str, float]:
    value, reach = (
        float(gain.mean()),
        Z95 * float(gain.std(ddof=1)) / len(gain) ** 0.5 if len(gain) > 1 else 1.0,
    )
    return {"value": value, "low": value - reach, "high": value + reach}


def _as_float(images: np.ndarray) -> np.ndarray:
    return images.astype(np.float32) / np.float32(255) if images.dtype == np.uint8 else images
